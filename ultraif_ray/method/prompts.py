"""The messages that each role is asked with: their words are a set of templates (`templates.py`), their form is here.

Few-shot examples are chat turns, not text inside one message: models follow them better, and everything before the
last turn is the same for every row, so the engine's prefix cache holds it once.

Texts of prompts and of models are data: none can end the part of a message that it stands in and begin another.
"""

import json
import re
from collections.abc import Iterable
from itertools import count
from typing import Any

from ultraif_ray.method.checkers.naming import listed
from ultraif_ray.method.checkers.registry import Checker
from ultraif_ray.records import (
    CATEGORIES,
    Category,
    Check,
    Constraint,
    Instruction,
    Message,
    Prompt,
    Turn,
    as_sharegpt,
    content_hash,
)
from ultraif_ray.templates import ComposerTemplates, Composition, DecomposerTemplates, Decomposition, Templates

Checkers = tuple[Checker, ...]
"""Those that a recipe turns on."""


def _chat(system: str | None, examples: list[tuple[str, str]], last: str) -> list[Message]:
    messages = [{"role": "system", "content": system}] if system else []
    for question, answer in examples:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return [*messages, {"role": "user", "content": last}]


def _with_categories(templates: Templates, system: str | None) -> str | None:
    categories = "\n".join(f"  - {name}: {getattr(templates.categories, name)}" for name in CATEGORIES)
    return system and system.replace("{categories}", categories)


def _with_checkers(told: ComposerTemplates | DecomposerTemplates, system: str | None, on: Checkers) -> str | None:
    """A system prompt with what can be named as a check, where anything can."""
    check = told.check.replace("{checkers}", listed(on)) if on else ""
    return "\n\n".join(filter(None, (system, check))) or None


def _example_check(check: Check | None, on: Checkers) -> dict[str, Any]:
    """What an example has under `check`, where checkers are on."""
    if not on:
        return {}
    return {"check": check.model_dump() if check and check.name in {checker.name for checker in on} else None}


def _with_history(history: Iterable[Turn], text: str) -> str:
    speakers = {"system": "System", "user": "User", "assistant": "Assistant"}
    turns = "\n".join(f"{speakers[turn.role]}: {_quoted(turn.content)}" for turn in history)
    return f"Earlier conversation:\n{turns}\n\n{text}" if turns else text


_HEADING = re.compile(
    r"(?:^|(?<=[\r\v\f\x85\u2028\u2029]))(?=[^\S\n]*(?:earlier conversation|system|user|assistant|kind of constraint|"
    r"(?:shorter |longer )?request|demand|questions?)\s*:)",
    re.IGNORECASE | re.MULTILINE,
)
"""Where a line of a text begins as a part of a message does."""


def _quoted(text: str) -> str:
    """A text that other parts of a message follow: no line of it begins as one of these does."""
    return _HEADING.sub("> ", text)


# ---- decomposer ----------------------------------------------------------------------------------


def decompose(templates: Templates, prompt: Prompt, questions: bool = True, checkers: Checkers = ()) -> list[Message]:
    """Ask for the constraints of a prompt; with their questions, or without; with checks, where checkers are on."""
    left_out = {"check"} if questions else {"check", "question"}

    def answer(example: Decomposition) -> str:
        found = [one.model_dump(exclude=left_out) | _example_check(one.check, checkers) for one in example.constraints]
        return _as_json({"constraints": found})

    told = templates.decomposer
    examples = [(_request(example.history, example.query), answer(example)) for example in told.examples]
    system = _with_categories(templates, told.system)
    asked = f"- question: {told.question};" if questions else ""
    system = _with_checkers(told, system and system.replace("{question}", asked), checkers)
    return _chat(system, examples, _request(prompt.history, prompt.query))


def ask_for_question(templates: Templates, prompt: Prompt, constraint: str) -> list[Message]:
    """Ask for the question that checks a constraint, in a call of its own."""
    examples = [
        (_demand(example.history, example.query, found.constraint), _as_json({"question": found.question}))
        for example in templates.decomposer.examples
        for found in example.constraints
    ]
    told = templates.decomposer
    system = told.question_system.replace("{question}", told.question)
    return _chat(system, examples, _demand(prompt.history, prompt.query, constraint))


def _demand(history: Iterable[Turn], query: str, constraint: str) -> str:
    return f"{_request(history, _quoted(query))}\n\nDemand: {constraint}"


def _request(history: Iterable[Turn], query: str) -> str:
    return _with_history(history, f"Request:\n{query}")


# --------------------------------- composer, prompted (until one is trained) ----------------------


def compose(templates: Templates, previous: Instruction, category: Category, checkers: Checkers = ()) -> list[Message]:
    """Ask a model that is no trained composer for one more constraint of `category`; with a check, where checkers are
    on.
    """

    def turn(history: Iterable[Turn], category: Category, query: str) -> str:
        kind = f"{category}: {getattr(templates.categories, category)}"
        return _with_history(history, f"Kind of constraint: {kind}\n\nRequest:\n{query}")

    def answer(example: Composition) -> str:
        writes_addition = templates.composer.writes == "addition"
        written = {"addition": example.addition} if writes_addition else {"augmented query": example.composed}
        return _as_json({**written, "question": [example.question], **_example_check(example.check, checkers)})

    examples = [
        (turn(example.history, example.category, example.query), answer(example))
        for example in templates.composer.examples
    ]
    last = turn(previous.history, category, previous.query)
    system = _with_categories(templates, templates.composer.system)
    return _chat(_with_checkers(templates.composer, system, checkers), examples, last)


# ---- responder -----------------------------------------------------------------------------------


def respond(templates: Templates, query: str, history: list[Turn]) -> list[Message]:
    """Ask for an answer to an instruction, after its history."""
    turns: list[Message] = [{"role": turn.role, "content": turn.content} for turn in history]
    if system := templates.responder.system:
        if turns and turns[0]["role"] == "system":  # chat templates take one system message
            system = f"{turns.pop(0)['content']}\n\n{system}"
        turns = [{"role": "system", "content": system}, *turns]
    return [*turns, {"role": "user", "content": query}]


# ---- judge ---------------------------------------------------------------------------------------


_VERDICT = '{"explanation": one sentence, "answer": "YES" or "NO"}'


def judge_all(
    templates: Templates, instruction: Instruction, response: str, questions: list[str], follow_up: bool = False
) -> list[Message]:
    """Ask all questions at once, each to be answered under its number with a sentence of reasoning first."""
    numbered = "\n".join(f"{i + 1}. {_in_a_line(question)}" for i, question in enumerate(questions))
    form = f"Reply with JSON alone: under each question's number, {_VERDICT}."
    return _judged(templates, instruction, response, "Questions", f"{numbered}\n\n{form}", follow_up)


def judge_one(
    templates: Templates, instruction: Instruction, response: str, question: str, follow_up: bool = False
) -> list[Message]:
    """Ask one question, to be answered with a sentence of reasoning first."""
    form = f"Reply with JSON alone: {_VERDICT}."
    return _judged(templates, instruction, response, "Question", f"{_in_a_line(question)}\n\n{form}", follow_up)


def judge_in_a_word(
    templates: Templates,
    instruction: Instruction,
    response: str,
    question: str,
    labels: tuple[str, str],
    follow_up: bool = False,
) -> list[Message]:
    """Ask one question, to be answered with one of two labels."""
    form = f"Reply with {labels[0]} or {labels[1]} alone."
    return _judged(templates, instruction, response, "Question", f"{_in_a_line(question)}\n{form}", follow_up)


def _in_a_line(question: str) -> str:
    return " ".join(question.split())


def _judged(
    templates: Templates, instruction: Instruction, response: str, heading: str, asked: str, follow_up: bool
) -> list[Message]:
    """Request and answer come first and what is asked last, so that all questions share one cached prefix: that of the
    judge's own conversation, or of the one that gave the answer.

    In the judge's own, every heading bears a code that stands in none of the texts: an answer cannot end itself.
    """
    told = templates.judge
    if follow_up:
        conversation = respond(templates, instruction.query, instruction.history)
        rules = f"{told.follow_up}\n\n{told.system}\n\n" if told.system else ""
        answer = {"role": "assistant", "content": response}
        return [*conversation, answer, {"role": "user", "content": f"{rules}[{heading}]\n{asked}"}]
    code = _code(instruction, response, asked)
    request = _with_history(instruction.history, f"[Request {code}]\n{instruction.query}")
    answer_and_end = f"[Answer {code}]\n{response}\n[End of answer {code}]"
    return _chat(told.system, [], f"{request}\n\n{answer_and_end}\n\n[{heading} {code}]\n{asked}")


def _code(instruction: Instruction, *texts: str) -> str:
    """Six letters and digits that stand in none of the texts; as a rule the same for all answers to an instruction,
    whose messages begin alike then.
    """
    before = [turn.content for turn in instruction.history]
    every = "\n".join([*before, instruction.query, *texts]).casefold()
    codes = (f"{content_hash([number, before, instruction.query]):016x}"[-6:] for number in count())
    return next(code for code in codes if code not in every)


# ---- checks by model ---------------------------------------------------------------------------------------------

_CHECK_DECOMPOSITION = """\
A demand was taken out of a request, and a question was written that checks whether an answer meets the demand. Say \
Yes only if all of this is true, and No otherwise:
- the demand can be dropped while the task stays what it is;
- the shorter request lacks this demand and nothing else, and reads naturally;
- the question asks about this demand, and about nothing that the demand does not say."""


def _taken_out(query: str, constraint: str, simplified: str, question: str) -> str:
    query, constraint, simplified = map(_quoted, (query, constraint, simplified))
    return f"Request:\n{query}\n\nDemand: {constraint}\n\nShorter request:\n{simplified}\n\nQuestion: {question}"


_CHECK_DECOMPOSITION_EXAMPLES = [
    (
        _taken_out(
            "List five museums in Lyon that are open on Mondays, with their addresses",
            "with their addresses",
            "List five museums in Lyon that are open on Mondays",
            "Does each museum come with its address?",
        ),
        "Yes",
    ),
    (
        _taken_out(
            "List five museums in Lyon that are open on Mondays, with their addresses",
            "with their addresses",
            "List museums in Lyon",
            "Does each museum come with its address?",
        ),
        "No",
    ),
    (
        _taken_out(
            "Draft a resignation letter, polite and under 80 words",
            "under 80 words",
            "Draft a resignation letter, polite",
            "Is the letter addressed to the manager?",
        ),
        "No",
    ),
    (
        _taken_out(
            "Schreib eine Absage an den Vermieter und bleib dabei freundlich",
            "bleib dabei freundlich",
            "Schreib eine Absage an den Vermieter",
            "Is the message written in a friendly way?",
        ),
        "Yes",
    ),
    (
        _taken_out(
            "Translate this song title into Welsh", "Translate", "this song title into Welsh", "Is it a translation?"
        ),
        "No",
    ),
]


def check_decomposition(query: str, constraint: Constraint) -> list[Message]:
    """Ask whether a constraint that was found holds, to be answered with Yes or No."""
    last = _taken_out(query, constraint.text, constraint.simplified_query, constraint.question)
    return _chat(_CHECK_DECOMPOSITION, _CHECK_DECOMPOSITION_EXAMPLES, last)


_CHECK_COMPOSITION = """\
A demand was added to a request, with questions that check whether an answer meets it. Say Yes only if all of this is \
true, and No otherwise:
- the longer request is still a request, whole, and asks for the same thing;
- every demand of the shorter request still stands, and none contradicts the new one;
- an answer can meet the new demand, and whoever reads the answer alone can see whether it does;
- the questions ask about the new demand, about all of it, and about nothing else."""


def _put_in(query: str, longer: str, questions: list[str]) -> str:
    return f"Request:\n{_quoted(query)}\n\nLonger request:\n{_quoted(longer)}\n\nQuestions: {' '.join(questions)}"


_CHECK_COMPOSITION_EXAMPLES = [
    (
        _put_in(
            "Suggest names for a rescue cat in one short list",
            "Suggest names for a rescue cat in one short list, each from Greek myth",
            ["Does every name come from Greek myth?"],
        ),
        "Yes",
    ),
    (
        _put_in(
            "Suggest names for a rescue cat in one short list",
            "Suggest names for a rescue cat in two long essays",
            ["Are there two essays?"],
        ),
        "No",
    ),
    (
        _put_in(
            "how do I descale a kettle",
            "how do I descale a kettle? Fill it with vinegar and water and boil it.",
            ["Does the answer mention vinegar?"],
        ),
        "No",
    ),
    (
        _put_in(
            "Resume el capítulo anterior sin nombrar al asesino",
            "Resume el capítulo anterior sin nombrar al asesino, en exactamente cuatro frases",
            ["Does the summary have exactly four sentences?"],
        ),
        "Yes",
    ),
    (
        _put_in(
            "Explain how tides work",
            "Explain how tides work with a table, and end on a question",
            ["Does the explanation have a table?"],
        ),
        "No",
    ),
]


def check_composition(made: Instruction) -> list[Message]:
    """Ask whether the constraint that was added last suits the query, to be answered with Yes or No."""
    put_in = _put_in(made.simpler_query, made.query, made.added[-1].questions)
    last = _with_history(made.history, put_in)
    return _chat(_CHECK_COMPOSITION, _CHECK_COMPOSITION_EXAMPLES, last)


# ---- composer, trained ---------------------------------------------------------------------------


_BEFORE_QUERY = " \n [initial query]: "


def composer_request(history: list[Turn], query: str) -> str:
    """What a trained composer is asked, in the released checkpoint's own form: history as Python prints a list of
    turns, each `{'from': 'human', 'value': …}`, also when it is empty. An opening system message is the first of them,
    by `system`: so it is not mixed up with the query, which the composer writes again.
    """
    return f"[history]: {as_sharegpt(history)}{_BEFORE_QUERY}{query}"


def query_of_composer_request(request: str) -> str:
    """The query that `composer_request` was given. A history, as printed, holds no line break."""
    return request.split(_BEFORE_QUERY, 1)[1]


def compose_trained(previous: Instruction) -> list[Message]:
    """Ask a trained composer for one more constraint: no system prompt, as the released checkpoint is asked."""
    return [{"role": "user", "content": composer_request(previous.history, previous.query)}]


def composer_answer(query: str, question: str) -> str:
    """What a trained composer answers."""
    return _as_json({"augmented query": query, "question": [question]})


def _as_json(reply: dict[str, Any]) -> str:
    return json.dumps(reply, ensure_ascii=False)
