"""Mutants of `ultraif_ray/method/`: the paper's journey of a row."""

from tests.mutants.mutant import Mutant

JOURNEY = "tests/method/test_journey.py"

MUTANTS = (
    Mutant(
        "samples are kept shortest first",
        "docs/method.md: within a wave the lowest sampling index wins, never the first to finish",
        "ultraif_ray/method/journey.py",
        "        instruction.responses += wave\n",
        "        instruction.responses += sorted(wave, key=lambda response: len(response.text))\n",
        (JOURNEY,),
    ),
    Mutant(
        "samples are kept as their judging ends",
        "docs/design.md: responses count in the order they were sampled, not in the order they finished",
        "ultraif_ray/method/journey.py",
        "        await judge_all(instruction, wave, row, client, settings)\n        instruction.responses += wave\n",
        "        async def keep(response):\n"
        "            await judge_all(instruction, [response], row, client, settings)\n"
        "            instruction.responses.append(response)\n\n"
        "        await asyncio.gather(*map(keep, wave))\n",
        (JOURNEY,),
    ),
    Mutant(
        "more samples than k",
        "docs/design.md: never more than k",
        "ultraif_ray/method/journey.py",
        "        n = min(wanted, settings.k - len(instruction.responses))\n",
        "        n = wanted\n",
        (JOURNEY,),
    ),
    Mutant(
        "the sampling goes on after the first pass",
        "docs/design.md: SFT stops at the first pass",
        "ultraif_ray/method/journey.py",
        'if settings.goal == "sft" or not questions:',
        "if False:",
        (JOURNEY,),
    ),
    Mutant(
        "the judge goes on after the first no",
        "recipe.py: a no has failed the response already",
        "ultraif_ray/method/judge.py",
        "settled = not settings.ask_all and",
        "settled = False and",
        ("tests/method/test_judge.py::test_the_first_no_settles_it_unless_all_are_to_be_asked",),
    ),
    Mutant(
        "a judge that is another model goes on with the responder's conversation",
        "recipe.py: else the judge has a conversation of its own",
        "ultraif_ray/method/judge.py",
        "return self.settings.follow_up and self.client.judge_is_the_responder",
        "return self.settings.follow_up",
        ("tests/method/test_judge.py::test_a_judge_that_is_another_model_has_a_conversation_of_its_own",),
    ),
    Mutant(
        "standing questions are not asked",
        "docs/method.md: `synthesize.standing` asks two more questions of every answer",
        "ultraif_ray/method/journey.py",
        "*(templates.judge.standing if settings.standing else ())",
        "*()",
        (f"{JOURNEY}::test_standing_questions_come_last_and_of_a_plain_prompt_too",),
    ),
    Mutant(
        "a band goes up where too few pass",
        "docs/design.md: to one constraint more while too many pass, and back to one fewer while too few do",
        "ultraif_ray/recipe.py",
        "        if most <= self.low:\n            return -1\n",
        "        if most <= self.low:\n            return 1\n",
        (f"{JOURNEY}::test_a_row_goes_on_to_where_some_responses_pass_and_some_fail",),
    ),
    Mutant(
        "a band samples on when it is decided",
        "recipe.py: None while the responses that are left could still decide it",
        "ultraif_ray/recipe.py",
        "return 0 if least > self.low and most < self.high else None",
        "return 0 if least > self.low and most < self.high and passed + failed == k else None",
        (f"{JOURNEY}::test_no_more_is_sampled_than_decides_where_to_go",),
    ),
    Mutant(
        "contrast pairs answer each query twice",
        "journey.py: a query that stands in two pairs is answered once",
        "ultraif_ray/method/journey.py",
        "if query not in answers:",
        "if True:",
        (f"{JOURNEY}::test_contrast_pairs_of_every_level_share_their_answers",),
    ),
    Mutant(
        "stock phrases weigh as much as what a prompt has of its own",
        "ultraif_ray/method/contamination.py: stock phrases alone make none",
        "ultraif_ray/method/contamination.py",
        "self._held_by**-0.5 if rule.rare else",
        "np.ones(len(self._grams)) if rule.rare else",
        ("tests/method/test_contamination.py::test_stock_phrases_alone_are_no_hit",),
    ),
    Mutant(
        "a prompt may be spread over a whole text",
        "ultraif_ray/method/contamination.py: where a stretch of it, little longer than a prompt, has a share",
        "ultraif_ray/method/contamination.py",
        "shares[number] if self._rule.window is None else",
        "shares[number] if True else",
        ("tests/method/test_contamination.py::test_words_that_are_spread_over_a_long_text_are_no_prompt",),
    ),
    Mutant(
        "what stood in a query before is held against its composer",
        "ultraif_ray/recipe.py: what the composer makes one of",
        "ultraif_ray/method/contamination.py",
        "found is None or (index and index.find(before))",
        "found is None",
        ("tests/method/test_contamination.py::test_only_what_composing_made_is_held_against_it",),
    ),
    Mutant(
        "composed queries are not decontaminated",
        "ultraif_ray/recipe.py: and so is what the composer makes one of",
        "ultraif_ray/method/compose.py",
        "if found := contaminated_by(previous.query, made.query, guard(client.decontaminate)):",
        "if found := contaminated_by(previous.query, made.query, None):",
        ("tests/method/test_compose.py::test_what_makes_a_benchmarks_prompt_of_a_query_is_dropped_and_counted",),
    ),
    Mutant(
        "a refusal is judged as an answer is",
        "docs/data.md: a response that is no answer neither passes nor is the failed half of a pair",
        "ultraif_ray/method/verdicts.py",
        "if response.whole and (fault := no_answer(response.text, settings)):",
        'if response.whole and (fault := no_answer("", settings)):',
        (
            "tests/method/test_verdicts.py::test_what_is_no_answer_neither_passes_nor_fails_and_nobody_is_asked_about_it",
        ),
    ),
    Mutant(
        "a refusal is found anywhere in a response",
        "docs/data.md: it opens with a refusal",
        "ultraif_ray/method/answers.py",
        "text[:_OPENING]",
        "text",
        ("tests/method/test_answers.py::test_what_is_no_refusal",),
    ),
)
