"""The run's folder: where each step's output is, what made it, and which files of it are whole.

RUN/recipe.yaml            the resolved recipe of the last command
RUN/ledger.json            per step: input, outcomes, tokens by role
RUN/<step>/manifest.json   state, build, settings, and the data files of a step that is done
RUN/<step>/rows/           Parquet
RUN/<step>/checkpoint/     Ray Data's record of the ids that are written, in a folder for each time the step was begun
RUN/<step>/retried/        failed rows as they were before `ultraif retry` did them again, a file for each time
RUN/<step>/unreadable/     files that were found broken, whose rows are made again
RUN/<step>/checkpoints/    Ray Train's checkpoints, while a training step runs
RUN/<step>/kept/           its model at moments before the end, where the recipe asks for them
RUN/<step>/model/          what a training step trained: an adapter or a whole model, with its tokenizer
"""

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from glob import has_magic
from typing import Any, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from ultraif_ray.errors import RunError
from ultraif_ray.recipe import difference, fingerprint, in_json
from ultraif_ray.redact import secret_of_address

FORMAT = 3
"""The layout of a run's folder. A folder of another format is refused, never guessed at."""

NEW = ".new"
"""Ends the name of a file that is being written, before it takes its own."""

READERS = 32
"""Files that are read at once."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def filesystem(uri: str) -> tuple[Any, str]:
    """The store of a path or URI, and the path in it. Listings are never remembered: other processes write here too."""
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return fs, str(path)


@dataclass(frozen=True)
class Repaired:
    """What is whole of an unfinished step, by one listing of its files."""

    ids: np.ndarray
    """The ids whose rows are written, each once."""
    files: list[str]
    """The data files that hold these rows."""
    taken_out: int = 0
    """Rows that were taken out: doubles, and those without their id."""
    unreadable: tuple[str, ...] = ()
    """Files that were moved to `unreadable/`."""


class RunFolder:
    """A run's folder, local or on any store that fsspec knows."""

    def __init__(self, root: str):
        if what := secret_of_address(root):  # it would be printed, and stand in the lease and in manifests
            raise RunError(f"the run's folder: an address must hold no {what}; let the environment open it")
        try:
            self.fs, path = filesystem(root)
        except (ImportError, ValueError) as error:
            raise RunError(f"{root}: cannot be a run's folder: {error}") from None
        if "?" in path or ("://" in root and has_magic(path)):
            raise RunError(
                f"{root}: a run's folder has no ? in its path, which Ray takes for the beginning of a query, and in a "
                "store no * and [, which clients take for a glob: choose another with --run"
            )
        self.path: str = path.rstrip("/")
        self._prefix = "" if "://" not in root else root.split("://")[0] + "://"

    def __str__(self) -> str:
        return self._prefix + self.path

    def at(self, *parts: str) -> str:
        """A path inside, for fsspec."""
        return "/".join((self.path, *parts))

    def uri(self, *parts: str) -> str:
        """A path inside, for Ray and pyarrow: absolute, with its scheme where it is not local."""
        return self._prefix + self.at(*parts)

    def read_json(self, *parts: str) -> dict[str, Any]:
        """A JSON file inside; empty when there is none.

        Raises:
            RunError: the file is there and is no JSON object.
        """
        try:
            # One request: between the two of `open` another process may replace the file.
            value = json.loads(self.fs.cat_file(self.at(*parts)))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except ValueError as error:
            raise RunError(f"{self.uri(*parts)}: not valid JSON ({error}); move it away to begin anew") from None
        if not isinstance(value, dict):
            raise RunError(f"{self.uri(*parts)}: holds a {type(value).__name__}, not an object; move it away")
        return value

    def write_json(self, value: dict[str, Any], *parts: str) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", *parts)

    def write_text(self, text: str, *parts: str) -> None:
        """Write a text file, whole or not at all: a new file first, then a rename over the old one."""
        target, new = self.at(*parts), f"{self.at(*parts)}.{new_id()}{NEW}"  # a name that no other process writes
        try:
            self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            with self.fs.open(new, "wb") as file:
                file.write(text.encode())
            self._to_disk(new)
            self.fs.mv(new, target)
        except OSError as error:
            with suppress(OSError):
                self.fs.rm(new)
            raise RunError(f"{self}: cannot be written: {error}. Choose another folder with --run") from None

    def create(self, value: dict[str, Any], *parts: str) -> bool:
        """Write a JSON file where there is none; False where there is. Of several processes one alone gets True, as far
        as the store can tell (local disks, S3 and its like).
        """
        target, text = self.at(*parts), json.dumps(value).encode()
        try:
            self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            with suppress(FileExistsError):
                if not self.is_local:
                    self.fs.pipe_file(target, text, mode="create")
                    return True
                new = f"{target}.{new_id()}{NEW}"
                self.fs.pipe_file(new, text)
                try:
                    os.link(new, target)  # whole, and only where there is none
                finally:
                    self.fs.rm(new)
                return True
        except OSError as error:
            raise RunError(f"{self}: cannot be written: {error}. Choose another folder with --run") from None
        return False

    @property
    def is_local(self) -> bool:
        """Whether it is on a disk, where a rename is one step."""
        return isinstance(self.fs, LocalFileSystem)

    def _to_disk(self, path: str) -> None:
        """Have a file of a local disk outlast a power failure, before a rename says that it is there. Stores do so."""
        if self.is_local:
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    # ---- steps -----------------------------------------------------------------------------------------------------

    def open_step(
        self,
        step: str,
        settings: dict[str, Any],
        later: Sequence[str] = (),
        remake: bool = False,
        build: str = "",
    ) -> bool:
        """Open a step for writing; True if it is done already, with these very settings.

        Args:
            step: the step's name.
            settings: what decides its content.
            later: the steps that were made from it.
            remake: delete it and `later` where the settings differ, instead of refusing.
            build: the id of what will be made, where that is told by the settings; else one of its own.

        Raises:
            RunError: the step holds rows made with other settings; the message shows the difference.
        """
        manifest = self._manifest(step)
        lines = self.changes(step, settings)
        if lines and (manifest.get("state") == "done" or self._holds_work(step)):
            if not remake:
                raise RunError(
                    f"{self.uri(step)} was made with other settings, and rows of two kinds are not mixed:\n  "
                    + "\n  ".join(lines)
                    + (f"\nMade from it: {', '.join(later)}." if later else "")
                    + "\nSet these back, name another folder with --run, or let --remake delete it"
                    + (" and what was made from it." if later else ".")
                )
            for one in (*later, step):
                self.clear(one)
            manifest = {}
        if manifest.get("state") == "done":
            return True
        if lines or not manifest:  # new, or begun with other settings and nothing written yet
            if manifest:
                self.clear(step)  # files that do not count yet are of the other settings too
            self._write_begun(step, settings, build, [])
        return False

    def restart(self, step: str, settings: dict[str, Any], build: str = "", holds: Sequence[str] = ()) -> None:
        """Begin a step anew that is of no use in part. What it will hold is noted first, so that this can be cut off
        anywhere, and only then is deleted what there was.

        Args:
            step: the step's name.
            settings: what decides its content.
            build: see `open_step`.
            holds: the ids of earlier builds whose rows will all be there again.
        """
        self._write_begun(step, settings, build, holds)
        for name in self.names(step):
            if name != "manifest.json":
                self.clear(step, name)

    def _write_begun(self, step: str, settings: dict[str, Any], build: str, holds: Sequence[str]) -> None:
        begun = build or new_id()
        manifest = {"state": "running", "build": begun, "checkpoint": begun, "fingerprint": fingerprint(settings)}
        self._write_manifest(manifest | ({"holds": list(holds)} if holds else {}) | {"settings": settings}, step)

    def reopen(
        self, step: str, settings: dict[str, Any] | None = None, *, grows: bool = False, forgets: str = ""
    ) -> None:
        """Let a step go on with the rows that it has: as another build, since they will not be the same.

        Args:
            step: the step's name.
            settings: in place of those that it was begun with.
            grows: all of its rows stay as they are, and others come to them.
            forgets: the file in `retried/` whose rows do not count any more.
        """
        manifest = self._manifest(step)
        begun = {key: manifest[key] for key in ("checkpoint", "fingerprint", "settings")}
        if settings is not None:
            begun |= {"fingerprint": fingerprint(settings), "settings": settings}
        holds = [*manifest.get("holds", ()), manifest["build"]] if grows else []
        more = {key: value for key, value in (("holds", holds), ("forgets", forgets)) if value}
        self._write_manifest({"state": "running", "build": new_id(), **begun, **more}, step)

    def rename_settings(self, step: str, settings: dict[str, Any]) -> None:
        """Note other settings of a step that stand for the same content."""
        self._write_manifest(self._manifest(step) | {"settings": settings, "fingerprint": fingerprint(settings)}, step)

    def changes(self, step: str, settings: dict[str, Any]) -> list[str]:
        """Lines `key: old → new` where `settings` differ from what a step was begun with; see `recipe.difference`."""
        manifest = self._manifest(step)
        if not manifest:
            return []
        old, new = dict(manifest["settings"]), dict(in_json(settings))
        made_from, would_be = old.pop("inputs", {}), new.pop("inputs", {})
        lines = difference(old, new)
        for name in sorted(made_from.keys() | would_be.keys()):
            was, now = made_from.get(name, {}), would_be.get(name, {})
            if was.get("step") != now.get("step"):
                lines.append(f"made from: {was.get('step')} → {now.get('step')}")
            elif was != now:
                lines.append(f"made from: {now['step']}, which was made anew since")
        return lines

    def _manifest(self, step: str) -> dict[str, Any]:
        """What a step was begun with; empty when it has not begun.

        Raises:
            RunError: another version of this package made it.
        """
        manifest = self.read_json(step, "manifest.json")
        if manifest and manifest.get("format") != FORMAT:
            raise RunError(
                f"{self.uri(step)} was made by another version of ultraif-ray (format {manifest.get('format', 1)}, "
                f"not {FORMAT}): name another folder with --run, or delete this one"
            )
        return manifest

    def _write_manifest(self, manifest: dict[str, Any], step: str) -> None:
        self.write_json({"format": FORMAT} | manifest, step, "manifest.json")

    def inputs(self, step: str) -> dict[str, dict[str, str]]:
        """The steps that a step was made from, by what they gave it: `{"step": …, "build": …}` each."""
        found: dict[str, dict[str, str]] = self.settings(step).get("inputs", {})
        return found

    def settings(self, step: str) -> dict[str, Any]:
        """The settings that a step was begun with; empty when it has not begun."""
        return dict(self._manifest(step).get("settings", {}))

    def _holds_work(self, step: str) -> bool:
        """Whether an unfinished step holds something that cost time: rows, or a training's checkpoints."""
        return bool(self.count(step)) or self.fs.exists(self.at(step, "checkpoints"))

    def fingerprint_of(self, step: str) -> str:
        """The fingerprint of the settings that a step was begun with; empty when it has not begun."""
        return str(self._manifest(step).get("fingerprint", ""))

    def build_of(self, step: str) -> str:
        """The id of what a step holds, another one whenever that may be other than it was; empty when it has not
        begun.
        """
        return str(self._manifest(step).get("build", ""))

    def earlier_builds(self, step: str) -> list[str]:
        """The ids of earlier builds of a step whose rows are all in the present one, as they were."""
        return list(self._manifest(step).get("holds", ()))

    def settle(self, step: str, files: Sequence[str]) -> None:
        """Note the data files that count from now on: what a cut-off worker writes beside them does not. Without any,
        those count again that have a checkpoint.
        """
        left = {key: value for key, value in self._manifest(step).items() if key != "files"}
        self._write_manifest(left | ({"files": list(files)} if files else {}), step)

    def finish(self, step: str) -> None:
        """Mark a step as done, with the data files that it now has."""
        manifest = self._manifest(step)
        files = manifest.get("files") or [path.rsplit("/", 1)[-1] for path in self.data_files(step)]
        if self.is_local:
            for path in self.fs.find(self.at(step)):
                if f"/{step}/checkpoints/" not in path:
                    self._to_disk(path)
        self._write_manifest(manifest | {"state": "done"} | ({"files": files} if files else {}), step)
        self.clear(step, "checkpoints")  # of a training, which until now could go on from them

    def lost_files(self, step: str) -> list[str]:
        """The data files of a step that is done which are not there any more."""
        files = self._manifest(step).get("files", [])
        return sorted(set(files) - set(self.names(step, "rows"))) if files else []

    def holds_steps(self) -> bool:
        """Whether any step has begun here."""
        return any(self.fs.exists(self.at(name, "manifest.json")) for name in self.names())

    def state(self, step: str) -> str:
        """`done`, `running` (begun, perhaps interrupted) or empty."""
        return str(self._manifest(step).get("state", ""))

    def clear(self, step: str, *parts: str) -> None:
        """Delete a step's folder, its manifest first, or a part of it."""
        if not parts:
            with suppress(FileNotFoundError):
                self.fs.rm(self.at(step, "manifest.json"))
        with suppress(FileNotFoundError):
            self.fs.rm(self.at(step, *parts), recursive=True)

    def copy(self, source: tuple[str, ...], target: tuple[str, ...]) -> None:
        """Copy the files of a folder inside to another; nothing where there is none."""
        for name in self.names(*source):
            self.fs.makedirs(self.at(*target), exist_ok=True)
            self.fs.cp_file(self.at(*source, name), self.at(*target, name))  # `copy` takes [ in a path for a glob

    # ---- rows ------------------------------------------------------------------------------------------------------

    def data_files(self, step: str) -> list[str]:
        """The data files of a step that count, sorted: those it was settled with; before that, those with a checkpoint.

        Ray Data commits a data file by giving the file of its ids its final name, so one that was half written when its
        writer died is passed over. So is one of another time that the step was begun: its ids are in another folder.
        """
        listed = self._manifest(step).get("files", [])
        found = listed or sorted(name for name in self.names(step, "rows") if name.endswith(".parquet"))
        if not listed and self.fs.exists(self.at(step, "checkpoint")):
            ids = self._id_files(step)
            found = [name for name in found if _id_file(name, ids)]
        return [self.at(step, "rows", name) for name in found]

    def checkpoint(self, step: str) -> tuple[str, ...]:
        """The folder inside in which Ray Data records the ids that a step has written since it was begun."""
        begun = self._manifest(step).get("checkpoint")
        return (step, "checkpoint", begun) if begun else (step, "checkpoint")

    def read_tables(self, step: str, columns: list[str] | None = None, rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows of a step in batches, in flat memory.

        Raises:
            RunError: naming a file that cannot be read.
        """
        for path in self.data_files(step):
            try:
                with self.fs.open(path, "rb") as file:
                    yield from pq.ParquetFile(file).iter_batches(batch_size=rows, columns=columns)
            except FileNotFoundError:
                raise RunError(f"{path} is gone; run the same command as before: its rows are made again") from None
            except Exception as error:
                if not _is_unreadable(error):
                    raise
                raise RunError(
                    f"{path} cannot be read: {' '.join(str(error).split())[:200]}. Delete it, and run the same command "
                    "as before: its rows are made again"
                ) from None

    def ids(self, step: str) -> np.ndarray:
        """The ids of a step's rows, in the order of its files."""
        names = [path.rsplit("/", 1)[-1] for path in self.data_files(step)]
        found = _side_by_side(lambda name: self._ids(step, "rows", name), names)
        return np.concatenate([np.array([], dtype=np.int64), *found])

    def count(self, step: str) -> int:
        """Rows in a step's files."""
        names = [path.rsplit("/", 1)[-1] for path in self.data_files(step)]
        return sum(_side_by_side(lambda name: self._rows_in(step, "rows", name), names))

    # ---- one row for each id ---------------------------------------------------------------------------------------

    def repair(self, step: str) -> Repaired:
        """Repair what a run that died, or its last worker, left in an unfinished step.

        A file that cannot be read is moved aside. Ids without their rows are forgotten, so that they are done again. A
        row counts where its id stands in the checkpoint beside its file; of two rows with one id the first file's
        stays; the others are taken out. Each file is replaced whole, ids before data, so this can be cut off anywhere
        and done again.
        """
        manifest = self._manifest(step)
        if attempt := manifest.get("forgets"):
            self._forget(step, attempt)
        place, settled = self.checkpoint(step), manifest.get("files")
        id_files = self._id_files(step)
        for name in self.names(*place):  # else Ray deletes the data file of one that was committed by a copy
            if f"{name.removesuffix('.pending.parquet')}.parquet" in id_files:
                self.fs.rm(self.at(*place, name))
        # Listed after the ids, which come after their data.
        names = [name for name in sorted(self.names(step, "rows")) if _id_file(name, id_files)]
        names = [name for name in names if settled is None or name in settled]
        held, broken = self._read_each(names, lambda name: self._rows_in(step, "rows", name))
        ids_in, without_ids = self._read_each(sorted(id_files), lambda name: self._ids(*place, name))
        unreadable = [self._move_aside(step, step, "rows", name) for name in broken]
        unreadable += [self._move_aside(step, *place, name) for name in without_ids]
        owners: dict[str, list[str]] = {}
        for name in held:
            if (id_file := _id_file(name, id_files)) in ids_in:
                owners.setdefault(id_file, []).append(name)
        for orphan in ids_in.keys() - owners.keys():
            self.fs.rm(self.at(*place, orphan))
        if not owners:
            return Repaired(np.array([], dtype=np.int64), [], unreadable=tuple(unreadable))
        every = np.concatenate([ids_in[id_file] for id_file in owners])
        first = np.zeros(len(every), dtype=bool)
        first[np.unique(every, return_index=True)[1]] = True
        whole, files, taken_out, start = list[np.ndarray](), list[str](), 0, 0
        for id_file, of_it in owners.items():
            ids, rows = ids_in[id_file], sum(held[name] for name in of_it)
            kept = ids[first[start : start + len(ids)]]
            start += len(ids)
            if rows != len(kept):
                kept = kept[np.isin(kept, np.concatenate([self._ids(step, "rows", name) for name in of_it]))]
            if len(kept) < len(ids):
                self._replace(pa.table({"id": kept}), *place, id_file)
            if rows > len(kept):
                taken_out += sum(self._keep_only(kept, step, name) for name in of_it)
            whole.append(kept)
            files += of_it
        return Repaired(np.concatenate(whole), sorted(files), taken_out, tuple(unreadable))

    def forget(self, step: str, outcome_column: str, outcome: str) -> int:
        """Take the rows with an outcome out of a step, so that a run does them again; their number.

        They are kept in `retried/`, in a file with the name of the build that they were in: while that is the present
        one, nothing is taken out yet. Cut off after that, `repair` goes on with it.
        """
        self.repair(step)
        build, taken = self.build_of(step), 0
        new = self.at(step, f"{build}.parquet{NEW}")
        with ExitStack() as stack:
            writer: pq.ParquetWriter | None = None
            for batch in self.read_tables(step):
                gone = batch.filter(pc.field(outcome_column) == outcome)
                if gone.num_rows:
                    file = writer or stack.enter_context(self.fs.open(new, "wb"))
                    writer = writer or stack.enter_context(pq.ParquetWriter(file, batch.schema))
                    writer.write_batch(gone)
                    taken += gone.num_rows
        if not taken:
            return 0
        self._to_disk(new)
        self.fs.makedirs(self.at(step, "retried"), exist_ok=True)
        self.fs.mv(new, self.at(step, "retried", f"{build}.parquet"))
        self.reopen(step, forgets=f"{build}.parquet")
        self.repair(step)
        return taken

    def retried(self, step: str) -> list[str]:
        """The files of rows that were taken out and done again."""
        build = self.build_of(step)
        return [self.at(step, "retried", name) for name in self.names(step, "retried") if name != f"{build}.parquet"]

    def _forget(self, step: str, attempt: str) -> None:
        """Take the ids of rows in `retried/` out of the checkpoint, and note that this is done."""
        forgotten = self._ids(step, "retried", attempt)
        for id_file in self._id_files(step):
            before = self._ids(*self.checkpoint(step), id_file)
            again = np.isin(before, forgotten)
            if again.any():
                self._replace(pa.table({"id": before[~again]}), *self.checkpoint(step), id_file)
        left = {key: value for key, value in self._manifest(step).items() if key != "forgets"}
        self._write_manifest(left, step)

    def _id_files(self, step: str) -> set[str]:
        """Ray Data's committed checkpoint files of a step."""
        return {
            name
            for name in self.names(*self.checkpoint(step))
            if name.endswith(".parquet") and not name.endswith(".pending.parquet")
        }

    def _ids(self, *parts: str) -> np.ndarray:
        with self.fs.open(self.at(*parts), "rb") as file:
            return np.asarray(pq.read_table(file, columns=["id"]).column("id").to_numpy())

    def _rows_in(self, *parts: str) -> int:
        with self.fs.open(self.at(*parts), "rb") as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    def _keep_only(self, ids: np.ndarray, step: str, name: str) -> int:
        with self.fs.open(self.at(step, "rows", name), "rb") as file:
            table = pq.read_table(file)
        kept = table.filter(pa.array(np.isin(table.column("id").to_numpy(), ids)))
        self._replace(kept, step, "rows", name)
        return int(table.num_rows - kept.num_rows)

    def _replace(self, table: pa.Table, *parts: str) -> None:
        """Write a Parquet file, whole or not at all. The new one is made outside of folders that Ray reads whole."""
        new = self.at(parts[0], f"{parts[-1]}{NEW}")
        with self.fs.open(new, "wb") as file:
            pq.write_table(table, file)
        self._to_disk(new)
        self.fs.mv(new, self.at(*parts))

    def _read_each(self, names: Sequence[str], read: Callable[[str], Result]) -> tuple[dict[str, Result], list[str]]:
        """What `read` finds in each of many files; and the names of those that are broken."""

        def found_in(name: str) -> Result | None:
            try:
                return read(name)
            except Exception as error:
                if not _is_unreadable(error):
                    raise
                return None

        found = dict(zip(names, _side_by_side(found_in, names), strict=True))
        whole = {name: value for name, value in found.items() if value is not None}
        return whole, [name for name in names if name not in whole]

    def _move_aside(self, step: str, *parts: str) -> str:
        """Move a file to `unreadable/`; its path."""
        self.fs.makedirs(self.at(step, "unreadable"), exist_ok=True)
        self.fs.mv(self.at(*parts), self.at(step, "unreadable", parts[-1]))
        return self.at(*parts)

    def sweep(self) -> None:
        """Delete what was being written when a process died. Only who holds the lease may; that of another stays."""
        for path in self.fs.find(self.path):
            if path.endswith(NEW) and not path.rsplit("/", 1)[-1].startswith("lease"):
                with suppress(OSError):  # what stays is in nobody's way
                    self.fs.rm(path)

    def names(self, *parts: str) -> list[str]:
        """What stands in a folder inside; nothing when there is no such folder."""
        folder = self.at(*parts)
        if not self.fs.exists(folder):
            return []
        return [path.rsplit("/", 1)[-1] for path in self.fs.ls(folder, detail=False)]


def new_id() -> str:
    """An id of its own."""
    return uuid.uuid4().hex[:16]


def _is_unreadable(error: Exception) -> bool:
    """Whether a file is no whole Parquet file, as after a power failure. pyarrow says some of it as an OSError, without
    the number that one of a store has.
    """
    said_by_pyarrow = isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)
    return said_by_pyarrow and not isinstance(error, MemoryError)


def _side_by_side(read: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Read many small files of a store at once: each takes it some tens of milliseconds, however small it is."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, items))


def _id_file(name: str, ids: set[str]) -> str:
    """The checkpoint file of a data file: of the same name, or without Ray's `-N` for a file's pieces; or empty."""
    stem = name.removesuffix(".parquet")
    return next((f"{one}.parquet" for one in (stem, stem.rsplit("-", 1)[0]) if f"{one}.parquet" in ids), "")
