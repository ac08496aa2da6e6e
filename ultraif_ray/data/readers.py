"""Read any accepted file of prompts or of training examples, one record at a time, in flat memory.

A record comes out as a dict (or a string, for text files) with the line or item number it had. What cannot be read in
an otherwise good file comes out as a Fault, to be counted; a file of an unknown format is an InputError.
"""

import csv
import hashlib
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec
import ijson
from fsspec.implementations.local import LocalFileSystem

from ultraif_ray.errors import InputError

FORMATS = (
    ".jsonl/.json, .csv/.tsv, .txt (one prompt a line), each also compressed, .parquet, or a Hugging Face dataset "
    "(folder or hub id)"
)
_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


@dataclass(frozen=True)
class Source:
    """One thing to read. `kind` is a file suffix, `saved` (a dataset saved to disk) or `hub`."""

    path: str
    kind: str


@dataclass(frozen=True)
class Fault:
    """A piece of a file that is no record."""

    reason: str
    seen: str


Record = dict[str, Any] | str | Fault


def find_sources(prompts: tuple[str, ...] | list[str]) -> list[Source]:
    """Resolve files, globs, folders, URIs and hub ids to what is to be read, in a stable order.

    Raises:
        InputError: nothing there, or of a kind that is not accepted.
    """
    if not prompts:
        raise InputError("no prompts: give --prompts FILE, or `prompts:` in the recipe")
    return [source for spec in prompts for source in _resolve(spec)]


def _resolve(spec: str) -> list[Source]:
    try:
        fs, path = fsspec.core.url_to_fs(spec)
        if any(c in path for c in "*?["):
            found = sorted(fs.glob(path))
        elif fs.isdir(path):
            if fs.exists(f"{path}/dataset_info.json") or fs.exists(f"{path}/state.json"):
                return [Source(spec, "saved")]
            found = sorted(file for file in fs.find(path) if _kind(file))
        else:
            found = [path] if fs.exists(path) else []
    except (ImportError, ValueError) as error:
        raise InputError(f"{spec}: {error}") from None
    except OSError as error:
        raise InputError(f"{spec}: cannot be listed: {error}") from None
    if not found and _HUB_ID.match(spec) and not Path(spec).parent.is_dir():
        return [Source(spec, "hub")]
    if not found:
        raise InputError(f"{spec}: no such file, and no folder or glob that holds one. Accepted: {FORMATS}")
    for file in found:
        if not _kind(file):
            raise InputError(f"{file}: cannot tell what this is from its name. Accepted: {FORMATS}")
    return [Source(fs.unstrip_protocol(f) if "://" in spec else f, _kind(f)) for f in found]


def _kind(path: str) -> str:
    name = path.lower()
    if name.endswith(".parquet"):  # compressed within, never as a whole
        return ".parquet"
    for suffix in _COMPRESSED:
        name = name.removesuffix(suffix)
    return next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), "")


def read_records(source: Source) -> Iterator[tuple[int, Record]]:
    """The records of one source with their numbers, from 1.

    Raises:
        InputError: the file cannot be opened, or is not of the kind its name says.
    """
    reader = {
        ".parquet": _read_parquet,
        ".csv": _read_csv,
        ".tsv": _read_csv,
        ".txt": _read_text,
        "saved": _read_dataset,
        "hub": _read_dataset,
    }.get(source.kind, _read_json)
    try:
        yield from reader(source)
    except (OSError, UnicodeDecodeError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{source.path}: cannot be read: {error}") from None


def _open(source: Source) -> Any:
    return fsspec.open(source.path, "rb", compression="infer").open()


def _read_json(source: Source) -> Iterator[tuple[int, Record]]:
    with _open(source) as file:
        first = file.read(1)
        while (
            first.isspace() or first == b"\xef" or first == b"\xbb" or first == b"\xbf"
        ):  # white space, byte-order mark
            first = file.read(1)
        if first == b"[":
            file.seek(0)
            yield from _read_json_array(file, source)
        else:
            file.seek(0)
            yield from _read_json_lines(file, source)


def _read_json_array(file: Any, source: Source) -> Iterator[tuple[int, Record]]:
    number = 0
    try:
        if file.read(3) != b"\xef\xbb\xbf":
            file.seek(0)
        for number, item in enumerate(ijson.items(file, "item", use_float=True), start=1):
            yield number, item
    except ijson.IncompleteJSONError as error:
        text = " ".join(str(error).split())
        if "premature EOF" not in text and "ncomplete" not in text:  # ijson gives every fault this name
            raise InputError(
                f"{source.path}: broken JSON after record {number}: {text}. Fix the file, or cut it off there"
            ) from None
        yield (
            number + 1,
            Fault("cut off", f"the file ends inside record {number + 1}; the {number} before it are whole"),
        )
    except ijson.JSONError as error:
        if number == 0:
            raise InputError(f"{source.path}: not valid JSON: {error}. Accepted: {FORMATS}") from None
        yield number + 1, Fault("broken JSON", f"nothing after record {number} can be read: {error}")


def _read_json_lines(file: Any, source: Source) -> Iterator[tuple[int, Record]]:
    for number, line in enumerate(file, start=1):
        text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace").strip()
        if not text:
            continue
        try:
            yield number, json.loads(text)
        except (ValueError, RecursionError):
            if number == 1:
                if whole := _single_object(file, source):
                    yield 1, whole
                    return
                raise InputError(f"{source.path}: line 1: not JSON: {text[:60]!r}. Accepted: {FORMATS}") from None
            yield number, Fault("broken JSON", text[:200])


def _single_object(file: Any, source: Source) -> dict[str, Any] | None:
    """A file that holds one pretty-printed object."""
    file.seek(0)
    try:
        whole = json.loads(file.read(1 << 20))
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def _read_text(source: Source) -> Iterator[tuple[int, Record]]:
    with _open(source) as file:
        for number, line in enumerate(file, start=1):
            text = line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace").strip()
            if text:
                yield number, text


def _read_csv(source: Source) -> Iterator[tuple[int, Record]]:
    csv.field_size_limit(1 << 24)
    delimiter = "\t" if source.kind == ".tsv" else ","
    with fsspec.open(
        source.path, "rt", compression="infer", encoding="utf-8-sig", errors="replace", newline=""
    ) as file:
        reader = csv.DictReader(file, delimiter=delimiter)
        while True:
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num, Fault("broken CSV", str(error))
                continue
            yield reader.line_num, {key: value or "" for key, value in row.items() if key}


def _read_parquet(source: Source) -> Iterator[tuple[int, Record]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with fsspec.open(source.path, "rb") as file:
        try:
            batches = pq.ParquetFile(file).iter_batches(batch_size=1024)
            number = 0
            for batch in batches:
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
        except pa.ArrowException as error:
            raise InputError(f"{source.path}: not a Parquet file: {error}. Accepted: {FORMATS}") from None


def _read_dataset(source: Source) -> Iterator[tuple[int, Record]]:
    import datasets

    try:
        if source.kind == "saved":
            loaded: Any = datasets.load_from_disk(source.path)
        else:
            loaded = datasets.load_dataset(source.path, streaming=True)
    except Exception as error:  # noqa: BLE001 - the hub client raises a dozen kinds, all meaning: not to be had
        raise InputError(
            f"{source.path}: no local file has this name, and as a Hugging Face dataset it cannot be loaded: "
            f"{' '.join(str(error).split())[:200]}"
        ) from None
    splits = (
        [loaded]
        if hasattr(loaded, "features")
        else [loaded["train"] if "train" in loaded else next(iter(loaded.values()))]
    )
    for split in splits:
        yield from enumerate(split, start=1)


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
    if source.kind == "hub":
        return _commit(source.path)
    fs, path = fsspec.core.url_to_fs(source.path)
    if source.kind == "saved":
        files = {file.removeprefix(path): _version_of_file(fs, file) for file in sorted(fs.find(path))}
        return hashlib.sha256(json.dumps(files).encode()).hexdigest()[:16]
    return _version_of_file(fs, path)


def _version_of_file(fs: Any, path: str) -> str:
    info = fs.info(path)
    if isinstance(fs, LocalFileSystem) and info["size"] <= HASHED:
        with fs.open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    tag = next((info[name] for name in _TAGS if info.get(name)), "")
    return f"{info.get('size')}:{tag}"


_TAGS = ("ETag", "etag", "md5Hash", "content_md5", "blob_id", "generation", "mtime", "LastModified", "Last-Modified",
         "last_modified", "updated")  # fmt: skip
"""What the stores of fsspec call that which changes with a file's content, the surest first."""


def _commit(name: str) -> str:
    """The commit of a dataset on the Hugging Face Hub; that of this machine's copy, where the hub does not answer.

    Raises:
        InputError: neither is to be had.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    try:
        return str(HfApi().dataset_info(name, timeout=10).sha)
    except Exception as error:  # noqa: BLE001 - the hub's client raises a dozen kinds, all meaning: not to be had
        copy = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=name, repo_type="dataset"), "refs", "main")
        if copy.is_file():
            return copy.read_text().strip()
        raise InputError(
            f"{name}: no local file has this name, and the Hugging Face Hub gives no dataset of it: "
            f"{' '.join(str(error).split())[:200]}"
        ) from None


def first_records(source: Source, count: int) -> list[tuple[int, Record]]:
    """The first few records of a source."""
    return list(islice(read_records(source), count))
