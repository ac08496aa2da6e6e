"""Step 3b, first: code answers the questions that it can, free of cost; the judge answers the rest."""

from collections import Counter
from collections.abc import Sequence

from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.method.answers import no_answer
from ultraif_ray.method.checkers.registry import holds
from ultraif_ray.method.judge import judge
from ultraif_ray.recipe import Synthesize
from ultraif_ray.records import AddedConstraint, Check, Constraint, Instruction, Response, Verdict


def checks_of(added: Sequence[AddedConstraint], found: Sequence[Constraint]) -> dict[str, Check]:
    """The questions that code can answer, each with its check. Of two constraints with the same question neither is
    among them: one check does not say what both do.
    """
    pairs = [(question, one.check) for one in added for question in one.questions]
    pairs += [(one.question, one.check) for one in found]
    times = Counter(question for question, _ in pairs)
    return {question: check for question, check in pairs if check and times[question] == 1}


async def check_and_judge(
    instruction: Instruction,
    response: Response,
    questions: list[str],
    checks: dict[str, Check],
    client: RoleClient,
    settings: Synthesize,
) -> None:
    """Fill in the verdicts of `response`, in the order of `questions`, and whether it passed: those of code, then the
    judge's (see `judge`).

    A no of code settles it, and the judge is not asked, but with `synthesize.ask_all`. A response that was cut off or
    is empty, or is no answer for a filter that is on, fails without a question asked of either.
    """
    if response.whole and (fault := no_answer(response.text, settings)):
        response.finish = fault
    by_code = {
        question: Verdict(question=question, by="code", answer="yes" if holds(response.text, check) else "no")
        for question, check in checks.items()
        if response.whole and question in questions
    }
    left = [question for question in questions if question not in by_code]
    if any(verdict.answer == "no" for verdict in by_code.values()) and not settings.ask_all:
        judged = [Verdict(question=question, answer="not asked") for question in left]
    else:
        await judge(instruction, response, left, client, settings)
        judged = response.verdicts
    rest = iter(judged)
    response.verdicts = [by_code.get(question) or next(rest) for question in questions] + list(rest)
    response.passed = response.whole and all(verdict.answer == "yes" for verdict in response.verdicts)
