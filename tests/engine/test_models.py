from pathlib import Path

import fsspec
import pytest

from ultraif_ray.engine.models import resolve_model
from ultraif_ray.errors import RecipeError


def test_a_model_in_a_store_is_copied_once_and_without_its_weights_where_they_are_not_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    store = fsspec.filesystem("memory")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        store.pipe(f"/models/one/{name}", b"{}")
    whole = Path(resolve_model("memory://models/one"))
    assert {file.name for file in whole.iterdir()} == {"config.json", "tokenizer.json", "model.safetensors"}
    assert Path(resolve_model("memory://models/one")) == whole
    light = Path(resolve_model("memory://models/one", weights=False))
    assert {file.name for file in light.iterdir()} == {"config.json", "tokenizer.json"}
    with pytest.raises(RecipeError, match="there is no model there"):
        resolve_model("memory://models/none")
