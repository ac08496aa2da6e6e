"""Synthesize: harder instructions, answered and judged; in a DPO round by the policy, anew and longer."""

from dataclasses import asdict, dataclass
from typing import Any

from ultraif_ray.data.benchmarks import kept_out, read_against
from ultraif_ray.method.contamination import save
from ultraif_ray.method.journey import STAGES
from ultraif_ray.recipe import Recipe, dumped
from ultraif_ray.records import ROLES, IdSlice, Prompt, slice_of_round
from ultraif_ray.steps.decompose import Decompose, decompose_entry
from ultraif_ray.steps.engines import EngineStep, journey_settings, pool_settings
from ultraif_ray.steps.responses import ReadResponses
from ultraif_ray.steps.serving import policy_pool, sharing_gpu, with_trained_models
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.steps.train import takes_over
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, count_rows

BENCHMARKS = "benchmarks.npz"
"""The index of the benchmarks that the recipe names, in the step's folder."""


@dataclass(frozen=True)
class Synthesize(EngineStep):
    """Compose, respond, judge (paper, sections 2.2 and 2.3); decompose too, where no step before did."""

    composer: Step | None = None
    """The step that trained the composer."""
    policy: Step | None = None
    """The step that trained the policy, which then is the responder."""
    decompose: bool = True
    """Whether rows are decomposed here where no step before did: where somebody needs their constraints."""

    kind = "synthesize"
    outcome_column = "outcome"

    @property
    def stages(self) -> tuple[str, ...]:
        """All, or those after decompose."""
        return STAGES if self._in_one_go else STAGES[1:]

    @property
    def _in_one_go(self) -> bool:
        """Whether rows are decomposed here."""
        return self.decompose and not isinstance(self.rows, EngineStep)

    @property
    def has_constraints(self) -> bool:
        """Whether the rows have the constraints of their prompts."""
        return self.decompose or isinstance(self.rows, EngineStep)

    @property
    def columns(self) -> list[str] | None:
        """From rows that have responses already, what a round begins with again."""
        again = isinstance(self.rows, Synthesize | ReadResponses)
        return [*Prompt.model_fields, "constraints", "decomposed"] if again else None

    @property
    def accounts(self) -> tuple[str, ...]:
        """A journey in one go accounts for both of its steps."""
        return (Decompose.kind, self.name) if self._in_one_go else (self.name,)

    def part(self, recipe: Recipe) -> IdSlice | None:
        """A round may take a fraction of the prompts, another one each time."""
        return slice_of_round(self.round, recipe.align.prompt_fraction) if self.round else None

    def settings(self, context: Context) -> dict[str, Any]:
        """All roles, and how many instructions, responses and verdicts they make."""
        recipe = context.recipe
        settings = journey_settings(recipe, ROLES) | {"synthesize": dumped(recipe.synthesize)}
        settings |= kept_out(recipe.decontaminate)
        if self.policy:  # served where it is placed, in the responder's stead
            settings["policy_pool"] = pool_settings(recipe.pools[policy_pool(recipe)])
        part = self.part(recipe)
        return settings | ({"part": asdict(part)} if part else {})

    def serving(self, context: Context) -> Recipe:
        """The recipe with the trained composer and the policy in their roles."""
        trained = {name: context.folder.uri(step.name) for name, step in self.inputs.items() if name != "rows"}
        if self.composer and not takes_over(context.folder, self.composer):
            del trained["composer"]
        recipe = with_trained_models(context.recipe, **trained)
        if self.policy and recipe.policy and recipe.policy.share_gpu:
            recipe = sharing_gpu(recipe)
        if not any(one.files for one in recipe.decontaminate.against.values()):
            return recipe
        index = {"index": context.folder.uri(self.name, BENCHMARKS)}
        return recipe.model_copy(update={"decontaminate": recipe.decontaminate.model_copy(update=index)})

    def run(self, context: Context) -> dict[str, Entry]:
        """See `EngineStep.run`; the files of benchmarks go with the rows, as an index."""
        if more := read_against(context.recipe.decontaminate.against):
            folder = context.folder
            folder.fs.makedirs(folder.at(self.name), exist_ok=True)
            folder.fs.pipe_file(folder.at(self.name, BENCHMARKS), save(more))
        return super().run(context)

    def entries(self, folder: RunFolder, rows: int) -> dict[str, Entry]:
        """A journey in one go counts for both of its steps."""
        entries = {self.name: count_rows(folder, self.name, rows, "outcome", ("composer", "responder", "judge"))}
        if not self._in_one_go:
            return entries
        return {Decompose.kind: decompose_entry(folder, self.name, rows)} | entries
