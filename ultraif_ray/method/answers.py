"""Is a response an answer at all, by its text alone? One that goes round in circles, or refuses, is none.

Like one that was cut off, such a response neither passes nor is the failed half of a pair, and nobody is asked about
it.
"""

import re
from collections import Counter
from typing import Literal

from ultraif_ray.method.texts import words
from ultraif_ray.recipe import Synthesize

_RUN = 5
"""Words of a run: five in a row seldom come twice by chance."""

LEAST = 50
"""Words of a response below which it cannot go round in circles."""

_CANNOT = r"(?:can(?:no|['’])t|can not|won['’]t|will not|(?:am |['’]m )(?:not able|unable) to|do not|don['’]t)"
_TO_DO = (
    "(?:assist|help|comply|fulfil|provide|create|generate|write|answer|do that|engage|continue|discuss|support|"
    "have (?:access|the ability))"
)
_REFUSES = re.compile(
    rf"\bi(?: am|['’]m)? (?:very |so |really |truly )?sorry,? but (?:as an ai\b|i ?{_CANNOT})"
    rf"|(?:^|[.!?:\n] *)(?:unfortunately, |as an ai(?: language)?(?: model| assistant)?,? )?i ?{_CANNOT} {_TO_DO}"
    r"|lo siento,? pero no puedo|je suis désolée?,? mais je ne (?:peux|suis)|es tut mir leid,? aber ich kann"
    r"|mi dispiace,? ma non posso|desculpe,? mas (?:eu )?não posso|抱歉，?(?:但)?我(?:不能|无法)|申し訳ありませんが",
    re.IGNORECASE,
)

_OPENING = 200
"""Characters in which a refusal is looked for: further on, it is somebody's in a story."""


def repetition(text: str) -> float:
    """The share of a text's runs of five words that stand in it more than once, in [0, 1]; 0 for a short one."""
    said = words(text)
    if len(said) < LEAST:
        return 0.0
    runs = Counter(zip(*(said[i:] for i in range(_RUN)), strict=False))
    return sum(times for times in runs.values() if times > 1) / runs.total()


def refuses(text: str) -> bool:
    """Whether a response opens with a refusal, in English or another large language."""
    return _REFUSES.search(text[:_OPENING]) is not None


def no_answer(text: str, settings: Synthesize) -> Literal["", "repetitive", "refusal"]:
    """Why a response is no answer, going by the filters that are on; empty where it is one."""
    if settings.repetitive is not None and repetition(text) >= settings.repetitive:
        return "repetitive"
    return "refusal" if settings.refusals == "drop" and refuses(text) else ""
