"""What a mutant is, and the list of them all."""

from dataclasses import dataclass
from importlib import import_module
from pkgutil import iter_modules

from tests.mutants import listed


@dataclass(frozen=True)
class Mutant:
    """One fault in one file of the product, as an exact text (`old`, found once) and what stands there instead (`new`).

    `claim` says what it breaks, in words of the README, the docs or a docstring. `tests` are pytest's node ids.
    `heavy` mutants need a cluster or an engine of their own; they run one at a time.
    """

    name: str
    claim: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    heavy: bool = False

    def applied(self, text: str) -> str:
        """The mutated file; ValueError unless `old` stands in it exactly once."""
        if (count := text.count(self.old)) != 1:
            raise ValueError(
                f"mutant {self.name!r}: its text stands {count} times in {self.file}, not once:\n{self.old}"
            )
        return text.replace(self.old, self.new)


def all_mutants() -> list[Mutant]:
    """Those of every file in `listed/`; heavy ones first, so that the lanes end together."""
    modules = [import_module(f"tests.mutants.listed.{info.name}") for info in iter_modules(listed.__path__)]
    return sorted((mutant for module in modules for mutant in module.MUTANTS), key=lambda mutant: not mutant.heavy)
