"""The run's folder fails at a random change of it while Ray Data synthesises; the next command ends as if it had not.

    python -m tests.chaos.store [--seeds 30] [--first N]        (a part of `make chaos`)

With every second seed the folder is local, and the n-th change that the driver makes is cut off or refused; with the
others it is on a store that everybody writes to, which from the n-th change on refuses everything for longer than its
clients ask again, or is late. Prints a line for each seed and at the end one JSON line. What comes last is a count of
changes in an undisturbed run, of which n is drawn.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Literal

import ray

from tests.chaos.audit import Report, audit, undisturbed
from tests.chaos.campaign import simulated, write_prompts
from tests.faults import FailingFileSystem, as_after_a_death, in_store
from tests.s3 import BUCKET, Store, s3_server
from ultraif_ray.errors import UltraIFError
from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import Row
from ultraif_ray.steps.run import run
from ultraif_ray.store.folder import RunFolder

ROWS = 24

REFUSED_S, LATE_S = 25, 8


def made(files: list[str], target: str) -> Recipe:
    """A run of these prompts, whose folder is `target`."""
    flow = {"rows_per_block": 2, "progress_s": 30}
    engines = simulated(tokens_per_s=5000)
    del engines["pools"]["m"]["replies"]  # what each row cost is not counted here
    return parse_recipe({"name": "store", "run": target, "prompts": files, "flow": flow, **engines})


def up_to_export(given: Recipe) -> str:
    """Run it; what ended it, if anything did."""
    try:
        run(given, until="export")
    except (OSError, UltraIFError) as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return ""


def on_disk(given: Recipe, draw: random.Random, most: int) -> tuple[str, str]:
    """Run it, and cut it off at the driver's n-th change; what happened, and what it said."""
    number = draw.randint(1, most)
    kind: Literal["crash", "error"] = draw.choice(("crash", "error"))
    with in_store(FailingFileSystem(number, kind)):
        said = up_to_export(given)
    as_after_a_death(RunFolder(given.run_folder))
    return f"{kind} at change {number} of the driver's", said


def on_store(given: Recipe, draw: random.Random, most: int, store: Store) -> tuple[str, str]:
    """Run it, and let its store be down or late from the n-th change on."""
    number = draw.randint(1, most)
    fault: Literal["refuse", "delay"] = draw.choice(("refuse", "delay"))
    store.plan(fault, REFUSED_S if fault == "refuse" else LATE_S, 2 * number)  # workers change it too
    said = up_to_export(given)
    if said:
        time.sleep(REFUSED_S)
    return f"{fault} from change {2 * number} of the store's", said


def report_of(seed: int, given: Recipe, prompts: list[Row]) -> Report:
    """What the run came to, against the same rows where nothing failed."""
    report = Report(seed)
    audit(report, given, prompts, undisturbed(given, prompts), [], None)
    return report


def changes_of(given: Recipe) -> int:
    """How often the driver of an undisturbed run changes its folder."""
    fs = FailingFileSystem(1 << 30)
    with in_store(fs):
        assert not (said := up_to_export(given)), said
    return (1 << 30) - fs.left


def main() -> None:
    """Run it for some seeds."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first", type=int, default=random.SystemRandom().randrange(1 << 30))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="store-") as scratch, s3_server(Path(scratch, "s3.log")) as store:
        ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        prompts = write_prompts(Path(scratch), ROWS)
        files = sorted({row.source.split(":")[0] for row in prompts})
        changes = changes_of(made(files, f"{scratch}/undisturbed"))
        reports: list[Report] = []
        kinds: Counter[str] = Counter()
        for seed in range(options.first, options.first + options.seeds):
            draw = random.Random(seed)
            given = made(files, f"{scratch}/{seed}" if seed % 2 else f"s3://{BUCKET}/{seed}")
            what, said = on_disk(given, draw, changes) if seed % 2 else on_store(given, draw, changes, store)
            again = up_to_export(given)
            report = report_of(seed, given, prompts)
            report.unexpected_ends += [again] if again else []
            print(f"seed {seed}: {what}: {said or 'went on'}; {'clean' if report.clean else report}", file=sys.stderr)
            kinds[what.split()[0] + (", ended" if said else ", went on")] += 1
            reports.append(report)
        print(json.dumps({"changes": changes, "kinds": kinds, "clean": all(report.clean for report in reports)}))
        with suppress(Exception):
            ray.shutdown()
    sys.exit(0 if all(report.clean for report in reports) else 1)


if __name__ == "__main__":
    main()
