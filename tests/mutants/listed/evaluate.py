"""Mutants of `ultraif evaluate`: what is asked, what counts, and what is refused."""

from tests.mutants.mutant import Mutant

ASKS, GIVEN, STEPS = "tests/evaluate/test_lm.py", "tests/evaluate/test_given.py", "tests/steps/test_evaluate.py"
LM = "ultraif_ray/evaluate/lm.py"

MUTANTS = (
    Mutant(
        "a letter is drawn anew each time",
        "docs/evaluation.md: the draw is seeded for each prompt",
        "ultraif_ray/evaluate/tasks/ifeval.py",
        "    with same_draws():\n",
        "    if True:\n",
        (f"{ASKS}::test_a_letter_that_is_none_is_drawn_the_same_each_time_and_nobody_elses_draws_change",),
    ),
    Mutant(
        "a file of another form is asked by the names of its fields",
        "tasks/ifeval.yaml: a record wants prompt, instruction_id_list and kwargs",
        LM,
        "[field for field in wanted if field not in has]",
        "[]",
        (f"{ASKS}::test_what_cannot_be_asked_is_refused_in_a_line",),
    ),
    Mutant(
        "a request of two tasks is asked twice",
        "requests_of: all that the tasks ask, each once",
        LM,
        "            if row.id not in seen:\n",
        "            if True:\n",
        (f"{ASKS}::test_what_two_tasks_ask_alike_is_asked_once",),
    ),
    Mutant(
        "repeated samples are one",
        "_rows: equal requests have the same id, but for repeated samples",
        LM,
        'number = repeats[key] if asked.get("temperature") else 0',
        "number = 0",
        (f"{ASKS}::test_repeated_samples_are_asked_apart",),
    ),
    Mutant(
        "a bound of tokens leaves the task's own",
        "ultraif evaluate --max-tokens: in place of each benchmark's own",
        LM,
        'kept | {"max_gen_toks": max_tokens}',
        "kept | given",
        (f"{ASKS}::test_a_limit_and_a_bound_of_tokens_hold_for_every_task",),
    ),
    Mutant(
        "a continuation without a probability counts as nothing",
        "docs/evaluation.md: where a text is to be weighed, a request that failed ends the evaluation",
        LM,
        "if failed := [row for row in rows if row.logprob is None]:",
        "if failed := []:",
        (f"{ASKS}::test_a_request_that_failed_counts_as_wrong_where_it_was_to_be_answered_and_ends_it_where_weighed",),
    ),
    Mutant(
        "answers to other prompts are scored",
        "docs/evaluation.md: where a record has a prompt too, its beginning is held against the benchmark's",
        "ultraif_ray/evaluate/given.py",
        "if one.prompt and _beginning(one.prompt) != _beginning(row.query):",
        "if False:",
        (f"{GIVEN}::test_they_are_taken_in_order_and_held_against_the_prompts_that_they_name",),
    ),
    Mutant(
        "a server is asked what it cannot tell",
        "AnswerBenchmarks.check: refused before it is asked",
        "ultraif_ray/steps/evaluate.py",
        "if any(row.continuation is not None for",
        "if any(row.continuation == 0 for",
        (f"{STEPS}::test_a_server_that_cannot_weigh_answers_is_refused_before_it_is_asked",),
    ),
    Mutant(
        "the policy is not measured after DPO",
        "recipe.py: measure the policy as it starts, after SFT, and after each DPO round",
        "ultraif_ray/steps/plan.py",
        "        if isinstance(step, PolicyTraining):\n",
        "        if isinstance(step, TrainSFT):\n",
        (f"{STEPS}::test_where_the_policy_is_measured_it_is_before_its_trainings_and_after_each",),
    ),
    Mutant(
        "a model is kept at the end once more",
        "recipe.py: train.keep_for_evaluation: the last is the step's model",
        "ultraif_ray/train/checkpointing.py",
        "range(1, keep)} - {0, steps}",
        "range(1, keep + 1)}",
        ("tests/train/test_worker.py::test_a_model_is_kept_at_moments_evenly_spread_and_the_last_is_the_end",),
    ),
)
