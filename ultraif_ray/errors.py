"""What can go wrong, in one tree.

UltraIFError              a message for the user: what was wrong, the value seen, what to change
├── RecipeError           the recipe or an override is not valid, or does not fit this cluster
├── InputError            a prompts file is missing or is of no format that ingest reads
├── RunError              a run folder cannot be used or its ledger does not sum
│   └── NodeLost          something of Ray's own died with its node: the pipeline is begun again with what is left
└── EngineError           a model could not answer
    ├── RequestRefused    this request can never work (too long, refused by the server): the row fails
    ├── EngineUnavailable no answer after every retry: the row fails; several in a row end the run
    ├── EngineBusy        too many requests wait for it: ask again later (a service says so)
    └── EngineDead        the engine is gone for good: the worker must be replaced
UnusableReply             a reply arrived, but the step cannot use it (never leaves `method`)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # records needs libraries that `--help` must not wait for
    from ultraif_ray.records import Role

GO_ON = "What was written is kept: fix the cause and run the same command again."
"""Said where a run ends through something outside of it."""


class UltraIFError(Exception):
    """Base of every error that is meant for the user's eyes; the CLI prints its text and exits with 2."""


class RecipeError(UltraIFError):
    """The recipe or an override is not valid, or asks for what this cluster does not have."""


class InputError(UltraIFError):
    """A prompts file is missing, empty, or nothing that ingest can read."""


class RunError(UltraIFError):
    """A run folder cannot be used (made by another recipe, unfinished) or its ledger does not sum."""


class NodeLost(RunError):
    """Something of Ray's own that it does not start again died with its node; what is left can be run at once."""


class EngineError(UltraIFError):
    """A model could not answer. `role` is the one that asked, where a row's journey is known."""

    role: "Role | None" = None


class RequestRefused(EngineError):
    """This very request can never work, for instance since it is longer than the model's context."""


class EngineUnavailable(EngineError):
    """No usable answer from the engine after every retry."""


class EngineBusy(EngineError):
    """Too many requests wait for the engine already; nothing is wrong with this one."""


class EngineDead(EngineError):
    """The engine's process is gone; only a new worker can go on."""


class UnusableReply(Exception):
    """A model's reply that its step cannot use.

    Args:
        stage: the role that replied.
        kind: a short fixed phrase, so that reasons can be counted.
        raw: the reply as it came.
        reason: the whole of it, where there is more to say.
    """

    def __init__(self, stage: "Role", kind: str, raw: str, reason: str = ""):
        super().__init__(f"{stage}: {reason or kind}")
        self.stage, self.kind, self.raw, self.reason = stage, kind, raw, reason or kind
