"""A reasoning model's thoughts, apart from its answer, where both are one text."""

from ultraif_ray.recipe import Thinking

USUAL = Thinking()


def is_open(prompt: str, thinking: Thinking) -> bool:
    """Whether a prompt ends with the start of a thought, so that what follows it is one: some chat templates do so
    (DeepSeek R1's, Qwen3.5's).
    """
    return prompt.rstrip().endswith(thinking.start.strip())


def is_over(prompt: str, thinking: Thinking) -> bool:
    """Whether a prompt ends with the end of a thought: a template leaves an empty one where it is told that the model
    is not to think (Qwen3's `enable_thinking: false`).
    """
    return prompt.rstrip().endswith(thinking.end.strip())


def split(
    text: str, thinking: Thinking = USUAL, *, opened: bool = False, is_json: bool = False
) -> tuple[str, str | None]:
    """The thought that a text begins with, empty where there is none, and the answer after it: None where the thought
    has no end.

    An end that no start came before ends a thought too, where its line ends with it: not every model writes the start,
    and a server does not say whether its template did.

    Args:
        text: what the model wrote.
        thinking: what stands around its thoughts.
        opened: the prompt has the start of the thought already.
        is_json: the answer is JSON, in whose strings an end may stand.
    """
    start, end = thinking.start.strip(), thinking.end.strip()
    before, ended, answer = text.partition(end)
    begins = opened or text.lstrip().startswith(start)
    unannounced = ended and start not in before and not is_json and not answer.partition("\n")[0].strip()
    if not begins and not unannounced:
        return "", text
    thought = before.strip().removeprefix(start).strip()
    return thought, answer.lstrip() if ended else None


def answer_so_far(text: str, thinking: Thinking, *, opened: bool = False) -> str:
    """What can be shown of a text that is still being written: its answer, without the thought that it begins with, and
    nothing while it may still become one. What is shown of a text stands at the beginning of what is shown of a longer
    one.

    Args:
        text: what the model has written.
        thinking: what stands around its thoughts.
        opened: the prompt has the start of the thought already.
    """
    start, begun = thinking.start.strip(), text.lstrip()
    if not opened and not begun.startswith(start):
        return "" if start.startswith(begun) else text
    return text.partition(thinking.end.strip())[2].lstrip()
