"""The run's folder: where each step's output is, what made it, and which files of it are whole.

RUN/recipe.yaml            the resolved recipe of the last command
RUN/ledger.json            per step: input, outcomes, tokens by role
RUN/<step>/manifest.json   state, fingerprint, and the settings it stands for
RUN/<step>/files.json      the data files of a step that is done
RUN/<step>/rows/           Parquet
RUN/<step>/checkpoint/     Ray Data's record of the ids that are written
RUN/<step>/retried/        failed rows as they were before `ultraif retry` did them again
RUN/<step>/checkpoints/    Ray Train's checkpoints, while a training step runs
RUN/<step>/kept/           its model at moments before the end, where the recipe asks for them
RUN/<step>/model/          what a training step trained: an adapter or a whole model, with its tokenizer
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from glob import has_magic
from typing import Any, TypeVar

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ultraif_ray.errors import RunError
from ultraif_ray.recipe import difference, fingerprint

FORMAT = 2
"""The layout of a run's folder. A folder of another format is refused, never guessed at."""

READERS = 32
"""Files that are read at once."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def filesystem(uri: str) -> tuple[Any, str]:
    """The store of a path or URI, and the path in it. Listings are never remembered: other processes write here too."""
    fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    return fs, str(path)


class RunFolder:
    """A run's folder, local or on any store that fsspec knows."""

    def __init__(self, root: str):
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
        target = self.at(*parts)
        try:
            self.fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
            with self.fs.open(f"{target}.new", "w", encoding="utf-8") as file:
                file.write(text)
            self.fs.mv(f"{target}.new", target)
        except OSError as error:
            raise RunError(f"{self}: cannot be written: {error}. Choose another folder with --run") from None

    # ---- steps -----------------------------------------------------------------------------------------------------

    def open_step(self, step: str, settings: dict[str, Any], later: Sequence[str] = (), remake: bool = False) -> bool:
        """Open a step for writing; True if it is done already, with these very settings.

        Args:
            step: the step's name.
            settings: what decides its content.
            later: the steps that were made from it.
            remake: delete it and `later` where the settings differ, instead of refusing.

        Raises:
            RunError: the step holds rows made with other settings; the message shows the difference.
        """
        manifest = self._manifest(step)
        print_now = fingerprint(settings)
        changed = manifest.get("fingerprint") != print_now
        if manifest and changed and (manifest.get("state") == "done" or self._holds_work(step)):
            if not remake:
                lines = self.changes(step, settings)
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
        if changed:  # new, or begun with other settings and nothing written yet
            if manifest:
                self.clear(step)  # files that do not count yet are of the other settings too
            begun = {"format": FORMAT, "state": "running", "fingerprint": print_now, "settings": settings}
            self.write_json(begun, step, "manifest.json")
        return False

    def changes(self, step: str, settings: dict[str, Any]) -> list[str]:
        """Lines `key: old → new` where `settings` differ from what a step was begun with."""
        manifest = self._manifest(step)
        if manifest.get("fingerprint", fingerprint(settings)) == fingerprint(settings):
            return []
        return difference(manifest.get("settings", {}), json.loads(json.dumps(settings)))

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

    def inputs(self, step: str) -> dict[str, dict[str, str]]:
        """The steps that a step was made from, by what they gave it: `{"step": …, "fingerprint": …}` each."""
        found: dict[str, dict[str, str]] = self.settings(step).get("inputs", {})
        return found

    def settings(self, step: str) -> dict[str, Any]:
        """The settings that a step was begun with; empty when it has not begun."""
        return dict(self._manifest(step).get("settings", {}))

    def _holds_work(self, step: str) -> bool:
        """Whether an unfinished step holds something that cost time: rows, or a training's checkpoints."""
        return bool(self.count(step)) or self.fs.exists(self.at(step, "checkpoints"))

    def fingerprint_of(self, step: str) -> str:
        """The fingerprint of a step's settings; empty when it has not begun."""
        return str(self._manifest(step).get("fingerprint", ""))

    def finish(self, step: str) -> None:
        """Mark a step as done. What a dead run's worker may still write into its folder counts no more."""
        if files := self.data_files(step):
            self.write_json({"files": [path.rsplit("/", 1)[-1] for path in files]}, step, "files.json")
        self.write_json({**self._manifest(step), "state": "done"}, step, "manifest.json")
        self.clear(step, "checkpoints")  # of a training, which until now could go on from them

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
        """The data files of a step that count, sorted: those it was done with; before that, those with a checkpoint.

        Ray Data commits a data file by giving the file of its ids its final name, so one that was half written when its
        writer died is passed over.
        """
        listed = self.read_json(step, "files.json").get("files", [])
        found = listed or sorted(name for name in self.names(step, "rows") if name.endswith(".parquet"))
        if not listed and self.fs.exists(self.at(step, "checkpoint")):
            ids = self._id_files(step)
            found = [name for name in found if _id_file(name, ids)]
        return [self.at(step, "rows", name) for name in found]

    def read_tables(self, step: str, columns: list[str] | None = None, rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows of a step in batches, in flat memory."""
        for path in self.data_files(step):
            with self.fs.open(path, "rb") as file:
                yield from pq.ParquetFile(file).iter_batches(batch_size=rows, columns=columns)

    def count(self, step: str) -> int:
        """Rows in a step's files."""
        names = [path.rsplit("/", 1)[-1] for path in self.data_files(step)]
        return sum(_side_by_side(lambda name: self._rows_in(step, "rows", name), names))

    # ---- one row for each id ---------------------------------------------------------------------------------------

    def repair(self, step: str) -> int:
        """Repair what a run that died, or its last worker, left in an unfinished step; the number of rows taken out.

        Ids without their data file are forgotten, so that they are done again. A row counts where its id stands in the
        checkpoint beside its file; of two rows with one id the first file's stays; the others are taken out. Each file
        is replaced whole, ids before data, so this can be cut off anywhere and done again.
        """
        id_files = self._id_files(step)
        owners: dict[str, list[str]] = {}
        for name in sorted(self.names(step, "rows")):
            if name.endswith(".parquet") and (id_file := _id_file(name, id_files)):
                owners.setdefault(id_file, []).append(name)
        for orphan in id_files - owners.keys():
            self.fs.rm(self.at(step, "checkpoint", orphan))
        if not owners:
            return 0
        parts = _side_by_side(lambda id_file: self._ids(step, "checkpoint", id_file), owners)
        rows = _side_by_side(lambda names: sum(self._rows_in(step, "rows", name) for name in names), owners.values())
        every = np.concatenate(parts)
        first = np.zeros(len(every), dtype=bool)
        first[np.unique(every, return_index=True)[1]] = True
        taken_out, start = 0, 0
        for (id_file, names), ids, held in zip(owners.items(), parts, rows, strict=True):
            kept = ids[first[start : start + len(ids)]]
            start += len(ids)
            if len(kept) < len(ids):
                self._replace(pa.table({"id": kept}), step, "checkpoint", id_file)
            if held > len(kept):
                taken_out += sum(self._keep_only(kept, step, name) for name in names)
        return taken_out

    def forget(self, step: str, outcome_column: str, outcome: str) -> int:
        """Take the rows with an outcome out of a step, so that a run does them again; their number.

        They are kept in `retried/`, a file for each time.
        """
        self.repair(step)
        ids = self._id_files(step)
        found = (batch.filter(pc.field(outcome_column) == outcome) for batch in self.read_tables(step))
        batches = [batch for batch in found if batch.num_rows]
        if not batches:
            return 0
        self.clear(step, "files.json")
        gone = pa.Table.from_batches(batches)
        number = len(self.names(step, "retried")) + 1
        self.fs.makedirs(self.at(step, "retried"), exist_ok=True)
        self._replace(gone, step, "retried", f"attempt-{number}.parquet")
        self.write_json({**self._manifest(step), "state": "running"}, step, "manifest.json")
        forgotten = gone.column("id").to_numpy()
        for id_file in ids:
            before = self._ids(step, "checkpoint", id_file)
            again = np.isin(before, forgotten)
            if again.any():
                self._replace(pa.table({"id": before[~again]}), step, "checkpoint", id_file)
        self.repair(step)
        return int(gone.num_rows)

    def _id_files(self, step: str) -> set[str]:
        """Ray Data's committed checkpoint files of a step."""
        return {
            name
            for name in self.names(step, "checkpoint")
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
        new = self.at(parts[0], f"new-{parts[-1]}")
        with self.fs.open(new, "wb") as file:
            pq.write_table(table, file)
        self.fs.mv(new, self.at(*parts))

    def names(self, *parts: str) -> list[str]:
        """What stands in a folder inside; nothing when there is no such folder."""
        folder = self.at(*parts)
        if not self.fs.exists(folder):
            return []
        return [path.rsplit("/", 1)[-1] for path in self.fs.ls(folder, detail=False)]


def _side_by_side(read: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Read many small files of a store at once: each takes it some tens of milliseconds, however small it is."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read, items))


def _id_file(name: str, ids: set[str]) -> str:
    """The checkpoint file of a data file: of the same name, or without Ray's `-N` for a file's pieces; or empty."""
    stem = name.removesuffix(".parquet")
    return next((f"{one}.parquet" for one in (stem, stem.rsplit("-", 1)[0]) if f"{one}.parquet" in ids), "")
