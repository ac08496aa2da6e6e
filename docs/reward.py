"""Rewards from a service's judge (`ultraif serve`): the share of an instruction's questions that an answer meets.

For TRL, with the set `rl` of a run's export, whose rows hold `prompt`, `questions` and `checks`:

    GRPOTrainer(model=…, reward_funcs=share_of_questions, train_dataset=run.dataset("rl")["train"], …)

The address is in ULTRAIF_SERVE_URL, the token, where there is one, in ULTRAIF_SERVE_TOKEN. What follows are the forms
that verl, OpenRLHF and SkyRL call, after what they document; they have not been run in these.
"""

import asyncio
import os
from typing import Any

import httpx

Chat = list[dict[str, str]]

ITEMS = 32
"""Answers that one request judges."""

TRIES = 5
"""Times that a request is sent at most: again after 429 and 503, when the service says so."""


def case_of(prompt: Chat, answer: str, questions: list[str], checks: list[dict[str, Any] | None]) -> dict[str, Any]:
    """What the judge is asked about an answer: the questions, and for those that code can answer, the check."""
    checkers = {question: check for question, check in zip(questions, checks, strict=True) if check}
    return {
        "history": prompt[:-1],
        "query": prompt[-1]["content"],
        "response": answer,
        "questions": questions,
        "checkers": checkers,
    }


async def judged(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The judgements, in the order of the cases.

    Raises:
        httpx.HTTPStatusError: the service refused, or was not there in all tries.
    """
    token = os.environ.get("ULTRAIF_SERVE_TOKEN")
    async with httpx.AsyncClient(
        base_url=os.environ.get("ULTRAIF_SERVE_URL", "http://127.0.0.1:8000"),
        headers={"Authorization": f"Bearer {token}"} if token else {},
        timeout=600,
    ) as service:
        parts = [cases[place : place + ITEMS] for place in range(0, len(cases), ITEMS)]
        found = await asyncio.gather(*(_judged(service, part) for part in parts))
    return [one for part in found for one in part]


async def _judged(service: httpx.AsyncClient, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    for tries_left in reversed(range(TRIES)):
        answer = await service.post("/v1/judge", json={"items": cases})
        if answer.status_code not in (429, 503) or not tries_left:
            break
        await asyncio.sleep(float(answer.headers.get("Retry-After", 1)))
    items: list[dict[str, Any]] = answer.raise_for_status().json()["items"]
    return items


# ---- TRL: GRPOTrainer(reward_funcs=share_of_questions) ---------------------------------------------------------------


async def share_of_questions(
    prompts: list[Chat],
    completions: list[Chat],
    questions: list[list[str]],
    checks: list[list[dict[str, Any] | None]],
    **_: Any,
) -> list[float]:
    """A reward in [0, 1] for each completion. TRL awaits it, so that all rewards are fetched at once."""
    rows = zip(prompts, completions, questions, checks, strict=True)
    found = await judged([case_of(prompt, answer[-1]["content"], asked, code) for prompt, answer, asked, code in rows])
    return [one["share"] for one in found]


# ---- verl: custom_reward_function.path=reward.py, .name=compute_score ------------------------------------------------


async def compute_score(
    data_source: str, solution_str: str, ground_truth: Any, extra_info: dict[str, Any] | None = None, **_: Any
) -> float:
    """One answer; `extra_info` holds the row's `prompt`, `questions` and `checks`."""
    row = extra_info or {}
    (found,) = await judged([case_of(row["prompt"], solution_str, row["questions"], row["checks"])])
    share: float = found["share"]
    return share


# ---- OpenRLHF: --reward.remote_url reward.py, --data.label_key a JSON text of the row ----------------------------


def reward_func(queries: list[str], prompts: list[str], labels: list[str], **_: Any) -> Any:
    """Rewards of a batch; a query is its prompt and the answer, a label `prompt`, `questions` and `checks` as JSON."""
    import json

    import torch

    rows = [json.loads(label) for label in labels]
    texts = [query.removeprefix(prompt) for query, prompt in zip(queries, prompts, strict=True)]
    cases = [
        case_of(row["prompt"], text, row["questions"], row["checks"]) for row, text in zip(rows, texts, strict=True)
    ]
    return torch.tensor([one["share"] for one in asyncio.run(judged(cases))])


# ---- SkyRL: an environment of one step (skyrl_gym.envs.base_text_env) ------------------------------------------------


class JudgedAnswer:
    """The body of a `BaseTextEnv`: derive from that as well. `extras` holds the row."""

    def __init__(self, env_config: Any, extras: dict[str, Any]):
        self._row = extras

    def step(self, action: str) -> dict[str, Any]:
        """Judge the one answer: a `BaseTextEnvStepOutput`."""
        row = self._row
        (found,) = asyncio.run(judged([case_of(row["prompt"], action, row["questions"], row["checks"])]))
        return {"observations": [], "reward": found["share"], "done": True, "metadata": {"verdicts": found["verdicts"]}}
