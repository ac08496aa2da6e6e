"""From a file's bytes to its text: decompressed, and decoded as its byte-order mark says, else as UTF-8.

Nothing is guessed at in silence and no sign is replaced: a file that is not UTF-8 is refused, with a guess and the text
that it would give. Where the caller names the encoding, what is not in it is left for the reader to count.
"""

import codecs
import io
import re
from collections.abc import Iterator
from typing import Any

import fsspec

from ultraif_ray.errors import InputError

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""What a file may be compressed with, by the end of its name."""

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark begins the same
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_SAMPLE = 1 << 16
_SEVEN_BITS = re.compile(rb"\x00|\x1b\$")
"""What no text in UTF-8 has, though it may be valid: every second byte of UTF-16 without its mark, and the signs that
begin Japanese in ISO 2022.
"""
_UNDECODABLE = re.compile("[\udc80-\udcff]")
"""What Python makes of bytes that are not in the encoding (`surrogateescape`); no encoding gives these otherwise."""


def open_bytes(path: str) -> Any:
    """A file's bytes, decompressed by the end of its name."""
    if path.lower().endswith(".zst"):  # fsspec needs a package for it
        import pyarrow as pa

        return pa.CompressedInputStream(fsspec.open(path, "rb").open(), "zstd")
    return fsspec.open(path, "rb", compression="infer").open()


def open_text(path: str, encoding: str = "") -> io.TextIOWrapper:
    """A file's text, line ends as they are, without the byte-order mark. What is not in the encoding is marked; see
    `undecodable`.

    Args:
        path: a path or URI.
        encoding: of a file without a byte-order mark; UTF-8 where empty.

    Raises:
        InputError: the file begins as no text in UTF-8 does, and `encoding` is empty.
    """
    with open_bytes(path) as file:
        start = file.read(_SAMPLE)
    mark, marked = next(((mark, name) for mark, name in _MARKS if start.startswith(mark)), (b"", ""))
    if not (marked or encoding) and _SEVEN_BITS.search(start):
        raise not_utf8(path, start)
    file = open_bytes(path)
    file.read(len(mark))
    return io.TextIOWrapper(file, encoding=marked or encoding or "utf-8", errors="surrogateescape", newline="")


def read_lines(path: str, encoding: str = "") -> Iterator[tuple[int, str]]:
    r"""The lines of a file with their numbers from 1, each with its end (`\n`, `\r\n` or `\r`), without the byte-order
    marks that stand at its beginning: files that were put together have one where each began.

    Raises:
        InputError: a line is not UTF-8, and `encoding` is empty.
    """
    with open_text(path, encoding) as file:
        for number, line in enumerate(file, start=1):
            if not encoding and undecodable(line):
                raise not_utf8(f"{path}:{number}", _bytes_of(line))
            yield number, line.lstrip("\ufeff")


def undecodable(text: str) -> bool:
    """Whether there is something in a text that was not in its file's encoding."""
    return not text.isascii() and _UNDECODABLE.search(text) is not None


def not_utf8(where: str, content: bytes | str) -> InputError:
    """What to say of a content that is not UTF-8: what it may be, how it would read then, and what to do."""
    if isinstance(content, str):
        content = _bytes_of(content)
    encoding = _guess(content[:_SAMPLE])
    if not encoding:
        return InputError(
            f"{where}: not UTF-8, nor any text that could be guessed at: it may be compressed, or of another format. "
            "If it is text, save it as UTF-8 or set ingest.encoding"
        )
    text = content.decode(encoding, "ignore")
    odd = re.search(r"\S*[^\x00-\x7f].*", text)
    reads = (odd[0] if odd else text).strip()[:40]
    return InputError(
        f"{where}: not UTF-8. As {encoding}, a guess, it reads {reads!r}: if that is right, set "
        f"ingest.encoding={encoding}; else save the file as UTF-8, or leave such lines out, counted, with "
        "ingest.encoding=utf-8"
    )


def _guess(content: bytes) -> str:
    """An encoding that a text may be in; empty where it is in none."""
    import charset_normalizer

    if charset_normalizer.is_binary(content):
        return ""
    found = charset_normalizer.from_bytes(content)
    if not (best := found.best()):
        return ""
    # Of two that fit alike it names the Central European one, by its number.
    western = any("cp1252" in one.could_be_from_charset and one.chaos <= best.chaos for one in found)
    return "cp1252" if best.encoding == "cp1250" and western else str(best.encoding)


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
