"""Step 1: find the constraints of a wild prompt (paper, section 2.2)."""

import asyncio
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method import prompts
from ultraif_ray.method.checkers.naming import named, schema
from ultraif_ray.method.checkers.registry import Checker
from ultraif_ray.method.checks import decomposition_holds, fault_of_decomposition
from ultraif_ray.method.replies import as_dropped, ask_for_json
from ultraif_ray.recipe import Decompose
from ultraif_ray.records import CATEGORIES, Category, Constraint, Prompt


class FoundConstraint(BaseModel):
    """One constraint as the decomposer writes it. No question means: only part of the scenario."""

    model_config = ConfigDict(extra="forbid")
    category: Category
    constraint: str
    simplified_query: str
    question: str = ""
    check: Any = None


class Decomposition(BaseModel):
    """The decomposer's whole reply."""

    model_config = ConfigDict(extra="forbid")
    constraints: list[FoundConstraint]


async def decompose(
    prompt: Prompt, client: RoleClient, settings: Decompose, checkers: tuple[Checker, ...] = ()
) -> list[Constraint]:
    """Find the constraints of `prompt`; an empty list says it is simple.

    A constraint that does not hold (`decompose.check`) is noted in `client.dropped`, and so is a check that does not
    say what its constraint says. `checkers` are those that may be named.

    Raises:
        UnusableReply: no sample gave a constraint that holds, nor said that there is none.
    """
    apart = settings.calls == 2

    async def use(reply: Decomposition, raw: str) -> list[Constraint]:
        found = reply.constraints
        if not apart and any("question" not in one.model_fields_set for one in found):
            raise UnusableReply("decomposer", "JSON of another shape", raw)
        if apart:
            found = await asyncio.gather(*(_with_question(one, prompt, client, settings) for one in found))
        asked = [one for one in found if one.question.strip()]
        held = await asyncio.gather(*(_held(one, prompt, client, settings) for one in asked))
        constraints = [constraint for constraint in held if constraint]
        if asked and not constraints:
            raise UnusableReply("decomposer", "no constraint held", raw)
        for one, constraint in zip(asked, held, strict=True):
            if constraint:
                constraint.check = named(one.check, constraint.text, checkers, "decomposer", client)
        return constraints

    return await ask_for_json(
        client,
        "decomposer",
        prompts.decompose(client.templates, prompt, questions=not apart, checkers=checkers),
        prompt.query,
        reply_schema(settings.max_constraints, questions=not apart, checkers=checkers),
        Decomposition,
        use,
        settings.attempts,
        copies=settings.max_constraints,
        rescue=whole_before_the_cut,
    )


class Question(BaseModel):
    """The decomposer's reply where the question is asked for in a call of its own."""

    model_config = ConfigDict(extra="forbid")
    question: str


async def _with_question(
    found: FoundConstraint, prompt: Prompt, client: RoleClient, settings: Decompose
) -> FoundConstraint:
    """A constraint with the question that a second call gives; one without any is dropped, and that is noted."""

    async def use(reply: Question, raw: str) -> str:
        return reply.question

    messages = prompts.ask_for_question(client.templates, prompt, found.constraint)
    try:
        question = await ask_for_json(
            client, "decomposer", messages, prompt.query, QUESTION_SCHEMA, Question, use, settings.attempts
        )
    except UnusableReply as unusable:
        client.dropped.append(as_dropped(unusable))
        return found
    return found.model_copy(update={"question": question})


async def _held(found: FoundConstraint, prompt: Prompt, client: RoleClient, settings: Decompose) -> Constraint | None:
    """The constraint, if it holds; else None, and why it was dropped is noted."""
    constraint = Constraint(
        category=found.category,
        text=found.constraint.strip(),
        simplified_query=found.simplified_query.strip(),
        question=found.question.strip(),
    )
    fault = ""
    if settings.check != "none":
        fault = fault_of_decomposition(prompt.query, constraint.text, constraint.simplified_query, constraint.question)
    if not fault and settings.check == "model" and not await decomposition_holds(prompt.query, constraint, client):
        fault = "the model says that it does not hold"
    if fault:
        client.dropped.append(as_dropped(UnusableReply("decomposer", fault, found.model_dump_json(exclude_unset=True))))
        return None
    return constraint


def whole_before_the_cut(text: str) -> Decomposition | None:
    """The constraints that stood whole before a reply was cut off; None where none did."""
    whole: list[FoundConstraint] = []
    try:
        partial = from_json(text, allow_partial=True)
    except ValueError:
        return None
    found = partial.get("constraints") if isinstance(partial, dict) else None
    for item in found if isinstance(found, list) else []:
        try:
            whole.append(FoundConstraint.model_validate(item))
        except ValidationError:
            break
    return Decomposition(constraints=whole) if whole else None


QUESTION_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"question": {"type": "string"}},
    "required": ["question"],
    "additionalProperties": False,
}
"""The JSON Schema of a reply that is one question."""


def reply_schema(max_constraints: int, questions: bool = True, checkers: tuple[Checker, ...] = ()) -> dict[str, object]:
    """The JSON Schema that holds a decomposer's reply, with questions or without, and with checks where any is on. It
    is the same for all prompts, so it is compiled once, and it bounds no length: a bound would cut a text and call it
    whole.
    """
    text = {"type": "string"}
    found = {
        "constraint": text,
        "simplified_query": text,
        **({"question": text} if questions else {}),
        "category": {"type": "string", "enum": list(CATEGORIES)},
        **({"check": schema(checkers)} if checkers else {}),
    }
    item = {"type": "object", "properties": found, "required": list(found), "additionalProperties": False}
    items = {"type": "array", "items": item, "maxItems": max_constraints}
    return {
        "type": "object",
        "properties": {"constraints": items},
        "required": ["constraints"],
        "additionalProperties": False,
    }
