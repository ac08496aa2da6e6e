"""The values of a JSON text, one at a time and in flat memory: in an array, or one after another.

`json` reads each value, so that what it writes can be read: integers of any size, NaN and Infinity as well.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

_DECODER = json.JSONDecoder()
_DIGITS_AS_TEXT = json.JSONDecoder(parse_int=str)
_SPACE = re.compile(r"[\s\ufeff]*")  # files that were put together have a byte-order mark where each began
_SPACE_AND_COMMAS = re.compile(r"[\s\ufeff,]*")
_GOES_ON = re.compile(r"([.eE][-+]?)?")
"""What may stand between a number and the end of what was read so far, and be a part of a longer one."""
_AT_ONCE = 1 << 16
_LONGEST_WORD = 16
"""More signs than a word (`-Infinity`) or an escape has, which the end of what was read so far may have cut in two."""


class Broken(ValueError):
    """What is there is no JSON. `cut`: it could be, if the text went on."""

    def __init__(self, reason: str, cut: bool = False):
        super().__init__(reason)
        self.cut = cut


def values_in(line: str, is_whole: Callable[[Any], bool]) -> list[Any]:
    """The values of a line, of which most have one; see `read_values`."""
    if line.startswith("{"):
        with suppress(ValueError, RecursionError):
            return [json.loads(line)]
    pieces = iter([line])
    return list(read_values(lambda _: next(pieces, ""), is_whole))


def read_values(read: Callable[[int], str], is_whole: Callable[[Any], bool]) -> Iterator[Any]:
    """The values of a text that is read bit by bit. Of an array at the top its items are values, unless it is whole.

    Args:
        read: gives so many signs more of the text, and none at its end.
        is_whole: whether an array, by its first item, is one value.

    Raises:
        Broken: what stands there is no JSON; what was before it is given already.
    """
    text = _Text(read)
    while sign := text.skip(_SPACE_AND_COMMAS):
        if sign != "[":
            yield text.value()
            continue
        text.place += 1
        if text.skip() == "]":
            text.place += 1
            continue
        first = text.value()
        if is_whole(first):
            yield [first, *_items_after(text)]
        else:
            yield first
            yield from _items_after(text)


def _items_after(text: "_Text") -> Iterator[Any]:
    """The items of an array behind its first one."""
    while (sign := text.skip()) == ",":
        text.place += 1
        text.skip()
        yield text.value()
    if sign != "]":
        raise Broken("expecting ',' or ']' after an item", cut=not sign)
    text.place += 1


class _Text:
    """What was read of a text and not yet used, from `place` on."""

    def __init__(self, read: Callable[[int], str]):
        self._read, self._text, self._ended = read, "", False
        self.place = 0

    def _more(self, count: int) -> None:
        more = self._read(count)
        self._text, self.place, self._ended = self._text[self.place :] + more, 0, not more

    def skip(self, space: re.Pattern[str] = _SPACE) -> str:
        """Go to the next sign that is no white space; that sign, or none at the end."""
        while True:
            found = space.match(self._text, self.place)
            self.place = found.end() if found else self.place
            if self.place < len(self._text) or self._ended:
                return self._text[self.place : self.place + 1]
            self._more(_AT_ONCE)

    def value(self) -> Any:
        """Read the value that begins here."""
        while True:
            try:
                value, end = _decode(self._text, self.place)
            except json.JSONDecodeError as error:
                if self._ended or not _is_near_the_end(self._text, error):
                    raise Broken(error.msg, cut=_is_cut(self._text, error)) from None
            except RecursionError:
                raise Broken("too many brackets in one another") from None
            else:
                is_number = self._text[self.place] in "-0123456789"
                goes_on = is_number and _GOES_ON.fullmatch(self._text[end : end + _LONGEST_WORD])
                if goes_on and goes_on[0] and self._ended:
                    raise Broken("a number ends too early", cut=True)
                if self._ended or not goes_on:
                    self.place = end
                    return value
            self._more(max(_AT_ONCE, len(self._text) - self.place))  # twice as much, not to read it too often


def _decode(text: str, place: int) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, place)
    except json.JSONDecodeError:
        raise
    except ValueError:  # an integer with more digits than Python makes a number of
        return _DIGITS_AS_TEXT.raw_decode(text, place)


def _is_near_the_end(text: str, error: json.JSONDecodeError) -> bool:
    """Whether more of the text could mend a fault: it may have cut a string, a word or a number in two."""
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - _LONGEST_WORD


_PART = re.compile(r"tr?u?|fa?l?s?|nu?l?|Na?|-?In?f?i?n?i?t?|-|\\?u[0-9a-fA-F]{0,4}|[.eE][-+]?|")


def _is_cut(text: str, error: json.JSONDecodeError) -> bool:
    """Whether a text ends in the middle of a string, a word or a number, or before what must follow."""
    return error.msg.startswith("Unterminated string") or _PART.fullmatch(text[error.pos :].strip()) is not None
