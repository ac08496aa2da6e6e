"""The command line: `ultraif run RECIPE`, and each step by itself.

Heavy imports (Ray, vLLM, datasets) wait inside the commands, so that `ultraif --help` answers at once.
"""

import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from ultraif_ray.errors import UltraIFError
from ultraif_ray.printable import printable
from ultraif_ray.redact import redacted

app = typer.Typer(
    help="UltraIF on Ray: wild prompts in, judged instruction-following data out (arXiv 2502.04153).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE", help="The recipe, a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as synthesize.k=3.")
]
Prompts = Annotated[
    list[str] | None,
    typer.Option("--prompts", metavar="FILE", help="Prompts, one or several, in place of the recipe's."),
]
Run = Annotated[str | None, typer.Option("--run", metavar="FOLDER", help="The run's folder [runs/NAME].")]
Remake = Annotated[bool, typer.Option("--remake", help="Delete what was made with other settings, and make it anew.")]
Logs = Annotated[bool, typer.Option("--worker-logs", help="Show what the workers and their engines log.")]


def _recipe(path: str, prompts: list[str] | None, run: str | None, overrides: list[str] | None) -> Any:
    from ultraif_ray.recipe import load_recipe

    prompts, words = _many(prompts, overrides)
    return load_recipe(path, words, prompts=prompts, run=run)


def _many(files: list[str] | None, overrides: list[str] | None) -> tuple[list[str], list[str]]:
    """Files and overrides. `--prompts data/*.jsonl`: the shell makes several words of it, of which the option takes
    only the first.
    """
    words = overrides or []
    if not files:
        return [], words
    return [*files, *(word for word in words if "=" not in word)], [word for word in words if "=" in word]


def _step(until: str) -> Any:
    def command(
        recipe: RecipeFile,
        overrides: Overrides = None,
        prompts: Prompts = None,
        run: Run = None,
        remake: Remake = False,
        worker_logs: Logs = False,
    ) -> None:
        _run(_recipe(recipe, prompts, run, overrides), until=until, remake=remake, worker_logs=worker_logs)

    return command


def _run(loaded: Any, **options: Any) -> None:
    from ultraif_ray.api import run
    from ultraif_ray.report.show import print_end

    folder = run(loaded, **options).folder
    print_end(folder, options.get("only") or options.get("until") or "")


app.command("run", help="Run every step, from prompts to the trained model. Resumes an interrupted run.")(_step(""))


@app.command()
def plan(recipe: RecipeFile, overrides: Overrides = None, prompts: Prompts = None, run: Run = None) -> None:
    """Check everything without loading a model: pools, resources against the cluster's, rows, tokens."""
    from ultraif_ray.report.plan import print_plan

    print_plan(_recipe(recipe, prompts, run, overrides))


@app.command()
def preview(
    recipe: RecipeFile,
    overrides: Overrides = None,
    prompts: Prompts = None,
    rows: Annotated[int, typer.Option("-n", min=1, help="How many rows.")] = 3,
) -> None:
    """Take a few rows through the whole journey in this process, write nothing, and show every step."""
    from ultraif_ray.report.show import preview_rows

    preview_rows(_recipe(recipe, prompts, None, overrides), rows)


app.command("ingest", help="Read the prompts, and nothing more.")(_step("ingest"))
app.command("decompose", help="Up to decomposition, as a step of its own.")(_step("decompose"))
app.command("synthesize", help="Up to judged responses.")(_step("synthesize"))
app.command("export", help="Up to the training sets.")(_step("export"))


@app.command()
def train(
    step: Annotated[str, typer.Argument(metavar="composer|sft|dpo", help="What to train.")],
    run: Annotated[
        str, typer.Argument(metavar="RUN|RECIPE", help="The folder of a run; or, with --data, a recipe as well.")
    ],
    overrides: Overrides = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE", help="A training set that exists already: files or folders."),
    ] = None,
    folder: Annotated[
        str | None, typer.Option("--run", metavar="FOLDER", help="With --data: the run's folder [runs/NAME-STEP].")
    ] = None,
    number: Annotated[int, typer.Option("--round", min=1, help="Which DPO round.")] = 1,
    remake: Remake = False,
    worker_logs: Logs = False,
) -> None:
    """Train by itself what a run would train: the composer, SFT, or a round of DPO; with --data, on a given set."""
    from ultraif_ray.errors import RecipeError
    from ultraif_ray.recipe import load_recipe
    from ultraif_ray.steps.step import step_name
    from ultraif_ray.steps.train import TrainComposer, TrainDPO, TrainSFT
    from ultraif_ray.store.folder import RunFolder

    kinds = {kind.kind: kind for kind in (TrainComposer, TrainSFT, TrainDPO)}
    if step not in kinds:
        raise RecipeError(f"'{step}' cannot be trained; choose one of {', '.join(kinds)}")
    place = RunFolder(run)
    is_run = place.fs.exists(place.at("recipe.yaml"))
    recipe = f"{run.rstrip('/')}/recipe.yaml" if is_run else run
    if data:
        files, words = _many(data, overrides)
        key = f"sets.dpo.{number}" if kinds[step] is TrainDPO else f"sets.{step}"
        before = load_recipe(recipe, words, run=run if is_run else None)
        apart = before.run_folder if before.sets else f"{before.run_folder}-{step}"
        words = [f"{key}={json.dumps(files)}", *words]
        _run(load_recipe(recipe, words, run=folder or apart), remake=remake, worker_logs=worker_logs)
        return
    if folder or not is_run:
        raise RecipeError(
            f"{run} is trained on what stands in it, without --run: "
            if is_run
            else f"{run} is no run's folder, which holds recipe.yaml: "
            "to train on a set that exists already, add --data FILE"
        )
    only = step_name(step, number if kinds[step] is TrainDPO else 0)
    _run(_recipe(recipe, None, run, overrides), only=only, remake=remake, worker_logs=worker_logs)


@app.command()
def retry(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's folder.")],
    overrides: Overrides = None,
    remake: Annotated[bool, typer.Option("--remake", help="Delete what was trained from these rows.")] = False,
    worker_logs: Logs = False,
) -> None:
    """Do the rows of a run again that failed; what they were is kept in its folder `retried`."""
    from ultraif_ray.report.show import print_end
    from ultraif_ray.steps import run as steps
    from ultraif_ray.store.folder import RunFolder

    loaded = _recipe(f"{run.rstrip('/')}/recipe.yaml", None, run, overrides)
    if not (done := steps.retry(loaded, remake=remake, worker_logs=worker_logs)):
        typer.echo("no row failed; there is nothing to do again")
        return
    print_end(RunFolder(loaded.run_folder), "export")
    typer.echo(f"{done} failed rows were done again")


@app.command()
def judge(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run that has responses.")],
    overrides: Overrides = None,
    step: Annotated[str, typer.Option("--step", help="Whose responses, such as round-1/synthesize.")] = "synthesize",
    folder: Annotated[str | None, typer.Option("--run", metavar="FOLDER", help="The new run's [RUN-judged].")] = None,
    remake: Remake = False,
    worker_logs: Logs = False,
) -> None:
    """Judge the responses of a run again under other settings, and export them: a run of its own, up to its sets."""
    from ultraif_ray.recipe import load_recipe

    place = run.rstrip("/")
    responses = f"responses={json.dumps({'run': place, 'step': step})}"
    words = ["composer=null", responses, *(overrides or [])]
    loaded = load_recipe(f"{place}/recipe.yaml", words, run=folder or f"{place}-judged")
    _run(loaded, until="export", remake=remake, worker_logs=worker_logs)


@app.command()
def audit(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The folder of a run that has verdicts.")],
    overrides: Overrides = None,
    n: Annotated[int, typer.Option("--n", min=2, help="How many verdicts are drawn.")] = 100,
    step: Annotated[str, typer.Option("--step", help="Of which step, such as round-1/synthesize.")] = "",
    seed: Annotated[int, typer.Option("--seed", help="Another one draws other verdicts.")] = 0,
    table: Annotated[
        str | None,
        typer.Option("--csv", metavar="FILE", help="Write them here to be graded, or read the grades that stand here."),
    ] = None,
    against: Annotated[
        str | None, typer.Option("--against", metavar="RECIPE", help="Let the judge of this recipe grade.")
    ] = None,
    planted: Annotated[bool, typer.Option("--planted", help="Try the judge on violations that are made here.")] = False,
    result: Annotated[str | None, typer.Option("--json", metavar="OUT", help="Keep the figures here.")] = None,
    folder: Annotated[
        str | None, typer.Option("--run", metavar="FOLDER", help="Where engines judge, if any do [RUN-audit].")
    ] = None,
    worker_logs: Logs = False,
) -> None:
    """How often the judge is right: its verdicts graded by you, by a second judge, or tried on planted violations.

    A second judge is asked the same questions. Overrides are laid over its recipe; with --planted, over the run's own.
    """
    from pathlib import Path

    from ultraif_ray.api import Run
    from ultraif_ray.errors import RecipeError
    from ultraif_ray.recipe import load_recipe
    from ultraif_ray.report.grades import Auditing, audit_run

    if sum((table is not None, against is not None, planted)) > 1:
        raise RecipeError("give one of --csv, --against and --planted: each is another way to grade")
    place = run.rstrip("/")
    judge, own = None, f"{place}/recipe.yaml"
    if against:
        asked = load_recipe(own).synthesize  # else it would be asked other questions, and have no grade for some
        same = [f"synthesize.questions={asked.questions}", f"synthesize.standing={asked.standing}"]
        judge = load_recipe(against, [*same, *(overrides or [])], run=folder or f"{place}-audit")
    elif planted:
        judge = load_recipe(own, overrides or (), run=folder or f"{place}-audit")
    graded, kept = (Path(file) if file else None for file in (table, result))
    audit_run(Run(place).rows(step=step), Auditing(n, seed, judge, planted, graded, kept, worker_logs))


@app.command()
def evaluate(
    model: Annotated[
        str | None, typer.Argument(metavar="[MODEL|RUN]", help="A model, or the folder of a run that trained one.")
    ] = None,
    overrides: Overrides = None,
    benchmark: Annotated[
        list[str] | None, typer.Option("--benchmark", metavar="NAME", help="One or several [ifeval].")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="FILE", help="The benchmarks' files, in their order; without, lm-eval's own."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="The first so many prompts of each.")] = None,
    max_tokens: Annotated[int | None, typer.Option("--max-tokens", min=1, help="Most tokens of an answer.")] = None,
    answers: Annotated[
        str | None, typer.Option("--answers", metavar="FILE", help="Score these, without a model.")
    ] = None,
    result: Annotated[str | None, typer.Option("--json", metavar="OUT", help="Keep lm-eval's results here.")] = None,
    run: Annotated[
        str | None, typer.Option("--run", metavar="FOLDER", help="Where it is kept [runs/evaluation-NAME].")
    ] = None,
    remake: Remake = False,
    worker_logs: Logs = False,
) -> None:
    """Measure a model on benchmarks, through an engine; or score answers that exist already."""
    from pathlib import Path

    from ultraif_ray.api import evaluate_model, score_answers
    from ultraif_ray.errors import RecipeError

    names, files = benchmark or ["ifeval"], data or []
    if bool(model) == bool(answers):
        raise RecipeError("give a model or a run to measure, or --answers FILE to score: one of the two")
    if len(files) > len(names):
        raise RecipeError(f"there are {len(files)} files (--data) for {len(names)} benchmarks (--benchmark): name each")
    if answers:
        if len(names) > 1 or not files or overrides:
            raise RecipeError("--answers are to one benchmark: give one --benchmark with its --data, and no KEY=VALUE")
        found = score_answers(answers, names[0], files[0], limit=limit, run=run)
    else:
        with_files = dict(zip(names, [*files, *[None] * (len(names) - len(files))], strict=True))
        options = {"limit": limit, "max_tokens": max_tokens, "run": run, "remake": remake, "worker_logs": worker_logs}
        found = evaluate_model(model or "", with_files, overrides or (), **options)  # type: ignore[arg-type]
    typer.echo(printable(found.table))
    if judge := found.results["config"].get("judge"):
        typer.echo(printable(f"judge: {judge['model']} ({judge['how']})"))
    for name, left_out in found.results.get("unscored", {}).items():
        why = "; ".join(dict.fromkeys(left_out.values()))
        typer.echo(printable(f"{name}: not scored: {', '.join(left_out)} ({why})"))
    typer.echo(f"results and samples: {found.place}")
    if result:
        Path(result).write_text(json.dumps(found.results, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@app.command()
def serve(
    target: Annotated[
        str, typer.Argument(metavar="RUN|MODEL", help="The folder of a run; or a model: a folder, a hub id, packaged.")
    ],
    overrides: Overrides = None,
    host: Annotated[str, typer.Option("--host", help="Where to listen; beyond this machine only with a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 8000,
    token_file: Annotated[
        str | None,
        typer.Option("--token-file", metavar="FILE", help="Holds the bearer token [$ULTRAIF_SERVE_TOKEN]."),
    ] = None,
    worker_logs: Logs = False,
) -> None:
    """Serve a run's models, or one model: OpenAI's chat API; composing, judging and decomposing beside it."""
    from ultraif_ray.serve.command import serve_models

    serve_models(target, overrides or (), host=host, port=port, token_file=token_file, worker_logs=worker_logs)


@app.command()
def show(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's folder.")],
    outcome: Annotated[str | None, typer.Option("--outcome", help="Only rows that ended so, such as failed.")] = None,
    rows: Annotated[int, typer.Option("-n", min=1, help="How many rows at most.")] = 20,
    skip: Annotated[int, typer.Option("--skip", min=0, help="Rows to pass over first.")] = 0,
    step: Annotated[str, typer.Option("--step", help="Of which step, such as round-1/synthesize.")] = "",
) -> None:
    """Page through the rows of a run, each shown whole."""
    from ultraif_ray.report.show import print_rows

    print_rows(run, outcome, rows, skip, step)


@app.command()
def stats(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|FILE...",
            help="The folder of a run or a step; or files, folders, hub ids (not UTF-8: with ingest.encoding=NAME).",
        ),
    ],
    step: Annotated[str, typer.Option("--step", help="Of a run: which step's rows, such as round-1/synthesize.")] = "",
    rows: Annotated[int, typer.Option("-n", min=0, help="How many rows are shown, drawn at random.")] = 10,
    seed: Annotated[int, typer.Option("--seed", help="Another one draws others.")] = 0,
    result: Annotated[str | None, typer.Option("--json", metavar="OUT", help="Keep the figures here.")] = None,
) -> None:
    """What a data set holds, in one screen: a run's rows, prompts, or training sets that anybody made."""
    from pathlib import Path

    from ultraif_ray.api import stats
    from ultraif_ray.report.stats import print_stats

    key = "ingest.encoding="  # as for ingest, which messages about files speak of
    files = [word for word in what if not word.startswith(key)]
    encoding = next((word.removeprefix(key) for word in what if word.startswith(key)), "")
    found = stats(files, step=step, encoding=encoding, rows=rows, seed=seed)
    print_stats(found)
    if result:
        Path(result).write_text(found.model_dump_json(indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command line."""
    report_errors(app)


_INTERRUPTED = 128 + signal.SIGINT
"""The exit code that typer makes of Ctrl-C."""


def report_errors(command: Callable[[], object]) -> None:
    """Run a command; an error meant for the user is printed as a message, not a traceback, and ends the process. So
    does Ctrl-C, and SIGTERM, which Slurm and Kubernetes send some seconds before they kill.
    """
    ended_by = signal.SIGINT

    def terminate(number: int, frame: Any) -> None:
        nonlocal ended_by
        ended_by = signal.SIGTERM
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not cut short what the first one began
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        command()
    except (KeyboardInterrupt, SystemExit) as ended:
        if isinstance(ended, SystemExit) and ended.code != _INTERRUPTED:
            raise
        typer.echo("ultraif: interrupted; what is written is kept. The same command resumes it.", err=True)
        sys.exit(128 + ended_by)
    except UltraIFError as error:
        typer.echo(printable(redacted(f"ultraif: {error}")), err=True)
        sys.exit(2)
    except Exception as error:
        if os.environ.get("ULTRAIF_TRACEBACK"):
            raise
        text = " ".join(str(error).split())[:500]
        said = f"ultraif: {type(error).__name__}: {text} (ULTRAIF_TRACEBACK=1 shows where)"
        typer.echo(printable(redacted(said)), err=True)
        sys.exit(1)
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
