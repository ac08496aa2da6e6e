"""What all kinds of step have in common.

A kind is a frozen dataclass: its fields that hold steps are its inputs, by name. A new kind is a subclass in a file of
its own, and a line in `plan.py`.
"""

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ultraif_ray.recipe import Recipe
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry

if TYPE_CHECKING:
    from ultraif_ray.flow.cluster import Need


def step_name(kind: str, number: int = 0) -> str:
    """The name of a step, which is also its folder: `sft`, or `round-2/dpo` in a DPO round."""
    return f"round-{number}/{kind}" if number else kind


@dataclass(frozen=True)
class Context:
    """What a step works with: the recipe as it is in the step's round, and the run's folder."""

    recipe: Recipe
    folder: RunFolder
    worker_logs: bool = False
    """Show what the workers log."""


@dataclass(frozen=True)
class Step:
    """One step of a run, made from other steps and written into a folder of its name."""

    round: int = field(default=0, kw_only=True)
    """The DPO round that the step belongs to; 0 before the first."""

    kind: ClassVar[str]
    """The kind's name: `ingest`, `dpo`, … ."""
    resumes: ClassVar[bool] = True
    """Whether an interrupted step goes on with what it has; else it begins anew."""
    cheap: ClassVar[bool] = False
    """Whether to make the step anew where its settings changed, instead of refusing the run."""
    repeatable: ClassVar[bool] = False
    """Whether the same settings make the same content again: then what is made from it stays good when it is made anew.
    """
    grows: ClassVar[bool] = False
    """Whether more may come to what it holds, when its settings change; see `still_holds`."""
    beside_training: ClassVar[bool] = False
    """Whether the step may run while the training behind it does, where the cluster has room for both."""

    @property
    def name(self) -> str:
        """See `step_name`."""
        return step_name(self.kind, self.round)

    @property
    def accounts(self) -> tuple[str, ...]:
        """The names of its entries in the ledger."""
        return (self.name,)

    @property
    def inputs(self) -> dict[str, "Step"]:
        """The steps that this one is made from, by what they give it."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Step)}

    def settings(self, context: Context) -> dict[str, Any]:
        """What decides the step's content, beside the builds of its inputs; not where it runs, nor how fast."""
        raise NotImplementedError

    def still_holds(self, context: Context, settings: dict[str, Any]) -> Literal["", "same", "more"]:
        """What becomes of the step's rows under other settings than they were made with.

        Returns:
            `same` where they are what these make too, `more` where others come to them, or empty where they are of no
            use.
        """
        return ""

    def check_outcome(self, context: Context, entries: dict[str, Entry]) -> None:
        """Refuse to call it done, when all is accounted for.

        Raises:
            RunError: what went wrong, and how to go on all the same.
        """

    def check(self, context: Context) -> None:
        """Refuse what could not work, before any step runs.

        Raises:
            UltraIFError: what to change.
        """

    def needs(self, context: Context) -> "list[Need]":
        """What the step asks of the cluster; nothing where it runs in the driver."""
        return []

    def takes_at_most(self, context: Context) -> "list[Need] | None":
        """What a training asks of the cluster with all the workers that it may have; None for other steps, which take
        what they find.
        """
        return None

    def run(self, context: Context) -> dict[str, Entry]:
        """Do the step's work; the entries of the ledger by step.

        Raises:
            UltraIFError: what ended it, and what to do.
        """
        raise NotImplementedError


def made_from(step: Step) -> list[Step]:
    """The steps that a step is made from, directly or not."""
    return [one for source in step.inputs.values() for one in (*made_from(source), source)]


def entries_behind(step: Step, folder: RunFolder) -> dict[str, Entry]:
    """The ledger's entries of the steps that a step is made from; a folder may hold others, of other recipes."""
    names = {name for source in made_from(step) for name in source.accounts}
    return {name: entry for name, entry in ledger.read(folder).items() if name in names}


def whole_settings(step: Step, context: Context) -> dict[str, Any]:
    """All that decides what a step holds: its settings, and for each input its build."""
    made_from = {
        name: {"step": source.name, "build": context.folder.build_of(source.name)}
        for name, source in step.inputs.items()
    }
    return step.settings(context) | {"inputs": made_from}
