"""What FollowBench's authors check by rule (arXiv 2310.20410, code/rule_based_evaluation.py at their 6278f4c), in code.

A rule says yes or no to an answer as a whole: at its level, all constraints up to that level together. Sentences are
what stands between `.`, `!` and `?`, as the authors count them, also where that is hard on an answer: levels 4 and 5
of one instruction (`_suggestions`) can be met by none, since the number before a paragraph counts as a sentence.
"""

import ast
import re
import string
from collections.abc import Callable

Holds = Callable[[str], bool]
"""Whether an answer meets one constraint."""

LEVELS = 5
"""Most constraints of an instruction."""

Rule = Callable[[str, str, int], bool]
"""Whether an answer is right, given the record's `target` and its level, from 1."""


def rule_of(kind: str, source: str, example: int) -> Rule | None:
    """The rule for the prompts of a path; None where the judge is asked.

    Args:
        kind: the kind of constraint that the path is about, such as `content`.
        source: the record's `source`.
        example: the record's `example_id`.
    """
    if kind == "example":
        return in_the_form_of_the_examples
    if kind == "format" and example in _OF_EXAMPLE:
        return _OF_EXAMPLE[example]
    return _OF_SOURCE.get(source)


def in_the_form_of_the_examples(answer: str, target: str, level: int) -> bool:
    """Whether an answer has the form of the examples that came before it: `target` as a template, in which `{answer}`
    stands for any text in one line.
    """
    form = target.replace("{instruction}\n", "").replace("{{", "{").replace("}}", "}")
    pattern = ".*".join(re.escape(part) for part in form.split("{answer}"))
    return re.fullmatch(pattern, answer) is not None


# ---- one answer is right ---------------------------------------------------------------------------------------------


def _same(answer: str, target: str, level: int) -> bool:
    return answer == target


def _one_of(answer: str, target: str, level: int) -> bool:
    return answer in ast.literal_eval(target)


def _lines_of(answer: str, target: str, level: int) -> bool:
    return set(answer.split("\n")) <= set(target.split("\n"))


def _within(answer: str, target: str, level: int) -> bool:
    return target in answer


def _last(pattern: str) -> Rule:
    """The last text in the answer that looks so."""
    return lambda answer, target, level: re.findall(pattern, answer)[-1:] == [target]


# ---- one constraint more at each level -------------------------------------------------------------------------------


def _step_by_step(*constraints: Holds) -> Rule:
    return lambda answer, target, level: all(holds(answer) for holds in constraints[:level])


def _sentences(text: str) -> list[str]:
    return [sentence for sentence in re.split(r"[.!?]", text) if sentence]


def _in_sentences(count: int) -> Holds:
    return lambda text: len(_sentences(text)) == count


def _words(text: str) -> int:
    return len(text.split(" "))


def _has(word: str, sentence: int = 0) -> Holds:
    """Whether a word is in the text, or in the sentence of this number."""
    pattern = re.compile(rf"\b{re.escape(word)}\b")
    return lambda text: any(pattern.search(part) for part in _part(text, sentence))


def _part(text: str, sentence: int) -> list[str]:
    return _sentences(text)[sentence - 1 : sentence] if sentence else [text]


def _lacks(word: str, sentence: int = 0) -> Holds:
    has = _has(word, sentence)
    return lambda text: not has(text)


def _punctuation(text: str) -> int:
    return sum(sign in string.punctuation for sign in text)


_NEWS = _step_by_step(
    _in_sentences(3),
    lambda text: all(len(sentence.split()) < 15 for sentence in _sentences(text)),
    lambda text: _has("Potter", 1)(text) and _has("actor", 2)(text) and _has("films", 3)(text),
    _lacks("lavish", 2),
    lambda text: any(re.search(r"\b(has|have)\s+\w+", part) for part in _part(text, 3)),
)

_FLOOD = _step_by_step(
    _in_sentences(1),
    lambda text: _words(text) < 20,
    _lacks("Newton Stewart"),
    lambda text: re.search(r"\b(am|is|are)\s+\w+ing\b", text) is not None,
    _has("operation"),
)

_CHAT = _step_by_step(
    _in_sentences(1),
    lambda text: _words(text) < 15,
    _has("stuff"),
    lambda text: "procrast" not in text.lower(),
    lambda text: _punctuation(text) == 1,
)

_HEADLINE = _step_by_step(
    lambda text: _words(text) == 8,
    lambda text: _punctuation(text) == 0,
    str.islower,
    _lacks("bus"),
    _has("in"),
)

_ABSTRACT = _step_by_step(
    _in_sentences(1),
    lambda text: _words(text) <= 20,
    lambda text: text.startswith("We"),
    _has("activations"),
    _lacks("transformer"),
)


def _suggestions(answer: str, target: str, level: int) -> bool:
    """The fifth constraint adds a paragraph: the closing words."""
    paragraphs = answer.split("\n\n")
    return _step_by_step(
        lambda text: len(paragraphs) == (4 if level == 5 else 3),
        lambda text: all(len(_sentences(paragraph)) < 3 for paragraph in paragraphs[:3]),
        lambda text: all(len(sentence.split()) > 20 for sentence in _sentences(text)),
        lambda text: all(re.match(r"\d+\.", part.lstrip()) for part in paragraphs if part.strip()),
        lambda text: text.endswith("Those are suggestions"),
    )(answer, target, level)


def _keywords(answer: str, target: str, level: int) -> bool:
    sentences = re.split(r"(?<!\w\.\w.)(?<![A-Z][a-z]\.)(?<=\.|\?)\s", answer)
    points = [one for one in sentences if any(f"{number}." in one for number in range(1, 6))]
    return _step_by_step(
        lambda text: "**" in text,
        lambda text: len(re.findall(r"\*\*[\d].+?:", text)) == 5,
        lambda text: all(len(point.split(".")) < 3 for point in points),
        lambda text: all(10 <= len(sentence.split()) <= 15 for sentence in sentences),
        lambda text: not any(word.endswith("-ly") for word in text.split()),
    )(answer, target, level)


_OF_SOURCE: dict[str, Rule] = {
    "E2E": _same,
    "text_editing": _same,
    "CONLL2003": _one_of,
    "WIKIEVENTS": _lines_of,
    "self_made_space": _within,
    "BBH_logical": _last(r"\([A-Z]\)"),
    "BBH_time": _last(r"\d{2}/\d{2}/\d{4}"),
    "gsm_8k": _last(r"\$\d+"),
    "cnn_dailymail": _NEWS,
    "xsum": _FLOOD,
    "samsum": _CHAT,
    "gigaword": _HEADLINE,
    "arxiv": _ABSTRACT,
}

_OF_EXAMPLE: dict[int, Rule] = {22: _suggestions, 30: _keywords}
