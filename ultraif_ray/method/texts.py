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
    matcher = SequenceMatcher(None, words(before), words(after), autojunk=False)
    pieces = [
        after[spans[start][0] : spans[end - 1][1]]
        for kind, _, _, start, end in matcher.get_opcodes()
        if kind in ("insert", "replace")
    ]
    return " … ".join(pieces)
