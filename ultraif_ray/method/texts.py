"""What went from a text and what came to it, in words of any script: what checks by text are made of."""

import re
from collections import Counter
from difflib import SequenceMatcher
from itertools import pairwise

# Scripts that are written without spaces count by character, with their marks: kana, Han, Thai and Lao, Myanmar, Khmer;
# and Hangul, whose spaces set apart more than words.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
_WORD = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation; in scripts written without spaces, single characters."""
    return [word.casefold() for word in _WORD.findall(text)]


def missing(part: list[str], whole: list[str]) -> list[str]:
    """The words of `part` that `whole` lacks, counting how often each stands there; order does not matter."""
    return list((Counter(part) - Counter(whole)).elements())


def broken_pairs(part: list[str], whole: list[str]) -> int:
    """Neighbouring words of `part` that are nowhere neighbours in `whole`: few where pieces moved, most where words
    were scrambled.
    """
    known = set(pairwise(whole))
    return sum(pair not in known for pair in pairwise(part))


def new_text(before: str, after: str) -> str:
    """What is new in `after`, as it stands there, with `…` between pieces that stand apart."""
    spans = [match.span() for match in _WORD.finditer(after)]
    new = _new_words(words(before), words(after))
    return " … ".join(after[spans[start][0] : spans[end - 1][1]] for start, end in new)


def _new_words(before: list[str], after: list[str]) -> list[tuple[int, int]]:
    """Where words begin and end that are new. A text that stands whole in the longer one, as nearly all do, is found at
    once; the comparison of any other takes the square of its length.
    """
    found = f"\0{_joined(after)}".find(f"\0{_joined(before)}")
    if found >= 0:
        start = _joined(after).count("\0", 0, found)
        return [(begun, end) for begun, end in ((0, start), (start + len(before), len(after))) if begun < end]
    matcher = SequenceMatcher(None, before, after, autojunk=False)
    return [(start, end) for kind, _, _, start, end in matcher.get_opcodes() if kind in ("insert", "replace")]


def _joined(some: list[str]) -> str:
    return "".join(f"{word}\0" for word in some)
