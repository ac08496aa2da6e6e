from pathlib import Path

import pytest

from tests.simulated import recipe
from ultraif_ray.errors import RunError
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.step import Context
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry


@pytest.mark.parametrize("where", [{}, {"level": 9}])
def test_sets_without_an_example_are_refused_and_conditions_named(tmp_path: Path, where: dict[str, int]) -> None:
    made, folder = recipe(tmp_path, export={"where": where}), RunFolder(str(tmp_path))
    step = next(step for step in plan(made, folder) if step.kind == "export")
    with pytest.raises(RunError, match="export: no row gave an example for SFT or DPO") as refused:
        step.check_outcome(Context(made, folder), {"export": Entry(input=1, outcomes={"composer": 1})})
    assert ("export.where may ask too much" in str(refused.value)) == bool(where)
