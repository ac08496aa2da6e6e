"""Step 1: find the constraints of a wild prompt (paper, section 2.2)."""

from pydantic import BaseModel, ConfigDict

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method import prompts
from ultraif_ray.method.replies import (
    MAX_QUESTION,
    QUESTION_PATTERN,
    ask_for_json,
    asks_about,
    is_english,
    overlap,
    string_limit,
)
from ultraif_ray.recipe import Decompose
from ultraif_ray.records import CATEGORIES, Category, Constraint, Prompt


class FoundConstraint(BaseModel):
    """One constraint as the decomposer writes it. No question means: only part of the scenario."""

    model_config = ConfigDict(extra="forbid")
    category: Category
    constraint: str
    simplified_query: str
    question: str


class Decomposition(BaseModel):
    """The decomposer's whole reply."""

    model_config = ConfigDict(extra="forbid")
    constraints: list[FoundConstraint]


async def decompose(prompt: Prompt, client: RoleClient, settings: Decompose) -> list[Constraint]:
    """Find the constraints of `prompt`; an empty list says it is simple.

    Raises:
        UnusableReply: no sample gave a decomposition that holds.
    """

    def use(reply: Decomposition, raw: str) -> list[Constraint]:
        asked = [found for found in reply.constraints if found.question.strip()]
        usable = {found.question: found for found in asked if _holds(found, prompt.query, settings)}
        if asked and not usable:
            raise UnusableReply("decomposer", "no constraint that stands in the prompt was taken away", raw)
        return [
            Constraint(
                category=found.category,
                text=found.constraint.strip(),
                simplified_query=found.simplified_query.strip(),
                question=question.strip(),
            )
            for question, found in usable.items()
        ]

    return await ask_for_json(
        client,
        "decomposer",
        prompts.decompose(prompt),
        prompt.query,
        reply_schema(prompt, settings),
        Decomposition,
        use,
        settings.attempts,
    )


def _holds(found: FoundConstraint, query: str, settings: Decompose) -> bool:
    """Whether the constraint stands in the prompt and the simplified query is the prompt without it.

    Constraints are quoted, so words can tell: the constraint's words are mostly the prompt's, fewer of them are left
    in the simplified query, which is made of the prompt's words and keeps a good part of them.
    """
    simplified = found.simplified_query
    return (
        overlap(found.constraint, query) >= 0.5
        and overlap(found.constraint, simplified) < overlap(found.constraint, query)
        and overlap(simplified, query) >= settings.min_overlap
        and overlap(query, simplified) >= settings.min_kept
        and len(found.question) <= MAX_QUESTION
        # The question is in English, whatever the query's language: only in English do they share words.
        and (asks_about(found.question, found.constraint) or not is_english(query))
    )


def reply_schema(prompt: Prompt, settings: Decompose) -> dict[str, object]:
    """The JSON Schema that holds a decomposer's reply: up to `max_constraints` constraints of a bounded length."""
    text = {"type": "string", "minLength": 1, "maxLength": 256}
    found = {
        "constraint": text,
        "simplified_query": {"type": "string", "minLength": 1, "maxLength": string_limit(len(prompt.query))},
        "question": {"type": "string", "pattern": f"^({QUESTION_PATTERN})?$"},
        "category": {"type": "string", "enum": list(CATEGORIES)},
    }
    item = {"type": "object", "properties": found, "required": list(found), "additionalProperties": False}
    items = {"type": "array", "items": item, "maxItems": settings.max_constraints}
    return {
        "type": "object",
        "properties": {"constraints": items},
        "required": ["constraints"],
        "additionalProperties": False,
    }
