"""A row's journey, top to bottom: straight-line code that thousands of rows run at once on one event loop."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import EngineDead, EngineError, RequestRefused, UnusableReply
from ultraif_ray.method.checkers.naming import enabled
from ultraif_ray.method.checks import DOES_NOT_SUIT, composition_holds
from ultraif_ray.method.compose import compose
from ultraif_ray.method.decompose import decompose
from ultraif_ray.method.replies import as_dropped
from ultraif_ray.method.respond import respond
from ultraif_ray.method.verdicts import check_and_judge, checks_of
from ultraif_ray.recipe import Recipe, Synthesize
from ultraif_ray.records import CATEGORIES, Failure, Instruction, Role, Row

STAGES = ("decompose", "compose", "respond")
"""The parts of a journey, in order. Each can run in a worker of its own; `respond` includes the judge."""


async def run_journey(row: Row, stages: tuple[str, ...], client: RoleClient, recipe: Recipe) -> Row:
    """Take `row` through `stages`. A part that fails says why in the row; what does not need it goes on.

    Raises:
        EngineDead: the worker must be replaced; the row is not spent.
    """
    if "decompose" in stages:
        with _failing_as(row, "decomposer"):
            row.constraints = await decompose(row, client, recipe.decompose, enabled(recipe.synthesize.checkers))
            row.decomposed = "decomposed" if row.constraints else "simple"
    if "compose" in stages:
        with _failing_as(row, "composer"):
            await add_constraints(row, client, recipe)
    if "respond" in stages and row.outcome != "failed":
        with _failing_as(row, "responder"):
            if recipe.synthesize.check == "model" and client.composer_is_a_model_of_its_own:
                await keep_what_suits(row, client)
            for instruction in row.instructions:
                await answer(instruction, row, client, recipe.synthesize)
            row.outcome = _outcome(row.instructions[-1])
    row.dropped += client.dropped
    row.usage = client.add_usage(row.usage)
    return row


def give_up(row: Row, stages: tuple[str, ...], kind: str, reason: str) -> Row:
    """End a row as failed that must not go through `stages`."""
    if "decompose" in stages:
        row.fail("decomposer", kind, reason)
    if "compose" in stages or "respond" in stages:
        row.fail("composer" if "compose" in stages else "responder", kind, reason)
    return row


@contextmanager
def _failing_as(row: Row, role: Role) -> Iterator[None]:
    """End the row's step as failed when a reply is no use or the engine refuses; a dead engine is not its fault."""
    try:
        yield
    except UnusableReply as unusable:
        row.fail(unusable.stage, unusable.kind, unusable.reason, unusable.raw)
    except EngineDead:
        raise
    except EngineError as error:
        row.fail(error.role or role, type(error).__name__, str(error))


async def add_constraints(row: Row, client: RoleClient, recipe: Recipe) -> None:
    """Compose as many rounds as this row drew, and keep the instructions that are to be answered. A round that fails
    costs that round and those after it: what was added before stays.

    Raises:
        UnusableReply, EngineError: the first round failed, or an engine is not there.
    """
    settings = recipe.synthesize
    draw = random.Random(f"{recipe.seed}:{row.id}")  # by id, so that a rerun and a resume draw the same
    row.rounds = draw.choices(list(settings.rounds), weights=list(settings.rounds.values()))[0]
    categories = draw.sample(CATEGORIES, k=len(CATEGORIES))
    instruction = Instruction(initial_query=row.query, history=row.history)
    for turn in range(row.rounds):
        try:
            instruction = await compose(instruction, categories[turn % len(categories)], client, settings)
        except (UnusableReply, RequestRefused) as ended:
            if not instruction.added:
                raise
            refused = Failure(stage="composer", kind="RequestRefused", reason=str(ended))
            client.dropped.append(as_dropped(ended) if isinstance(ended, UnusableReply) else refused)
            break
    levels = range(1, instruction.level) if settings.intermediate else []
    row.instructions += [*map(instruction.at, levels), instruction]


async def keep_what_suits(row: Row, client: RoleClient) -> None:
    """Ask the judge of each constraint whether it suits the query, where the composer's engine cannot be asked, and go
    back to what stood before the first that does not.

    Raises:
        UnusableReply: that leaves nothing.
    """
    deepest = row.instructions[-1]
    levels = range(1, deepest.level + 1)
    suits = await asyncio.gather(*(composition_holds(deepest.at(level), client, "judge") for level in levels))
    if all(suits):
        return
    kept = suits.index(False)
    lost = UnusableReply("composer", DOES_NOT_SUIT, deepest.at(kept + 1).query)
    if not kept:
        raise lost
    client.dropped.append(as_dropped(lost))
    row.instructions = [one for one in row.instructions if one.level < kept] + [deepest.at(kept)]


async def answer(instruction: Instruction, row: Row, client: RoleClient, settings: Synthesize) -> None:
    """Sample and judge in waves until the instruction has what the goal needs, at most `k` responses.

    Within a wave all are judged and the lowest sampling index wins, never the first to finish, which would favour
    short answers: what is kept has the distribution of the first pass of k samples that were all judged.
    """
    if settings.pairs == "contrast" and instruction.added:
        await contrast(instruction, client)
        return
    found = row.constraints if settings.questions == "all" else []
    questions = instruction.questions + [constraint.question for constraint in found]
    checks = checks_of(instruction.added, found)
    while len(instruction.responses) < settings.k and not _satisfied(instruction, questions, settings):
        n = min(settings.wave, settings.k - len(instruction.responses))
        wave = await respond(instruction.query, instruction.history, n, client)
        judged = (check_and_judge(instruction, one, questions, checks, client, settings) for one in wave)
        await asyncio.gather(*judged)
        instruction.responses += wave


async def contrast(instruction: Instruction, client: RoleClient) -> None:
    """A pair without a judge: one answer to the whole query, one to the query with the last constraint taken away."""
    whole = (await respond(instruction.query, instruction.history, 1, client))[0]
    whole.passed = whole.finish == "stop" and bool(whole.text)
    without = (await respond(instruction.simpler_query, instruction.history, 1, client))[0]
    instruction.responses = [whole, without]


def _satisfied(instruction: Instruction, questions: list[str], settings: Synthesize) -> bool:
    passed = instruction.chosen is not None
    if settings.goal == "sft" or not questions:  # nobody can fail an answer that no question is asked about
        return passed
    return passed and instruction.rejected is not None


def _outcome(instruction: Instruction) -> Literal["paired", "satisfied", "unsatisfied"]:
    if instruction.chosen is None:
        return "unsatisfied"
    return "paired" if instruction.rejected is not None else "satisfied"
