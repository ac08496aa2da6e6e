"""Responses that exist already, in the place of making any."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ultraif_ray.errors import InputError
from ultraif_ray.records import Row, arrow_schema
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry


@dataclass(frozen=True)
class ReadResponses(Step):
    """Copy the rows of another run's synthesis, so that this run needs it no more. What they cost stays there."""

    kind = "responses"
    resumes = False
    repeatable = True

    def settings(self, context: Context) -> dict[str, Any]:
        """Which rows, by what made them."""
        folder = context.folder
        source, step = self._source(context)
        made_by = source.build_of(step)
        if not made_by and folder.state(self.name) == "done":
            return {"responses": folder.settings(self.name)["responses"]}  # read once, they need not be there any more
        return {"responses": {"step": step, "build": made_by}}

    def check(self, context: Context) -> None:
        """Refuse a run that has no judged rows, or not all of them yet.

        Raises:
            InputError: naming the folder and the step.
        """
        source, step = self._source(context)
        if context.folder.state(self.name) != "done" and source.state(step) != "done":
            raise InputError(
                f"{source.uri(step)} holds no responses, or not yet all: name a run whose {step} is done "
                "(responses.run, responses.step)"
            )

    def run(self, context: Context) -> dict[str, Entry]:
        """Copy file by file, in flat memory."""
        (source, step), folder = self._source(context), context.folder
        schema = arrow_schema(Row)
        folder.fs.makedirs(folder.at(self.name, "rows"), exist_ok=True)
        for path in source.data_files(step):
            target = folder.at(self.name, "rows", path.rsplit("/", 1)[-1])
            with (
                source.fs.open(path, "rb") as old,
                folder.fs.open(target, "wb") as new,
                pq.ParquetWriter(new, schema) as writer,
            ):
                for batch in pq.ParquetFile(old).iter_batches(batch_size=1024):
                    rows = [row | {"usage": []} for row in batch.to_pylist()]
                    writer.write_table(pa.Table.from_pylist(rows, schema=schema))
        read = folder.count(self.name)
        return {self.name: Entry(input=source.count(step), outcomes={"read": read})}

    def _source(self, context: Context) -> tuple[RunFolder, str]:
        responses = context.recipe.responses
        assert responses  # noqa: S101 - a plan has no such step without one
        return RunFolder(responses.run), responses.step
