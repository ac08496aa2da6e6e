"""The run's folder: where each step's output is, what made it, and which files of it are whole.

RUN/recipe.yaml            the resolved recipe of the last command
RUN/ledger.json            per step: input, outcomes, tokens by role
RUN/<step>/manifest.json   state, fingerprint, and the settings it stands for
RUN/<step>/rows/           Parquet
RUN/<step>/checkpoint/     Ray Data's record of the ids that are written
RUN/<step>/checkpoints/    Ray Train's checkpoints, while a training step runs
RUN/<step>/model/          what a training step trained: an adapter or a whole model, with its tokenizer
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from ultraif_ray.errors import RunError
from ultraif_ray.recipe import difference, fingerprint


class RunFolder:
    """A run's folder, local or on any store that fsspec knows."""

    def __init__(self, root: str):
        try:
            self.fs, path = fsspec.core.url_to_fs(root)
        except (ImportError, ValueError) as error:
            raise RunError(f"{root}: cannot be a run's folder: {error}") from None
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
            with self.fs.open(self.at(*parts), "r", encoding="utf-8") as file:
                value = json.load(file)
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

    def begin(self, step: str, settings: dict[str, Any], later: Sequence[str] = (), remake: bool = False) -> bool:
        """Open a step for writing; True if it is done already, with these very settings.

        Args:
            step: the step's name.
            settings: what decides its content.
            later: the steps that were made from it.
            remake: delete it and `later` where the settings differ, instead of refusing.

        Raises:
            RunError: the step holds rows made with other settings; the message shows the difference.
        """
        manifest = self.read_json(step, "manifest.json")
        print_now = fingerprint(settings)
        changed = manifest.get("fingerprint") != print_now
        if manifest and changed and (manifest.get("state") == "done" or self._holds_work(step)):
            if not remake:
                lines = difference(manifest.get("settings", {}), settings)
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
            self.write_json({"state": "running", "fingerprint": print_now, "settings": settings}, step, "manifest.json")
        return False

    def _holds_work(self, step: str) -> bool:
        """Whether an unfinished step holds something that cost time: rows, or a training's checkpoints."""
        return bool(self.count(step)) or self.fs.exists(self.at(step, "checkpoints"))

    def made_with(self, step: str) -> str:
        """The fingerprint of a step's settings; empty when it has not begun."""
        return str(self.read_json(step, "manifest.json").get("fingerprint", ""))

    def finish(self, step: str) -> None:
        """Mark a step as done."""
        self.write_json({**self.read_json(step, "manifest.json"), "state": "done"}, step, "manifest.json")

    def state(self, step: str) -> str:
        """`done`, `running` (begun, perhaps interrupted) or empty."""
        return str(self.read_json(step, "manifest.json").get("state", ""))

    def clear(self, step: str, *parts: str) -> None:
        """Delete a step's folder or a part of it."""
        with suppress(FileNotFoundError):
            self.fs.rm(self.at(step, *parts), recursive=True)

    # ---- rows ------------------------------------------------------------------------------------------------------

    def data_files(self, step: str) -> list[str]:
        """The data files of a step that count, sorted.

        Where Ray Data keeps a checkpoint, only files whose checkpoint is committed: it commits a data file by giving
        the ids file with the same name its final name, so a file half written when its writer died is passed over.
        """
        files = sorted(f for f in self.names(step, "rows") if f.endswith(".parquet"))
        if not self.fs.exists(self.at(step, "checkpoint")):
            return [self.at(step, "rows", name) for name in files]
        committed = {
            name.removesuffix(".parquet")
            for name in self.names(step, "checkpoint")
            if name.endswith(".parquet") and not name.endswith(".pending.parquet")
        }
        return [self.at(step, "rows", n) for n in files if any(p in committed for p in _prefixes(n))]

    def read_tables(self, step: str, columns: list[str] | None = None, rows: int = 1024) -> Iterator[pa.RecordBatch]:
        """The rows of a step in batches, in flat memory."""
        for path in self.data_files(step):
            with self.fs.open(path, "rb") as file:
                yield from pq.ParquetFile(file).iter_batches(batch_size=rows, columns=columns)

    def count(self, step: str) -> int:
        """Rows in a step's files."""
        total = 0
        for path in self.data_files(step):
            with self.fs.open(path, "rb") as file:
                total += pq.ParquetFile(file).metadata.num_rows
        return total

    def names(self, *parts: str) -> list[str]:
        """What stands in a folder inside; nothing when there is no such folder."""
        folder = self.at(*parts)
        self.fs.invalidate_cache(folder)
        if not self.fs.exists(folder):
            return []
        return [path.rsplit("/", 1)[-1] for path in self.fs.ls(folder, detail=False)]


def _prefixes(name: str) -> Iterator[str]:
    """What a data file's checkpoint may be called: its own stem, or the part before Ray's `-N` for a file's pieces."""
    stem = name.removesuffix(".parquet")
    yield stem
    yield stem.rsplit("-", 1)[0]
