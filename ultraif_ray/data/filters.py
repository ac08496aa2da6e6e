"""What a text holds that nobody wants in training data: secrets, private data; and what the data itself calls toxic.

Secrets are found by the patterns of detect-secrets alone: its plugins that go by entropy or by key words hit every
other text. Private data is what has a form of its own: e-mail addresses, public IP addresses, phone numbers. Names and
addresses have none, and are not found.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

SECRET: Final = "secret"  # noqa: S105 - the name of a filter
PRIVATE: Final = "private data"
TOXIC = "toxic"
OTHER_LANGUAGE = "other language"
NEAR_DUPLICATE = "near duplicate"
ASKS_NOTHING = "asks nothing"
"""Names of the filters: the reasons of what they turn away."""


@dataclass(frozen=True)
class Span:
    """A piece of a text that a filter found: which filter, what kind of thing it is, and where it stands."""

    filter: Literal["secret", "private data"]
    kind: str
    start: int
    end: int


def secrets_in(text: str) -> Iterator[Span]:
    """Keys, tokens and passwords."""
    for kind, pattern in _secrets():
        for found in pattern.finditer(text):
            yield Span(SECRET, kind, *found.span())


def private_in(text: str) -> Iterator[Span]:
    """E-mail addresses, public IP addresses and phone numbers."""
    for kind, pattern in _PRIVATE.items():
        for found in pattern.finditer(text):
            if kind != "IP address" or _is_public(found[0]):
                yield Span(PRIVATE, kind, *found.span())


STAND_INS = {"e-mail address": "name@example.com", "IP address": "192.0.2.1", "phone number": "555-0100"}
"""What private data is masked with: what is reserved for examples, so that the text stays one."""


def masked(text: str, spans: Iterable[Span]) -> str:
    """The text with something else in the place of what was found."""
    made, end = [], 0
    for span in sorted(spans, key=lambda one: (one.start, -one.end)):
        if span.start >= end:
            made += [text[end : span.start], STAND_INS.get(span.kind, "[SECRET]")]
        end = max(end, span.end)
    return "".join([*made, text[end:]])


def is_flagged(record: Any) -> bool:
    """Whether a record says of itself, or of a turn, that it is toxic, as WildChat and LMSYS-Chat do (`toxic`, and
    `flagged` of `openai_moderation`).
    """
    if not isinstance(record, dict):
        return False
    said = record.get("conversation")
    of_turns = said if isinstance(said, list) else []
    moderation = record.get("openai_moderation")
    moderated = moderation if isinstance(moderation, list) else [moderation]
    toxic = any(isinstance(one, dict) and one.get("toxic") is True for one in (record, *of_turns))
    return toxic or any(isinstance(one, dict) and one.get("flagged") is True for one in moderated)


# ---- patterns --------------------------------------------------------------------------------------------------------

_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)

_NO_SECRETS = ("IPPublicDetector",)


@cache
def _secrets() -> list[tuple[str, re.Pattern[str]]]:
    """The kinds of secret and their patterns, of all plugins of detect-secrets that have any."""
    from detect_secrets import plugins
    from detect_secrets.plugins.base import RegexBasedDetector

    modules = [
        importlib.import_module(f"{plugins.__name__}.{one.name}") for one in pkgutil.iter_modules(plugins.__path__)
    ]
    kinds: set[Any] = {
        kind
        for module in modules
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, RegexBasedDetector) and kind is not RegexBasedDetector
    }
    found = [
        (str(kind.secret_type), pattern)
        for kind in sorted(kinds, key=lambda kind: kind.__name__)
        if kind.__name__ not in _NO_SECRETS
        for pattern in kind.denylist
    ]
    return [("Private Key", _KEY_BLOCK), *found]


_PRIVATE = {
    "e-mail address": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,4}[A-Za-z]{2,24}\b"),
    "IP address": re.compile(
        r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]*\d)"
    ),
    "phone number": re.compile(
        r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){1,4}|"
        r"(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4})(?![\w-])"
    ),
}


def _is_public(address: str) -> bool:
    """Whether an address is one of the public network, and none that stands for examples or versions."""
    from ipaddress import ip_address

    return ip_address(address).is_global and not address.endswith((".0", ".0.0"))
