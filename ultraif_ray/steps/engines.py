"""What decompose and synthesize share: rows that go through engines, resumed row by row."""

import inspect
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ultraif_ray.engine.models import check_access
from ultraif_ray.errors import NodeLost, RunError
from ultraif_ray.method import checkers, prompts
from ultraif_ray.method.checkers.naming import enabled, listed
from ultraif_ray.printable import printable
from ultraif_ray.recipe import Recipe, VllmPool, fingerprint
from ultraif_ray.records import IdSlice, Role
from ultraif_ray.steps.serving import with_trained_models
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry

if TYPE_CHECKING:
    from ultraif_ray.flow.cluster import Need

ATTEMPTS = 6
"""Times that a pipeline is started at most, each time with what is left: Ray's own actors may die with their node."""

NOT_CONTENT = {"replicas", "cpus", "gpus", "accelerator_type", "resources", "labels", "rows_in_flight",
                "max_concurrency", "max_retries", "timeout_s", "api_key_env", "tokens_per_s", "latency_s",
                "faults", "replies"}  # fmt: skip
"""Settings of a pool that say where and how fast it runs."""


@dataclass(frozen=True)
class EngineStep(Step):
    """Takes the rows of a step through stages of the journey."""

    rows: Step

    outcome_column: ClassVar[str]
    """The column of a row that says how it ended in this step."""
    retried: ClassVar[bool] = True
    """Whether `ultraif retry` does its failed rows again."""

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages of the journey that the rows go through."""
        raise NotImplementedError

    @property
    def columns(self) -> list[str] | None:
        """The columns of the rows that are taken; None for all."""
        return None

    def part(self, recipe: Recipe) -> IdSlice | None:
        """The part of the rows, chosen by id, that is taken; None for all."""
        return None

    def serving(self, context: Context) -> Recipe:
        """The recipe with the models that the run has trained in their roles."""
        return with_trained_models(context.recipe)

    def entries(self, folder: RunFolder, rows: int) -> dict[str, Entry]:
        """Count the rows that were written, of `rows` that came in."""
        raise NotImplementedError

    def check(self, context: Context) -> None:
        """Refuse models that the hub does not give, before a machine is paid for that would ask for them.

        Raises:
            RecipeError: naming the key, and what to do.
        """
        recipe = context.recipe
        served = {name: pool for name, pool in recipe.pools.items() if isinstance(pool, VllmPool)}
        for name, pool in served.items():
            check_access(f"pools.{name}.model", pool.model)
        for role, settings in recipe.roles:
            if settings.adapter and settings.pool in served:
                check_access(f"roles.{role}.adapter", settings.adapter)

    def needs(self, context: Context) -> "list[Need]":
        """Room for the fewest replicas of every pool, and for what reads and writes."""
        from ultraif_ray.flow.placement import needs

        return needs(self.serving(context), self.stages)

    def run(self, context: Context) -> dict[str, Entry]:
        """Take the rows through the engines, and account for every one.

        Raises:
            RunError: a part so small that it holds no row, or what ended the pipeline.
        """
        from ultraif_ray.flow.cluster import connect
        from ultraif_ray.flow.graph import run_pipeline

        folder, recipe = context.folder, self.serving(context)
        part = self.part(context.recipe)
        rows = self._rows_to_take(folder, part)
        attempts, ended = 0, ""
        while (left := rows - self._repaired_count(folder)) > 0 and attempts < ATTEMPTS:
            if attempts:
                why = printable(f"{self.name}: {ended}")
                print(f"{why}; resuming with the {left} rows that are left", file=sys.stderr, flush=True)
            connect(context.worker_logs)
            attempts, ended = attempts + 1, "the pipeline ended without all of its rows"
            try:
                run_pipeline(
                    recipe,
                    folder,
                    self.rows.name,
                    self.name,
                    self.stages,
                    left,
                    part=part,
                    columns=self.columns,
                )
            except NodeLost as error:
                if attempts == ATTEMPTS:
                    raise
                ended = str(error).splitlines()[0]
        return self.entries(folder, rows)

    def _rows_to_take(self, folder: RunFolder, part: IdSlice | None) -> int:
        """How many rows of the input are taken.

        Raises:
            RunError: none is.
        """
        if part is None:
            return folder.count(self.rows.name)
        batches = folder.read_tables(self.rows.name, ["id"])
        rows = sum(part.holds(number) for batch in batches for number in batch.column("id").to_pylist())
        if not rows:
            total = folder.count(self.rows.name)
            raise RunError(f"{self.name}: none of {total} prompts is in this round's part: raise align.prompt_fraction")
        return rows

    def _repaired_count(self, folder: RunFolder) -> int:
        """The rows that count, after the repair of what a dead run left."""
        if late := folder.repair(self.name):
            print(f"{self.name}: {late} rows that a dead run's worker still wrote were taken out", file=sys.stderr)
        return folder.count(self.name)


def journey_settings(recipe: Recipe, roles: tuple[Role, ...]) -> dict[str, Any]:
    """The settings that decide what roles answer: how they sample, which models play them, what they are asked."""
    playing = {role: getattr(recipe.roles, role) for role in roles}
    told = {role: getattr(recipe.templates_of_roles, role).model_dump(mode="json") for role in roles}
    categories = recipe.templates.categories.model_dump()
    pools = {settings.pool: recipe.pools[settings.pool] for settings in playing.values()}
    named = enabled(recipe.synthesize.checkers)
    return {
        "seed": recipe.seed,
        "roles": {role: settings.model_dump(mode="json") for role, settings in playing.items()},
        "pools": {name: pool.model_dump(mode="json", exclude=NOT_CONTENT) for name, pool in pools.items()},
        "decompose": recipe.decompose.model_dump(mode="json"),
        "templates": fingerprint({"source": inspect.getsource(prompts), "categories": categories, "roles": told}),
        **({"checkers": fingerprint({"named": listed(named), "source": source_of_checkers()})} if named else {}),
    }


@cache
def source_of_checkers() -> str:
    """The text of the checkers, which decides what code answers."""
    return "".join(file.read_text(encoding="utf-8") for file in sorted(Path(checkers.__file__).parent.glob("*.py")))
