"""Step 3b: does a response meet every question? (paper, section 2.3)

Every way fails closed: a question without a verdict that counts is `missing`, and the response does not pass.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, RootModel

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method import prompts
from ultraif_ray.method.replies import Parsed, Used, ask_for_json, probability_of_yes
from ultraif_ray.recipe import Synthesize
from ultraif_ray.records import Instruction, Message, Response, Verdict


@dataclass(frozen=True)
class _Case:
    """A response that is judged, and who judges it how."""

    instruction: Instruction
    response: Response
    client: RoleClient
    settings: Synthesize

    @property
    def follow_up(self) -> bool:
        """Whether the judge goes on with the conversation that gave the response."""
        return self.settings.follow_up and self.client.judge_is_the_responder

    async def ask(
        self,
        messages: list[Message],
        schema: dict[str, object],
        reply_model: type[Parsed],
        use: Callable[[Parsed, str], Awaitable[Used]],
    ) -> Used:
        query, attempts = self.instruction.query, self.settings.attempts
        return await ask_for_json(self.client, "judge", messages, query, schema, reply_model, use, attempts)


async def judge(
    instruction: Instruction, response: Response, questions: list[str], client: RoleClient, settings: Synthesize
) -> None:
    """Fill in the verdicts of `response`, in the order of `questions`, and whether it passed.

    A response that was cut off or is empty fails without a question asked; one to an instruction without questions (a
    plain one) needs no more than to be whole.
    """
    case = _Case(instruction, response, client, settings)
    if not questions:
        response.verdicts = []
    elif not response.whole:
        response.verdicts = [Verdict(question=q, answer="not asked") for q in questions]
    elif settings.judge == "rationale":
        response.verdicts = await _all_at_once(case, questions)
    else:
        response.verdicts = await _one_by_one(case, questions)
    response.passed = response.whole and all(v.answer == "yes" for v in response.verdicts)


# ---- reasons ---------------------------------------------------------------------------------------------------------


class Reasoned(BaseModel):
    """The judge's answer to one question, after a sentence of reasoning."""

    model_config = ConfigDict(extra="forbid")
    explanation: str
    answer: Literal["YES", "NO"]

    def verdict(self, question: str) -> Verdict:
        """As a row has it."""
        return Verdict(
            question=question, answer="yes" if self.answer == "YES" else "no", explanation=self.explanation.strip()
        )


class Reasoning(RootModel[dict[str, Reasoned]]):
    """One entry per question, under its number."""


REASONED_SCHEMA: dict[str, object] = {
    "type": "object",
    "properties": {"explanation": {"type": "string"}, "answer": {"type": "string", "enum": ["YES", "NO"]}},
    "required": ["explanation", "answer"],
    "additionalProperties": False,
}
"""The JSON Schema that holds a judge's answer to one question: an explanation, then YES or NO."""


def reasoning_schema(numbers: list[str]) -> dict[str, object]:
    """The JSON Schema that holds a judge's answers to all questions, each under its number."""
    return {
        "type": "object",
        "properties": dict.fromkeys(numbers, REASONED_SCHEMA),
        "required": numbers,
        "additionalProperties": False,
    }


def _missing(question: str, unusable: UnusableReply) -> Verdict:
    return Verdict(question=question, answer="missing", explanation=f"{unusable.reason}: {unusable.raw}"[:500])


# ---- all questions at once, as in the paper --------------------------------------------------------------------------


async def _all_at_once(case: _Case, questions: list[str]) -> list[Verdict]:
    numbers = [str(i + 1) for i in range(len(questions))]

    async def use(reply: Reasoning, raw: str) -> list[Verdict]:
        if set(reply.root) != set(numbers):
            raise UnusableReply("judge", "not exactly the questions asked", raw)
        return [reply.root[number].verdict(question) for number, question in zip(numbers, questions, strict=True)]

    messages = prompts.judge_all(case.client.templates, case.instruction, case.response.text, questions, case.follow_up)
    try:
        return await case.ask(messages, reasoning_schema(numbers), Reasoning, use)
    except UnusableReply as unusable:
        return [_missing(question, unusable) for question in questions]


# ---- each question apart ---------------------------------------------------------------------------------------------


async def _one_by_one(case: _Case, questions: list[str]) -> list[Verdict]:
    """In their order, each after the one before, so that it finds the response in the engine's cache; up to the one
    that settles it. A verdict that is missing settles nothing where failing responses are wanted too: only a no does.
    """
    settings, verdicts = case.settings, list[Verdict]()
    enough = {"no", "missing"} if settings.goal == "sft" else {"no"}
    ask = _with_reason if settings.judge == "each" else _in_a_word
    for question in questions:
        settled = not settings.ask_all and any(verdict.answer in enough for verdict in verdicts)
        verdicts.append(Verdict(question=question, answer="not asked") if settled else await ask(case, question))
    return verdicts


async def _with_reason(case: _Case, question: str) -> Verdict:
    async def use(reply: Reasoned, raw: str) -> Verdict:
        return reply.verdict(question)

    messages = prompts.judge_one(case.client.templates, case.instruction, case.response.text, question, case.follow_up)
    try:
        return await case.ask(messages, REASONED_SCHEMA, Reasoned, use)
    except UnusableReply as unusable:
        return _missing(question, unusable)


async def _in_a_word(case: _Case, question: str) -> Verdict:
    labels, threshold = case.settings.labels, case.settings.threshold
    messages = prompts.judge_in_a_word(
        case.client.templates, case.instruction, case.response.text, question, labels, case.follow_up
    )
    completion = (await case.client.ask("judge", messages, case.instruction.query, labels=labels))[0]
    p_yes = probability_of_yes(completion.label_logprobs, labels)
    if p_yes is None:
        return Verdict(question=question, answer="missing")
    return Verdict(question=question, answer="yes" if p_yes >= threshold else "no", p_yes=p_yes)
