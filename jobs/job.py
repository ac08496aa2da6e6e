"""What all jobs share: a recipe, overrides, one part of the run, and a line that says where its output is."""

from typing import Annotated

import typer

from ultraif_ray.cli import report_errors
from ultraif_ray.errors import RecipeError
from ultraif_ray.flow.ray_internals import is_submitted_job
from ultraif_ray.recipe import load_recipe
from ultraif_ray.report.show import print_end
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import run as run_recipe
from ultraif_ray.steps.step import step_name


def submit(until: str = "", only: str = "", in_round: bool = False) -> None:
    """Run a part of a recipe's run, and print where its output is.

    Args:
        until: the last step; all when empty.
        only: the kind of the one step to run.
        in_round: whether that is a step of a DPO round, which `--round` names.
    """

    def job(
        recipe: Annotated[str, typer.Option(help="The recipe.")],
        overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
        prompts: Annotated[list[str] | None, typer.Option(help="Prompts in place of the recipe's.")] = None,
        run: Annotated[str | None, typer.Option(help="The run's folder.")] = None,
        number: Annotated[int, typer.Option("--round", min=1, help="Which DPO round (train_dpo).")] = 1,
        remake: Annotated[bool, typer.Option("--remake", help="Make anew what had other settings.")] = False,
    ) -> None:
        loaded = load_recipe(recipe, overrides or [], prompts=prompts, run=run)
        _check_place(loaded.run_folder)
        one = step_name(only, number if in_round else 0)
        folder = run_recipe(loaded, until=until, only=one, worker_logs=True, remake=remake)
        print_end(folder, one or until)
        print(f"output: {folder.uri(one or until or plan(loaded, folder)[-1].name)}", flush=True)

    report_errors(lambda: typer.run(job))


def _check_place(run_folder: str) -> None:
    """A submitted job works in a copy of the project that is thrown away with the cluster."""
    if is_submitted_job() and "://" not in run_folder and not run_folder.startswith("/"):
        raise RecipeError(
            f"the run's folder is '{run_folder}', inside the job's own copy of the project, which is lost with the "
            "cluster: give --run an absolute path that every node sees, or an s3:// or gs:// URI"
        )
