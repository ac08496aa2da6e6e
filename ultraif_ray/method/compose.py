"""Step 2: add one constraint to a prompt, with the question that checks it (UltraComposer; paper, section 2.2)."""

from pydantic import BaseModel, ConfigDict, Field

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method import prompts
from ultraif_ray.method.replies import (
    MAX_QUESTION,
    QUESTION_PATTERN,
    ask_for_json,
    asks_about,
    is_english,
    loops,
    overlap,
    string_limit,
    words,
)
from ultraif_ray.recipe import Synthesize
from ultraif_ray.records import Instruction

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


async def compose(previous: Instruction, category: str, client: RoleClient, settings: Synthesize) -> Instruction:
    """One round: `previous` with one more constraint, of `category`, and one more question.

    A trained composer chooses the category itself, and is asked in the form it was trained on.

    Raises:
        UnusableReply: no sample changed the query, kept its subject and brought a new question.
    """
    trained = client.composer_is_trained
    messages = prompts.compose_trained(previous) if trained else prompts.compose(previous, category)
    return await ask_for_json(
        client,
        "composer",
        messages,
        previous.query,
        reply_schema(previous, MOST_QUESTIONS if trained else 1),
        Composed,
        lambda reply, raw: accept(reply, raw, previous, settings.min_overlap),
        settings.attempts,
    )


def accept(reply: Composed, raw: str, previous: Instruction, min_overlap: float) -> Instruction:
    """The instruction that a composer's reply makes of `previous`.

    Raises:
        UnusableReply: it did not change the query, or lost its subject, or brought no question about the change.
    """
    query = reply.query.strip()
    fresh = [q.strip() for q in reply.question if 0 < len(q.strip()) <= MAX_QUESTION]
    fresh = [q for q in fresh if q not in previous.questions]
    if overlap(query, previous.query) == 1.0:  # no word is new
        raise UnusableReply("composer", "query left as it was", raw)
    if any(leak in query.casefold() and leak not in previous.query.casefold() for leak in LEAKS):
        raise UnusableReply("composer", "leaks its own instructions", raw)
    if overlap(previous.query, query) < min_overlap:
        raise UnusableReply("composer", "loses the subject of the query", raw)
    if loops(query) and not loops(previous.query):
        raise UnusableReply("composer", "repeats itself", raw)
    if not fresh:
        raise UnusableReply("composer", "no new question", raw)
    # The question is in English, whatever the query's language: only in English do they share words.
    added = " ".join(set(words(query)) - set(words(previous.query)))
    if is_english(query) and not any(asks_about(question, added) for question in fresh):
        raise UnusableReply("composer", "the question is not about what was added", raw)
    return Instruction(
        level=previous.level + 1,
        initial_query=previous.initial_query,
        simpler_query=previous.query,
        query=query,
        questions=previous.questions + fresh,
        history=previous.history,
    )


def reply_schema(previous: Instruction, most_questions: int) -> dict[str, object]:
    """The JSON Schema that holds a composer's reply: the longer query, and one to `most_questions` questions."""
    properties = {
        "augmented query": {
            "type": "string",
            "minLength": 1,
            "maxLength": string_limit(len(previous.query) + 256),
        },
        "question": {
            "type": "array",
            "items": {"type": "string", "pattern": f"^{QUESTION_PATTERN}$"},
            "minItems": 1,
            "maxItems": most_questions,
        },
    }
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
