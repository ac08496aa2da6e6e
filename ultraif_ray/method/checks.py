"""Is a decomposition, or a composition, what it claims to be? By the text alone, or by asking a model.

By the text: by what left the query and what came to it, counted in words, so that order, repeated words, pasted text
and script do not matter. It sees what a text shows: a second demand that left with the first, scrambled words, a number
that changed. Whether a question checks its constraint, or a new demand contradicts an older one, a model is asked: one
token of a yes/no question, after examples that every row shares.
"""

import re

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.method import prompts
from ultraif_ray.method.replies import probability_of_yes
from ultraif_ray.method.texts import broken_pairs, missing, words
from ultraif_ray.recipe import CHECK_LABELS
from ultraif_ray.records import Constraint, Instruction, Message, Role

MAX_QUESTION = 300
"""Characters of a question at most; a longer one asks more than one thing or runs on."""

DOES_NOT_SUIT = "the model says that it does not suit the query"
"""Why a composition is dropped that the check by model refuses."""

_ENDS_AS_QUESTION = re.compile(r"[?？؟][\"'”’)]*$")

_IN_ANY_QUESTION = frozenset(
    words(
        "a all an and answer any are as at be been by can contain did do does each every exactly for from has have if "
        "in is it its least most not of on only or reply response than that the there this to was were will with would"
    )
)
"""Words of English questions, which are English whatever the query's language, that say nothing of what is asked."""


_SHORT = 3
"""A query of so few words may well be said twice."""


def is_question(text: str) -> bool:
    """Whether a text can be a yes/no question of reasonable length. How it opens is left to whoever wrote it."""
    text = text.strip()
    return 1 < len(text) <= MAX_QUESTION and _ENDS_AS_QUESTION.search(text) is not None


# ---- by the text -----------------------------------------------------------------------------------------------------


def fault_of_decomposition(query: str, constraint: str, simplified: str, question: str) -> str:
    """What is wrong with a constraint that was taken out of a query, as a fixed phrase; empty where nothing is.

    What left must be the constraint and little else; next to nothing may come; what stays keeps its order. The bounds
    leave room for a connective and a mended sentence.
    """
    before, after, demand = words(query), words(simplified), words(constraint)
    left, came = missing(before, after), missing(after, before)
    beside = missing(left, demand)
    if not is_question(question):
        return "not a question"
    if not after or not left:
        return "nothing was taken away"
    if len(beside) == len(left):
        return "the constraint was not taken away"
    if len(beside) > max(2, len(demand) // 4, len(before) // 100):
        return "more than the constraint was taken away"
    if len(came) > max(2, len(after) // 5):
        return "words were added"
    if broken_pairs(after, before) > max(3, len(after) // 2):
        return "the words were scrambled"
    return ""


def fault_of_composition(before: str, after: str, questions: list[str]) -> str:
    """What is wrong with a query that got one more constraint, as a fixed phrase; empty where nothing is.

    Args:
        before: the query.
        after: the query with the new constraint.
        questions: those of the constraints that were added earlier.
    """
    old, new = words(before), words(after)
    left = missing(old, new)
    if not missing(new, old):
        return "query left as it was"
    if len(old) > _SHORT and not missing(old + old, new):
        return "the query stands there twice"
    if len(left) > max(3, len(old) // 8) or (old and len(left) == len(old)):
        return "loses the subject of the query"
    if any(any(map(str.isdigit, word)) for word in left):
        return "a number of the query was changed"
    if {word for question in questions for word in words(question)} & set(left) - _IN_ANY_QUESTION:
        return "an earlier demand was changed"
    return ""


# ---- by asking a model -----------------------------------------------------------------------------------------------


async def decomposition_holds(query: str, constraint: Constraint, client: RoleClient) -> bool:
    """Ask the decomposer whether only this constraint left the query, and whether its question checks it alone."""
    return await _yes(client, "decomposer", prompts.check_decomposition(query, constraint), query)


async def composition_holds(made: Instruction, client: RoleClient, role: Role) -> bool:
    """Ask a model whether the last constraint suits the query: it contradicts nothing, and its questions check it."""
    return await _yes(client, role, prompts.check_composition(made), made.query)


async def _yes(client: RoleClient, role: Role, messages: list[Message], query: str) -> bool:
    (completion,) = await client.ask(role, messages, query, labels=CHECK_LABELS, base=True)
    p = probability_of_yes(completion.label_logprobs, CHECK_LABELS)
    return p is not None and p >= 0.5
