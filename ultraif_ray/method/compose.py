"""Step 2: add one constraint to a prompt, with the question that checks it (UltraComposer; paper, section 2.2)."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method import prompts
from ultraif_ray.method.checkers.naming import enabled, named, schema
from ultraif_ray.method.checkers.registry import Checker
from ultraif_ray.method.checks import DOES_NOT_SUIT, composition_holds, fault_of_composition, is_question
from ultraif_ray.method.contamination import CONTAMINATED, contaminated_by, guard
from ultraif_ray.method.replies import ask_for_json
from ultraif_ray.method.texts import new_text
from ultraif_ray.recipe import Synthesize
from ultraif_ray.records import AddedConstraint, Category, Instruction
from ultraif_ray.templates import Templates

LEAKS = (
    "augmented query",
    "initial query",
    "[history]",
    "earlier conversation:",
    "kind of constraint",
    "human evaluator",
    "response in json format",
)
"""Words of the composer's own instructions; a composed query that holds one has leaked them. The last two are the
released checkpoint's: the authors' code drops its answers that hold them."""


MOST_QUESTIONS = 3
"""Questions that a trained composer may ask of one query. The released checkpoint answers with a list."""


class Composed(BaseModel):
    """The composer's reply, in the released checkpoint's own keys."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(alias="augmented query")
    question: list[str]
    check: Any = None


class Addition(BaseModel):
    """The reply of a composer that writes the constraint alone (`templates.composer.writes`)."""

    model_config = ConfigDict(extra="forbid")
    addition: str
    question: list[str]
    check: Any = None


def reply_of(templates: Templates) -> type[Composed | Addition]:
    """What a prompted composer replies; a trained one replies with `Composed`."""
    return Addition if templates.composer.writes == "addition" else Composed


def put_behind(query: str, addition: str) -> str:
    """A query and, behind it, a constraint: a paragraph of its own where the query has several lines."""
    query, addition = query.rstrip(), addition.strip()
    if not addition:
        return query
    if "\n" in query:
        return f"{query}\n\n{addition}"
    if addition[0] in ",;:.":
        return f"{query}{addition}"
    return f"{query}. {addition}" if query[-1:].isalnum() else f"{query} {addition}"


async def compose(previous: Instruction, category: Category, client: RoleClient, settings: Synthesize) -> Instruction:
    """One round: `previous` with one more constraint, of `category`, and what checks it.

    A trained composer chooses the category itself, is asked in the form it was trained on, and names no check. Where
    its engine has no other model, `synthesize.check: model` is left to the judge (see `journey.keep_what_suits`).
    A check that does not say what the constraint says is noted in `client.dropped`. What makes a benchmark's prompt of
    the query is no use (`decontaminate`).

    Raises:
        UnusableReply: no sample added a constraint that holds.
    """
    trained = client.composer_is_trained
    checkers = () if trained else enabled(settings.checkers)
    messages = (
        prompts.compose_trained(previous) if trained
        else prompts.compose(client.templates, previous, category, checkers)
    )  # fmt: skip
    reply_model: type[Composed | Addition] = Composed if trained else reply_of(client.templates)

    async def use(reply: Composed | Addition, raw: str) -> Instruction:
        made = accept(reply, raw, previous, "" if trained else category, by_text=settings.check != "none")
        if found := contaminated_by(previous.query, made.query, guard(client.decontaminate)):
            raise UnusableReply("composer", CONTAMINATED, raw, f"{CONTAMINATED}: {found}")
        asks_here = settings.check == "model" and not client.composer_is_a_model_of_its_own
        if asks_here and not await composition_holds(made, client, "composer"):
            raise UnusableReply("composer", DOES_NOT_SUIT, raw)
        added = made.added[-1]
        if len(added.questions) == 1:
            added.check = named(reply.check, added.text, checkers, "composer", client)
        return made

    return await ask_for_json(
        client,
        "composer",
        messages,
        previous.query,
        reply_schema(reply_model, MOST_QUESTIONS if trained else 1, checkers),
        reply_model,
        use,
        settings.attempts,
        copies=1 if reply_model is Composed else 0,
    )


def accept(
    reply: Composed | Addition,
    raw: str,
    previous: Instruction,
    category: Category | Literal[""] = "",
    by_text: bool = True,
) -> Instruction:
    """The instruction that a composer's reply makes of `previous`.

    Args:
        reply: the parsed reply.
        raw: the reply as it came.
        previous: the instruction that it adds to.
        category: the category that was asked for.
        by_text: hold it to `checks.fault_of_composition`; a reply without a new query or question is no use anyway.

    Raises:
        UnusableReply: why it is no use.
    """
    query = reply.query.strip() if isinstance(reply, Composed) else put_behind(previous.query, reply.addition)
    fresh = [q.strip() for q in reply.question if is_question(q) and q.strip() not in previous.questions]
    if any(leak in query.casefold() and leak not in previous.query.casefold() for leak in LEAKS):
        raise UnusableReply("composer", "leaks its own instructions", raw)
    if by_text and (fault := fault_of_composition(previous.query, query, previous.questions)):
        raise UnusableReply("composer", fault, raw)
    if query == previous.query or not query:
        raise UnusableReply("composer", "query left as it was", raw)
    if not fresh:
        raise UnusableReply("composer", "no new question", raw)
    added = AddedConstraint(
        round=previous.level + 1,
        category=category,
        text=new_text(previous.query, query),
        query=query,
        questions=fresh,
    )
    return previous.model_copy(update={"added": [*previous.added, added]})


def reply_schema(
    reply: type[Composed | Addition], most_questions: int, checkers: tuple[Checker, ...] = ()
) -> dict[str, object]:
    """The JSON Schema that holds a composer's reply: the longer query, or what is added to it, one to `most_questions`
    questions, and a check where any is on. It is the same for all queries and bounds no length: see
    `decompose.reply_schema`.
    """
    properties = {
        "augmented query" if reply is Composed else "addition": {"type": "string"},
        "question": {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": most_questions},
        **({"check": schema(checkers)} if checkers else {}),
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
