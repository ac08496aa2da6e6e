import pytest

from tests.imports import imported_by


@pytest.mark.parametrize("module", ["progress", "quarantine"])
def test_the_process_of_a_small_actor_imports_no_ray_data(module: str) -> None:
    imported = imported_by(f"ultraif_ray.flow.{module}")
    assert "ray" in imported
    assert not imported & {"pyarrow", "torch"}
