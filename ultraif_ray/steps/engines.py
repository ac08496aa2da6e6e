"""What decompose and synthesize share: rows that go through engines, resumed row by row."""

import inspect
import io
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from ultraif_ray.engine.models import check_access, weights_version
from ultraif_ray.errors import NodeLost, RunError
from ultraif_ray.method import RULES, checkers, prompts
from ultraif_ray.method.checkers.naming import enabled, listed
from ultraif_ray.printable import printable
from ultraif_ray.recipe import Dumped, Pool, Recipe, VllmPool, difference, dumped, fingerprint, in_json
from ultraif_ray.records import IdSlice, Role
from ultraif_ray.steps.serving import with_trained_models
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.store.folder import Repaired, RunFolder
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
        taken = self._ids_to_take(folder, part)
        attempts, ended = 0, ""
        while (left := len(taken) - len((repaired := self._repair(folder, taken)).ids)) and attempts < ATTEMPTS:
            if attempts:
                why = printable(f"{self.name}: {ended}")
                print(f"{why}; resuming with the {left} rows that are left", file=sys.stderr, flush=True)
            folder.settle(self.name, [])
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
        folder.settle(self.name, repaired.files)
        return self.entries(folder, len(taken))

    def _ids_to_take(self, folder: RunFolder, part: IdSlice | None) -> np.ndarray:
        """The ids of the input's rows that are taken.

        Raises:
            RunError: none is.
        """
        ids = folder.ids(self.rows.name)
        if part is None:
            return ids
        taken = ids[np.fromiter(map(part.holds, ids.tolist()), dtype=bool, count=len(ids))]
        if not len(taken):
            raise RunError(
                f"{self.name}: none of {len(ids)} prompts is in this round's part: raise align.prompt_fraction"
            )
        return taken

    def rows_to_do(self, context: Context) -> int:
        """How many rows a retry would do: those that failed, and those that are not there yet."""
        folder = context.folder
        tables = folder.read_tables(self.name, [self.outcome_column])
        failed = sum(batch.column(self.outcome_column).to_pylist().count("failed") for batch in tables)
        taken = self._ids_to_take(folder, self.part(context.recipe))
        return failed + int(np.isin(taken, folder.ids(self.name), invert=True).sum())

    def _repair(self, folder: RunFolder, taken: np.ndarray) -> Repaired:
        """Repair what a dead run left, and say what that was.

        Raises:
            RunError: there are rows that do not come from the input.
        """
        repaired = folder.repair(self.name)
        if repaired.taken_out:
            print(f"{self.name}: {repaired.taken_out} rows that a dead run's worker still wrote were taken out",
                  file=sys.stderr, flush=True)  # fmt: skip
        for path in repaired.unreadable:
            print(f"{self.name}: {path} cannot be read: moved to {folder.uri(self.name, 'unreadable')}, and its rows "
                  "are made again", file=sys.stderr, flush=True)  # fmt: skip
        if strange := int(np.isin(repaired.ids, taken, invert=True).sum()):
            raise RunError(
                f"{folder.uri(self.name)}: {strange} of its {len(repaired.ids)} rows are of no prompt in "
                f"{folder.uri(self.rows.name)}, which was made anew since: bring back what was there, name another "
                "folder with --run, or delete this one"
            )
        return repaired

    def check_outcome(self, context: Context, entries: dict[str, Entry]) -> None:
        """Refuse to go on where nearly all of the rows failed, however few they are.

        Raises:
            RunError: with the kinds of their failures.
        """
        entry, folder = entries[self.name], context.folder
        failed = entry.outcomes.get("failed", 0)
        if failed > context.recipe.flow.breaker_share * entry.input:
            kinds = ", ".join(f"{kind} ({n})" for kind, n in list(entry.failures.items())[:3])
            again = f"`ultraif retry {folder}`" if self.retried else f"delete {folder.uri(self.name)} and run it again"
            raise RunError(
                f"{self.name}: {failed} of {entry.input} rows failed: {kinds}. Look at "
                f"`ultraif show {folder} --outcome failed`, remove the cause, then {again}; "
                "flow.breaker_share=1 continues regardless"
            )

    def still_holds(self, context: Context, settings: dict[str, Any]) -> Literal["", "same", "more"]:
        """See `Step.still_holds`: rows of an input that only grew are still what they are made from."""
        folder, before = context.folder, context.folder.settings(self.name)
        made_from = before.get("inputs", {}).get("rows", {}).get("build")
        inputs = settings["inputs"] | {"rows": settings["inputs"]["rows"] | {"build": made_from}}
        only_rows = not difference(before, in_json(settings | {"inputs": inputs}))
        return "more" if only_rows and made_from in folder.earlier_builds(self.rows.name) else ""


def journey_settings(recipe: Recipe, roles: tuple[Role, ...]) -> dict[str, Any]:
    """The settings that decide what roles answer: how they sample, which models play them, what they are asked."""
    playing = {role: getattr(recipe.roles, role) for role in roles}
    told = {role: getattr(recipe.templates_of_roles, role).model_dump(mode="json") for role in roles}
    categories = recipe.templates.categories.model_dump()
    pools = {settings.pool: recipe.pools[settings.pool] for settings in playing.values()}
    named = enabled(recipe.synthesize.checkers)
    return {
        "seed": recipe.seed,
        "rules": RULES,
        "roles": {role: dumped(settings) | _weights_of(settings.adapter or "") for role, settings in playing.items()},
        "pools": {name: pool_settings(pool) for name, pool in pools.items()},
        "decompose": dumped(recipe.decompose),
        "templates": fingerprint({"source": source_of_prompts(), "categories": categories, "roles": told}),
        **({"checkers": fingerprint({"named": listed(named), "source": source_of_checkers()})} if named else {}),
    }


def pool_settings(pool: Pool) -> Dumped:
    """The settings of a pool that decide what its model answers."""
    found = dumped(pool, NOT_CONTENT)
    if isinstance(pool, VllmPool):
        found["on_gpu"] = pool.gpus > 0  # where its numbers are of another precision
        found |= _weights_of(pool.model)
    return found


def _weights_of(model: str) -> dict[str, str]:
    """What tells one state of a model in a local folder from another. One of a hub or a store is told by its name."""
    version = weights_version(model)
    return {"weights": version} if version else {}


@cache
def source_of_prompts() -> str:
    """The code that words what roles are asked."""
    return code_of(inspect.getsource(prompts))


@cache
def source_of_checkers() -> str:
    """The code of the checkers, which decides what it answers."""
    folder = Path(checkers.__file__).parent
    return "".join(code_of(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.py")))


def code_of(source: str) -> str:
    """Python code without its comments, docstrings and empty lines, which decide nothing."""
    lines = source.splitlines()
    for token in reversed(list(_passed_over(source))):
        (row, column), (last, end) = token.start, token.end
        lines[row - 1 : last] = [lines[row - 1][:column] + lines[last - 1][end:]]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def _passed_over(source: str) -> Iterator[tokenize.TokenInfo]:
    """Its comments, and the texts that stand alone."""
    between = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT or (token.type == tokenize.STRING and before in between):
            yield token
        if token.type not in (tokenize.COMMENT, tokenize.NL):
            before = token.type
