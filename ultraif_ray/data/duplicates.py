"""Which prompts came before: exactly, or nearly; in flat memory, whatever their number.

What came before is kept as 64-bit keys in sorted arrays. A lookup is a binary search in each; the newest are merged
until an array is full, which then lies in a file that is mapped into memory, so that the operating system holds of it
what it has room for. A prompt costs 8 bytes of disk a key: one key for exact duplicates, one a band for near ones.

Near duplicates are those whose MinHash signatures (rensa), over runs of three words, agree in all rows of some band, as
FineWeb has it: no signature is kept, and none is compared. A prompt with a history is near to those alone that have the
same human turn before it: "and in French?" asks something else each time.
"""

import hashlib
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ultraif_ray.data.filters import DUPLICATE, NEAR_DUPLICATE
from ultraif_ray.method.texts import words
from ultraif_ray.records import Prompt

FULL = 1 << 23
"""Keys of an array that goes to a file: 64 MB. A hundred million are a dozen of these."""

FULL_BAND = 1 << 20
"""The same for each of a dozen bands."""


class Seen:
    """The keys that came before.

    Args:
        folder: where full arrays go; all stay in memory where None.
        full: see `FULL`.
    """

    def __init__(self, folder: Path | None = None, full: int = FULL):
        self._folder, self._full = folder, full
        self._files: list[Any] = []
        self._runs: list[Any] = []

    def add(self, keys: Any) -> Any:
        """Remember keys; whether each comes for the first time, also among these."""
        fresh = np.zeros(len(keys), dtype=bool)
        fresh[np.unique(keys, return_index=True)[1]] = True
        for run in (*self._files, *self._runs):
            places = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            fresh &= run[places] != keys
        if fresh.any():
            self._keep(np.sort(keys[fresh]))
        return fresh

    def _keep(self, run: Any) -> None:
        """One array more; neighbours of about the same length become one, so that there are few."""
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        if len(run) < self._full or self._folder is None:
            self._runs.append(run)
        else:
            file = self._folder / f"{len(self._files)}.npy"
            np.save(file, run)
            self._files.append(np.load(file, mmap_mode="r"))


class Duplicates:
    """Exact and near duplicates among prompts that come in order: the first of its kind stays.

    Args:
        similarity: from which two prompts are near duplicates, as `bands_for` has it; None to look for none.
    """

    def __init__(self, similarity: float | None = None):
        self._temporary = tempfile.TemporaryDirectory(prefix="ultraif-duplicates-")
        self._ids = self._seen("ids", FULL)
        self._bands, self._rows = bands_for(similarity) if similarity else (0, 0)
        self._near = [self._seen(f"band-{number}", FULL_BAND) for number in range(self._bands)]

    def _seen(self, name: str, full: int) -> Seen:
        folder = Path(self._temporary.name) / name
        folder.mkdir()
        return Seen(folder, full)

    def find(self, prompts: Sequence[Prompt]) -> list[str]:
        """For each prompt the filter that turns it away, or nothing where it is the first of its kind."""
        fresh = self._ids.add(np.array([prompt.id for prompt in prompts], dtype=np.int64))
        found = np.where(fresh, "", DUPLICATE).tolist()
        places = np.flatnonzero(fresh)
        if self._bands and len(places):
            keys = band_keys([prompts[place] for place in places], self._bands, self._rows)
            first = np.logical_and.reduce([seen.add(keys[:, band]) for band, seen in enumerate(self._near)])
            for place in places[~first]:
                found[place] = NEAR_DUPLICATE
        return found

    def close(self) -> None:
        """Give the disk space back."""
        self._temporary.cleanup()


MOST = 112
"""Hash functions of a signature, at most; as many as FineWeb's."""

WORDS = 3
"""Words of a run."""


def bands_for(similarity: float) -> tuple[int, int]:
    """Bands and rows of a band, with which half of the pairs of about this similarity share a band: the share of the
    runs of three words that two texts have together of all that they have. With `b` bands of `r` rows, of the pairs of
    similarity `s` that is 1 - (1 - s^r)^b.
    """
    every = [(MOST // rows, rows) for rows in range(1, MOST + 1)]
    return min(every, key=lambda one: abs(1 - (1 - similarity ** one[1]) ** one[0] - 0.5))


def band_keys(prompts: Sequence[Prompt], bands: int, rows: int) -> Any:
    """A key for each band of each prompt: a matrix of 64-bit integers, prompts by bands."""
    from rensa import RMinHash

    signatures = RMinHash.digests_from_token_sets([_runs(prompt) for prompt in prompts], bands * rows, 0)
    matrix = np.array(signatures, dtype=np.uint64).reshape(len(prompts), bands, rows)
    keys = np.zeros((len(prompts), bands), dtype=np.uint64)
    for row in range(rows):
        keys = (keys ^ matrix[:, :, row]) * _ODD
        keys ^= keys >> np.uint64(29)
    return keys.astype(np.int64)


_ODD = np.uint64(0x9E3779B97F4A7C15)


def _runs(prompt: Prompt) -> list[str]:
    """The runs of three words of a prompt's query, each with the human turn before it."""
    said = words(prompt.query)
    before = next((turn.content for turn in reversed(prompt.history) if turn.role == "user"), "")
    after = f" {hashlib.blake2b(before.encode(), digest_size=8).hexdigest()}" if before else ""
    runs = [" ".join(said[i : i + WORDS]) for i in range(max(1, len(said) - WORDS + 1))]
    return [f"{run}{after}" for run in runs] if said else [f"{prompt.query}{after}"]
