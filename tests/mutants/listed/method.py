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
        "the sampling goes on after the first pass",
        "docs/design.md: SFT stops at the first pass",
        "ultraif_ray/method/journey.py",
        'if settings.goal == "sft" or not questions:',
        "if False:",
        (JOURNEY,),
    ),
)
