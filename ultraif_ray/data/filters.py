"""What a text holds that nobody wants in training data: secrets, private data; and what the data itself calls toxic.

Secrets are found by the patterns of detect-secrets alone: its plugins that go by entropy or by key words hit every
other text. Private data is what has a form of its own: e-mail addresses, public IP addresses, phone numbers, and the
numbers of cards and accounts, which have check digits. Names and street addresses have none, and are not found.
"""

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from typing import Any, Final, Literal

SECRET: Final = "secret"  # noqa: S105 - the name of a filter
PRIVATE: Final = "private data"
TOXIC = "toxic"
OTHER_LANGUAGE = "other language"
DUPLICATE = "duplicate"
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
    """E-mail addresses, public IP addresses, and numbers of phones, cards and bank accounts."""
    for kind, (pattern, is_one) in _PRIVATE.items():
        for found in pattern.finditer(text):
            if is_one(found[0]):
                yield Span(PRIVATE, kind, *found.span())


STAND_INS = {
    "e-mail address": "name@example.com",
    "IP address": "192.0.2.1",
    "phone number": "555-0100",
    "card number": "4111 1111 1111 1111",
    "bank account": "GB33 BUKB 2020 1555 5555 55",
}
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


def _is_public(address: str) -> bool:
    """Whether an address is one of the public network, and none that stands for examples or versions."""
    return ip_address(address).is_global and not address.endswith(".0")


def _is_card(number: str) -> bool:
    """Whether a number has the check digit of cards (Luhn)."""
    digits = [int(sign) for sign in reversed(number) if sign.isdigit()]
    return sum(digits[0::2]) % 10 == -sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2]) % 10


def _is_account(number: str) -> bool:
    """Whether a number has the check digits of an IBAN (ISO 7064, mod 97-10)."""
    signs = number.replace(" ", "")
    return int("".join(str(int(sign, 36)) for sign in signs[4:] + signs[:4])) % 97 == 1


_PRIVATE: dict[str, tuple[re.Pattern[str], Callable[[str], bool]]] = {
    "e-mail address": (re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.){1,4}[A-Za-z]{2,24}\b"), bool),
    "IP address": (
        re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]*\d)"),
        _is_public,
    ),
    "card number": (
        re.compile(
            r"(?<![\w.-])(?:(?:4\d{3}|5[1-5]\d\d|6011|65\d\d)(?:[ -]?\d{4}){3}|3[47]\d\d[ -]?\d{6}[ -]?\d{5})(?![\w-])"
        ),
        _is_card,
    ),
    "bank account": (
        re.compile(r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"),
        _is_account,
    ),
    "phone number": (
        re.compile(
            r"(?<![\w.+-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){1,4}|"
            r"(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[ .-]\d{4})(?![\w-])"
        ),
        bool,
    ),
}
"""Kinds of private data: what has their form, and whether such a text is one."""
