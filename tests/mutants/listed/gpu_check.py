"""Mutants of `make gpu-check`: what it runs, and what a trainer is made with."""

from tests.mutants.mutant import Mutant

COMMAND = "tests/gpu_check/test_command.py"

MUTANTS = (
    Mutant(
        "a trainer is made with Ray",
        "docs/gpu.md: torch, transformers, peft, trl and accelerate, and what these require, are enough",
        "ultraif_ray/train/worker.py",
        "from datasets import Dataset, load_dataset\n",
        "import ray.train\nfrom datasets import Dataset, load_dataset\n",
        (f"{COMMAND}::test_a_trainer_is_made_without_ray_and_vllm",),
    ),
    Mutant(
        "a part of gpu-check that hangs leaves its engine on the GPU",
        "docs/gpu.md: one that hangs or crashes is one line, and the others go on",
        "tests/gpu_check/__main__.py",
        "                os.killpg(process.pid, signal.SIGKILL)\n",
        "                process.kill()\n",
        (f"{COMMAND}::test_a_part_that_hangs_ends_with_all_that_it_started",),
    ),
    Mutant(
        "gpu-check ends well whatever failed",
        "docs/gpu.md: the exit code is 1 where a part fails",
        "tests/gpu_check/__main__.py",
        "    sys.exit(bool(failed))\n",
        "    sys.exit(0)\n",
        (f"{COMMAND}::test_the_command_ends_with_1_where_a_part_fails",),
    ),
    Mutant(
        "gpu-check goes on where a part did not pass",
        "docs/gpu.md: skipped, since a part that it builds on did not pass",
        "tests/gpu_check/__main__.py",
        '            if line.result.state == "pass":\n                passed.add(part.name)\n',
        "            passed.add(part.name)\n",
        (f"{COMMAND}::test_what_cannot_be_looked_at_says_why_and_the_rest_goes_on",),
    ),
)
