"""The one fake, at the model boundary: an engine that says what a test tells it to, and remembers what it was asked."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from ultraif_ray.engine.protocol import Completion, Delta, Reply, Request, RoleClient, in_one_piece
from ultraif_ray.recipe import Recipe, parse_recipe
from ultraif_ray.records import AddedConstraint, Instruction

Answer = str | Completion | list[str | Completion] | Exception


class ScriptedEngine:
    """Answers each request with what `script(request, number)` returns, after as many turns of the event loop as
    `turns(request)` says.
    """

    timeout_s = None

    def __init__(self, script: Callable[[Request, int], Answer], turns: Callable[[Request], int] = lambda request: 0):
        self._script, self._turns = script, turns
        self.asked: list[Request] = []

    async def generate(self, request: Request) -> Reply:
        answer = self._script(request, len(self.asked))
        self.asked.append(request)
        for _ in range(self._turns(request)):
            await asyncio.sleep(0)
        if isinstance(answer, Exception):
            raise answer
        several = answer if isinstance(answer, list) else [answer] * request.n
        completions = [one if isinstance(one, Completion) else Completion(one) for one in several]
        assert len(completions) == request.n
        return Reply(completions, prompt_tokens=10, cached_tokens=4, generated_tokens=3 * request.n)

    async def stream(self, request: Request) -> AsyncGenerator[Delta | Reply, None]:
        for piece in in_one_piece(await self.generate(request)):
            yield piece

    def count_tokens(self, text: str) -> int:
        return len(text)

    async def check(self, labels: tuple[str, ...], schema: bool) -> None: ...

    async def close(self) -> None: ...


def saying(*answers: Answer) -> ScriptedEngine:
    """An engine that gives these answers in turn."""
    return ScriptedEngine(lambda request, number: answers[number])


def client_of(recipe: Recipe, **engines: ScriptedEngine) -> RoleClient:
    """A client in which each role has an engine of its own, by role name."""
    return RoleClient(recipe, {f"{role}s": engine for role, engine in engines.items()})


def recipe(**sections: Any) -> Recipe:
    """A small recipe: simulated pools, one per role, so that a script can tell the roles apart."""
    roles = ("decomposer", "composer", "responder", "judge")
    data: dict[str, Any] = {
        "name": "test",
        "pools": {f"{role}s": {"engine": "simulated"} for role in roles},
        "roles": {role: {"pool": f"{role}s"} for role in roles},
        "decompose": {"check": "text"},
        "synthesize": {"check": "text"},
    }
    data["roles"]["judge"]["pool"] = "responders"  # they share a worker; tests give the client both
    data["pools"].pop("judges")
    for name, section in sections.items():
        data[name] = data.get(name, {}) | section if isinstance(section, dict) else section
    return parse_recipe(data)


def composed(initial: str, *steps: tuple[str, str], **more: Any) -> Instruction:
    """An instruction to which each step added a constraint: the query with it, and its question."""
    added = [
        AddedConstraint(round=number, text=query, query=query, questions=[question])
        for number, (query, question) in enumerate(steps, start=1)
    ]
    return Instruction(initial_query=initial, added=added, **more)


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def labels(p_yes: float) -> Completion:
    """A one-token verdict with this probability of yes."""
    import math

    return Completion("Yes", label_logprobs={"Yes": math.log(p_yes), "No": math.log(1 - p_yes)})
