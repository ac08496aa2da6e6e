import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ultraif_ray.data.filters import is_flagged, masked, private_in, secrets_in
from ultraif_ray.data.ingest import Rejection, funnel, read_prompts, to_prompts
from ultraif_ray.data.readers import find_sources
from ultraif_ray.recipe import Ingest
from ultraif_ray.records import Prompt

AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "a1B2c3D4e5" * 3 + "f6G7h8"
KEY = "-----BEGIN RSA PRIVATE " + "KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE " + "KEY-----"


@pytest.mark.parametrize(
    ("text", "kinds", "left"),
    [
        (f"aws_id = {AWS}\n", {"AWS Access Key"}, "aws_id = [SECRET]\n"),
        (f"clone with {GITHUB} please", {"GitHub Token"}, "clone with [SECRET] please"),
        (f"Why is it refused?\n{KEY}\nThanks", {"Private Key"}, "Why is it refused?\n[SECRET]\nThanks"),
        ("Explain my password policy: at least 12 characters, no token is stored", set(), None),
        ("0b7c1de1a1a8f1d2c3b4a5968778695a4b3c2d1e is a commit", set(), None),  # entropy alone is no secret
        ("connect to 8.8.8.8", set(), None),
    ],
)
def test_secrets(text: str, kinds: set[str], left: str | None) -> None:
    found = list(secrets_in(text))
    assert {span.kind for span in found} == kinds
    assert masked(text, found) == (text if left is None else left)


@pytest.mark.parametrize(
    ("text", "kind", "left"),
    [
        ("Write to ann.lee+x@mail.example.org today", "e-mail address", "Write to name@example.com today"),
        ("ping 8.8.8.8, please", "IP address", "ping 192.0.2.1, please"),
        ("Call (774) 415-6265.", "phone number", "Call 555-0100."),
        ("Call 774-415-6265 or so", "phone number", "Call 555-0100 or so"),
        ("M: +44 7792 959309\n", "phone number", "M: 555-0100\n"),
        ("It was 5500 0000 0000 0004, I think", "card number", "It was 4111 1111 1111 1111, I think"),
        ("Pay to DE89 3704 0044 0532 0130 00 today", "bank account", "Pay to GB33 BUKB 2020 1555 5555 55 today"),
        ("orders 5500 0000 0000 0005 and DE88 3704 0044 0532 0130 00", None, None),
        ("1679616000000 ms, AB12 CDEF GHIJ KLMN", None, None),
        ("ping 192.168.0.1 or 127.0.0.1", None, None),
        ("version 3.6.0.0 of 1.2.3.4.5", None, None),
        ("ISBN 978-3-16-148410-0, in 2024-11-28 at 10.000.000 EUR, 3.14159-26535", None, None),
        ("def f(self, @property)", None, None),
    ],
)
def test_private_data(text: str, kind: str | None, left: str | None) -> None:
    found = list(private_in(text))
    assert [span.kind for span in found] == ([kind] if kind else [])
    assert masked(text, found) == (left or text)


@settings(max_examples=30)
@given(st.text(), st.lists(st.sampled_from([AWS, "a@b.org", "8.8.4.4", " and "]), max_size=4))
def test_what_is_masked_is_not_found_again(text: str, parts: list[str]) -> None:
    whole = f"{text} {' '.join(parts)}"
    left = masked(whole, [*secrets_in(whole), *private_in(whole)])
    assert AWS not in left
    assert "8.8.4.4" not in left or not parts
    assert not [span for span in private_in(left) if left[span.start : span.end] in ("a@b.org", "8.8.4.4")]


@pytest.mark.parametrize(
    ("record", "flagged"),
    [
        ({"toxic": True, "conversation": []}, True),
        ({"toxic": False, "conversation": [{"content": "x", "toxic": False}, {"content": "y", "toxic": True}]}, True),
        ({"openai_moderation": [{"flagged": False}, {"flagged": True}]}, True),
        ({"openai_moderation": {"flagged": True}}, True),
        ({"openai_moderation": [{"flagged": False}], "toxic": False}, False),
        ({"prompt": "toxic"}, False),
        ({"conversation": "toxic", "openai_moderation": None}, False),
        ("toxic", False),
    ],
)
def test_what_the_data_calls_toxic(record: Any, flagged: bool) -> None:
    assert is_flagged(record) is flagged


# ---- at ingest -------------------------------------------------------------------------------------------------------


def every(*texts: str, record: dict[str, Any] | None = None, **options: Any) -> list[Prompt | Rejection]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
    return list(to_prompts({"messages": turns} | (record or {}), "f:1", Ingest(**options)))


def test_by_default_only_what_asks_nothing_is_turned_away() -> None:
    text = f"Écris à ann@example.org: {AWS}"
    (item,) = every(text, record={"toxic": True})
    assert isinstance(item, Prompt)
    assert item.query == text
    (item,) = every("Thanks!")
    assert item == Rejection("f:1", "asks nothing", "Thanks!")
    (item,) = every("Thanks!", asks_nothing="keep")
    assert isinstance(item, Prompt)


def test_a_filter_that_drops_says_what_it_found_and_shows_no_secret() -> None:
    assert every("Écris un poème sur la mer.", languages=["en"]) == [
        Rejection("f:1", "other language", "Écris un poème sur la mer.", "fr")
    ]
    assert every("Tell me.", record={"toxic": True}, toxic="drop") == [Rejection("f:1", "toxic", "Tell me.")]
    assert every(f"Mend this: {AWS}", keys="drop") == [Rejection("f:1", "secret", "", "AWS Access Key")]
    assert every("Write to ann@example.org.", private="drop") == [
        Rejection("f:1", "private data", "", "e-mail address")
    ]
    (item,) = every("Write a poem about the sea.", languages=["en"])
    assert isinstance(item, Prompt)


def test_a_filter_that_masks_keeps_the_prompt_under_an_id_of_its_own_text() -> None:
    found = every("I am ann@example.org", "Hello", "Write to bob@example.net as (774) 415-6265", private="mask")
    assert found[0] == Rejection("f:1", "private data", "", "phone number", masked=True)
    (item,) = found[1:]
    assert isinstance(item, Prompt)
    assert item.query == "Write to name@example.com as 555-0100"
    assert item.history[0].content == "I am name@example.com"
    again = every("I am cleo@example.org", "Hello", "Write to dan@example.net as (774) 415-0000", private="mask")
    assert isinstance(again[-1], Prompt)
    assert again[-1].id == item.id


def test_what_an_earlier_turn_holds_counts_for_those_after_it() -> None:
    found = every("Tell me.", f"It is {AWS}.", "Is that one safe?", keys="drop", turns="all")
    assert [item.reason if isinstance(item, Rejection) else item.query for item in found] == ["Tell me.", "secret"]


def test_the_funnel_counts_each_prompt_once_and_looks_for_near_duplicates(tmp_path: Path) -> None:
    long = "Plan a walk of two hours along the harbour of a small town with a stop at each of its three bridges, for {}"
    texts = [long.format("Ann"), "Write to ann@example.org", long.format("Bob"), "Write to bob@example.org", "Thanks!"]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    settings = Ingest(near_duplicates=0.7, private="mask")
    items = list(funnel(read_prompts(find_sources([str(file)]), settings), settings))
    assert items[-1][1] == {"accepted": 2, "near duplicate": 1, "duplicate": 1, "asks nothing": 1}
    assert sum(items[-1][1].values()) == len(texts)
    masked_ones = [item for item, _ in items if isinstance(item, Rejection) and item.masked]
    assert Counter(item.reason for item in masked_ones) == {"private data": 2}
