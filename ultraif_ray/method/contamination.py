"""Is a text a prompt of a benchmark, or does it hold one? By how much of that prompt stands close together in it.

A prompt is known by the hashes of its n-grams of words, in no order, so that an index holds no text. An n-gram weighs
less the more prompts have it, so that stock phrases ("your entire response should be in") alone make none. A text is
contaminated where a stretch of it, little longer than a prompt, has a share of that prompt's weight. What others look
for is in the same code, to compare: any 13 words in a row (GPT-3), half of the 8-grams (like Tülu 3).
"""

import io
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from ultraif_ray.errors import RecipeError
from ultraif_ray.method.texts import words
from ultraif_ray.recipe import Decontaminate

CONTAMINATED = "contaminated"
"""Why a prompt is turned away, or a composition dropped."""


@dataclass(frozen=True)
class Rule:
    """What makes a text contaminated."""

    n: int = 2
    """Words of an n-gram."""
    share: float = 0.45
    """Least share of a prompt that stands in the text; any n-gram at all where 0."""
    window: float | None = 1.5
    """How long a stretch of the text may be, in lengths of the prompt; None for the whole text."""
    rare: bool = True
    """Whether an n-gram weighs less the more prompts have it, by the root of their number; else all weigh the same."""


OURS = Rule()
GPT3 = Rule(n=13, share=0.0, window=None, rare=False)
TULU3 = Rule(n=8, share=0.5, window=None, rare=False)

SHORT = 9
"""A prompt of fewer words is one that many people write ("Generate a Python dictionary."): it counts only where the
text is little else, and has nearly all of it."""
_OF_A_SHORT_ONE = 0.9


@dataclass(frozen=True)
class Known:
    """A prompt of a benchmark as an index holds it."""

    benchmark: str
    prompt: str
    """Its id there."""
    words: int
    grams: "np.ndarray[Any, np.dtype[np.uint32]]"
    """Hashes of its n-grams, each once, sorted."""


@dataclass(frozen=True)
class Overlap:
    """The prompt of a benchmark that a text holds most of, and the share of it, in [0, 1]."""

    benchmark: str
    prompt: str
    share: float

    def __str__(self) -> str:
        return f"{self.share:.0%} of {self.benchmark} {self.prompt}"


def known(benchmark: str, prompt: str, text: str, n: int = OURS.n) -> Known:
    """A prompt of a benchmark, for an index."""
    said = words(text)
    return Known(benchmark, prompt, len(said), np.unique(_grams(said, n)))


# ---- of texts: their n-grams -----------------------------------------------------------------------------------------

_ODD = np.uint64(0x9E3779B97F4A7C15)


def _grams(said: list[str], n: int) -> "np.ndarray[Any, np.dtype[np.uint32]]":
    """The hashes of all runs of `n` words, in order."""
    hashes = np.array([zlib.crc32(word.encode("utf-8", "replace")) for word in said], dtype=np.uint64)
    runs = max(0, len(hashes) - n + 1)
    mixed = np.zeros(runs, dtype=np.uint64)
    for i in range(n):
        mixed = (mixed + hashes[i : i + runs]) * _ODD
    return (mixed >> np.uint64(32)).astype(np.uint32)


# ---- to look for them ------------------------------------------------------------------------------------------------


class Index:
    """The prompts of benchmarks, to look for in any number of texts. It does not grow with these.

    Args:
        prompts: of n-grams of the rule's length.
        rule: what makes a text contaminated.
        shares: by benchmark, in place of the rule's share.
    """

    def __init__(self, prompts: Iterable[Known], rule: Rule = OURS, shares: dict[str, float] | None = None):
        self.prompts = tuple(prompts)
        self._rule = rule
        counts = np.array([len(one.grams) for one in self.prompts], dtype=np.int64)
        owners = np.repeat(np.arange(len(self.prompts)), counts)
        every = np.concatenate([one.grams for one in self.prompts]) if self.prompts else np.array([], dtype=np.uint32)
        order = np.argsort(every, kind="stable")
        self._owners = owners[order]
        self._grams, self._starts, self._held_by = np.unique(every[order], return_index=True, return_counts=True)
        # By the logarithm, as in search engines, three stock phrases together would be half of a short prompt.
        self._weights = self._held_by**-0.5 if rule.rare else np.ones(len(self._grams))
        self._totals = np.bincount(
            self._owners, weights=np.repeat(self._weights, self._held_by), minlength=len(self.prompts)
        )
        wanted = [(shares or {}).get(one.benchmark, rule.share) for one in self.prompts]
        short = [one.words < SHORT and rule.window is not None for one in self.prompts]
        self._short = np.array(short, dtype=bool)
        self._wanted = np.where(self._short, np.maximum(wanted, _OF_A_SHORT_ONE), wanted)

    def find(self, text: str) -> Overlap | None:
        """The prompt that a text holds most of, where it holds as much of one as makes it contaminated."""
        said = words(text)
        grams = _grams(said, self._rule.n)
        if not len(self._grams) or not len(grams):
            return None
        places = np.minimum(np.searchsorted(self._grams, grams), len(self._grams) - 1)
        at = np.flatnonzero(self._grams[places] == grams)
        places = places[at]
        best, greatest = -1, 0.0
        shares = self._shares_anywhere(np.unique(places))
        for number in np.flatnonzero((shares >= self._wanted) & (shares > 0)):
            share = shares[number] if self._rule.window is None else self._share_close(number, at, places, len(said))
            if share >= self._wanted[number] and share > greatest:
                best, greatest = int(number), float(share)
        if best < 0:
            return None
        return Overlap(self.prompts[best].benchmark, self.prompts[best].prompt, round(greatest, 4))

    def _shares_anywhere(self, places: Any) -> Any:
        """The share of each prompt that these n-grams are; no share of a stretch is greater."""
        counts = self._held_by[places]
        first = np.repeat(self._starts[places] - np.cumsum(counts) + counts, counts)
        owners = self._owners[first + np.arange(len(first))]
        weights = np.bincount(owners, weights=np.repeat(self._weights[places], counts), minlength=len(self.prompts))
        return weights / np.maximum(self._totals, 1e-9)

    def _share_close(self, number: int, at: Any, places: Any, length: int) -> float:
        """The greatest share of a prompt in a stretch of the text.

        Args:
            number: the prompt's.
            at: where n-grams of the index stand in the text.
            places: which ones these are, by their places in the index.
            length: words of the text.
        """
        prompt = self.prompts[number]
        longest = int(prompt.words * (self._rule.window or 0)) + self._rule.n
        if self._short[number] and length > longest:
            return 0.0
        mine = np.isin(self._grams[places], prompt.grams)
        stretch = list(zip(at[mine].tolist(), places[mine].tolist(), strict=True))
        inside: Counter[int] = Counter()
        weight = most = 0.0
        first = 0
        for end, gram in stretch:
            inside[gram] += 1
            weight += self._weights[gram] if inside[gram] == 1 else 0.0
            while end + self._rule.n - stretch[first][0] > longest:
                gone = stretch[first][1]
                inside[gone] -= 1
                weight -= self._weights[gone] if not inside[gone] else 0.0
                first += 1
            most = max(most, weight)
        return float(most / self._totals[number])


# ---- files of them ---------------------------------------------------------------------------------------------------

SHIPPED = Path(__file__).parent / "benchmarks.npz"
"""The index that ships: IFEval, IFBench, FollowBench and GSM8K, made by `python -m ultraif_ray.bench.contamination`."""


def save(prompts: Sequence[Known]) -> bytes:
    """An index as a file holds it: a NumPy archive of names, ids, lengths and hashes."""
    file = io.BytesIO()
    np.savez_compressed(
        file,
        benchmark=np.array([one.benchmark for one in prompts]),
        prompt=np.array([one.prompt for one in prompts]),
        words=np.array([one.words for one in prompts], dtype=np.int32),
        counts=np.array([len(one.grams) for one in prompts], dtype=np.int32),
        grams=np.concatenate([one.grams for one in prompts]) if prompts else np.array([], dtype=np.uint32),
    )
    return file.getvalue()


def load(address: str) -> list[Known]:
    """The prompts of an index.

    Raises:
        RecipeError: it is not there, or is none.
    """
    try:
        with fsspec.open(address, "rb") as file, np.load(io.BytesIO(file.read()), allow_pickle=False) as found:
            held = {name: found[name] for name in ("benchmark", "prompt", "words", "counts", "grams")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RecipeError(f"{address}: no index of benchmarks: {error}") from None
    ends = np.cumsum(held["counts"])
    grams = [held["grams"][end - count : end] for end, count in zip(ends, held["counts"], strict=True)]
    names, ids, lengths = (held[name].tolist() for name in ("benchmark", "prompt", "words"))
    return [Known(*one) for one in zip(names, ids, lengths, grams, strict=True)]


def index_of(settings: Decontaminate, more: Sequence[Known] = ()) -> Index | None:
    """What a recipe guards against; None for nothing.

    Args:
        settings: the recipe's.
        more: the prompts of the files that it names, where `settings.index` does not hold them.
    """
    wanted = settings.shipped
    prompts = [one for one in load(str(SHIPPED)) if one.benchmark in wanted] if wanted else []
    prompts += load(settings.index) if settings.index else more
    shares = {name: one.share for name, one in settings.against.items() if one.share is not None}
    return Index(prompts, Rule(share=settings.share), shares) if prompts else None


def guard(settings: Decontaminate) -> Index | None:
    """`index_of` a recipe, made once in a process."""
    return _guard(settings.model_dump_json())


@cache
def _guard(settings: str) -> Index | None:
    return index_of(Decontaminate.model_validate_json(settings))


def contaminated_by(before: str, after: str, index: Index | None) -> Overlap | None:
    """The prompt of a benchmark that composing made of a query, which was none before."""
    found = index.find(after) if index else None
    return None if found is None or (index and index.find(before)) else found
