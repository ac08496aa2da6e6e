"""Mutants of `ultraif_ray/report/`: what an audit says, and what a person is shown."""

from tests.mutants.mutant import Mutant

AUDIT, GRADES = "tests/report/test_audit.py", "tests/report/test_grades.py"

MUTANTS = (
    Mutant(
        "stats print texts as they are",
        "CHANGELOG.md: nothing in a row, a reply or a name reaches the terminal as an escape sequence or as markup",
        "ultraif_ray/report/stats.py",
        "    out = console()\n",
        "    out = Console(width=110)\n",
        ("tests/report/test_stats.py::test_the_command_prints_the_figures_and_keeps_them",),
    ),
    Mutant(
        "an audit is not weighted back",
        "docs/method.md: agreement, precision and recall, weighted back to all verdicts",
        "ultraif_ray/report/audit.py",
        "verdicts = sum(size for at, size in sample.sizes.items() if at[0] == answer)",
        "verdicts = len(mine)",
        (f"{AUDIT}::test_figures_are_weighted_back_to_all_verdicts",),
    ),
    Mutant(
        "recall is precision",
        "docs/method.md: the positive case is a violation",
        "ultraif_ray/report/audit.py",
        "seen / (seen + missed) if seen + missed else 1.0,",
        "1 - wrong_no,",
        (f"{AUDIT}::test_planted_errors_are_within_the_intervals",),
    ),
    Mutant(
        "intervals are too narrow",
        "docs/method.md: the interval that holds it with 95 % probability",
        "ultraif_ray/report/audit.py",
        "return dice.betavariate(wrong + 0.5, self.effective - wrong + 0.5)",
        "return dice.betavariate(4 * wrong + 0.5, 4 * (self.effective - wrong) + 0.5)",
        (f"{AUDIT}::test_planted_errors_are_within_the_intervals",),
    ),
    Mutant(
        "the first verdicts are drawn",
        "audit.py: each has the same chance to stay",
        "ultraif_ray/report/audit.py",
        "    elif place < n:\n        held[place] = item\n",
        "",
        (f"{AUDIT}::test_strata_are_drawn_in_proportion_and_every_verdict_has_the_same_chance",),
    ),
    Mutant(
        "a person sees the verdict",
        "docs/method.md: shows each without the verdict",
        "ultraif_ray/report/grades.py",
        'shown = {"history": history, "request"',
        'shown = {"verdict": case.verdict, "history": history, "request"',
        (f"{GRADES}::test_a_person_sees_all_but_the_verdict",),
    ),
    Mutant(
        "a model's words are a formula",
        "grades.py: a text that a spreadsheet does not take for a formula",
        "ultraif_ray/report/grades.py",
        """return f"'{text}" if""",
        "return text if",
        (f"{GRADES}::test_whatever_a_model_wrote_is_one_cell_and_no_formula",),
    ),
)
