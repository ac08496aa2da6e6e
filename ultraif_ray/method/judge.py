"""Step 3b: does a response meet every question? (paper, section 2.3)

Both ways fail closed: a question without a verdict that counts is `missing`, and the response does not pass.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, RootModel

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import UnusableReply
from ultraif_ray.method import prompts
from ultraif_ray.method.replies import ask_for_json, probability_of_yes
from ultraif_ray.recipe import Synthesize
from ultraif_ray.records import Instruction, Response, Verdict


async def judge(
    instruction: Instruction, response: Response, questions: list[str], client: RoleClient, settings: Synthesize
) -> None:
    """Fill in the verdicts of `response`, in the order of `questions`, and whether it passed.

    A response that was cut off or is empty fails without a question asked; one to an instruction without questions (a
    plain one) needs no more than to be whole.
    """
    if not questions:
        response.verdicts = []
    elif response.finish == "length" or not response.text:
        response.verdicts = [Verdict(question=q, answer="not asked") for q in questions]
    elif settings.judge == "rationale":
        response.verdicts = await _by_rationale(instruction, response, questions, client, settings)
    else:
        response.verdicts = await _by_logprob(instruction, response, questions, client, settings)
    whole = response.finish == "stop" and bool(response.text)
    response.passed = whole and all(v.answer == "yes" for v in response.verdicts)


# ---- one reasoned answer to all questions, as in the paper -----------------------------------------------------------


class Reasoned(BaseModel):
    """The judge's answer to one question, after a sentence of reasoning."""

    model_config = ConfigDict(extra="forbid")
    explanation: str
    answer: Literal["YES", "NO"]


class Reasoning(RootModel[dict[str, Reasoned]]):
    """One entry per question, under its number."""


async def _by_rationale(
    instruction: Instruction, response: Response, questions: list[str], client: RoleClient, settings: Synthesize
) -> list[Verdict]:
    numbers = [str(i + 1) for i in range(len(questions))]

    async def use(reply: Reasoning, raw: str) -> list[Verdict]:
        if set(reply.root) != set(numbers):
            raise UnusableReply("judge", "not exactly the questions asked", raw)
        return [
            Verdict(
                question=question,
                answer="yes" if reply.root[number].answer == "YES" else "no",
                explanation=reply.root[number].explanation.strip(),
            )
            for number, question in zip(numbers, questions, strict=True)
        ]

    messages = prompts.judge_with_reasons(client.templates, instruction, response.text, questions)
    try:
        return await ask_for_json(
            client, "judge", messages, instruction.query, reasoning_schema(numbers), Reasoning, use, settings.attempts
        )
    except UnusableReply as unusable:
        return [
            Verdict(question=q, answer="missing", explanation=f"{unusable.reason}: {unusable.raw}"[:500])
            for q in questions
        ]


def reasoning_schema(numbers: list[str]) -> dict[str, object]:
    """The JSON Schema that holds a judge's reply: under each question's number an explanation, then YES or NO."""
    properties = {
        "explanation": {"type": "string"},
        "answer": {"type": "string", "enum": ["YES", "NO"]},
    }
    verdict = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": dict.fromkeys(numbers, verdict),
        "required": numbers,
        "additionalProperties": False,
    }


# ---- one token per question ------------------------------------------------------------------------------------------


async def _by_logprob(
    instruction: Instruction, response: Response, questions: list[str], client: RoleClient, settings: Synthesize
) -> list[Verdict]:
    verdicts: list[Verdict] = []
    for question in questions:
        if not settings.ask_all and any(v.answer != "yes" for v in verdicts):
            verdicts.append(Verdict(question=question, answer="not asked"))  # the response has failed already
            continue
        messages = prompts.judge_in_a_word(client.templates, instruction, response.text, question, settings.labels)
        completion = (await client.ask("judge", messages, instruction.query, labels=settings.labels))[0]
        p_yes = probability_of_yes(completion.label_logprobs, settings.labels)
        if p_yes is None:
            verdicts.append(Verdict(question=question, answer="missing"))
        else:
            answer: Literal["yes", "no"] = "yes" if p_yes >= settings.threshold else "no"
            verdicts.append(Verdict(question=question, answer=answer, p_yes=p_yes))
    return verdicts
