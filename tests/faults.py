"""A store that fails at a chosen moment, and runs without Ray in which to try every one."""

import asyncio
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from ultraif_ray.data.ingest import read_prompts
from ultraif_ray.engine.opening import open_engines
from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.method.journey import run_journey
from ultraif_ray.recipe import Recipe, Train
from ultraif_ray.records import Asked, IdSlice, Row, to_table
from ultraif_ray.store import folder as folder_module
from ultraif_ray.store.folder import RunFolder, new_id
from ultraif_ray.store.lease import LEASE
from ultraif_ray.store.ledger import Training
from ultraif_ray.train import tasks
from ultraif_ray.train.checkpointing import save_whole, upload_metrics, upload_model
from ultraif_ray.train.job import Job, tokenizer_of
from ultraif_ray.train.worker import make_trainer


class Cut(OSError):
    """The process is gone."""


class FailingFileSystem(LocalFileSystem):
    """Local files, for a process whose n-th change fails.

    With `crash` it dies there: a file that it was writing is cut short, of a folder that it was deleting, what comes
    last by name is gone, and nothing that it tries afterwards is done. With `error` the disk refuses that one change.
    """

    cachable = False

    def __init__(self, n: int, kind: Literal["crash", "error"] = "crash"):
        super().__init__()
        self.left, self.kind = n, kind

    def _fails(self) -> bool:
        self.left -= 1
        if self.left < 0 and self.kind == "crash":
            raise Cut
        if self.left == 0 and self.kind == "error":
            raise OSError(5, "Input/output error")
        return self.left == 0

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if "r" not in mode and self._fails():
            Path(path).write_bytes(b"{")
            raise Cut
        return super()._open(path, mode, **options)

    def mv(self, path1: str, path2: str, **options: Any) -> None:
        if self._fails():
            raise Cut
        super().mv(path1, path2, **options)

    def cp_file(self, path1: str, path2: str, **options: Any) -> None:
        if self._fails():
            Path(path2).write_bytes(b"{")
            raise Cut
        super().cp_file(path1, path2, **options)

    def rm(self, path: str, recursive: bool = False, maxdepth: int | None = None) -> None:
        if self._fails():
            for file in sorted(one for one in Path(path).rglob("*") if one.is_file())[-1:]:
                file.unlink()
            raise Cut
        super().rm(path, recursive, maxdepth)


@contextmanager
def in_store(fs: LocalFileSystem) -> Iterator[None]:
    """All run folders lie in this store."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("store.folder", "train.run", "train.tasks"):
            patch.setattr(f"ultraif_ray.{module}.filesystem", lambda root: (fs, str(Path(root).absolute())))
        yield


def as_after_a_death(folder: RunFolder) -> None:
    """The lease is that of a process that is gone."""
    if held := folder.read_json(LEASE):
        folder.write_json(held | {"pid": 2**22 - 1}, LEASE)


@contextmanager
def without_ray() -> Iterator[None]:
    """Files are parsed, rows taken through their journeys, and models trained, in this process. What lies around that
    is what it is.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "ultraif_ray.steps.ingest.parse_all",
            lambda sources, settings, benchmarks, _: read_prompts(sources, settings, benchmarks),
        )
        patch.setattr("ultraif_ray.flow.graph.run_pipeline", run_pipeline)
        patch.setattr("ultraif_ray.flow.cluster.connect", lambda *_: None)
        patch.setattr("ultraif_ray.flow.cluster.await_room", lambda _: None)
        for name, here in {"connect_and_wait": _nothing, "tokenise": tokenise, "fit": fit, "merge": merge}.items():
            patch.setattr(f"ultraif_ray.train.run.{name}", here)
        patch.setattr("ultraif_ray.train.run.answer", lambda _, asked, **more: [["Yes."]] * len(asked))
        yield


def run_pipeline(
    recipe: Recipe,
    folder: RunFolder,
    source: str,
    step: str,
    stages: tuple[str, ...],
    rows: int,
    *,
    part: IdSlice | None = None,
    columns: list[str] | None = None,
) -> None:
    """`flow.graph.run_pipeline` as far as files go: blocks in order, and each committed as Ray Data does it."""
    ids = folder.checkpoint(step)
    for place in (ids, (step, "rows")):
        folder.fs.makedirs(folder.at(*place), exist_ok=True)
    for name in folder.names(*ids):
        if name.endswith(".pending.parquet"):
            stem = name.removesuffix(".pending.parquet")
            for data in [one for one in folder.names(step, "rows") if one.startswith(stem)]:
                folder.fs.rm(folder.at(step, "rows", data))
            folder.fs.rm(folder.at(*ids, name))
    done = {one for name in folder.names(*ids) for one in pq.read_table(folder.at(*ids, name))["id"].to_pylist()}
    kind = Asked if "ask" in stages else Row
    waiting = [
        kind.model_validate(row)
        for batch in folder.read_tables(source, columns)
        for row in batch.to_pylist()
        if row["id"] not in done and (part is None or part.holds(row["id"]))
    ]
    assert len(waiting) == rows
    write, size = new_id(), recipe.flow.rows_per_block
    for number, start in enumerate(range(0, rows, size)):
        block = to_table(asyncio.run(_through(recipe, stages, waiting[start : start + size])))
        name = f"{write}_{number:06d}"
        _write(folder, pa.table({"id": block["id"]}), *ids, f"{name}.pending.parquet")
        _write(folder, block, step, "rows", f"{name}-0.parquet")
        folder.fs.mv(folder.at(*ids, f"{name}.pending.parquet"), folder.at(*ids, f"{name}.parquet"))


async def _through(recipe: Recipe, stages: tuple[str, ...], rows: list[Row]) -> list[Row]:
    engines = await open_engines(recipe, tuple(recipe.pools), stages)
    return await asyncio.gather(
        *(run_journey(row, stages, RoleClient(recipe, engines, row=row.id), recipe) for row in rows)
    )


def _write(folder: RunFolder, table: pa.Table, *parts: str) -> None:
    with folder.fs.open(folder.at(*parts), "wb") as file:
        pq.write_table(table, file)


def _nothing(*_: Any) -> None:
    pass


def tokenise(job: Job, source: str, target: str) -> dict[str, int]:
    """`train.run.tokenise` in one task."""
    fs, path = folder_module.filesystem(target)
    if not Path(source).exists():
        return {}
    groups = list(range(pq.ParquetFile(source).num_row_groups))
    table, counts = tasks.tokenise(job, tokenizer_of(job), source, groups)
    if counts.get("accepted"):
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        with fs.open(path, "wb") as file:
            pq.write_table(table, file)
    return counts


def fit(job: Job, train: Train, step: str, *display: Any) -> Training:
    """`train.run.fit` with one worker that makes no checkpoint."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = make_trainer(job, scratch, 1, fresh=True)
        trainer.train()
        save_whole(trainer, f"{scratch}/model")
        upload_metrics(trainer, scratch, job.output)
        upload_model(f"{scratch}/model", job.output)
    logged = tasks.read_metrics(f"{job.output}/metrics.jsonl")
    return Training(loss=[entry["loss"] for entry in logged if "loss" in entry], held_out_loss=[])


def merge(train: Train, *arguments: Any) -> None:
    """`train.run.merge`, which is a task."""
    tasks.merge(*arguments)
