"""From messages to what a model reads, through its chat template; and from what it wrote to a text.

Some templates (Gemma 2's, Mistral's first) know no system role: they raise, or leave the message out without a word.
For those the system message is put before the first user turn.

What stands in a message is text, whatever it says: control tokens in it are no control tokens of the conversation.

Most of what is asked stands in many requests: instructions, examples, a response that is judged again. So the text is
cut into pieces, and the tokens of each are kept. The cuts are behind control tokens that the template writes: a
tokenizer takes these out before it looks at anything else, so that no merge reaches over one, and the pieces have the
tokens that the whole has.
"""

import re
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError

from ultraif_ray.engine.control import any_of, control_tokens
from ultraif_ray.errors import RequestRefused
from ultraif_ray.records import Message

_SENTINEL = "sentinel-of-the-system-message"

_BEGIN, _END = "\U000f0000", "\U000f0001"
"""Characters for private use that transformers (`sanitize_control_tokens`) puts around control tokens that are text."""

_QUOTED = re.compile(f"{_BEGIN}(.)(.*?){_END}", re.DOTALL)


_KEPT = 1024
"""Pieces whose tokens are kept, the last used of all. A request has some twenty of its examples, which others have
too, and one or two of its own.
"""

_CONTEXT = 32
"""Tokens of a prompt's end that tell how the text behind it begins."""


class Chat:
    """A tokenizer's chat template, asked once whether it takes a system message.

    Args:
        tokenizer: of transformers, or one that speaks its `apply_chat_template`.
        template: the text of a template in place of the tokenizer's own.
        variables: what the template gets besides the messages, such as `enable_thinking`.
    """

    def __init__(self, tokenizer: Any, template: str | None = None, variables: dict[str, Any] | None = None):
        self._tokenizer, self._options = tokenizer, dict(variables or {})
        if template is not None:
            self._options["chat_template"] = template
        self._control = any_of(control_tokens(tokenizer))
        self.is_known = getattr(tokenizer, "backend_tokenizer", None) is not None
        """Whether the tokenizer is one of the library `tokenizers`, so that what it does to a text is known."""
        self.takes_system = self._takes_system()
        self._cuts = any_of(self._where_to_cut())
        self._piece = lru_cache(_KEPT)(self._tokens_behind)

    def fit(self, messages: list[Message]) -> list[Message]:
        """The messages as the template takes them."""
        return messages if self.takes_system else fold_system(messages)

    def holds_control(self, messages: list[Message]) -> bool:
        """Whether a control token of this tokenizer stands in a message."""
        return any(self._control.search(message["content"]) for message in messages)

    def quote(self, text: str) -> str:
        """A text as it goes between what a template wrote: `encode` makes no control token of what is in it."""
        if _BEGIN in text or _END in text:
            text = text.replace(_BEGIN, "").replace(_END, "")
        return self._control.sub(f"{_BEGIN}\\g<0>{_END}", text)

    def tokens(self, messages: list[Message], add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation, up to where the answer begins if that is asked for.

        Raises:
            RequestRefused: the template refuses the conversation, for instance two user turns in a row.
        """
        return self.encode(self.text(messages, add_generation_prompt))

    def text(self, messages: list[Message], add_generation_prompt: bool = True) -> str:
        """The same as text, for `encode`.

        Raises:
            RequestRefused: as `tokens`.
        """
        quoted = [message | {"content": self.quote(message["content"])} for message in self.fit(messages)]
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    quoted, add_generation_prompt=add_generation_prompt, tokenize=False, **self._options
                )
            )
        except TemplateError as error:
            raise RequestRefused(f"the model's chat template refuses this conversation: {error}") from error

    def encode(self, text: str) -> list[int]:
        """The tokens of a text that has all that the template puts into it, with what is not the template's quoted."""
        if _BEGIN not in text and _END not in text:
            return self._in_pieces(text)
        try:
            marked = self._tokenizer(text, add_special_tokens=False, sanitize_control_tokens=True)
        except ValueError:  # a vocabulary in which the token is a word too: no way to write it as text
            return self.encode(_QUOTED.sub(r"\1 \2", text).replace(_BEGIN, "").replace(_END, ""))
        return list(marked["input_ids"])

    def decode(self, prompt: list[int], tokens: list[int], skip_special_tokens: bool = True) -> str:
        """The text of tokens that were written behind a prompt, as a stream of them shows it: with the space that some
        tokenizers take off the beginning of a text, and without a character that was cut off. Of a tokenizer that
        `is_known`.
        """
        decode, behind = self._tokenizer.backend_tokenizer.decode, prompt[-_CONTEXT:]
        before = decode(behind, skip_special_tokens=skip_special_tokens)
        text = str(decode([*behind, *tokens], skip_special_tokens=skip_special_tokens))
        if not text.startswith(before):  # a prompt that ends within a character
            text, before = str(decode(tokens, skip_special_tokens=skip_special_tokens)), ""
        return text[len(before) :].rstrip("\ufffd")

    def _in_pieces(self, text: str) -> list[int]:
        tokens: list[int] = []
        before, begun = "", 0
        for cut in self._cuts.finditer(text):
            tokens += self._piece(before, text[begun : cut.end()])
            before, begun = cut[0], cut.end()
        return tokens + list(self._piece(before, text[begun:]))

    def _tokens_behind(self, before: str, piece: str) -> tuple[int, ...]:
        """The tokens of a piece behind a control token; some tokenizers begin a text in a way of its own."""
        tokens = self._tokenizer(before + piece, add_special_tokens=False)["input_ids"]
        return tuple(tokens[1:] if before else tokens)

    def _where_to_cut(self) -> list[str]:
        """The control tokens that the template puts around a turn, and behind which the tokenizer begins anew whatever
        follows; none of a tokenizer that may do otherwise.
        """
        if not self.is_known:
            return []
        try:
            turn = self.text([{"role": "user", "content": "hi"}])
        except (RequestRefused, ValueError, TypeError, KeyError):
            return []
        added = list(self._tokenizer.added_tokens_decoder.values())
        # The others are found in a text that was normalised, or only where no letter follows.
        found = {token.content for token in added if not (token.normalized or token.single_word)}
        found &= set(self._control.findall(turn))
        found = {word for word in found if len(self._tokens_behind("", word)) == 1}
        return sorted(found - _overlapped(found, [token.content for token in added]))

    def _takes_system(self) -> bool:
        """Whether a system message comes out of the template again; its errors have no common form to tell them by."""
        probe = [{"role": "system", "content": _SENTINEL}, {"role": "user", "content": "hi"}]
        try:
            text = self._tokenizer.apply_chat_template(
                probe, add_generation_prompt=True, tokenize=False, **self._options
            )
        except (TemplateError, ValueError, TypeError, KeyError):
            return False
        return _SENTINEL in text


def _overlapped(some: set[str], every: list[str]) -> set[str]:
    """Those of some words that lie in another one, or that the end of another one begins: in a text where both could be
    found, the other one may be.
    """
    ends = {word[start:] for word in every for start in range(1, len(word))}
    within = "\0".join(every)
    return {
        word for word in some if within.count(word) > 1 or any(word[:end] in ends for end in range(1, len(word) + 1))
    }


def fold_system(messages: list[Message]) -> list[Message]:
    """Put each system message before the user turn that follows it, with a blank line between."""
    folded: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user":
            folded.append({"role": "user", "content": "\n\n".join([*waiting, message["content"]])})
            waiting = []
        else:
            folded.append(message)
    return [*folded, {"role": "user", "content": "\n\n".join(waiting)}] if waiting else folded
