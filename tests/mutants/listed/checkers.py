"""Mutants of `ultraif_ray/method/checkers/` and `verdicts.py`: what code checks."""

from tests.mutants.mutant import Mutant

ROOM = "ultraif_ray/method/checkers/"
REGISTRY = "tests/method/checkers/test_registry.py"
NAMING = "tests/method/checkers/test_naming.py"
VERDICTS = "tests/method/test_verdicts.py"

MUTANTS = (
    Mutant(
        "at most leaves out the bound itself",
        "registry.py: the relations",
        f"{ROOM}registry.py",
        '"at most": operator.le',
        '"at most": operator.lt',
        (REGISTRY,),
    ),
    Mutant(
        "a keyword counts inside another word",
        "docs/method.md: a keyword is a whole word",
        f"{ROOM}parts.py",
        "        if not _joined(text[start - 1 : start], part[0]) and not _joined(part[-1], text[end : end + 1]):\n",
        "        if True:\n",
        (REGISTRY,),
    ),
    Mutant(
        "an answer without a table keeps every bound on its rows",
        "registry.py: without such a part it does not hold",
        f"{ROOM}registry.py",
        "return bool(found) and all(",
        "return all(",
        (REGISTRY,),
    ),
    Mutant(
        "a check with another number than its constraint stands",
        "docs/method.md: a check stands only where its number stands in the constraint",
        f"{ROOM}naming.py",
        "number == check.number and relation in",
        "relation in",
        (NAMING,),
    ),
    Mutant(
        "a check with the opposite relation stands",
        "docs/method.md: the relation is the one that the words around the number say",
        f"{ROOM}naming.py",
        "number == check.number and relation in (None, check.relation)",
        "number == check.number",
        (NAMING,),
    ),
    Mutant(
        "the judge is asked after a no of code",
        "docs/method.md: after a no of code the judge is not asked",
        "ultraif_ray/method/verdicts.py",
        "and not settings.ask_all:",
        "and False:",
        (VERDICTS,),
    ),
    Mutant(
        "a no of code does not fail the answer",
        "verdicts.py: whether it passed, by code and the judge",
        "ultraif_ray/method/verdicts.py",
        'all(verdict.answer == "yes" for verdict in response.verdicts)',
        'all(v.answer == "yes" for v in response.verdicts if v.by == "judge")',
        (VERDICTS,),
    ),
    Mutant(
        "a trained composer is asked for checks",
        "docs/method.md: a trained composer keeps the released format",
        "ultraif_ray/method/compose.py",
        "checkers = () if trained else enabled(settings.checkers)",
        "checkers = enabled(settings.checkers)",
        ("tests/method/test_compose.py",),
    ),
)
