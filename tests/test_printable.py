"""What a text may do to a terminal: nothing."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraif_ray.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]52;c;cm0=\x07", "\\u001b]52;c;cm0=\\u0007"),  # sets the clipboard
        ("\x1b[2J\x9b31m", "\\u001b[2J\\u009b31m"),
        ("safe\u202egpj.exe", "safe\\u202egpj.exe"),
        ("over\rwritten", "over\\u000dwritten"),
        ("\ud800", "\\ud800"),
        ("hidden\U000e0041", "hidden\\U000e0041"),
        ("a\r\nb\tc", "a\nb\tc"),
        ("Où est 图书馆? 👩‍🚀 می‌خواهم", "Où est 图书馆? 👩‍🚀 می‌خواهم"),
    ],
)
def test_what_would_not_be_seen_is_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_no_control_is_left(text: str) -> None:
    shown = printable(text)
    assert not [one for one in shown if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") and one not in "\n\t"]
    assert not [
        one for one in shown if unicodedata.bidirectional(one) in ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI")
    ]
    assert printable(shown) == shown


def test_json_stays_json() -> None:
    text = json.dumps({"a": "\u202e\x7f\x9b"}, ensure_ascii=False)
    assert json.loads(printable(text)) == json.loads(text)
