"""The ledger: per step how many rows came in, where each ended, and the tokens by role.

Counted from the files that were written, never from what the workers said, and checked: outcomes sum to the input, and
no id stands twice.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ultraif_ray.errors import RunError
from ultraif_ray.store.folder import RunFolder

LEDGER = "ledger.json"


def check(step: str, input_rows: int, outcomes: dict[str, int]) -> None:
    """Raises RunError unless every input row has exactly one outcome."""
    if "" in outcomes:
        raise RunError(f"ledger of {step}: {outcomes['']} rows have no outcome")
    if sum(outcomes.values()) != input_rows:
        raise RunError(
            f"ledger of {step}: {input_rows} rows came in, but outcomes sum to {sum(outcomes.values())} ({outcomes}); "
            "run the same command again to finish the missing rows"
        )


def enter(folder: RunFolder, step: str, input_rows: int, outcomes: dict[str, int], **more: Any) -> None:
    """Check a step's counts and write them to `RUN/ledger.json`.

    Raises:
        RunError: the outcomes do not sum to the input.
    """
    ledger = folder.read_json(LEDGER)
    ledger[step] = {"input": input_rows, "outcomes": dict(sorted(outcomes.items())), **more}
    folder.write_json(ledger, LEDGER)
    check(step, input_rows, outcomes)


def count_rows(folder: RunFolder, step: str, outcome_column: str, roles: tuple[str, ...]) -> dict[str, Any]:
    """Count a step's rows by outcome and its tokens by role, in flat memory but for 8 bytes per id.

    Raises:
        RunError: an id stands in the output more than once.
    """
    outcomes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    tokens = {role: Counter({"requests": 0, "prompt": 0, "cached": 0, "generated": 0}) for role in roles}
    ids: list[np.ndarray] = []
    for batch in folder.read_tables(step, ["id", outcome_column, "failures", "usage"]):
        ids.append(batch.column("id").to_numpy())
        for row in batch.to_pylist():
            outcomes[row[outcome_column]] += 1
            for failure in row["failures"]:
                if (failure["stage"] == "decomposer") == (outcome_column == "decomposed"):
                    reasons[f"{failure['stage']}: {_kind(failure['reason'])}"] += 1
            for usage in row["usage"]:
                if usage["role"] in tokens:
                    tokens[usage["role"]].update({k: usage[k] for k in ("requests", "prompt", "cached", "generated")})
    every = np.concatenate(ids) if ids else np.array([], dtype=np.int64)
    if doubled := len(every) - len(np.unique(every)):
        raise RunError(f"ledger of {step}: {doubled} ids stand in {folder.uri(step, 'rows')} more than once")
    return {
        "outcomes": dict(outcomes),
        "failures": dict(reasons.most_common()),
        "tokens": {role: dict(counts) for role, counts in tokens.items()},
        **_retried(folder, step),
    }


def _retried(folder: RunFolder, step: str) -> dict[str, dict[str, int]]:
    """What rows cost before `ultraif retry` did them again: attempts, and their tokens, which stand in no row now."""
    rows = generated = 0
    for name in folder.names(step, "retried"):
        with folder.fs.open(folder.at(step, "retried", name), "rb") as file:
            for batch in pq.ParquetFile(file).iter_batches(columns=["usage"]):
                rows += batch.num_rows
                generated += sum(usage["generated"] for row in batch.column("usage").to_pylist() for usage in row)
    return {"retried": {"attempts": rows, "generated": generated}} if rows else {}


def _kind(reason: str) -> str:
    """A reason without its particulars, so that it can be counted."""
    return reason.split(":")[0][:80]
