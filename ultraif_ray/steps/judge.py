"""Judge: responses that exist already, under other settings."""

from dataclasses import dataclass
from typing import Any

from ultraif_ray.recipe import dumped
from ultraif_ray.records import Role
from ultraif_ray.steps.engines import EngineStep, journey_settings
from ultraif_ray.steps.step import Context
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, count_rows


@dataclass(frozen=True)
class Judge(EngineStep):
    """Ask the judge about every response (paper, section 2.3), and sample none anew."""

    planted: bool = False
    """Whether the responses are violations, sampled here (`responses.planted`)."""

    kind = "judge"
    outcome_column = "outcome"
    has_constraints = True

    @property
    def stages(self) -> tuple[str, ...]:
        """See `EngineStep.stages`."""
        return ("plant", "judge") if self.planted else ("judge",)

    @property
    def roles(self) -> tuple[Role, ...]:
        """Who is asked."""
        return ("responder", "judge") if self.planted else ("judge",)

    def settings(self, context: Context) -> dict[str, Any]:
        """The judge, and how it is asked."""
        recipe = context.recipe
        return journey_settings(recipe, self.roles) | {"synthesize": dumped(recipe.synthesize)}

    def entries(self, folder: RunFolder, rows: int) -> dict[str, Entry]:
        """See `EngineStep.entries`."""
        return {self.name: count_rows(folder, self.name, rows, self.outcome_column, self.roles)}
