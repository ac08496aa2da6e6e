"""Synthesize: harder instructions, answered and judged; in a DPO round by the policy, anew and longer."""

from dataclasses import dataclass
from typing import Any

from ultraif_ray.method.journey import STAGES
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import ROLES, Prompt
from ultraif_ray.steps.decompose import Decompose, decompose_entry
from ultraif_ray.steps.engines import EngineStep, journey_settings
from ultraif_ray.steps.serving import with_trained_models
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.steps.train import takes_over
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, count_rows


@dataclass(frozen=True)
class Synthesize(EngineStep):
    """Compose, respond, judge (paper, sections 2.2 and 2.3); decompose too, where no step before did."""

    composer: Step | None = None
    """The step that trained the composer."""
    policy: Step | None = None
    """The step that trained the policy, which then is the responder."""

    kind = "synthesize"
    outcome_column = "outcome"

    @property
    def stages(self) -> tuple[str, ...]:
        """All, or those after decompose."""
        return STAGES[1:] if isinstance(self.rows, EngineStep) else STAGES

    @property
    def columns(self) -> list[str] | None:
        """From rows that were synthesized in one go, what a round begins with again."""
        return [*Prompt.model_fields, "constraints", "decomposed"] if isinstance(self.rows, Synthesize) else None

    @property
    def accounts(self) -> tuple[str, ...]:
        """A journey in one go accounts for both of its steps."""
        return (self.name,) if isinstance(self.rows, EngineStep) else (Decompose.kind, self.name)

    def fraction(self, recipe: Recipe) -> float:
        """A round may take a fraction of the prompts."""
        return recipe.align.prompt_fraction if self.round else 1.0

    def settings(self, context: Context) -> dict[str, Any]:
        """All roles, and how many instructions, responses and verdicts they make."""
        recipe = context.recipe
        settings = journey_settings(recipe, ROLES) | {"synthesize": recipe.synthesize.model_dump(mode="json")}
        return settings | ({"prompt_fraction": recipe.align.prompt_fraction} if self.round else {})

    def serving(self, context: Context) -> Recipe:
        """The recipe with the trained composer and the policy in their roles."""
        trained = {name: context.folder.uri(step.name) for name, step in self.inputs.items() if name != "rows"}
        if self.composer and not takes_over(context.folder, self.composer):
            del trained["composer"]
        return with_trained_models(context.recipe, **trained)

    def entries(self, folder: RunFolder, rows: int) -> dict[str, Entry]:
        """A journey in one go counts for both of its steps."""
        entries = {self.name: count_rows(folder, self.name, rows, "outcome", ("composer", "responder", "judge"))}
        if isinstance(self.rows, EngineStep):
            return entries
        return {Decompose.kind: decompose_entry(folder, self.name, rows)} | entries
