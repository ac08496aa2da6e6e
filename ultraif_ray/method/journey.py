"""A row's journey, top to bottom: straight-line code that thousands of rows run at once on one event loop."""

import asyncio
import random
from collections.abc import Container, Iterator
from contextlib import contextmanager
from operator import attrgetter
from typing import Literal

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import EngineDead, EngineError, RequestRefused, UnusableReply
from ultraif_ray.method.checkers.naming import enabled
from ultraif_ray.method.checks import DOES_NOT_SUIT, composition_holds
from ultraif_ray.method.compose import compose
from ultraif_ray.method.decompose import decompose
from ultraif_ray.method.replies import as_dropped
from ultraif_ray.method.respond import answer_benchmark, respond
from ultraif_ray.method.verdicts import check_and_judge, checks_of
from ultraif_ray.recipe import Band, Recipe, Synthesize
from ultraif_ray.records import (
    CATEGORIES,
    Asked,
    Category,
    Constraint,
    Failure,
    Instruction,
    Prompt,
    Response,
    Role,
    Row,
    Turn,
)
from ultraif_ray.templates import Templates

STAGES = ("decompose", "compose", "respond")
"""The parts of a journey, in order. Each can run in a worker of its own; `respond` includes the judge.

`judge` is one that stands alone, for rows whose responses were sampled already; `plant` comes before it where the judge
is to be tried on violations. `ask` and `converse` stand alone too, for benchmarks: one request, or the turns of a
conversation, which are the row's instructions.
"""


UNEXPECTED = "unexpected"
"""The kind of failure that nobody foresaw; its reason names the exception."""


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
            if _judge_checks(client, recipe):
                await keep_what_suits(row, client)
            if recipe.synthesize.pairs == "contrast" and row.instructions[-1].added:
                await contrast(row.instructions, client)
            elif recipe.synthesize.band:
                await answer_in_band(row, recipe.synthesize.band, client, recipe)
            else:
                for instruction in row.instructions:
                    await answer(instruction, row, client, recipe.synthesize)
            row.outcome = _outcome(row.instructions[-1])
    if "converse" in stages and row.outcome != "failed":
        with _failing_as(row, "responder"):
            await converse(row.instructions, client)
            row.outcome = "answered"
    if "plant" in stages and row.outcome != "failed":
        with _failing_as(row, "responder"):
            for instruction in row.instructions:
                instruction.responses = await respond(instruction.simpler_query, instruction.history, 1, client)
    if "judge" in stages and row.outcome != "failed":
        with _failing_as(row, "judge"):
            await judge_again(row, client, recipe.synthesize)
            row.outcome = _outcome(row.instructions[-1])
    if isinstance(row, Asked):
        with _failing_as(row, "responder"):
            await answer_benchmark(row, client)
            row.outcome = "answered"
    row.dropped += client.dropped
    row.usage = client.add_usage(row.usage)
    return row


def give_up(row: Row, stages: tuple[str, ...], kind: str, reason: str) -> Row:
    """End a row as failed that must not go through `stages`."""
    if "decompose" in stages:
        row.fail("decomposer", kind, reason)
    if "compose" in stages or "respond" in stages:
        row.fail("composer" if "compose" in stages else "responder", kind, reason)
    if "judge" in stages:
        row.fail("judge", kind, reason)
    if "ask" in stages or "converse" in stages:
        row.fail("responder", kind, reason)
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
    except Exception as error:  # noqa: BLE001 - one odd reply must not end the rows beside it; breakers end what is odd each time
        row.fail(role, UNEXPECTED, f"{type(error).__name__}: {error}"[:500])


async def add_constraints(row: Row, client: RoleClient, recipe: Recipe) -> None:
    """Compose as many rounds as this row drew, and keep the instructions that are to be answered. A round that fails
    costs that round and those after it: what was added before stays.

    Raises:
        UnusableReply, EngineError: the first round failed, or an engine is not there.
    """
    settings = recipe.synthesize
    row.rounds, categories = drawn(row, recipe)
    instruction = Instruction(initial_query=row.query, history=row.history)
    for turn in range(row.rounds):
        try:
            instruction = await compose(instruction, categories[turn % len(categories)], client, settings)
        except (UnusableReply, RequestRefused) as ended:
            if not instruction.added:
                raise
            client.dropped.append(_as_dropped(ended))
            break
    levels = range(1, instruction.level) if settings.intermediate and not settings.band else []
    row.instructions += [*map(instruction.at, levels), instruction]


def drawn(prompt: Prompt, recipe: Recipe) -> tuple[int, list[Category]]:
    """How many constraints a prompt gets, and in which order their categories come."""
    draw = random.Random(f"{recipe.seed}:{prompt.id}")  # by id, so that a rerun and a resume draw the same
    rounds = recipe.synthesize.rounds
    number = draw.choices(list(rounds), weights=list(rounds.values()))[0]
    return number, draw.sample(CATEGORIES, k=len(CATEGORIES))


async def with_one_more(instruction: Instruction, prompt: Prompt, client: RoleClient, recipe: Recipe) -> Instruction:
    """An instruction of a prompt with one constraint more, which suits it.

    Raises:
        UnusableReply, EngineError: none was found, or an engine is not there.
    """
    _, categories = drawn(prompt, recipe)
    category = categories[instruction.level % len(categories)]
    further = await compose(instruction, category, client, recipe.synthesize)
    if _judge_checks(client, recipe) and not await composition_holds(further, client, "judge"):
        raise UnusableReply("composer", DOES_NOT_SUIT, further.query)
    return further


async def _composed_further(
    instruction: Instruction, row: Row, client: RoleClient, recipe: Recipe
) -> Instruction | None:
    """With one constraint more; None, and noted, where none was found."""
    try:
        return await with_one_more(instruction, row, client, recipe)
    except (UnusableReply, RequestRefused) as ended:
        client.dropped.append(_as_dropped(ended))
        return None


def _as_dropped(ended: UnusableReply | RequestRefused) -> Failure:
    if isinstance(ended, UnusableReply):
        return as_dropped(ended)
    return Failure(stage="composer", kind="RequestRefused", reason=str(ended))


def _judge_checks(client: RoleClient, recipe: Recipe) -> bool:
    """Whether the judge checks what was composed, since the composer's engine cannot be asked."""
    return recipe.synthesize.check == "model" and client.composer_is_a_model_of_its_own


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


async def answer_in_band(row: Row, band: Band, client: RoleClient, recipe: Recipe) -> None:
    """Answer a row's instruction with one constraint more while too many responses pass, or one fewer while too few do.

    The row's last instruction is then the deepest that some response met; where none did, the one that was tried last.
    """
    settings, tried = recipe.synthesize, dict[int, Instruction]()
    following: Instruction | None = row.instructions[-1]
    while following:
        tried[following.level] = following
        await answer(following, row, client, settings)
        following = await _next_level(following, tried, row, band, client, recipe)
    met = [level for level, instruction in tried.items() if instruction.chosen]
    kept = tried.pop(max(met) if met else list(tried)[-1])
    row.instructions = [*(sorted(tried.values(), key=attrgetter("level")) if settings.intermediate else ()), kept]


async def _next_level(
    answered: Instruction, tried: Container[int], row: Row, band: Band, client: RoleClient, recipe: Recipe
) -> Instruction | None:
    """The instruction to try next; None where the band is met, or the way to it is at its end."""
    passed = sum(response.passed for response in answered.responses)
    direction = band.direction(passed, len(answered.responses) - passed, recipe.synthesize.k)
    level = answered.level + (direction or 0)
    if level in tried or not 1 <= level <= band.most_rounds:
        return None
    if level < answered.level:
        return answered.at(level)
    return await _composed_further(answered.at(answered.level), row, client, recipe)


async def answer(instruction: Instruction, row: Row, client: RoleClient, settings: Synthesize) -> None:
    """Sample and judge in waves until the instruction has what the goal needs, at most `k` responses.

    Within a wave all are judged and the lowest sampling index wins, never the first to finish, which would favour
    short answers: what is kept has the distribution of the first pass of k samples that were all judged.
    """
    questions = questions_for(instruction, row, client.templates, settings)
    while len(instruction.responses) < settings.k and not _has_enough(instruction, questions, settings):
        wanted = client.width() if settings.wave == "auto" else settings.wave
        n = min(wanted, settings.k - len(instruction.responses))
        wave = await respond(instruction.query, instruction.history, n, client)
        await judge_all(instruction, wave, row, client, settings)
        instruction.responses += wave


async def judge_all(
    instruction: Instruction, responses: list[Response], row: Row, client: RoleClient, settings: Synthesize
) -> None:
    """Judge responses to one instruction, side by side."""
    questions = questions_for(instruction, row, client.templates, settings)
    checks = checks_of(instruction.added, own_constraints(row, settings))
    judged = (check_and_judge(instruction, one, questions, checks, client, settings) for one in responses)
    await asyncio.gather(*judged)


def questions_for(instruction: Instruction, row: Row, templates: Templates, settings: Synthesize) -> list[str]:
    """What an answer is asked about: the composed constraints, the prompt's own, and what holds for every answer."""
    own = [constraint.question for constraint in own_constraints(row, settings)]
    return [*instruction.questions, *own, *(templates.judge.standing if settings.standing else ())]


def own_constraints(row: Row, settings: Synthesize) -> list[Constraint]:
    """The constraints of the prompt itself that an answer must meet too."""
    return row.constraints if settings.questions == "all" else []


async def judge_again(row: Row, client: RoleClient, settings: Synthesize) -> None:
    """Judge all responses of a row, in the place of the verdicts that they have."""
    await asyncio.gather(*(judge_all(one, one.responses, row, client, settings) for one in row.instructions))


async def contrast(instructions: list[Instruction], client: RoleClient) -> None:
    """Pairs without a judge, one at each instruction's level: an answer to the whole query, and one to the query with
    the last constraint taken away. A query that stands in two pairs is answered once.
    """
    answers: dict[str, Response] = {}
    for instruction in instructions:
        for query in (instruction.query, instruction.simpler_query):
            if query not in answers:
                (answers[query],) = await respond(query, instruction.history, 1, client)
        whole, without = (answers[query].model_copy() for query in (instruction.query, instruction.simpler_query))
        whole.passed = whole.whole
        instruction.responses = [whole, without]


async def converse(turns: list[Instruction], client: RoleClient) -> None:
    """Answer the turns of a conversation one after another, each with those before it and their answers as its history.
    Nobody judges.
    """
    said = list(turns[0].history)
    for turn in turns:
        turn.history = list(said)
        (response,) = turn.responses = await respond(turn.query, turn.history, 1, client)
        said += [Turn(role="user", content=turn.query), Turn(role="assistant", content=response.text)]


def _has_enough(instruction: Instruction, questions: list[str], settings: Synthesize) -> bool:
    if settings.band:
        passed = sum(response.passed for response in instruction.responses)
        decided = settings.band.direction(passed, len(instruction.responses) - passed, settings.k)
        return decided is not None and settings.goal != "all"
    if settings.goal == "all":
        return False
    passed = instruction.chosen is not None
    if settings.goal == "sft" or not questions:  # nobody can fail an answer that no question is asked about
        return passed
    return passed and instruction.rejected is not None


def _outcome(instruction: Instruction) -> Literal["paired", "satisfied", "unsatisfied"]:
    if instruction.chosen is None:
        return "unsatisfied"
    return "paired" if instruction.rejected is not None else "satisfied"
