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
        "judged = (check_and_judge(instruction, one, questions, checks, client, settings) for one in wave)\n"
        "        await asyncio.gather(*judged)\n"
        "        instruction.responses += wave\n",
        "async def keep(response):\n"
        "            await check_and_judge(instruction, response, questions, checks, client, settings)\n"
        "            instruction.responses.append(response)\n\n"
        "        await asyncio.gather(*map(keep, wave))\n",
        (JOURNEY,),
    ),
    Mutant(
        "more samples than k",
        "docs/design.md: never more than k",
        "ultraif_ray/method/journey.py",
        "        n = min(settings.wave, settings.k - len(instruction.responses))\n",
        "        n = settings.wave\n",
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
