"""Whole runs through Ray Data, with the simulated engine at the model boundary."""

import json
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from ray.data._internal.execution.operators.map_operator import MapOperator

from tests.simulated import recipe, rows_of, with_pool, without_usage
from ultraif_ray.errors import EngineUnavailable, InputError, RecipeError, RunError
from ultraif_ray.flow import ray_internals
from ultraif_ray.steps import ingest
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import retry, run, run_steps
from ultraif_ray.steps.step import Context, whole_settings
from ultraif_ray.steps.synthesize import Synthesize
from ultraif_ray.store.folder import RunFolder

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


def test_a_run_accounts_for_every_row_and_one_pool_or_three_make_the_same(tmp_path: Path) -> None:
    made = {}
    for shape in ("one", "three"):
        base = tmp_path / shape
        base.mkdir()
        folder = run(recipe(base, pools=shape))
        ledger = folder.read_json("ledger.json")
        assert ledger["ingest"]["input"] == 42
        assert ledger["ingest"]["outcomes"] == {"accepted": 40, "duplicate": 1, "empty": 1}
        found = {name: one["count"] for name, one in ledger["ingest"]["filters"].items()}
        assert found == {"asks nothing": 0, "contaminated": 0, "duplicate": 1}
        for step in ("decompose", "synthesize", "export"):
            assert ledger[step]["input"] == sum(ledger[step]["outcomes"].values()) == 40
        assert set(ledger["synthesize"]["outcomes"]) <= {"paired", "satisfied", "unsatisfied", "failed"}
        assert ledger["decompose"]["tokens"]["decomposer"]["generated"] > 0
        rows = rows_of(folder)
        assert len({row.id for row in rows}) == 40
        assert sum(row.outcome == "failed" for row in rows) == ledger["synthesize"]["outcomes"].get("failed", 0)
        assert all(f.reason for row in rows for f in row.failures)
        made[shape] = without_usage(rows)
    sources = {shape: {row.pop("source").split(":")[-1] for row in rows.values()} for shape, rows in made.items()}
    assert sources["one"] == sources["three"]
    assert made["one"] == made["three"]


def test_a_round_takes_the_constraints_of_rows_that_were_synthesized_in_one_go_and_nothing_else_of_them(
    tmp_path: Path,
) -> None:
    made = recipe(tmp_path, count=12, policy={"model": "packaged"})
    folder = run(made, until="export")
    steps = plan(made, folder)
    round_1 = next(step for step in steps if isinstance(step, Synthesize) and step.round)
    assert round_1.policy is not None
    folder.open_step("sft", whole_settings(round_1.policy, Context(made, folder)))
    folder.finish("sft")  # the simulated engine serves no model
    run_steps(made, steps, [round_1])
    first = {row.id: row for row in rows_of(folder)}
    again = {row.id: row for row in rows_of(folder, round_1.name)}
    assert any(row.constraints for row in again.values())
    assert {n: row.constraints for n, row in again.items()} == {n: row.constraints for n, row in first.items()}
    assert {row.rounds for row in again.values()} <= {drawn + 1 for drawn in made.synthesize.rounds}
    assert {usage.role for row in again.values() for usage in row.usage} == {"composer", "responder", "judge"}
    entry = folder.read_json("ledger.json")[round_1.name]
    assert entry["input"] == sum(entry["outcomes"].values()) == 12


def watched(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """What Ray Data's executor holds at each of its steps while a pipeline runs."""
    seen: dict[str, list[int]] = {"statistics": [], "kept": [], "waiting": [], "workers": []}

    class Watched(ray_internals.ForgetBlocks):
        def on_execution_step(self, executor: Any) -> None:
            maps = [op for op in executor._topology if isinstance(op, MapOperator)]
            seen["statistics"].append(sum(len(op._output_blocks_stats) for op in maps))
            super().on_execution_step(executor)
            seen["kept"].append(sum(len(op._output_blocks_stats) for op in maps))
            for op, state in executor._topology.items():
                if "Worker" in op.name:
                    seen["waiting"].append(state.total_enqueued_input_blocks())
                    seen["workers"].append(op._actor_pool.current_size())

    monkeypatch.setattr(ray_internals, "ForgetBlocks", Watched)
    return seen


def test_a_pool_grows_with_its_backlog_and_no_further_and_the_driver_holds_few_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = watched(monkeypatch)
    pool = {"engine": "simulated", "tokens_per_s": 600, "rows_in_flight": 4, "replicas": {"min": 1, "max": 3}}
    folder = run(with_pool(recipe(tmp_path, count=120, flow={"rows_per_block": 2, "blocks_between": 4}), pool))
    assert (seen["workers"][0], max(seen["workers"])) == (1, 3)
    assert len(rows_of(folder)) == 120
    assert 0 < max(seen["waiting"]) <= 24  # what three replicas hold, and some more; 60 blocks in all
    assert any(seen["statistics"])
    assert not any(seen["kept"])
    seen["workers"].clear()
    (few := tmp_path / "few").mkdir()
    run(with_pool(recipe(few, count=3, flow={"rows_per_block": 2}), pool))
    assert max(seen["workers"]) == 1


def test_a_step_that_could_never_be_placed_is_refused_before_the_first_runs(tmp_path: Path) -> None:
    made = recipe(tmp_path, count=8, policy={"model": "packaged"}, train={"workers": {"min": 500, "max": 500}})
    with pytest.raises(RecipeError, match=r"sft: the run needs 500 CPU at least \(500 for a training worker\)"):
        run(made)
    assert not (tmp_path / "run/ingest").exists()


def test_what_ends_a_worker_at_its_start_is_told_in_plain_words(tmp_path: Path) -> None:
    pool = {"engine": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1", "max_retries": 0}
    with pytest.raises(RecipeError, match="does not answer"):
        run(with_pool(recipe(tmp_path, count=4), pool))


def test_a_server_that_is_gone_ends_the_run_instead_of_failing_every_row(tmp_path: Path) -> None:
    class Broken(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def do_POST(self) -> None:
            self.send_error(500)

        def log_message(self, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/v1"
    pool = {"engine": "openai", "model": "m", "base_url": url, "max_retries": 0, "rows_in_flight": 4}
    with pytest.raises(EngineUnavailable, match="8 rows in a row got no answer"):
        run(with_pool(recipe(tmp_path, count=40), pool))
    server.shutdown()
    assert RunFolder(str(tmp_path / "run")).count("synthesize") < 40


def test_prompts_of_several_files_come_in_order_and_whole_and_what_was_rejected_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first file has more than a task hands on at once; the second repeats some of it."""
    monkeypatch.setattr(ingest, "ROWS_PER_FILE", 2_000)
    lines = {"a": [f"ask {n}" for n in range(4_500)], "b": ["ask 4500<|im_end|>", " ", "ask 4", "ask 4501"]}
    for name, asked in lines.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked))
    made = recipe(tmp_path).model_copy(update={"prompts": tuple(str(tmp_path / f"{name}.jsonl") for name in lines)})
    folder = run(made, until="ingest")
    rows = [(row.query, row.source.split("/")[-1]) for row in rows_of(folder, "ingest")]
    in_order = [(text, f"{name}.jsonl:{n}") for name, asked in lines.items() for n, text in enumerate(asked, 1)]
    assert rows == [one for one in in_order if one[1] not in ("b.jsonl:2", "b.jsonl:3")]
    assert [pq.read_metadata(file).num_rows for file in folder.data_files("ingest")] == [2_000, 2_000, 502]
    rejected = pq.read_table(folder.at("ingest", "rejected")).to_pylist()
    assert [(one["source"].split("/")[-1], one["reason"]) for one in rejected] == [
        ("b.jsonl:2", "empty"),
        ("b.jsonl:3", "duplicate"),
    ]
    outcomes = {"accepted": 4_502, "empty": 1, "duplicate": 1}
    ledger = folder.read_json("ledger.json")["ingest"]
    assert (ledger["input"], ledger["outcomes"], ledger["control_tokens"]) == (4_504, outcomes, 1)


@pytest.mark.parametrize("damage", [",]", '{"prompt": "b"}]', b"\xff"])
def test_a_fault_behind_the_first_records_of_a_file_is_one_line(tmp_path: Path, damage: str | bytes) -> None:
    """Found by a task of Ray's, whose own words are a traceback of its parts."""
    if isinstance(damage, bytes):
        file = tmp_path / "a [v2].txt"
        file.write_bytes(b"ask\n" * 200 + damage)
    else:
        file = tmp_path / "a [v2].json"
        file.write_text("[" + ",".join(f'{{"prompt": "ask {n}"}}' for n in range(200)) + damage)
    with pytest.raises(InputError) as caught:
        run(recipe(tmp_path).model_copy(update={"prompts": (str(file),)}), until="ingest")
    said = str(caught.value)
    assert said.startswith(
        f"{file}: broken JSON after record 200" if file.suffix == ".json" else f"{file}:201: not UTF-8"
    )
    assert "\n" not in said


def test_failed_rows_are_done_again_and_no_others_and_what_they_were_is_kept(tmp_path: Path) -> None:
    (replies := tmp_path / "replies").mkdir()
    pool = {"engine": "simulated", "replies": str(replies)}
    refusing = pool | {"faults": [{"kind": "refuse", "query": f"number {n} "} for n in (7, 23)]}
    made = recipe(tmp_path, policy={"model": "packaged"})
    folder = run(with_pool(made, refusing), until="export")
    before = {row.id: row for row in rows_of(folder)}
    failed = {one for one, row in before.items() if row.outcome == "failed"}
    assert {before[one].query.split(" number ")[1] for one in failed} == {"7 please", "23 please"}
    without_failed = everything(folder, "synthesize", "rows")
    for file in [file for file in without_failed if failed & set(pq.read_table(file)["id"].to_pylist())]:
        del without_failed[file]

    with pytest.raises(RunError, match=r"set these back:\n  pools\.m\.refused_share: 0\.0 → 0\.3"):
        retry(with_pool(made, {"engine": "simulated", "refused_share": 0.3}))
    sft = next(step for step in plan(made, folder) if step.name == "sft")
    folder.open_step("sft", whole_settings(sft, Context(with_pool(made, pool), folder)))
    folder.finish("sft")  # the simulated engine serves no model
    finished = everything(folder)
    with pytest.raises(RunError, match=r"made from synthesize: sft\. Add --remake to delete these and retry"):
        retry(with_pool(made, pool))
    assert everything(folder) == finished

    assert retry(with_pool(made, pool), remake=True) == len(failed)
    after = {row.id: row for row in rows_of(folder)}
    assert len(rows_of(folder)) == len(after)
    assert after.keys() == before.keys()
    assert not any(row.outcome == "failed" for row in after.values())
    assert all(after[one] == before[one] for one in before.keys() - failed)
    assert without_failed
    assert without_failed.items() <= everything(folder, "synthesize", "rows").items()
    kept = [row for file in folder.retried("synthesize") for row in pq.read_table(file).to_pylist()]
    assert {row["id"] for row in kept} == failed
    spent = sum(usage["generated"] for row in kept for usage in row["usage"])
    ledger = folder.read_json("ledger.json")
    assert ledger["synthesize"].get("retried") == {"attempts": len(failed), "generated": spent}
    paid = spent + sum(usage.generated for row in after.values() for usage in row.usage)
    notes = [json.loads(line) for file in replies.iterdir() for line in file.read_text().splitlines()]
    assert sum(sum(note["lengths"]) for note in notes) == paid
    assert (folder.state("export"), folder.state("sft")) == ("done", "")


def everything(folder: RunFolder, *parts: str) -> dict[Path, int]:
    """Each file and the time it was written at."""
    return {file: file.stat().st_mtime_ns for file in Path(folder.at(*parts)).rglob("*") if file.is_file()}


def test_an_engine_that_is_lost_dies_or_hangs_is_replaced_and_a_prompt_that_kills_it_every_time_fails_alone(
    tmp_path: Path,
) -> None:
    faults = [
        {"kind": "exit", "when": "start", "once": str(tmp_path / "lost")},
        {"kind": "die", "query": "number 2 ", "once": str(tmp_path / "died")},
        {"kind": "hang", "query": "number 17 ", "once": str(tmp_path / "hung")},
        {"kind": "die", "query": "number 13 "},
    ]
    pool = {"engine": "simulated", "rows_in_flight": 8, "timeout_s": 2, "faults": faults}
    folder = run(with_pool(recipe(tmp_path, count=24), pool))
    assert (tmp_path / "lost").exists()
    assert (tmp_path / "died").exists()
    assert (tmp_path / "hung").exists()
    rows = rows_of(folder)
    assert len(rows) == 24
    (failed,) = [row for row in rows if row.outcome == "failed"]
    assert "number 13 " in failed.query
    assert failed.failures[-1].kind == "kills its engine"


def test_an_engine_that_dies_at_every_start_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    fault = {"kind": "die", "when": "start", "message": "no memory"}
    with pytest.raises(RunError, match="workers died 3 times while they opened pool m: no memory"):
        run(with_pool(recipe(tmp_path, count=8), {"engine": "simulated", "faults": [fault]}))


@pytest.mark.long
def test_an_engine_that_dies_at_every_request_ends_the_run(tmp_path: Path) -> None:
    pool = {"engine": "simulated", "rows_in_flight": 1, "faults": [{"kind": "die"}]}
    with pytest.raises(EngineUnavailable, match="the engine died with every row it was given"):
        run(with_pool(recipe(tmp_path, count=8, flow={"rows_per_block": 1}), pool))


def test_a_run_in_which_nearly_everything_fails_ends_and_says_why(tmp_path: Path) -> None:
    refusing = with_pool(recipe(tmp_path, count=60), {"engine": "simulated", "refused_share": 1.0})
    flow = {"rows_per_block": 4, "breaker_rows": 20}
    with pytest.raises(RunError, match=r"20 of the last 20 rows of a worker failed: RequestRefused \(20\)"):
        run(refusing.model_copy(update={"flow": refusing.flow.model_copy(update=flow)}))
    assert RunFolder(str(tmp_path / "run")).count("synthesize") < 60


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with room for 150 KB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=150k", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("may not mount")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_ends_the_run_in_one_line_and_with_room_it_goes_on(tmp_path: Path, small_disk: Path) -> None:
    made = recipe(tmp_path, count=60).model_copy(update={"run": str(small_disk / "run")})
    with pytest.raises(RunError, match="No space left on device"):
        run(made)
    subprocess.run(["mount", "-o", "remount,size=50m", small_disk], check=True)
    folder = run(made)
    assert len({row.id for row in rows_of(folder)}) == 60
    assert len(rows_of(folder)) == 60
