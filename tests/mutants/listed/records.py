"""Mutants of `ultraif_ray/records.py`: the rows and their ids."""

from tests.mutants.mutant import Mutant

IDS = "tests/test_records.py"
JOURNEY = "tests/method/test_journey.py"

MUTANTS = (
    Mutant(
        "ids are Python's own hashes",
        "docs/design.md: the same prompt has the same id in every run, on every machine",
        "ultraif_ray/records.py",
        'return int.from_bytes(digest, "big") >> 1',
        "return hash(digest) & (2**63 - 1)",
        (f"{IDS}::test_ids_are_the_same_in_every_run_on_every_machine",),
    ),
    Mutant(
        "who spoke is not part of an id",
        "docs/design.md: a row's id is a hash of its content",
        "ultraif_ray/records.py",
        "[[turn.role, turn.content] for turn in history]",
        "[[turn.content] for turn in history]",
        (f"{IDS}::test_ids_are_the_same_in_every_run_on_every_machine",),
    ),
    Mutant(
        "a system message is not part of a conversation's beginning",
        "docs/design.md: its first human turn, with the system message before it",
        "ultraif_ray/records.py",
        "prompt_id(history[first].content, history[:first])",
        "prompt_id(history[first].content, [])",
        (f"{IDS}::test_ids_are_the_same_in_every_run_on_every_machine",),
    ),
    Mutant(
        "rounds are drawn anew in every process",
        "ultraif_ray/method/journey.py: by id, so that a rerun and a resume draw the same",
        "ultraif_ray/method/journey.py",
        'random.Random(f"{recipe.seed}:{prompt.id}")',
        'random.Random(hash(f"{recipe.seed}:{prompt.id}"))',
        (f"{JOURNEY}::test_rounds_are_drawn_by_id_and_levels_between_are_kept_on_request",),
    ),
    Mutant(
        "every round takes the first part of the prompts",
        "README.md: each round takes the next tenth of the prompts",
        "ultraif_ray/records.py",
        "for times in (number - 1, number))",
        "for times in (0, 1))",
        (f"{IDS}::test_three_rounds_of_a_third_are_all_prompts_and_as_many_each",),
    ),
    Mutant(
        "a missing verdict is evidence against a response",
        "ultraif_ray/records.py: a missing verdict is no evidence against it",
        "ultraif_ray/records.py",
        'any(verdict.answer == "no" for verdict in self.verdicts)',
        'any(verdict.answer != "yes" for verdict in self.verdicts)',
        (f"{IDS}::test_the_first_in_sampling_order_is_chosen_and_rejected",),
    ),
)
