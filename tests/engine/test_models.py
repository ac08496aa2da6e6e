from pathlib import Path

import fsspec
import pytest
import torch
from safetensors.torch import save_file

from tests.hub import hub
from ultraif_ray.engine.models import check_access, resolve_model, weight_bytes
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
    (whole / "mark").touch()
    assert Path(resolve_model("memory://models/one")) == whole
    assert (whole / "mark").exists()
    store.pipe("/models/one/config.json", b"[]")  # another version
    assert (Path(resolve_model("memory://models/one")) / "config.json").read_text() == "[]"
    light = Path(resolve_model("memory://models/one", weights=False))
    assert {file.name for file in light.iterdir()} == {"config.json", "tokenizer.json"}
    with pytest.raises(RecipeError, match="there is no model there"):
        resolve_model("memory://models/none")


@pytest.mark.parametrize("name", ["../../pwned/.bashrc", "x/../../../pwned/.bashrc", "../.."])
def test_no_file_of_a_model_is_written_outside_of_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A store's keys are any text. Nothing of such a model is kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache/deep/enough"))
    store = fsspec.filesystem("memory")
    for key in ("config.json", name):
        store.pipe(f"/models/planted/{key}", b"planted")
    with pytest.raises(RecipeError, match=r"would be written outside of its folder"):
        resolve_model("memory://models/planted")
    assert [file for file in tmp_path.rglob("*") if file.is_file() and file.suffix != ".lock"] == []
    store.rm("/models/planted", recursive=True)


def test_a_model_that_the_hub_does_not_give_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with hub(monkeypatch):
        with pytest.raises(RecipeError, match=r"^pools\.m\.model is 'org/gated', whose licence .* HF_TOKEN$"):
            check_access("pools.m.model", "org/gated")
        with pytest.raises(RecipeError, match=r"^policy\.model is 'org/none', .* no model on the Hugging Face Hub"):
            check_access("policy.model", "org/none")
        check_access("policy.model", "org/open")


def test_where_the_hub_cannot_be_asked_and_for_folders_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    for model in ("org/unknown", "packaged", "s3://bucket/run/sft/model", "/nowhere", "tests"):
        check_access("policy.model", model)


def test_weights_count_as_vllm_holds_them(tmp_path: Path) -> None:
    whole, half = torch.zeros(10, 10), torch.zeros(10, 10, dtype=torch.bfloat16)
    save_file({"a": whole, "b": half}, tmp_path / "model.safetensors")
    assert weight_bytes(str(tmp_path)) == 400
    assert weight_bytes(str(tmp_path / "none")) is None
