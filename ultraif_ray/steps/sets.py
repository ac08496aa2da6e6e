"""Training sets that exist already, in the place of export."""

from dataclasses import dataclass
from typing import Any, Literal

from ultraif_ray.data.readers import Source, versions
from ultraif_ray.data.sets import check_set, find_files, read_set
from ultraif_ray.errors import InputError
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.store.ledger import Entry


@dataclass(frozen=True)
class ReadSet(Step):
    """Read one set of `sets`, and write it where export would have."""

    of: Literal["composer", "sft", "dpo"]

    kind = "export"
    resumes = False
    repeatable = True

    def settings(self, context: Context) -> dict[str, Any]:
        """Which files, in which version, and what is held out."""
        folder = context.folder
        try:
            files: dict[str, str] = versions(self._files(context))
        except InputError:
            if folder.state(self.name) != "done":
                raise
            files = folder.settings(self.name)["sets"][self.of]  # read once, they need not be there any more
        encoding = {"encoding": context.recipe.ingest.encoding} if context.recipe.ingest.encoding else {}
        return {"sets": {self.of: files}, "held_out": context.recipe.export.held_out} | encoding

    def check(self, context: Context) -> None:
        """Refuse files that are not there or hold no such set.

        Raises:
            InputError: naming the file.
        """
        check_set(self.of, self._files(context))

    def run(self, context: Context) -> dict[str, Entry]:
        """Read the files in order, in the driver."""
        share = context.recipe.export.held_out
        return {self.name: read_set(self.of, self._files(context), context.folder, self.name, share)}

    def _files(self, context: Context) -> list[Source]:
        sets = context.recipe.sets
        assert sets  # noqa: S101 - a plan has no such step without one
        files = sets.dpo[self.round] if self.of == "dpo" else getattr(sets, self.of)
        return find_files(files, context.recipe.ingest.encoding or "")
