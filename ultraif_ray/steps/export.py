"""Export: judged rows → training sets."""

from dataclasses import dataclass
from typing import Any

from ultraif_ray.data.export import SETS, export
from ultraif_ray.errors import RunError
from ultraif_ray.recipe import Where, dumped
from ultraif_ray.steps.judge import Judge
from ultraif_ray.steps.step import Context, Step, entries_behind
from ultraif_ray.steps.synthesize import Synthesize
from ultraif_ray.store.ledger import Entry


@dataclass(frozen=True)
class Export(Step):
    """Write the sets of a synthesis, each into a folder of its name."""

    rows: Synthesize | Judge

    kind = "export"
    resumes = False
    repeatable = True
    cheap = True

    @property
    def sets(self) -> tuple[str, ...]:
        """No set for the composer in a round, which has no constraints of its own, and where prompts have none."""
        return tuple(name for name in SETS if name != "composer" or (self.rows.has_constraints and not self.round))

    def settings(self, context: Context) -> dict[str, Any]:
        """Layout, splits, and what counts as an example."""
        return {"export": dumped(context.recipe.export)}

    def check_outcome(self, context: Context, entries: dict[str, Entry]) -> None:
        """Refuse sets without an example. A round may find no pair: its policy stays the one before.

        Raises:
            RunError: how to find out why.
        """
        made = [sum(entries[self.name].examples.get(name, {}).values()) for name in ("sft", "dpo")]
        if not self.round and not any(made) and context.recipe.flow.breaker_share < 1:
            more = " export.where may ask too much of them." if context.recipe.export.where != Where() else ""
            raise RunError(
                f"{self.name}: no row gave an example for SFT or DPO; `ultraif show {context.folder}` shows why.{more} "
                "Give more prompts or a better model. flow.breaker_share=1 takes that for a success too"
            )

    def run(self, context: Context) -> dict[str, Entry]:
        """Write the sets in one pass."""
        recipe, folder = context.recipe, context.folder
        return {self.name: export(recipe, folder, self.rows.name, self.name, self.sets, entries_behind(self, folder))}
