import asyncio
import json
import time
from pathlib import Path
from typing import Any

import pytest

from ultraif_ray.engine.protocol import Request, RoleClient
from ultraif_ray.engine.simulated import SimulatedEngine
from ultraif_ray.errors import RequestRefused
from ultraif_ray.method.journey import STAGES, run_journey
from ultraif_ray.recipe import SimulatedPool, parse_recipe
from ultraif_ray.records import ROLES, Row

ASK = [{"role": "user", "content": "Request:\nWrite about rain in French"}]


def engine(**options: Any) -> SimulatedEngine:
    return SimulatedEngine(SimulatedPool(engine="simulated", **options))


async def test_the_same_request_gets_the_same_reply_and_another_turn_another() -> None:
    first, again, other = [await engine().generate(Request(ASK, turn=turn)) for turn in (0, 0, 1)]
    assert first == again
    assert first != other
    assert len((await engine().generate(Request(ASK, n=3))).completions) == 3


async def test_a_given_answer_has_a_probability_of_its_own() -> None:
    first, again, other = [
        (await engine().generate(Request(ASK, continuation=text))).completions[0] for text in ("a", "a", "b")
    ]
    assert first == again
    assert first.text == "a"
    assert first.logprob is not None
    assert other.logprob != first.logprob < 0


async def test_failures_come_at_the_given_share() -> None:
    broken = 0
    for turn in range(200):
        reply = await engine(broken_share=0.25).generate(
            Request(ASK, turn=turn, schema={"type": "object", "properties": {}})
        )
        broken += reply.completions[0].finish == "length"
    assert 25 <= broken <= 75
    with pytest.raises(RequestRefused):
        await engine(refused_share=1.0).generate(Request(ASK))


def test_each_reply_is_noted_where_that_is_asked_for(tmp_path: Path) -> None:
    noting = SimulatedEngine(SimulatedPool(engine="simulated", replies=str(tmp_path)))
    requests = [Request(ASK, role="composer", row=7), Request(ASK, role="judge", row=8, n=2)]
    before = time.time()
    made = [asyncio.run(noting.generate(request)).generated_tokens for request in requests]
    (file,) = tmp_path.iterdir()
    notes = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(note["row"], note["role"], len(note["lengths"])) for note in notes] == [
        (7, "composer", 1),
        (8, "judge", 2),
    ]
    assert [sum(note["lengths"]) for note in notes] == made
    assert all(before <= note["began"] <= note["ended"] <= time.time() for note in notes)


async def test_responses_have_the_lengths_that_are_asked_for() -> None:
    asked = engine(response_tokens=(3, 400))
    lengths = {(await asked.generate(Request(ASK, turn=turn))).generated_tokens for turn in range(40)}
    assert lengths == {3, 400}


async def test_a_whole_journey_runs_on_it() -> None:
    pools = {"m": {"engine": "simulated"}}
    roles = {role: {"pool": "m"} for role in ("decomposer", "composer", "responder", "judge")}
    for judge in ("rationale", "logprob"):
        recipe = parse_recipe({"name": "x", "pools": pools, "roles": roles, "synthesize": {"judge": judge}})
        rows = [Row(id=i, query=f"Write {i} lines about rain in French") for i in range(60)]
        done = [await run_journey(row, STAGES, RoleClient(recipe, {"m": engine()}), recipe) for row in rows]
        assert {row.outcome for row in done} > {"paired"}
        for row in done:
            assert {usage.role for usage in row.usage} == ({*ROLES} if row.instructions else {"decomposer", "composer"})
            judged = [verdict for one in row.instructions for made in one.responses for verdict in made.verdicts]
            assert all(verdict.answer in ("yes", "no", "not asked") for verdict in judged)
            assert all(
                (verdict.p_yes is None) == (judge == "rationale") for verdict in judged if verdict.answer != "not asked"
            )
