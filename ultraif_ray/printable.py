"""A text as it can be shown: whatever it holds, it moves no cursor, sets no title and fills no clipboard.

A terminal runs the escape sequences in what it prints, and bidirectional controls show a text in another order than it
has, in a terminal as on a page.
"""

import re

_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
"""Controls (but tab and line feed), marks that order or hide text, half surrogates. Not the joiners of emoji and
Persian."""


def printable(text: str) -> str:
    r"""A text with what would not be seen written out, as in JSON: `\u001b`."""
    return _UNSEEN.sub(_written_out, text.replace("\r\n", "\n"))


def _written_out(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
