"""The command line as a user has it: what is printed, exit codes, and the real model at the end."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import typer

from tests.evaluate.benchmarks import IFEVAL, written
from tests.evaluate.test_lm import ANSWERS
from tests.imports import imported_by
from tests.s3 import BUCKET
from tests.simulated import rows_of, without_usage
from ultraif_ray.cli import main, report_errors
from ultraif_ray.recipe import SHIPPED
from ultraif_ray.store.folder import NEW, RunFolder
from ultraif_ray.store.lease import LEASE

PROMPTS = str(SHIPPED / "prompts/demo.jsonl")
ROLES = ("decomposer", "composer", "responder", "judge")


def ultraif(*words: Any, timeout: float = 600, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    return subprocess.run(
        [sys.executable, "-m", "ultraif_ray.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean | environment,
        check=False,
    )


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """The same in this process, where all that it imports is there already."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def run(*words: Any) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", ["ultraif", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        return subprocess.CompletedProcess(words, int(ended.value.code or 0), *capsys.readouterr())

    return run


@pytest.fixture
def simulated(tmp_path: Path) -> Path:
    file = tmp_path / "simulated.yaml"
    recipe = {
        "name": "sim",
        "run": str(tmp_path / "run"),
        "prompts": [PROMPTS],
        "pools": {"m": {"engine": "simulated"}},
        "roles": {role: {"pool": "m"} for role in ROLES},
    }
    file.write_text(json.dumps(recipe))
    return file


def test_help_and_the_readme_name_every_command_and_nothing_heavy_is_imported() -> None:
    done = ultraif("--help")
    assert done.returncode == 0
    listed = re.findall(r"^│ ([a-z]+) ", done.stdout.partition("Commands")[2], re.MULTILINE)
    assert listed == [
        "run",
        "plan",
        "preview",
        *("ingest", "decompose", "synthesize", "export"),
        "train",
        "retry",
        "judge",
        "audit",
        "evaluate",
        "serve",
        "show",
        "stats",
    ]
    table = Path("README.md").read_text().partition("| command | what it does |")[2].partition("\n\n")[0]
    assert [name for name in listed if not re.search(rf"^\| .*`(ultraif )?{name}\b.* \|", table, re.MULTILINE)] == []
    imported = imported_by("ultraif_ray.cli", "--help")
    assert "typer" in imported
    assert not imported & {"ray", "vllm", "torch", "datasets", "pyarrow"}


def test_recipe_and_method_need_neither_ray_nor_vllm_nor_torch() -> None:
    imported = imported_by("ultraif_ray.method.journey")
    assert "pydantic" in imported
    assert not imported & {"ray", "vllm", "torch", "transformers"}


def drive(words: list[str]) -> subprocess.Popen[str]:
    """The command in a process group of its own, to be killed as a whole."""
    return subprocess.Popen(
        [sys.executable, "-m", "ultraif_ray.cli", *words],
        env={k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell's children ignore it
    )


def ray_is_up() -> bool:
    return "ray" in sys.modules and sys.modules["ray"].is_initialized()


def test_given_answers_are_scored_without_a_model_and_without_ray(command: Command, tmp_path: Path) -> None:
    data = written(tmp_path / "ifeval.jsonl", IFEVAL)
    answers = written(tmp_path / "mine.jsonl", [{"response": text} for text in ANSWERS])
    kept, out = tmp_path / "scored", tmp_path / "o.json"
    words = ["evaluate", "--answers", answers, "--data", data, "--run", kept, "--json", out]
    before = ray_is_up()  # for the tests of other files
    done = command(*words)
    assert done.returncode == 0, done.stderr
    assert "| ifeval | prompt_level_strict_acc | 3 | 66.7 [" in done.stdout
    assert ray_is_up() == before
    assert json.loads(out.read_text())["results"]["ifeval"]["inst_level_loose_acc,none"] == 0.75
    assert [file.name.split("_")[0] for file in sorted((kept / "evaluation/answers").iterdir())] == [
        "results",
        "samples",
    ]
    assert "| ifeval | prompt_level_strict_acc | 2 | 50.0 [" in command(*words, "--limit", 2).stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a model or a run to measure, or --answers FILE to score"),
        (["m", "--answers", "a"], "give a model or a run to measure, or --answers FILE to score"),
        (["--answers", "a"], "--answers are to one benchmark: give one --benchmark with its --data"),
        (["m", "--data", "a", "--data", "b"], "there are 2 files (--data) for 1 benchmarks"),
        (["m", "--benchmark", "ifeval", "--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["m", "pools.served.cpu=1"], "pools.served.cpu: unknown key; did you mean 'cpus'?"),
        (["m", "--data", __file__], "JSON parse error"),
    ],
)
def test_an_evaluation_that_cannot_be_is_refused_in_a_message(
    command: Command, words: list[str], said: str, tmp_path: Path
) -> None:
    done = command("evaluate", *words, "--run", tmp_path / "run")
    assert (done.returncode, done.stderr.startswith("ultraif: ") or "checking" in done.stderr) == (2, True)
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("place", ["s3", pytest.param("local", marks=pytest.mark.long)])
def test_a_run_that_is_killed_or_interrupted_goes_on_and_prints_its_end(
    simulated: Path, tmp_path: Path, place: str, request: pytest.FixtureRequest, command: Command
) -> None:
    """In a local folder, and all on S3, prompts too. (tests/chaos kills local runs.)"""
    folder = RunFolder(str(tmp_path / "run"))
    fast = ["run", str(simulated), "flow.rows_per_block=2", "export.held_out=0.2"]
    if place == "s3":
        request.getfixturevalue("s3")
        folder = RunFolder(f"s3://{BUCKET}/run")
        folder.fs.put(PROMPTS, f"{BUCKET}/prompts.jsonl")
        fast += ["--run", str(folder), "--prompts", f"s3://{BUCKET}/prompts.jsonl"]
    pool = {"engine": "simulated", "tokens_per_s": 400, "rows_in_flight": 4}
    slow = [*fast, f"pools.m={json.dumps(pool)}"]

    def until(rows: int, driver: subprocess.Popen[str]) -> None:
        while folder.count("synthesize") < rows and driver.poll() is None:
            time.sleep(0.2)

    until(4, killed := drive(slow))
    family = psutil.Process(killed.pid).children(recursive=True)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    psutil.wait_procs(family, timeout=60)  # its workers may still write
    first = rows_of(folder)
    assert 4 <= len(first) < 32

    written = {path: folder.fs.modified(path) for path in folder.data_files("synthesize")}
    interrupted = drive(slow)
    while folder.read_json(LEASE).get("pid") != interrupted.pid and interrupted.poll() is None:
        time.sleep(0.1)
    beside = command(*fast)  # while the other's Ray starts
    assert beside.returncode == 2
    assert f"is in use by the run of process {interrupted.pid}" in beside.stderr
    until(len(first) + 2, interrupted)
    stop = signal.SIGTERM if place == "s3" else signal.SIGINT
    interrupted.send_signal(stop)
    _, said = interrupted.communicate(timeout=600)
    assert interrupted.returncode == 128 + stop, said
    assert "The same command resumes it" in said
    assert "Traceback" not in said
    second = rows_of(folder)
    assert len(first) < len(second) < 32

    # On a Ray of no more CPUs than this machine has.
    ended = ultraif(*fast, timeout=600)
    assert ended.returncode == 0, ended.stderr
    for part in ("Funnel", "Tokens", "Training sets", "One journey, whole", "32 accepted, 1 duplicate, 1 empty"):
        assert part in ended.stdout
    left = 32 - len(second)
    assert f"synthesize: {left}/{left} rows" in ended.stderr
    assert len(rows_of(folder)) == 32
    assert written == {path: folder.fs.modified(path) for path in written}
    after = without_usage(rows_of(folder))
    assert len(after) == 32
    assert all(after[row.id] == row.model_dump(exclude={"usage"}) for row in first + second)
    ledger = folder.read_json("ledger.json")
    assert ledger["synthesize"]["input"] == 32
    assert all(sum(entry["outcomes"].values()) == entry["input"] for entry in ledger.values())
    assert LEASE not in folder.names()
    assert not [path for path in folder.fs.find(folder.path) if path.endswith(NEW)]

    again = command(*fast)
    assert (again.returncode, again.stdout) == (0, ended.stdout)
    assert "rows in" not in again.stderr
    shown = command("show", folder, "-n", 2)
    assert "2 of 32 rows" in shown.stdout
    assert "--skip 2" in shown.stdout
    none = command("show", folder, "--outcome", "nothing")
    assert "0 of 0 rows that ended as nothing" in none.stdout


@pytest.mark.slow
def test_plan_loads_no_model_and_writes_nothing(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a machine that has had no model yet."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr("transformers.PreTrainedModel.from_pretrained", lambda *_, **__: pytest.fail("loads a model"))
    done = command("plan", "demo", "--run", tmp_path / "run", "synthesize.k=2")
    assert done.returncode == 0, done.stderr
    assert "decompose, operator 1: decompose in one worker of pool 'local'" in done.stdout
    assert "32 accepted" in done.stdout
    assert not (tmp_path / "run").exists()
    kept = {file.name for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"}
    assert kept == {"config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


def test_plan_refuses_what_this_machine_cannot_hold(command: Command, simulated: Path) -> None:
    big = command("plan", simulated, "pools.m.replicas={min: 500, max: 500}")
    assert big.returncode == 2
    assert "CPU at least" in big.stderr


def test_several_prompt_files_as_a_shell_glob_gives_them(command: Command, simulated: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"prompt {name}\n")
    done = command("plan", simulated, "--prompts", tmp_path / "a.txt", tmp_path / "b.txt", "synthesize.k=2")
    assert "2 accepted" in done.stdout, done.stderr


def test_preview_shows_rows_and_writes_nothing(command: Command, simulated: Path, tmp_path: Path) -> None:
    done = command("preview", simulated, "-n", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("prompt: ") == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nowhere.yaml"], "no such recipe"),
        (["run", "demo", "synthesise.k=1"], "did you mean 'synthesize'?"),
        (["plan", "demo", "--prompts", "nowhere.jsonl"], "nowhere.jsonl: no such file"),
        (["plan", "demo", "pools.local.model=/no/model"], "there is no model in /no/model"),
        (["show", "nowhere"], "is not a run's folder"),
        (["train", "sft", "demo"], "demo is no run's folder, which holds recipe.yaml: to train on a set that exists"),
        (["train", "sft", "demo", "--data", "nowhere.json"], "nowhere.json: no such file"),
        (["train", "dpo", "demo", "--data", PROMPTS], "demo.jsonl:1: no fields `chosen` and `rejected`: has "),
        (["train", "dpo", "demo", "--data", PROMPTS, "--round", 2], "dpo has the rounds [2]: each goes on from"),
        (["train", "composer", "demo", "--data", PROMPTS, "composer=null"], "sets.composer is given, but not what"),
    ],
)
def test_an_error_is_one_message_and_no_traceback(command: Command, words: list[Any], message: str) -> None:
    done = command(*words)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_what_nobody_foresaw_is_one_line_and_ends_with_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise KeyError("a\nb")

    monkeypatch.delenv("ULTRAIF_TRACEBACK", raising=False)
    with pytest.raises(SystemExit) as ended:
        report_errors(broken)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "ultraif: KeyError: 'a\\nb' (ULTRAIF_TRACEBACK=1 shows where)\n"
    monkeypatch.setenv("ULTRAIF_TRACEBACK", "1")
    with pytest.raises(KeyError):
        report_errors(broken)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("by_typer", [True, False])
def test_every_command_that_is_interrupted_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int, by_typer: bool
) -> None:
    before, went_on = signal.getsignal(signal.SIGTERM), list[str]()
    monkeypatch.setattr(sys, "argv", ["job"])

    def work() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            if number == signal.SIGTERM:
                os.kill(os.getpid(), number)  # as a scheduler that is in a hurry
            went_on.append("cleaned up")

    on_ctrl_c = signal.signal(signal.SIGINT, signal.default_int_handler)  # a background shell's children ignore it
    try:
        with pytest.raises(SystemExit) as ended:
            report_errors((lambda: typer.run(work)) if by_typer else work)
    finally:
        signal.signal(signal.SIGINT, on_ctrl_c)
    assert ended.value.code == 128 + number
    assert capsys.readouterr().err.strip().splitlines()[-1] == (
        "ultraif: interrupted; what is written is kept. The same command resumes it."
    )
    assert went_on == ["cleaned up"]
    assert signal.getsignal(signal.SIGTERM) == before


THREE_POOLS = ["three_pools"]
ONE_POOL = ["demo", "composer=null", "policy=null"]
SHORT = [f"roles.{role}.max_tokens=64" for role in ROLES]
SHORT += [
    "roles.responder.stop=['.']",
    "decompose.attempts=1",
    "synthesize.attempts=1",
    "synthesize.k=2",
    "synthesize.rounds={1: 1}",
]


@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.parametrize("recipe", [ONE_POOL, THREE_POOLS], ids=["one pool", "three pools"])
def test_the_real_model_in_workers_of_ray_data(tmp_path: Path, recipe: list[str]) -> None:
    """One vLLM in every role; or decomposer, composer, and responder with judge, each in a vLLM of its own, chained."""
    prompts = tmp_path / "prompts.jsonl"
    asked = ["why is the sky blue", "Write a haiku about rain, no rhymes."]
    prompts.write_text("".join(json.dumps({"prompt": p}) + "\n" for p in asked))
    done = ultraif(
        "run",
        recipe[0],
        "--prompts",
        prompts,
        "--run",
        tmp_path / "run",
        *recipe[1:],
        *SHORT,
        timeout=900,
        VLLM_CPU_KVCACHE_SPACE="1",
    )
    assert done.returncode == 0, done.stderr
    ledger = json.loads((tmp_path / "run/ledger.json").read_text())
    for step in ("ingest", "decompose", "synthesize", "export"):
        assert ledger[step]["input"] == sum(ledger[step]["outcomes"].values()) == 2
    assert ledger["decompose"]["tokens"]["decomposer"]["generated"] > 0
    assert all(ledger["synthesize"]["tokens"][role]["generated"] > 0 for role in ROLES[1:])
    rows = rows_of(RunFolder(str(tmp_path / "run")))
    assert {failure.stage for row in rows for failure in row.failures} <= {"decomposer", "composer"}  # by their replies
    responses = [response for row in rows for one in row.instructions for response in one.responses]
    assert responses
    assert not any("." in response.text for response in responses)
    verdicts = [verdict for response in responses for verdict in response.verdicts if verdict.answer != "not asked"]
    assert verdicts
    assert all(verdict.p_yes is not None and 0 < verdict.p_yes < 1 for verdict in verdicts)
