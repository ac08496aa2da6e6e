"""Decompose as a step of its own: where a composer is trained from its rows, or the user asks for it."""

from dataclasses import dataclass
from typing import Any

from ultraif_ray.steps.engines import EngineStep, journey_settings
from ultraif_ray.steps.step import Context
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry, count_rows


@dataclass(frozen=True)
class Decompose(EngineStep):
    """Find the constraints of each prompt (paper, section 2.2)."""

    kind = "decompose"
    outcome_column = "decomposed"
    stages = ("decompose",)

    def settings(self, context: Context) -> dict[str, Any]:
        """The decomposer, and what counts as a constraint."""
        return journey_settings(context.recipe, ("decomposer",))

    def entries(self, folder: RunFolder, rows: int) -> dict[str, Entry]:
        """See `EngineStep.entries`."""
        return {self.name: decompose_entry(folder, self.name, rows)}


class DecomposeForComposer(Decompose):
    """Find the constraints of the prompts that the composer alone learns from."""

    kind = "composer-decompose"


def decompose_entry(folder: RunFolder, step: str, rows: int) -> Entry:
    """The account of decomposing, whichever step the rows were decomposed in."""
    return count_rows(folder, step, rows, Decompose.outcome_column, ("decomposer",))
