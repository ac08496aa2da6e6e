"""Recipes whose pools are simulated, and what their runs wrote: for tests of what lies around the models."""

import json
from pathlib import Path
from typing import Any

from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import ROLES, Row
from ultraif_ray.store.folder import RunFolder


def prompts_file(tmp_path: Path, count: int) -> Path:
    file = tmp_path / "prompts.jsonl"
    words = ["rain", "snow", "wind", "fog"]
    lines = [{"prompt": f"Write {i} lines about {words[i % 4]} number {i} please"} for i in range(count)]
    lines += [{"prompt": " "}, lines[0]]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if not file.exists() or file.read_text() != text:  # a file that was written again counts as another one
        file.write_text(text)
    return file


def recipe(tmp_path: Path, count: int = 40, pools: str = "one", **sections: Any) -> Recipe:
    engine = {"engine": "simulated", "tokens_per_s": 5000, "broken_share": 0.1, "refused_share": 0.02}
    names = {"one": ["m", "m", "m", "m"], "three": ["a", "b", "c", "c"]}[pools]
    data = {
        "name": "test",
        "prompts": [str(prompts_file(tmp_path, count))],
        "run": str(tmp_path / "run"),
        "pools": dict.fromkeys(names, engine),
        "roles": {role: {"pool": name} for role, name in zip(ROLES, names, strict=True)},
        "flow": {"rows_per_block": 4},
        "decompose": {"check": "text"},  # this engine's yes and no are drawn by lot
        "synthesize": {"check": "text"},
    }
    for name, section in sections.items():
        data[name] = data.get(name, {}) | section if name in ("decompose", "synthesize") else section
    return parse_recipe(data)


def with_pool(made: Recipe, pool: dict[str, Any]) -> Recipe:
    return parse_recipe(made.model_dump() | {"pools": {"m": pool}})


def rows_of(folder: RunFolder, step: str = "synthesize") -> list[Row]:
    return [Row.model_validate(r) for batch in folder.read_tables(step) for r in batch.to_pylist()]


def without_usage(rows: list[Row]) -> dict[int, dict[str, Any]]:
    return {row.id: row.model_dump(exclude={"usage"}) for row in rows}
