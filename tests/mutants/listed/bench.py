"""Mutants of `ultraif_ray/bench/`: a measurement that measured nothing says so."""

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "the scale bench takes no look at the rows",
        "bench/scale.py: it fails where rows are missing",
        "ultraif_ray/bench/scale.py",
        'result["rows_in_files"] != result["rows"]',
        'result["rows_in_files"] > result["rows"]',
        ("tests/bench/test_scale.py",),
    ),
    Mutant(
        "the scale bench takes any end of a driver",
        "bench/scale.py: it fails where a driver did not end as meant",
        "ultraif_ray/bench/scale.py",
        'phase["exit"] != meant',
        'phase["exit"] is None',
        ("tests/bench/test_scale.py",),
    ),
    Mutant(
        "the training bench compares unlike examples",
        "bench/train.py: both ways train on the same rows",
        "ultraif_ray/bench/train.py",
        "if seen != {examples}:",
        "if not seen:",
        ("tests/bench/test_train.py",),
    ),
)
