"""From messages to what a model reads, through its chat template.

Some templates (Gemma 2's, Mistral's first) know no system role: they raise, or leave the message out without a word.
For those the system message is put before the first user turn.
"""

from typing import Any

from jinja2 import TemplateError

from ultraif_ray.errors import RequestRefused
from ultraif_ray.records import Message

_SENTINEL = "sentinel-of-the-system-message"


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
        self.takes_system = self._takes_system()

    def fit(self, messages: list[Message]) -> list[Message]:
        """The messages as the template takes them."""
        return messages if self.takes_system else fold_system(messages)

    def tokens(self, messages: list[Message], add_generation_prompt: bool = True) -> list[int]:
        """The tokens of a conversation, up to where the answer begins if that is asked for. Control tokens that stand
        in a message, such as the end of a turn, are text: only the template begins and ends turns.

        Raises:
            RequestRefused: the template refuses the conversation, for instance two user turns in a row.
        """
        whole = self._apply(messages, add_generation_prompt, return_dict=True, sanitize_control_tokens=True)
        return list(whole["input_ids"])

    def text(self, messages: list[Message], add_generation_prompt: bool = True) -> str:
        """The same as text.

        Raises:
            RequestRefused: as `tokens`.
        """
        return str(self._apply(messages, add_generation_prompt, tokenize=False))

    def encode(self, text: str) -> list[int]:
        """The tokens of a text that has all that the template puts into it."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _apply(self, messages: list[Message], add_generation_prompt: bool, **form: bool) -> Any:
        try:
            return self._tokenizer.apply_chat_template(
                self.fit(messages), add_generation_prompt=add_generation_prompt, **form, **self._options
            )
        except TemplateError as error:
            raise RequestRefused(f"the model's chat template refuses this conversation: {error}") from error

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
