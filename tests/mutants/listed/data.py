"""Mutants of `ultraif_ray/data/`: prompts in, training sets out."""

from tests.mutants.mutant import Mutant

EXPORT, SETS = "tests/data/test_export.py", "tests/data/test_sets.py"

MUTANTS = (
    Mutant(
        "every set is split by itself",
        "ultraif_ray/data/export.py: a train and a held-out split by conversation, so that none stands on both sides",
        "ultraif_ray/data/export.py",
        "                files[name, split].add(made[name])\n",
        "                aside = held_out(row.conversation + 2_345 * names.index(name), settings.held_out)\n"
        '                files[name, "held_out" if aside else "train"].add(made[name])\n',
        (f"{EXPORT}::test_all_examples_of_a_conversation_stand_on_one_side_in_every_set",),
    ),
    Mutant(
        "every example is split by itself",
        "ultraif_ray/data/export.py: a train and a held-out split by conversation, so that none stands on both sides",
        "ultraif_ray/data/export.py",
        "                files[name, split].add(made[name])\n",
        "                for number, one in enumerate(made[name]):\n"
        "                    aside = held_out(row.conversation + 2_345 * number, settings.held_out)\n"
        '                    files[name, "held_out" if aside else "train"].add([one])\n',
        (f"{EXPORT}::test_all_examples_of_a_conversation_stand_on_one_side_in_every_set",),
    ),
    Mutant(
        "a conversation is split by its prompts",
        "docs/design.md: held out goes by conversation",
        "ultraif_ray/data/export.py",
        "held_out(row.conversation, settings.held_out)",
        "held_out(row.id, settings.held_out)",
        (f"{EXPORT}::test_all_examples_of_a_conversation_stand_on_one_side_in_every_set",),
    ),
    Mutant(
        "another share is held out",
        "ultraif_ray/recipe.py: export.held_out, the share of conversations",
        "ultraif_ray/data/export.py",
        "return (conversation % 10_000) < share * 10_000",
        "return (conversation % 10_000) <= share * 10_000",
        (f"{EXPORT}::test_a_share_of_all_conversations_is_held_out_by_their_hash_alone",),
    ),
    Mutant(
        "a failed row gives examples",
        "ultraif_ray/data/export.py: no examples from a row that failed in synthesis",
        "ultraif_ray/data/export.py",
        '    if row.outcome == "failed":\n        return\n',
        "",
        (f"{EXPORT}::test_the_sets_hold_what_the_rows_earned",),
    ),
    Mutant(
        "the last passing response is trained on",
        "ultraif_ray/data/export.py: the composed instruction and the first response that passed",
        "ultraif_ray/records.py",
        "return next((r for r in self.responses if r.passed), None)",
        "return next((r for r in reversed(self.responses) if r.passed), None)",
        ("tests/test_records.py",),
    ),
    Mutant(
        "chosen and rejected are swapped",
        "ultraif_ray/data/export.py: the first that passed and the first complete one that failed",
        "ultraif_ray/data/export.py",
        '        "chosen": _answer(chosen.text),\n        "rejected": _answer(rejected.text),\n',
        '        "chosen": _answer(rejected.text),\n        "rejected": _answer(chosen.text),\n',
        (f"{EXPORT}::test_the_sets_hold_what_the_rows_earned",),
    ),
    Mutant(
        "a pass rate at its bound is taken",
        "ultraif_ray/recipe.py: export.where, {above: 0, below: 1} leaves out those that all or none met",
        "ultraif_ray/recipe.py",
        "(self.above is None or number > self.above)",
        "(self.above is None or number >= self.above)",
        (f"{EXPORT}::test_conditions_choose_examples_by_what_they_are",),
    ),
    Mutant(
        "what nobody judged counts as passed",
        "ultraif_ray/recipe.py: an instruction whose responses nobody judged has no pass rate, and is not taken",
        "ultraif_ray/data/caps.py",
        "if asked and (value is None or not asked.holds(value)):",
        "if asked and value is not None and not asked.holds(value):",
        (f"{EXPORT}::test_conditions_choose_examples_by_what_they_are",),
    ),
    Mutant(
        "the composer's set is held to pass rates",
        "ultraif_ray/recipe.py: conditions on responses and levels are not asked of the composer's set",
        "ultraif_ray/data/caps.py",
        "    if traits.level is not None:\n        for asked",
        "    if True:\n        for asked",
        (f"{EXPORT}::test_conditions_choose_examples_by_what_they_are",),
    ),
    Mutant(
        "weights are shares of each value",
        "ultraif_ray/recipe.py: of two values of weight 1 and 2 the set has twice as many of the second",
        "ultraif_ray/data/caps.py",
        "floor(scale * weight + 1e-9)",
        "floor(min(1.0, weight) * sizes[value] + 1e-9)",
        (f"{EXPORT}::test_weights_set_a_ratio_out_of_what_is_there",),
    ),
    Mutant(
        "files of one folder are weighed apart",
        "ultraif_ray/recipe.py: files that one weight names count as one source",
        "ultraif_ray/data/caps.py",
        '("source", next(names, traits.source))',
        '("source", traits.source)',
        (f"{EXPORT}::test_weights_set_a_ratio_out_of_what_is_there",),
    ),
    Mutant(
        "a given set is split by its prompts",
        "README.md: export.held_out holds out by conversation also of sets that exist already",
        "ultraif_ray/data/sets.py",
        "held_out(_conversation_of(item), share)",
        'held_out(item["id"], share)',
        (f"{SETS}::test_the_split_is_by_conversation_as_in_export_unless_there_is_one_already",),
    ),
    Mutant(
        "a given held-out split is drawn anew",
        "README.md: unless a file is called held_out, test, validation, eval or dev",
        "ultraif_ray/data/sets.py",
        "aside = is_held_out(source) if split_already else held_out",
        "aside = held_out",
        (f"{SETS}::test_the_split_is_by_conversation_as_in_export_unless_there_is_one_already",),
    ),
)
