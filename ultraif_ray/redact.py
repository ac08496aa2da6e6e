"""Secrets: found where they do not belong, and left out of what is printed.

What stands in a recipe or an option is kept in manifests, rows, cards and logs, so a secret in it is refused; the
environment is the place for it.
"""

import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

_KEYS = re.compile(
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}"  # AWS
    r"|(?:hf|gh[pousr]|glpat|xox[abprs]|npm|pypi)[_-][A-Za-z0-9_-]{20,}"
    r"|github_pat_\w{20,}|sk-[A-Za-z0-9_-]{20,}|AIza[\w-]{35}|ya29\.[\w-]{20,}"
    r"|eyJ[\w-]{10,}\.[\w-]{10,}\.[\w-]{10,})"  # a JSON Web Token
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
"""How providers' keys look."""

_LOGIN = re.compile(r"(?<=://)(?:[^/@\s'\"]*@|[^/@:\s'\"]+:(?!\d+(?:[/?#\s'\"]|$))[^@\s'\"]*@)")
"""User and password before a host. A password may hold a slash, as the secret keys of AWS do."""

_QUERY = re.compile(r"(?<=[?&#;])([\w.%-]+)=([^&#;\s'\"]+)")

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRETS = {"secret", "secrets", "password", "passwd", "passphrase", "pwd", "credential", "credentials", "apikey",
            "authorization", "bearer"}  # fmt: skip
_KINDS_OF_KEY = {"api", "access", "private", "account", "shared", "secret", "signing", "encryption", "auth"}
_TOKENS_OF_TEXT = {"eos", "bos", "pad", "unk", "mask", "sep", "cls", "image", "video", "audio", "start", "end", "stop",
                   "special", "first", "next", "last", "per", "decoder", "tool", "think", "assistant"}  # fmt: skip
_IN_A_QUERY = {"sig", "signature", "key", "sas", "auth", "code", "jwt", "security", "policy", "signed"}


def names_a_secret(name: str) -> bool:
    """Whether what goes by this name is a secret: `hf_token`, `aws_secret_access_key`, but not `eos_token`."""
    words = [word.casefold() for word in _WORDS.findall(name)]
    if _SECRETS & set(words):
        return words[-1] != "env"  # the name of a variable
    before = ["", *words]
    if words[-1:] == ["token"]:
        return before[-2] not in _TOKENS_OF_TEXT
    return words[-1:] == ["key"] and before[-2] in _KINDS_OF_KEY


def secret_of_address(address: str) -> str:
    """What of an address is a secret, in words without it; empty where nothing is."""
    if _LOGIN.search(address):
        return "user or password"
    for name, _ in _QUERY.findall(address):
        if _secret_parameter(name):
            return f"secret (its query has {name})"
    return "key" if _KEYS.search(address) else ""


def _secret_parameter(name: str) -> bool:
    words = {word.casefold() for word in _WORDS.findall(unquote(name))}
    return names_a_secret(unquote(name)) or bool(words & _IN_A_QUERY)


def secrets_in(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """The secrets in a value and in all that it holds, JSON in texts too: where each stands, and what it is in words.

    Args:
        value: dicts, lists and texts.
        place: where it stands.
    """
    if isinstance(value, dict):
        for key, inner in value.items():
            there = f"{place}.{key}" if place else str(key)
            if names_a_secret(str(key)) and isinstance(inner, str) and inner:
                yield there, f"{key} is a secret"
            else:
                yield from secrets_in(inner, there)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from secrets_in(inner, f"{place}.{number}" if place else str(number))
    elif isinstance(value, str):
        if value.lstrip().startswith(("{", "[")):
            try:
                inner = json.loads(value)
            except (ValueError, RecursionError):
                inner = None
            yield from secrets_in(inner, place)
        elif "://" in value and "\n" not in value and (what := secret_of_address(value)):
            yield place, f"an address there holds a {what}"
        elif _KEYS.search(value):
            yield place, "what stands there looks like a key"


def redacted(text: str) -> str:
    """A text with `***` for the secrets in it."""
    text = _KEYS.sub("***", _LOGIN.sub("***@", text))
    return _QUERY.sub(lambda found: f"{found[1]}=***" if _secret_parameter(found[1]) else found[0], text)
