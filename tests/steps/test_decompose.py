"""Decomposition as a step of its own; where its rows are done, and by whom, is tests/steps/test_run.py."""

import json
from pathlib import Path

import pytest

from tests.simulated import recipe, rows_of
from ultraif_ray.records import Row, Usage
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import retry, run, run_steps
from ultraif_ray.steps.step import Context, whole_settings

pytestmark = pytest.mark.usefixtures("no_ray")


def test_decompose_as_a_step_of_its_own_feeds_synthesis(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=12)
    folder = run(made, until="decompose")
    assert {row.outcome for row in rows_of(folder, "decompose")} == {""}
    assert set(folder.read_json("ledger.json")) == {"ingest", "decompose"}
    run(made)
    decomposed = {row.id: row.constraints for row in rows_of(folder, "decompose")}
    synthesized = {row.id: row.constraints for row in rows_of(folder)}
    assert decomposed == synthesized
    assert spent_by(rows_of(folder), "decomposer") == spent_by(rows_of(folder, "decompose"), "decomposer")
    assert set(folder.read_json("ledger.json")) == {"ingest", "decompose", "synthesize", "export"}


def spent_by(rows: list[Row], role: str) -> dict[int, list[Usage]]:
    return {row.id: [usage for usage in row.usage if usage.role == role] for row in rows}


def test_a_composers_own_prompts_are_decomposed_for_it_alone(tmp_path: Path) -> None:
    wild = tmp_path / "wild.jsonl"
    wild.write_text("".join(json.dumps({"prompt": f"Name {n} rivers in a list"}) + "\n" for n in range(8)))
    made = recipe(tmp_path, count=12, composer={"model": "packaged", "prompts": [str(wild)]})
    folder = run(made, until="composer-decompose")
    ledger = folder.read_json("ledger.json")
    assert list(ledger) == ["ingest", "composer-ingest", "composer-decompose"]
    assert ledger["composer-ingest"].items() >= {"input": 8, "outcomes": {"accepted": 8}}.items()
    assert sum(ledger["composer-decompose"]["outcomes"].values()) == ledger["composer-decompose"]["input"] == 8
    assert {row.query.split()[0] for row in rows_of(folder, "composer-decompose")} == {"Name"}
    failed = ledger["composer-decompose"]["outcomes"].get("failed", 0)
    assert retry(made) == failed

    steps = plan(made, folder)
    composer, synthesis = (next(s for s in steps if s.name == name) for name in ("composer", "synthesize"))
    folder.open_step("composer", whole_settings(composer, Context(made, folder)))
    folder.finish("composer")  # the simulated engine serves no model
    run_steps(made, steps, [synthesis, steps[-1]])
    rows = rows_of(folder)
    assert len(rows) == 12
    assert {row.query.split()[0] for row in rows} == {"Write"}
    assert not any(row.constraints or row.decomposed for row in rows)
    assert {usage.role for row in rows for usage in row.usage} == {"composer", "responder", "judge"}
    ledger = folder.read_json("ledger.json")
    assert list(ledger) == ["ingest", "composer-ingest", "composer-decompose", "synthesize", "export"]
    assert set(ledger["export"]["examples"]) == {"sft", "dpo", "rl"}
