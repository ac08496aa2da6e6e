"""The GPUs of this machine: why there is none, how much an engine does on one at once, and what of its memory may be
its cache.
"""

import ctypes
import math
import os
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ultraif_ray.errors import RecipeError

if TYPE_CHECKING:  # a trainer, which looks for its GPU here, is made without pydantic
    from ultraif_ray.recipe import VllmPool

DRIVERS = {12: 525, 13: 580}
"""The oldest branch of NVIDIA's driver that runs programs built for a major version of CUDA. From the table in "CUDA
Compatibility", NVIDIA's own manual, section "Minor Version Compatibility".
"""

SHARE = 0.9
"""The part of a GPU that an engine takes where it has it for itself: vLLM's default, `gpu_memory_utilization`."""

SEQUENCES = 512
"""Most answers that an engine on a GPU writes at once. CUDA graphs are there for batches up to this size
(`VllmConfig._set_cudagraph_sizes`): beyond it a step launches its kernels one by one.
"""

TOKENS = 8192
"""Tokens that an engine on a GPU computes at once, those of prompts included: what vLLM's own server takes on an H100
(`EngineArgs.get_batch_defaults`).
"""


@dataclass(frozen=True)
class Batch:
    """What an engine on a GPU does in one step: answers that it writes at once, and tokens that it computes."""

    sequences: int
    tokens: int

    @property
    def room(self) -> int:
        """Bytes of a GPU that an engine needs beside weights and cache: 1 GiB for CUDA itself and its graphs, 128 KiB
        of activations for each token, and 3 MiB for each answer, whose next token is drawn from all words at once. An
        estimate for models of 8B with 128 thousand words; not measured.
        """
        return (1 << 30) + self.tokens * (128 << 10) + self.sequences * (3 << 20)


def batch_of(pool: "VllmPool", samples: int = 1) -> Batch:
    """The batch of a pool with GPUs: every row in flight has its place in it, up to what CUDA graphs are made for. What
    the pool's `args` say comes first.

    Args:
        pool: the engine's pool.
        samples: answers that one row asks for at once.
    """
    tokens = int(pool.args.get("max_num_batched_tokens") or TOKENS)
    # vLLM refuses fewer tokens than answers.
    sequences = pool.args.get("max_num_seqs") or min(SEQUENCES, pool.rows_in_flight * samples, tokens)
    return Batch(int(sequences), tokens)


@dataclass(frozen=True)
class Gpu:
    """A GPU: its memory in bytes, and the major number of its compute capability, which is 9 for Hopper."""

    memory: int
    capability: int


def check_devices(gpus: float) -> None:
    """Refuse a machine whose GPUs this process cannot use, before anything is loaded for them.

    Args:
        gpus: how many the process was given; a fraction is a part of one.

    Raises:
        RecipeError: what is missing, in one line.
    """
    import torch

    wanted = math.ceil(gpus)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if why := why_none(torch.version.cuda, driver_cuda(), wanted, torch.cuda.device_count(), visible):
        raise RecipeError(f"{platform.node()} was to give {wanted} GPU, but {why}")


def driver_cuda() -> int | None:
    """The newest CUDA that this machine's driver runs, as 1000 x major + 10 x minor; None without a driver."""
    version = ctypes.c_int()
    try:
        failed = ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except OSError:
        return None
    return None if failed else version.value


def why_none(built: str | None, driver: int | None, wanted: int, found: int, visible: str | None) -> str:
    """Why a process cannot use its GPUs; empty where it can.

    Args:
        built: the CUDA that torch is built for, such as `13.0`; None for a build without.
        driver: see `driver_cuda`.
        wanted: how many GPUs there should be.
        found: how many torch finds. It counts those of a driver that is too old, too.
        visible: CUDA_VISIBLE_DEVICES; None where it is not set.
    """
    if built is None:
        return "torch is a build without CUDA: install the `gpu` extra or requirements/gpu.lock there"
    major = int(built.split(".")[0])
    newer = f"version {DRIVERS[major]} or newer" if major in DRIVERS else "a newer one"
    if driver is None:
        return (
            f"there is no NVIDIA driver (libcuda.so.1): install {newer}, and start containers with NVIDIA's container "
            "toolkit (`--gpus all`)"
        )
    if driver // 1000 < major:
        return (
            f"its NVIDIA driver runs CUDA up to {driver // 1000}.{driver % 1000 // 10}, and torch is built for "
            f"{built}: install {newer}"
        )
    if found >= wanted:
        return ""
    if visible is not None and not visible.strip():
        return "CUDA_VISIBLE_DEVICES is empty there, which hides every GPU: unset it where Ray is started"
    seen = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible})"
    return f"torch finds {found}{seen}: look at `nvidia-smi` there, and at the GPUs that Ray was told of (--num-gpus)"


def memory_share(pool: "VllmPool") -> float:
    """The part of a GPU's memory that an engine of a pool takes: what `args` say, or SHARE; where the pool has only a
    part of a GPU and that is more, of its part.
    """
    said = float(pool.args.get("gpu_memory_utilization", SHARE))
    return said if said <= pool.gpus else round(said * pool.gpus, 3)


def cache_memory(memory: int, share: float, weights: int, room: int) -> int:
    """Bytes that the cache of an engine on one GPU may take, so that engines that share it need not know of each other.

    Args:
        memory: bytes of the whole GPU.
        share: the part of it that is the engine's.
        weights: bytes of the model's weights.
        room: bytes that it needs beside both; see `Batch.room`.

    Raises:
        RecipeError: nothing is left for a cache.
    """
    left = int(memory * share) - weights - room
    if left <= 0:
        raise RecipeError(
            f"of a GPU of {_gib(memory)} this engine may take {_gib(memory * share)}, and needs {_gib(weights)} for "
            f"the model's weights and {_gib(room)} beside its cache: raise gpus, lower rows_in_flight or "
            "args.max_num_batched_tokens, or take a smaller or quantised model"
        )
    return left


def check_weights(memory: int, share: float, gpus: int, weights: int) -> None:
    """Refuse a model whose weights alone are more than its GPUs have.

    Args:
        memory: bytes of one GPU.
        share: the part of it that is the engine's.
        gpus: how many share the weights.
        weights: bytes of all weights.

    Raises:
        RecipeError: with the numbers, and what to change.
    """
    if weights / gpus > memory * share:
        raise RecipeError(
            f"the model's weights are {_gib(weights)}, and {gpus} GPU of {_gib(memory)} can take "
            f"{_gib(gpus * memory * share)} of them: raise gpus and args.tensor_parallel_size, or take a smaller or "
            "quantised model"
        )


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
