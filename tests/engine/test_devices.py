"""Facts about a machine, as arguments: what is said of each. And this machine, which has no GPU."""

import pytest

from ultraif_ray.engine.devices import (
    Batch,
    batch_of,
    cache_memory,
    check_devices,
    check_weights,
    driver_cuda,
    memory_share,
    why_none,
)
from ultraif_ray.errors import RecipeError
from ultraif_ray.recipe import VllmPool

GIB = 1 << 30


@pytest.mark.parametrize(
    ("built", "driver", "wanted", "found", "visible", "said"),
    [
        (None, None, 1, 0, None, "torch is a build without CUDA"),
        ("13.0", None, 1, 0, "0", "no NVIDIA driver (libcuda.so.1): install version 580 or newer"),
        ("13.0", 12080, 1, 1, "0", "runs CUDA up to 12.8, and torch is built for 13.0: install version 580 or newer"),
        ("12.8", 11040, 1, 1, None, "runs CUDA up to 11.4, and torch is built for 12.8: install version 525 or newer"),
        ("13.0", 13000, 1, 0, "", "CUDA_VISIBLE_DEVICES is empty"),
        ("13.0", 13000, 2, 1, "3", "torch finds 1 (CUDA_VISIBLE_DEVICES=3)"),
        ("13.0", 13000, 1, 0, None, "torch finds 0: look at `nvidia-smi`"),
    ],
)
def test_each_reason_for_no_gpu_is_a_sentence_of_its_own(
    built: str | None, driver: int | None, wanted: int, found: int, visible: str | None, said: str
) -> None:
    why = why_none(built, driver, wanted, found, visible)
    assert said in why
    assert "\n" not in why


@pytest.mark.parametrize(("built", "driver"), [("13.0", 13000), ("13.0", 13020), ("12.8", 12020), ("12.8", 13000)])
def test_a_driver_of_the_same_major_version_or_a_newer_one_will_do(built: str, driver: int) -> None:
    assert why_none(built, driver, wanted=2, found=2, visible="0,1") == ""


def test_this_machine_says_what_it_lacks() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert driver_cuda() is None
    with pytest.raises(RecipeError, match="was to give 1 GPU, but torch is a build without CUDA"):
        check_devices(0.5)


@pytest.mark.parametrize(
    ("rows", "samples", "args", "batch"),
    [
        (128, 1, {}, Batch(128, 8192)),
        (128, 3, {}, Batch(384, 8192)),
        (512, 1, {}, Batch(512, 8192)),
        (512, 5, {}, Batch(512, 8192)),  # beyond it there are no CUDA graphs
        (512, 1, {"max_num_seqs": 1024}, Batch(1024, 8192)),
        (512, 1, {"max_num_batched_tokens": 256}, Batch(256, 256)),
    ],
)
def test_every_row_in_flight_has_its_place_in_the_batch(
    rows: int, samples: int, args: dict[str, int], batch: Batch
) -> None:
    pool = VllmPool(engine="vllm", model="org/big", gpus=1, rows_in_flight=rows, args=args)
    assert batch_of(pool, samples) == batch


@pytest.mark.parametrize(
    ("gpus", "said", "share"),
    [(1, None, 0.9), (2, 0.92, 0.92), (0.5, None, 0.45), (0.5, 0.3, 0.3), (0.5, 0.92, 0.46), (0.25, 0.9, 0.225)],
)
def test_a_part_of_a_gpu_is_a_part_of_its_memory_and_never_more(gpus: float, said: float | None, share: float) -> None:
    args = {} if said is None else {"gpu_memory_utilization": said}
    if gpus > 1:
        args["tensor_parallel_size"] = 2
    assert memory_share(VllmPool(engine="vllm", model="org/big", gpus=gpus, args=args)) == share


def test_engines_that_share_a_gpu_fit_it_together() -> None:
    weights, room = 15 * GIB, Batch(512, 8192).room
    assert room == 3.5 * GIB
    taken = 2 * (cache_memory(80 * GIB, 0.45, weights, room) + weights + room)
    assert 0.89 * 80 * GIB < taken <= 0.9 * 80 * GIB


def test_what_does_not_fit_is_said_with_its_numbers() -> None:
    with pytest.raises(RecipeError, match=r"GPU of 24\.0 GiB .* may take 10\.8 GiB, and needs 15\.0 GiB .* raise gpus"):
        cache_memory(24 * GIB, 0.45, 15 * GIB, 2 * GIB)
    with pytest.raises(RecipeError, match=r"weights are 131\.4 GiB, and 1 GPU of 80\.0 GiB can take 72\.0 GiB"):
        check_weights(80 * GIB, 0.9, 1, int(131.4 * GIB))
    check_weights(80 * GIB, 0.9, 2, int(131.4 * GIB))
