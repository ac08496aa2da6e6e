"""Control tokens that stand in a text.

A tokenizer reads `<|im_end|>` in a prompt or an answer as it reads the one that the chat template writes: as the end of
a turn. So a text could open turns of its own, such as an earlier verdict of the judge. Here they are found, and made
ordinary text: token by token where the model's tokenizer is at hand, by their form where it is not.
"""

import re
from collections.abc import Iterable
from typing import Any

FORMS = re.compile(
    r"<[|｜][^<>|｜\s]{1,60}[|｜]>"  # ChatML, Llama 3, Phi, GPT-OSS, Command R, Granite; DeepSeek
    r"|<\|[a-z_]{1,30}>|<[a-z_]{1,30}\|>"  # Gemma 4
    r"|\[\|[^\[\]|\s]{1,60}\|\]"  # EXAONE
    r"|<(?:start|end)_of_(?:turn|role|text|image)>"  # Gemma, Granite
    r"|<(?:bos|eos|pad|unk|mask|sep|cls|sop|eop|eot|eoh|eoa|eod)>|</?s>"  # sentencepiece
    r"|<(?:BOS|EOS|PAD|UNK|EOP|MASK|SEP|CLS)(?:_TOKEN)?>"
    r"|<(?:reserved_|unused|extra_id_|SPECIAL_)\d+>"
    r"|</?(?:tool_call|tool_response|tools|function_call)>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|gMASK|sMASK)\]"
    r"|\]~!?b\[?\]?|\[e~\["  # MiniMax
)
"""What the control tokens of chat models look like, for where no tokenizer is at hand."""


def holds_control(text: str) -> bool:
    """Whether something in a text has the form of a control token."""
    return FORMS.search(text) is not None


def defuse(text: str) -> str:
    """A text in which nothing has the form of a control token: a space stands behind the first character of each."""
    return FORMS.sub(_apart, text)


def _apart(found: re.Match[str]) -> str:
    return f"{found[0][0]} {found[0][1:]}"


def any_of(words: Iterable[str]) -> re.Pattern[str]:
    """Finds any of these words, the longest at each place. Letter by letter, since Gemma has six thousand of them, and
    one after the other would take a tenth of a second for a page of HTML.
    """
    found = set(filter(None, words))
    return re.compile(_branches(found) if found else "(?!)")


def _branches(words: set[str]) -> str:
    if len(words) == 1:
        return re.escape(*words)
    following: dict[str, set[str]] = {}
    for word in filter(None, words):
        following.setdefault(word[0], set()).add(word[1:])
    branches = "|".join(re.escape(letter) + _branches(rest) for letter, rest in sorted(following.items()))
    return f"(?:{branches})" + ("?" if "" in words else "")


_LOOKS_LIKE_ONE = re.compile(r"[<\[(|>\]{].*[>\])|<\[}]", re.DOTALL)
_HTML = re.compile(
    r"</?(?:table|caption|thead|tbody|tfoot|tr|th|td|h[1-6]|p|div|span|blockquote|strong|em|b|i|u|s|sub|sup|code|pre|"
    r"ul|ol|li|a|img|br|hr)>"
)


def control_tokens(tokenizer: Any) -> list[str]:
    """The control tokens of a tokenizer: its special tokens, and others that were added and look like some.

    Not those that are ordinary text: words, white space, and the HTML tags of Gemma's vocabulary. They keep their own
    tokens. There are none where a tokenizer never makes a control token out of text, as Mistral's own.

    Args:
        tokenizer: of transformers.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return [
        token.content
        for token in added
        if token.content.strip()
        and (token.special or (_LOOKS_LIKE_ONE.fullmatch(token.content) and not _HTML.fullmatch(token.content)))
    ]
