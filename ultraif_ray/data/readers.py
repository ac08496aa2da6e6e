"""Read any accepted file of prompts or of training examples, one record at a time, in flat memory.

A record comes out as a dict (or a string, for text files) with the line or item number it had. What cannot be read in
an otherwise good file comes out as a Fault, to be counted; a file of an unknown format is an InputError.
"""

import csv
import glob
import hashlib
import json
import lzma
import os
import re
import sys
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import fsspec

from ultraif_ray.data.encodings import COMPRESSED, not_utf8, open_text, read_lines, undecodable
from ultraif_ray.data.values import Broken, read_values, values_in
from ultraif_ray.errors import InputError

FORMATS = (
    ".jsonl/.json, .csv/.tsv, .txt (one prompt a line), each also compressed, .parquet, or a Hugging Face dataset "
    "(folder or hub id, also with a configuration and a split: org/name:config[split])"
)
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
_DATASET = re.compile(
    r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(:(?P<config>[\w.+-]+))?(\[(?P<split>[\w.+-]+)\])?"
)
_SPLIT = re.compile(r"(?P<folder>.+)\[(?P<split>[\w.+-]+)\]")
_NO_PROMPTS = re.compile(
    r"(third.party.)?(licen[cs]es?|copying|copyright|notices?|readme|requirements|constraints|changelog|changes|authors"
    r"|contributors|contributing|credits|citation|terms|todo|robots|cmakelists|vocab|merges|(md5|sha\d+|check)sums?)"
    r"([-_. ].*)?\.txt|(.*[-_.])?config\.json|(dataset_infos?|dataset_dict|state|package(-lock)?|tokenizer|metadata"
    r"|manifest)\.json"
)
"""Files that stand beside data and are none, by their names."""


@dataclass(frozen=True)
class Source:
    """One thing to read."""

    path: str
    """Its name in messages and in what is read; of a file also its path."""
    kind: str
    """A file suffix, `saved` (a dataset saved to disk) or `hub`."""
    dataset: str = ""
    """Of a dataset: its folder or hub id."""
    config: str = ""
    split: str = ""
    found: bool = False
    """It was found in a folder or by a glob, so it may be empty."""
    encoding: str = ""
    """Of a file without a byte-order mark; UTF-8 where empty."""


@dataclass(frozen=True)
class Fault:
    """A piece of a file that is no record."""

    reason: str
    seen: str


Record = dict[str, Any] | str | Fault


@cache
def note(line: str) -> None:
    """Tell the user something about the files, once, however often they are looked at."""
    print(line, file=sys.stderr, flush=True)


# ---- finding ---------------------------------------------------------------------------------------------------------


def find_sources(prompts: tuple[str, ...] | list[str], encoding: str = "") -> list[Source]:
    """Resolve files, globs, folders, URIs and hub ids to what is to be read, in a stable order.

    Args:
        prompts: their names. A file or folder that is there comes before a glob or hub id of the same name.
        encoding: of files without a byte-order mark; UTF-8 where empty.

    Raises:
        InputError: nothing there, or of a kind that is not accepted.
    """
    if not prompts:
        raise InputError("no prompts: give --prompts FILE, or `prompts:` in the recipe")
    return [source for spec in prompts for source in _resolve(spec, encoding)]


def _resolve(spec: str, encoding: str) -> list[Source]:
    if not spec.strip():
        raise InputError("a file of prompts has an empty name: is a variable of the shell not set?")
    try:
        fs, path = fsspec.core.url_to_fs(spec)
        if saved := _saved(fs, spec, path):
            return [saved]
        if fs.isfile(path):
            found, is_named = [path], True
        else:
            found, is_named = _in_folder(fs, spec, path) if fs.isdir(path) else _by_glob(fs, path), False
    except (ImportError, ValueError) as error:
        raise InputError(f"{spec}: {error}") from None
    except OSError as error:
        raise InputError(f"{spec}: cannot be listed: {error}") from None
    if not found and (hub := _DATASET.fullmatch(spec)) and not (_kind(hub["name"]) or Path(spec).parent.is_dir()):
        return [Source(spec, "hub", hub["name"], hub["config"] or "", hub["split"] or "")]
    if not found:
        raise InputError(f"{spec}: no such file, and no folder or glob that holds one. Accepted: {FORMATS}")
    for file in found:
        if not _kind(file):
            raise InputError(f"{file}: cannot tell what this is from its name. Accepted: {FORMATS}")
    uris = [fs.unstrip_protocol(file) if "://" in spec else file for file in found]
    return [Source(uri, _kind(uri), found=not is_named, encoding=encoding) for uri in uris]


def _saved(fs: Any, spec: str, path: str) -> Source | None:
    """A dataset that `save_to_disk` wrote, or, as `folder[split]`, one split of several."""
    if _is_saved(fs, path):
        return Source(spec, "saved", spec)
    if (part := _SPLIT.fullmatch(spec)) and not fs.exists(path):
        folder = part["folder"]
        if _is_saved(fs, fsspec.core.url_to_fs(folder)[1]):
            return Source(spec, "saved", folder, split=part["split"])
    return None


def _is_saved(fs: Any, folder: str) -> bool:
    names = (("dataset_dict.json",), ("dataset_info.json", "state.json"))
    return bool(fs.isdir(folder)) and any(all(fs.isfile(f"{folder}/{name}") for name in marks) for marks in names)


def _in_folder(fs: Any, spec: str, folder: str) -> list[str]:
    """The files of a folder and of those in it, but for hidden and empty ones and for what is no data by its name."""
    every = {name: info["size"] for name, info in sorted(fs.find(folder, detail=True).items())}
    taken = [
        name
        for name, size in every.items()
        if size != 0 and _kind(name) and not _NO_PROMPTS.fullmatch(os.path.basename(name).lower())
        if not _is_hidden(name[len(folder) :])
    ]
    if passed := [name[len(folder) :].strip("/") for name in every.keys() - set(taken)]:
        more = f" and {len(passed) - 5} more" if len(passed) > 5 else ""
        note(f"{spec}: {len(taken)} files are read, these are passed over: {', '.join(sorted(passed)[:5])}{more}")
    return taken


def _by_glob(fs: Any, path: str) -> list[str]:
    if not glob.has_magic(path):
        return []
    parts = path.split("/")
    there = next(n for n in range(len(parts) - 1, -1, -1) if not n or _is_there(fs, "/".join(parts[:n])))
    asked = parts[there:]
    # Folders that are there stand for themselves, whatever signs are in their names.
    pattern = "/".join([glob.escape("/".join(parts[:there])), *asked] if there else asked)
    found = (name for name, info in fs.glob(pattern, detail=True).items() if info["type"] != "directory")
    return sorted(name for name in found if not _is_hidden("/".join(name.split("/")[there:]), "/".join(asked)))


def _is_there(fs: Any, folder: str) -> bool:
    return not glob.has_magic(folder) or bool(fs.isdir(folder))


def _is_hidden(name: str, asked: str = "") -> bool:
    """Whether a file is hidden, as for Spark and Hadoop also by `_`, and not asked for as such."""
    signs = {part[0] for part in asked.split("/") if part}
    return any(part[0] in "._" and part[0] not in signs for part in name.split("/") if part)


def _kind(path: str) -> str:
    name = path.lower()
    if name.endswith(".parquet"):  # compressed within, never as a whole
        return ".parquet"
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")


# ---- reading ---------------------------------------------------------------------------------------------------------


def read_records(source: Source) -> Iterator[tuple[int, Record]]:
    """The records of one source with their numbers, from 1.

    Raises:
        InputError: the file cannot be opened or read to its end, or is not of the kind its name says.
    """
    reader = {
        ".parquet": _read_parquet,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".txt": _read_text,
        "saved": _read_dataset,
        "hub": _read_dataset,
    }.get(source.kind, _read_json)
    number = 0
    try:
        for number, record in reader(source):
            yield number, record
    except (OSError, UnicodeError, EOFError, zlib.error, lzma.LZMAError) as error:
        after = f" after record {number}" if number else ""
        raise InputError(f"{source.path}: cannot be read{after}: {' '.join(str(error).split())}") from None


def _read_text(source: Source) -> Iterator[tuple[int, Record]]:
    for number, line in read_lines(source.path, source.encoding):
        if text := line.strip():
            yield number, _undecodable(text) or text


def _undecodable(text: str) -> Fault | None:
    return Fault("not in the encoding", text[:200]) if undecodable(text) else None


# ---- JSON

_SAMPLE = 1 << 20


def _read_json(source: Source) -> Iterator[tuple[int, Record]]:
    """Lines of a value each, where the first line is one; else values of any form, in an array or one after another."""
    with open_text(source.path, source.encoding) as file:
        start = file.read(_SAMPLE).lstrip("\ufeff \t\r\n")
    first, _, rest = start.partition("\n")
    try:
        json.loads(first)
        by_lines = not first.startswith("[") or bool(rest.strip("\ufeff \t\r\n"))
    except (ValueError, RecursionError):
        by_lines = False
    yield from _read_json_lines(source) if by_lines else _read_json_values(source, start)


def _read_json_lines(source: Source) -> Iterator[tuple[int, Record]]:
    for number, line in read_lines(source.path, source.encoding):
        if not line.strip():
            continue
        if fault := _undecodable(line):
            yield number, fault
            continue
        try:
            values = values_in(line, _is_turn)
        except Broken:
            yield number, Fault("broken JSON", line.strip()[:200])
        else:
            for value in values:
                yield number, _record(value)


def _read_json_values(source: Source, start: str) -> Iterator[tuple[int, Record]]:
    number = 0
    with open_text(source.path, source.encoding) as file:

        def read(count: int) -> str:
            text = file.read(count)
            if not source.encoding and undecodable(text):
                raise not_utf8(f"{source.path}: after record {number}", text)
            return text

        try:
            for number, record in enumerate(read_values(read, _is_turn), start=1):
                fault = _undecodable(json.dumps(record, ensure_ascii=False)) if source.encoding else None
                yield number, fault or _record(record)
        except (Broken, RecursionError) as error:
            if isinstance(error, Broken) and error.cut and start.startswith("["):
                seen = f"the file ends inside record {number + 1}; the {number} before it are whole"
                yield number + 1, Fault("cut off", seen)
            elif number or start.startswith("["):
                raise InputError(
                    f"{source.path}: broken JSON after record {number}: {error}. Fix the file, or cut it off there"
                ) from None
            else:
                line = start.partition("\n")[0]
                raise InputError(
                    f"{source.path}: line 1: not JSON: {line.strip()[:60]!r}. Accepted: {FORMATS}"
                ) from None


def _record(value: Any) -> Any:
    return {"messages": value} if isinstance(value, list) else value


def _is_turn(value: Any) -> bool:
    """Whether a value is a turn of a conversation, so that the array that it stands in is one record."""
    return (
        isinstance(value, dict) and bool({"role", "from"} & value.keys()) and bool({"content", "value"} & value.keys())
    )


# ---- CSV

_LONGEST_CELL = 1 << 24


def _read_csv(source: Source) -> Iterator[tuple[int, Record]]:
    """The rows of a table by the names in its first one. A row of another number of cells than these, or with a quote
    that is never closed, is none: reading goes on at the line behind the one where it began.
    """
    csv.field_size_limit(_LONGEST_CELL)
    lines = _Lines(read_lines(source.path, source.encoding))
    rows = csv.reader(lines, delimiter="\t" if source.kind == ".tsv" else ",", strict=True)
    names: list[str] = []
    broken = False
    while True:
        lines.begin_row()
        try:
            row = next(rows, None)
        except csv.Error as error:
            yield lines.number, Fault("broken CSV", f"{error}: {lines.row[0].strip()[:160]}")
            lines.go_back()
            broken = True
            continue
        if row is None:
            return
        seen = "".join(lines.row)
        # The rest of a broken row, where a single quote is left of it.
        broken = broken and seen.count('"') % 2 == 1
        if not row:
            continue
        if broken:
            yield lines.number, Fault("broken CSV", f"the rest of a row: {seen.strip()[:160]}")
        elif fault := _undecodable(seen):
            yield lines.number, fault
        elif not names:
            names = row
        elif row == names:
            yield lines.number, Fault("names of columns", seen[:200])  # files that were put together
        elif len(row) > len(names):
            yield lines.number, Fault("more cells than columns", seen[:200])
        else:
            yield lines.number, {name: cell for name, cell in zip_longest(names, row, fillvalue="") if name}


class _Lines:
    """Lines for a reader of rows of several lines, which may go back to the second line of a row."""

    def __init__(self, lines: Iterable[tuple[int, str]]):
        self._lines = iter(lines)
        self._again: deque[tuple[int, str]] = deque()
        self._row: list[tuple[int, str]] = []

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        self._row.append(self._again.popleft() if self._again else next(self._lines))
        return self._row[-1][1]

    @property
    def row(self) -> list[str]:
        """The lines of this row so far."""
        return [line for _, line in self._row]

    @property
    def number(self) -> int:
        """Of the line that this row began with."""
        return self._row[0][0]

    def begin_row(self) -> None:
        self._row = []

    def go_back(self) -> None:
        self._again.extendleft(reversed(self._row[1:]))


# ---- Parquet and datasets


def _read_parquet(source: Source) -> Iterator[tuple[int, Record]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    with fsspec.open(source.path, "rb") as file:
        try:
            for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
                for row in _rows(batch):
                    number += 1
                    yield number, row
        except pa.ArrowException as error:
            what = f"cannot be read after record {number}" if number else "not a Parquet file"
            raise InputError(f"{source.path}: {what}: {' '.join(str(error).split())}. Accepted: {FORMATS}") from None


def _rows(batch: Any) -> Iterator[dict[str, Any]]:
    """The rows of a batch, without values that Python cannot hold, such as times out of its calendar; texts that are
    not UTF-8 as bytes.
    """
    try:
        yield from batch.to_pylist(maps_as_pydicts="lossy")
    except (ValueError, OverflowError):
        for i in range(batch.num_rows):
            row = {name: _value(batch.column(name)[i]) for name in batch.schema.names}
            yield {name: value for name, value in row.items() if value is not _NONE}


_NONE = object()


def _value(scalar: Any) -> Any:
    import pyarrow as pa

    try:
        return scalar.as_py(maps_as_pydicts="lossy")
    except UnicodeDecodeError:
        is_text = pa.types.is_string(scalar.type) or pa.types.is_large_string(scalar.type)
        return scalar.cast(pa.large_binary()).as_py() if is_text else _NONE
    except (ValueError, OverflowError):
        return _NONE


def _read_dataset(source: Source) -> Iterator[tuple[int, Record]]:
    number = 0
    try:
        for number, record in enumerate(_split_of(source, _load_dataset(source)), start=1):
            yield number, record
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - the hub client raises a dozen kinds, all meaning: not to be had
        what = f"cannot be read after record {number}" if number else "cannot be loaded as a Hugging Face dataset"
        raise InputError(f"{source.path}: {what}: {' '.join(str(error).split())[:300]}") from None


def _load_dataset(source: Source) -> Any:
    import datasets

    if source.kind == "saved":
        return datasets.load_from_disk(source.dataset)
    revision = _on_the_hub(source).sha
    try:
        return datasets.load_dataset(source.dataset, source.config or None, revision=revision, streaming=True)
    except ValueError as error:
        if source.config or "onfig" not in str(error):
            raise
        configs = ", ".join(datasets.get_dataset_config_names(source.dataset, revision=revision))
        raise InputError(
            f"{source.path}: a dataset of several configurations, {configs}: say which, as {source.dataset}:CONFIG"
        ) from None


def _split_of(source: Source, loaded: Any) -> Any:
    """The split that is asked for; else `train`, or the first, with a note of what is left out."""
    if hasattr(loaded, "features"):
        if source.split:
            raise InputError(f"{source.path}: one dataset without splits, so there is no '{source.split}'")
        return loaded
    splits = list(loaded)
    named = f"{source.dataset}:{source.config}" if source.config else source.dataset
    if source.split not in ("", *splits) or not splits:
        raise InputError(f"{source.path}: no such split; it has {', '.join(splits) or 'none'}")
    chosen = source.split or ("train" if "train" in splits else splits[0])
    if others := [split for split in splits if split != chosen and not source.split]:
        note(f"{source.path}: of its splits {chosen} is read, not {', '.join(others)}; to choose: {named}[{others[0]}]")
    return loaded[chosen]


_ANSWERS_S = 20.0
"""Seconds that the hub has to say whether it knows a dataset."""


@cache
def _on_the_hub(source: Source) -> Any:
    """What the hub says of a dataset. It is asked once, while `datasets` tries each of its files for half a minute.

    Raises:
        InputError: it has none of this name, or cannot be asked.
    """
    from huggingface_hub import dataset_info
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
    )

    try:
        return dataset_info(source.dataset, timeout=_ANSWERS_S, files_metadata=True)
    except GatedRepoError:
        raise InputError(
            f"{source.path}: its licence must be accepted on its page on the Hugging Face Hub; then give this machine, "
            "and those of the workers, a token of that account in HF_TOKEN"
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise InputError(
            f"{source.path}: no file here has this name, and no dataset on the Hugging Face Hub; or it is private "
            f"there, and HF_TOKEN holds no token that may read it. Accepted: {FORMATS}"
        ) from None
    except OfflineModeIsEnabled:
        raise InputError(
            f"{source.path}: no file here has this name, and HF_HUB_OFFLINE keeps from asking the Hugging Face Hub for "
            "a dataset: name a folder that holds its files, or one that `save_to_disk` wrote"
        ) from None
    except Exception as error:  # noqa: BLE001 - no network, no hub, or another answer than it should give
        raise InputError(
            f"{source.path}: no file here has this name, and the Hugging Face Hub cannot be asked for a dataset: "
            f"{' '.join(str(error).split())[:200]}"
        ) from None


# ---- telling one state from another ----------------------------------------------------------------------------------

HASHED = 512 << 20
"""Bytes up to which a local file is identified by its content."""


def versions(sources: list[Source]) -> dict[str, str]:
    """What tells one state of the sources from another: each by its name below the folder that holds all local ones.

    A submitted job works in a copy of the project, in another folder and with new dates each time. So a local file is
    identified by its content (a very large one by size and date), one in a store by the store's own tag.
    """
    local = [os.path.dirname(source.path) for source in sources if source.path.startswith("/")]
    root = os.path.commonpath(local) if local else "/"
    return {
        os.path.relpath(source.path, root) if source.path.startswith("/") else source.path: _version(source)
        for source in sources
    }


def _version(source: Source) -> str:
    if source.kind == "hub":  # its files, not its commit: a word in its description changes nothing
        files = [(one.rfilename, one.blob_id) for one in _on_the_hub(source).siblings or ()]
        return _hash(sorted(file for file in files if not file[0].endswith((".md", ".gitattributes"))))
    fs, path = fsspec.core.url_to_fs(source.dataset or source.path)
    if source.kind == "saved":
        return _hash([(file[len(path) :], _version_of(fs, file)) for file in sorted(fs.find(path))])
    return _version_of(fs, path)


def _hash(parts: list[tuple[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _version_of(fs: Any, path: str) -> str:
    info = fs.info(path)
    if "file" in fs.protocol and info["size"] <= HASHED:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    tag = next((info[name] for name in _TAGS if info.get(name)), "")
    return f"{info.get('size')}:{tag}"


_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "generation", "mtime", "LastModified", "Last-Modified",
         "last_modified", "updated")  # fmt: skip
"""What the stores of fsspec call that which changes with a file's content, the surest first."""


def first_records(source: Source, count: int) -> list[tuple[int, Record]]:
    """The first few records of a source."""
    return list(islice(read_records(source), count))
