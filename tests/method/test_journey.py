from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.scripted import Answer, ScriptedEngine, as_json, client_of, labels, recipe, saying
from ultraif_ray.engine.protocol import Completion, Request
from ultraif_ray.errors import EngineDead, EngineUnavailable, RequestRefused
from ultraif_ray.method.journey import STAGES, UNEXPECTED, give_up, run_journey
from ultraif_ray.recipe import Band, Recipe
from ultraif_ray.records import Asked, Check, Response, Row, Turn, to_table

QUERY = "Write about rain, no rhymes."


class World:
    """Four roles in one script: `answers` are the responses in sampling order, those with `good` pass."""

    def __init__(
        self,
        *answers: str | Completion | Exception,
        decomposer: Answer | None = None,
        judge: Answer | None = None,
        composes: int = 99,
        refusal: Exception | None = None,
        check: Callable[[Request], Answer] | None = None,
        turns: Callable[[Request], int] = lambda request: 0,
    ):
        found = {
            "constraint": "no rhymes",
            "simplified_query": "Write about rain.",
            "question": "Is it free of rhymes?",
            "category": "linguistic",
        }
        self.decomposer = decomposer or as_json({"constraints": [found]})
        self.answers, self.sampled, self.asked = answers, 0, Counter[str]()
        self.judge, self.check = judge, check
        self.composes, self.refusal = composes, refusal
        self.engine = ScriptedEngine(self.say, turns)

    def say(self, request: Request, number: int) -> Answer:
        role = request.role
        self.asked[role] += request.n
        text = request.messages[-1]["content"]
        if self.check and "Longer request:" in text:
            return self.check(request)
        if role == "decomposer":
            return self.decomposer
        if role == "composer":
            level = text.count("Add")
            if level >= self.composes:
                return self.refusal or "no JSON"
            return as_json(
                {
                    "augmented query": f"{request.query} Add{level} x{level}",
                    "question": [f"Is it {level} fine?"],
                }
            )
        if role == "responder":
            wave = list(self.answers[self.sampled : self.sampled + request.n])
            self.sampled += request.n
            if isinstance(wave[0], Exception):
                return wave[0]
            return [one for one in wave if not isinstance(one, Exception)]
        if self.judge:
            return self.judge
        if request.labels:
            return labels(0.9 if "good" in text.split("[Answer ")[1] else 0.1)
        good = "YES" if "good" in text.split("[Answer ")[1] else "NO"
        if request.schema and "answer" in request.schema["properties"]:
            return as_json({"explanation": "", "answer": good})
        numbers = [str(i + 1) for i in range(len(request.schema["required"]))] if request.schema else []
        return as_json({n: {"explanation": "", "answer": good} for n in numbers})


def settings(**synthesize: Any) -> Recipe:
    return recipe(synthesize={"rounds": {1: 1}, **synthesize})


async def journey(world: World, made: Recipe, row: Row | None = None, stages: tuple[str, ...] = STAGES) -> Row:
    client = client_of(made, decomposer=world.engine, composer=world.engine, responder=world.engine)
    return await run_journey(row or Row(id=7, query=QUERY), stages, client, made)


async def test_the_whole_journey_of_a_row() -> None:
    world = World("bad", "good")
    row = await journey(world, settings())
    assert (row.decomposed, row.outcome, row.failures) == ("decomposed", "paired", [])
    assert row.constraints[0].simplified_query == "Write about rain."
    (instruction,) = row.instructions
    assert instruction.query.startswith(QUERY)
    assert instruction.chosen is not None
    assert instruction.rejected is not None
    assert (instruction.chosen.text, instruction.rejected.text) == ("good", "bad")
    assert {u.role: u.requests for u in row.usage} == {"decomposer": 1, "composer": 1, "responder": 2, "judge": 2}
    assert {u.role: (u.prompt, u.cached, u.generated) for u in row.usage}["judge"] == (20, 8, 6)
    about = {request.role: request.query for request in world.engine.asked}
    assert about == dict.fromkeys(("decomposer", "composer"), QUERY) | dict.fromkeys(
        ("responder", "judge"), instruction.query
    )


async def test_a_prompt_without_a_constraint_is_simple_and_goes_on() -> None:
    row = await journey(World("good", "bad", decomposer=as_json({"constraints": []})), settings())
    assert (row.decomposed, row.constraints, row.outcome) == ("simple", [], "paired")


@pytest.mark.parametrize("judge", ["rationale", "each", "logprob"])
async def test_responses_are_judged_again_in_their_place_and_none_is_sampled(judge: str) -> None:
    row = await journey(
        World("bad", "bad", "good", "good"), settings(rounds={2: 1}, intermediate=True, goal="all", k=2)
    )
    for instruction in row.instructions:
        for response in instruction.responses:
            response.verdicts, response.passed = [], not response.passed  # another judge's
    row.usage, world = [], World()
    made = settings(judge=judge, goal="all", questions="all", ask_all=True)
    again = await journey(world, made, row.model_copy(deep=True), ("judge",))
    assert set(world.asked) == {usage.role for usage in again.usage} == {"judge"}
    texts, passed = ([[getattr(one, name) for one in instruction.responses] for instruction in again.instructions]
                     for name in ("text", "passed"))  # fmt: skip
    assert texts == [["bad", "bad"], ["good", "good"]]
    assert passed == [[False, False], [True, True]]
    verdicts = [[[verdict.answer for verdict in r.verdicts] for r in one.responses] for one in again.instructions]
    assert verdicts == [[["no"] * 2] * 2, [["yes"] * 3] * 2]  # what was added so far, and the prompt's own
    assert again.outcome == "satisfied"


async def test_a_row_that_comes_from_another_worker_keeps_what_it_lost_there() -> None:
    made = settings(attempts=2)
    lost = World(decomposer=["no JSON"])
    row = await journey(lost, made.model_copy(update={"decompose": made.decompose.model_copy(update={"attempts": 2})}),
                        stages=("decompose",))  # fmt: skip
    assert [one.stage for one in row.dropped] == ["decomposer"]
    row = await journey(World("good", "bad", composes=1), settings(rounds={2: 1}, attempts=1), row, STAGES[1:])
    assert [one.stage for one in row.dropped] == ["decomposer", "composer"]


@pytest.mark.parametrize(
    ("stages", "ends"),
    [
        (STAGES, [("decomposer", "failed"), ("composer", "failed")]),
        (("decompose",), [("decomposer", "failed")]),
        (("compose",), [("composer", "failed")]),
        (("respond",), [("responder", "failed")]),
        (("judge",), [("judge", "failed")]),
    ],
)
def test_a_row_that_is_given_up_fails_in_every_step_that_it_was_in(
    stages: tuple[str, ...], ends: list[tuple[str, str]]
) -> None:
    row = give_up(Row(id=1, query=QUERY), stages, "Poisoned", "it killed its engine")
    assert [(failure.stage, "failed") for failure in row.failures] == ends
    assert {(failure.kind, failure.reason) for failure in row.failures} == {("Poisoned", "it killed its engine")}
    assert row.decomposed == ("failed" if "decompose" in stages else "")
    assert row.outcome == ("" if stages == ("decompose",) else "failed")


async def test_what_code_can_check_costs_no_judge() -> None:
    check = {"name": "avoids", "relation": "exactly", "number": None, "texts": ["rhymes"]}
    found = {"constraint": "no rhymes", "simplified_query": "Write about rain.", "question": "Is it free of rhymes?",
             "category": "linguistic", "check": check}  # fmt: skip
    world = World("good rhymes", "good", decomposer=as_json({"constraints": [found]}))
    row = await journey(world, settings(checkers="all", questions="all"))
    assert row.outcome == "paired"
    (instruction,) = row.instructions
    answers = [[(verdict.by, verdict.answer) for verdict in one.verdicts] for one in instruction.responses]
    assert answers == [[("judge", "not asked"), ("code", "no")], [("judge", "yes"), ("code", "yes")]]
    assert world.asked["judge"] == 1
    assert row.constraints[0].check == Check(name="avoids", texts=["rhymes"])
    assert Row.model_validate(to_table([row]).to_pylist()[0]) == row  # as Parquet has it


async def test_sft_stops_at_the_first_pass_and_never_goes_over_k() -> None:
    world = World("bad", "good", "good")
    assert (await journey(world, settings(goal="sft"))).outcome == "paired"  # a failure came for free
    assert world.asked["responder"] == 2
    world = World("good")
    assert (await journey(world, settings(goal="sft"))).outcome == "satisfied"
    world = World(*["bad"] * 9)
    assert (await journey(world, settings(goal="sft", k=3))).outcome == "unsatisfied"
    assert world.asked["responder"] == 3


async def test_dpo_goes_on_until_it_holds_a_pass_and_a_fail() -> None:
    world = World("good", "good", "bad", "bad")
    row = await journey(world, settings(goal="dpo"))
    assert row.outcome == "paired"
    assert world.asked["responder"] == 3
    assert (await journey(World(*["good"] * 5), settings())).outcome == "satisfied"


async def test_in_a_wave_the_lowest_index_wins_and_all_are_judged() -> None:
    world = World("bad 1", "good 1", "good 2", "bad 2")
    row = await journey(world, settings(wave=3))
    assert world.asked["responder"] == 3
    (instruction,) = row.instructions
    assert [r.text for r in instruction.responses] == ["bad 1", "good 1", "good 2"]
    assert instruction.chosen is not None
    assert instruction.chosen.text == "good 1"
    world = World(*["bad"] * 9)
    await journey(world, settings(wave=3, k=5))
    assert world.asked["responder"] == 5  # the last wave is short


SAMPLE = st.tuples(st.booleans(), st.integers(0, 40), st.integers(0, 9))
"""Whether an answer is good, how long it is, and how long its judging takes."""


@given(st.lists(SAMPLE, min_size=5, max_size=5), st.integers(1, 5), st.sampled_from(["sft", "dpo"]))
async def test_what_is_kept_is_the_first_pass_of_k_samples_that_were_all_judged(
    samples: list[tuple[bool, int, int]], wave: int, goal: str
) -> None:
    answers = [f"{'good' if good else 'bad'} {i}{' and more' * length}" for i, (good, length, _) in enumerate(samples)]
    turns = dict(zip(answers, (turns for _, _, turns in samples), strict=True))

    def judging(request: Request) -> int:
        text = request.messages[-1]["content"]
        return max(turns[answer] for answer in answers if answer in text) if request.role == "judge" else 0

    row = await journey(World(*answers, turns=judging), settings(wave=wave, goal=goal))
    kinds = {"good"} if goal == "sft" else {"good", "bad"}
    enough = (n for n in range(wave, 5, wave) if kinds <= {answer.split()[0] for answer in answers[:n]})
    judged = answers[: next(enough, 5)]
    (instruction,) = row.instructions
    assert [response.text for response in instruction.responses] == judged
    for kept, kind in ((instruction.chosen, "good"), (instruction.rejected, "bad")):
        assert (kept and kept.text) == next((answer for answer in judged if answer.startswith(kind)), None)


async def test_a_cut_response_is_neither_chosen_nor_rejected() -> None:
    world = World(Completion("good but cut", finish="length"), "good")
    row = await journey(world, settings(k=2))
    assert row.outcome == "satisfied"
    assert world.asked["judge"] == 1


async def test_history_reaches_every_role_and_the_stored_instruction() -> None:
    world = World("good", "bad")
    history = [Turn(role="user", content="earlier question"), Turn(role="assistant", content="earlier answer")]
    row = await journey(world, settings(), Row(id=7, query=QUERY, history=history))
    assert row.instructions[0].history == history
    for request in world.engine.asked:
        assert any("earlier answer" in message["content"] for message in request.messages), request.role


async def test_rounds_are_drawn_by_id_and_levels_between_are_kept_on_request() -> None:
    made = settings(rounds={1: 1, 2: 1, 3: 1}, intermediate=True, goal="sft")
    depths = []
    for i in range(30):
        row = await journey(World(*["good"] * 9), made, Row(id=i, query=QUERY), ("compose", "respond"))
        again = await journey(World(*["good"] * 9), made, Row(id=i, query=QUERY), ("compose",))
        assert [x.level for x in row.instructions] == list(range(1, len(row.instructions) + 1))
        assert [x.query for x in row.instructions] == [x.query for x in again.instructions]
        assert all(x.chosen for x in row.instructions)
        depths.append(len(row.instructions))
    assert set(depths) == {1, 2, 3}
    weighted = settings(rounds={1: 1e9, 3: 1})
    drawn = [(await journey(World(), weighted, Row(id=i, query=QUERY), ("compose",))).rounds for i in range(20)]
    assert drawn == [1] * 20
    assert depths[:8] == [2, 1, 2, 1, 3, 1, 1, 2]  # in every run, on every machine


async def test_a_round_that_fails_costs_that_round_and_what_stood_before_is_answered() -> None:
    world = World(*["good"] * 9, composes=4)
    row = await journey(world, settings(rounds={5: 1}, attempts=2, goal="sft"))
    (instruction,) = row.instructions
    assert (row.outcome, row.rounds, instruction.level, row.failures) == ("satisfied", 5, 4, [])
    assert [constraint.round for constraint in instruction.added] == [1, 2, 3, 4]
    assert [(dropped.stage, dropped.kind) for dropped in row.dropped] == [("composer", "not JSON")] * 2

    world = World(*["good"] * 9, composes=4)
    row = await journey(world, settings(rounds={5: 1}, attempts=2, goal="sft", intermediate=True))
    assert [one.level for one in row.instructions] == [1, 2, 3, 4]
    assert all(one.chosen for one in row.instructions)

    row = await journey(World("good", composes=0), settings(rounds={5: 1}, attempts=2))
    assert (row.outcome, row.instructions) == ("failed", [])
    assert [(failure.stage, failure.kind) for failure in row.failures] == [("composer", "not JSON")]


async def test_a_refused_round_costs_that_round_too() -> None:
    world = World(*["good"] * 9, composes=2, refusal=RequestRefused("longer than the context"))
    row = await journey(world, settings(rounds={3: 1}, goal="sft"))
    assert (row.outcome, row.instructions[0].level, row.failures) == ("satisfied", 2, [])
    assert [(dropped.kind, dropped.reason) for dropped in row.dropped] == [
        ("RequestRefused", "longer than the context")
    ]


async def test_an_instruction_may_stay_plain_and_one_whole_answer_is_enough() -> None:
    world = World(Completion("cut", finish="length"), "whole", "more")
    row = await journey(world, settings(rounds={0: 1}))
    (instruction,) = row.instructions
    assert (instruction.query, instruction.level, instruction.added) == (QUERY, 0, [])
    assert instruction.chosen is not None
    assert (row.outcome, instruction.chosen.text) == ("satisfied", "whole")
    assert (world.asked["composer"], world.asked["responder"], world.asked["judge"]) == (0, 2, 0)


@pytest.mark.parametrize(("refused", "level"), [(None, 3), (3, 2), (2, 1), (1, 0)])
async def test_what_a_whole_trained_composer_adds_is_shown_to_the_judge(refused: int | None, level: int) -> None:
    made = settings(rounds={3: 1}, goal="sft", check="model", judge="logprob", intermediate=True)
    roles = made.roles.model_copy(update={"composer": made.roles.composer.model_copy(update={"trained": True})})
    made = made.model_copy(update={"roles": roles})

    def check(request: Request) -> Answer:
        added = request.messages[-1]["content"].split("Longer request:")[1].count("Add")
        return labels(0.1 if added == refused else 0.9)

    world = World(*["good"] * 9, check=check)
    row = await journey(world, made)
    assert not [request for request in world.engine.asked if request.role == "composer" and request.labels]
    assert sum("Longer request:" in request.messages[-1]["content"] for request in world.engine.asked) == 3
    assert [one.level for one in row.instructions] == (list(range(1, level + 1)) if level else [1, 2, 3])
    if level:
        assert row.outcome == "satisfied"
        assert len(row.dropped) == (refused is not None)
        assert all(lost.raw.count("Add") == refused for lost in row.dropped)  # the first that does not suit
    else:
        assert row.outcome == "failed"
        assert row.failures[0].kind == "the model says that it does not suit the query"


async def test_a_check_by_text_asks_nobody_whoever_composes() -> None:
    made = settings(goal="sft", judge="logprob")
    roles = made.roles.model_copy(update={"composer": made.roles.composer.model_copy(update={"trained": True})})
    world = World("good")
    await journey(world, made.model_copy(update={"roles": roles}))
    assert world.asked["judge"] == 1


async def test_every_request_of_a_role_names_its_adapter_but_for_checks_which_ask_the_base() -> None:
    roles = {"decomposer": "decomposers", "composer": "composers", "responder": "responders", "judge": "responders"}
    adapted: dict[str, dict[str, Any]] = {
        role: {"pool": pool, "adapter": f"/run/{role}"} for role, pool in roles.items()
    }
    adapted["composer"]["trained"] = True
    suits = iter([0.1, 0.9, 0.9])  # the first addition is sampled again
    world = World("bad", "good", check=lambda request: labels(next(suits)))
    row = await journey(world, recipe(roles=adapted, synthesize={"rounds": {2: 1}, "check": "model"}))
    assert row.outcome == "paired"
    asked = Counter((request.role, bool(request.labels), request.adapter) for request in world.engine.asked)
    assert asked == {
        ("decomposer", False, "/run/decomposer"): 1,
        ("composer", False, "/run/composer"): 3,
        ("composer", True, ""): 3,
        ("responder", False, "/run/responder"): 2,
        ("judge", False, "/run/judge"): 2,
    }


async def test_contrast_pairs_ask_no_judge() -> None:
    world = World("whole", "without")
    row = await journey(world, settings(pairs="contrast"))
    (instruction,) = row.instructions
    assert row.outcome == "paired"
    assert instruction.chosen is not None
    assert instruction.rejected is not None
    assert (instruction.chosen.text, instruction.rejected.text) == ("whole", "without")
    assert world.asked["judge"] == 0
    asked = [r.messages[-1]["content"] for r in world.engine.asked if r.role == "responder"]
    assert asked == [instruction.query, instruction.simpler_query]
    cut = await journey(World(Completion("whole", finish="length"), "without"), settings(pairs="contrast"))
    assert cut.outcome == "unsatisfied"


async def test_contrast_pairs_of_every_level_share_their_answers() -> None:
    world = World("one", "none", "two", "three")
    row = await journey(world, settings(pairs="contrast", rounds={3: 1}, intermediate=True))
    pairs = [[response.text for response in instruction.responses] for instruction in row.instructions]
    assert pairs == [["one", "none"], ["two", "one"], ["three", "two"]]
    assert [[r.passed for r in instruction.responses] for instruction in row.instructions] == [[True, False]] * 3
    assert world.asked["responder"] == 4


async def test_all_responses_are_sampled_where_all_are_wanted() -> None:
    world = World("good", "bad", "good", "bad")
    row = await journey(world, settings(goal="all", k=4, judge="each"))
    assert [response.passed for response in row.instructions[0].responses] == [True, False, True, False]


async def test_standing_questions_come_last_and_of_a_plain_prompt_too() -> None:
    made = settings(standing=True, questions="all", judge="logprob", ask_all=True)
    row = await journey(World("good", "bad"), made)
    asked = [verdict.question for verdict in row.instructions[0].responses[0].verdicts]
    assert asked == [*row.instructions[0].questions, "Is it free of rhymes?", *made.templates.judge.standing]
    plain = await journey(World("bad", "good"), settings(standing=True, rounds={0: 1}, judge="logprob"))
    assert [response.passed for response in plain.instructions[0].responses] == [False, True]


# ---- as many constraints as leave some responses passing and some failing --------------------------------------------


async def in_band(passing: dict[int, int], start: int, k: int = 4, composes: int = 99, **more: Any) -> Row:
    """A row whose first `passing[level]` responses of `k` pass at each level, from `start` on."""
    made = settings(rounds={start: 1}, judge="logprob", k=k, attempts=1, **({"band": {}} | more))
    return await banded(made, World(composes=composes), passing)


async def banded(made: Recipe, world: World, passing: dict[int, int], stages: tuple[str, ...] = STAGES[1:]) -> Row:
    sampled = Counter[int]()

    def say(request: Request, number: int) -> Answer:
        if request.role != "responder":
            return world.say(request, number)
        level = request.messages[-1]["content"].count("Add")
        sampled[level] += 1
        return "good" if sampled[level] <= passing[level] else "bad"

    client = client_of(made, **dict.fromkeys(("decomposer", "composer", "responder"), ScriptedEngine(say)))
    return await run_journey(Row(id=7, query=QUERY), stages, client, made)


async def test_what_is_added_on_the_way_is_asked_about_too_and_so_are_the_prompts_own_constraints() -> None:
    made = settings(rounds={1: 1}, judge="logprob", k=4, band={}, questions="all", ask_all=True)
    row = await banded(made, World(), {1: 4, 2: 2}, STAGES)
    (instruction,) = row.instructions
    asked = [verdict.question for verdict in instruction.responses[0].verdicts]
    assert asked == ["Is it 0 fine?", "Is it 1 fine?", "Is it free of rhymes?"]


@pytest.mark.parametrize("refused", [None, 3, 2])
async def test_what_is_added_on_the_way_is_shown_to_the_judge_where_the_composer_cannot_be_asked(
    refused: int | None,
) -> None:
    made = settings(rounds={1: 1}, judge="logprob", k=4, band={}, check="model", attempts=1)
    roles = made.roles.model_copy(update={"composer": made.roles.composer.model_copy(update={"trained": True})})
    shown: list[tuple[str, int]] = []

    def check(request: Request) -> Answer:
        added = request.messages[-1]["content"].split("Longer request:")[1].count("Add")
        shown.append((request.role, added))
        return labels(0.1 if added == refused else 0.9)

    row = await banded(made.model_copy(update={"roles": roles}), World(check=check), {1: 4, 2: 4, 3: 2})
    last = refused or 3
    assert shown == [("judge", level) for level in range(1, last + 1)]
    assert row.instructions[0].level == (refused - 1 if refused else 3)
    assert [(lost.stage, lost.kind, lost.raw.count("Add")) for lost in row.dropped] == (
        [("composer", "the model says that it does not suit the query", refused)] if refused else []
    )


@pytest.mark.parametrize(
    ("passing", "start", "composes", "tried", "kept"),
    [
        ({2: 1}, 2, 99, [2], 2),  # some pass and some fail
        ({1: 4, 2: 4, 3: 2}, 1, 99, [1, 2, 3], 3),  # all pass: one more, and one more
        ({3: 0, 2: 0, 1: 3}, 3, 99, [3, 2, 1], 1),  # none passes: one back, and one back
        ({2: 0, 1: 4}, 2, 99, [2, 1], 1),  # the border lies between: what can be met stays
        ({1: 4, 2: 0}, 1, 99, [1, 2], 1),
        ({1: 0}, 1, 99, [1], 1),  # without a constraint there is nothing to fail
        ({0: 4, 1: 2}, 0, 99, [0, 1], 1),
        ({1: 4, 2: 4}, 1, 2, [1, 2], 2),  # no third was found
        (dict.fromkeys(range(7), 4), 4, 99, [4, 5, 6], 6),  # most_rounds
    ],
)
async def test_a_row_goes_on_to_where_some_responses_pass_and_some_fail(
    passing: dict[int, int], start: int, composes: int, tried: list[int], kept: int
) -> None:
    row = await in_band(passing, start, composes=composes, intermediate=True)
    assert [one.level for one in row.instructions] == [*sorted({*tried} - {kept}), kept]
    last = row.instructions[-1]
    assert sum(response.passed for response in last.responses) == min(passing[kept], len(last.responses))
    assert row.outcome == ("unsatisfied" if not passing[kept] else "paired" if passing[kept] < 4 else "satisfied")
    (alone,) = (await in_band(passing, start, composes=composes)).instructions
    assert alone == last


async def test_no_more_is_sampled_than_decides_where_to_go() -> None:
    row = await in_band({1: 1}, 1, k=9)
    assert len(row.instructions[0].responses) == 2  # one passes, one fails
    row = await in_band({1: 3}, 1, k=4, band={"low": 0.5, "high": 0.9})
    assert len(row.instructions[0].responses) == 4  # three of four lie between, and so do no fewer
    row = await in_band({1: 1}, 1, k=4, band={"low": 0.5, "high": 0.9})
    assert len(row.instructions[0].responses) == 3  # at most two can still pass
    row = await in_band({1: 1}, 1, k=5, goal="all")
    assert len(row.instructions[0].responses) == 5


@given(st.integers(2, 9), st.data())
def test_where_to_go_is_decided_as_soon_as_it_can_be_and_not_before(k: int, data: st.DataObject) -> None:
    low, high = sorted(data.draw(st.tuples(st.floats(0, 0.99), st.floats(0.01, 1.0)).filter(lambda b: b[0] != b[1])))
    band = Band(low=low, high=max(high, 0.01))
    good = data.draw(st.lists(st.booleans(), min_size=k, max_size=k))
    share = sum(good) / k
    end = 1 if share >= band.high else -1 if share <= band.low else 0
    for seen in range(k + 1):
        passed = sum(good[:seen])
        others = {
            1 if rate >= band.high else -1 if rate <= band.low else 0
            for rate in ((passed + more) / k for more in range(k - seen + 1))
        }
        assert band.direction(passed, seen - passed, k) == (end if len(others) == 1 else None)


async def test_all_questions_may_include_the_prompts_own() -> None:
    row = await journey(World("good", "bad"), settings(questions="all"))
    asked = [v.question for v in row.instructions[0].responses[0].verdicts]
    assert asked == [*row.instructions[0].questions, "Is it free of rhymes?"]


async def test_a_failed_decomposition_is_kept_and_composing_goes_on() -> None:
    row = await journey(World("good", "bad", decomposer="no JSON"), settings())
    assert (row.decomposed, row.outcome) == ("failed", "paired")
    (failure,) = row.failures
    assert (failure.stage, failure.reason, failure.raw) == ("decomposer", "not JSON", "no JSON")


@pytest.mark.parametrize("error", [RequestRefused("too long"), EngineUnavailable("timed out")])
async def test_an_engine_that_refuses_ends_the_row_with_its_words(error: Exception) -> None:
    row = await journey(World(error), settings())
    assert row.outcome == "failed"
    assert row.failures[0].stage == "responder"
    assert (row.failures[0].kind, row.failures[0].reason) == (type(error).__name__, str(error))
    assert row.usage  # what was spent before is not forgotten


@pytest.mark.parametrize(
    ("world", "stage"),
    [
        (lambda: World("good", "bad", decomposer=TypeError("a list")), "decomposer"),
        (lambda: World(composes=0, refusal=TypeError("a list")), "composer"),
        (lambda: World(TypeError("a list")), "responder"),
        (lambda: World("good", judge=TypeError("a list")), "responder"),
    ],
    ids=["decomposer", "composer", "responder", "judge"],
)
async def test_what_nobody_foresaw_ends_its_row_alone_and_is_named(world: Callable[[], World], stage: str) -> None:
    row = await journey(world(), settings())
    found = [one for one in row.failures if one.kind == UNEXPECTED]
    assert [(one.stage, one.reason) for one in found] == [(stage, "TypeError: a list")]
    assert (row.decomposed if stage == "decomposer" else row.outcome) == "failed"
    assert row.usage


async def test_a_refused_question_is_the_judges_failure() -> None:
    row = await journey(World("good", judge=RequestRefused("too long")), settings())
    (failure,) = row.failures
    assert (failure.stage, failure.kind, failure.reason) == ("judge", "RequestRefused", "too long")
    assert row.outcome == "failed"


async def test_a_dead_engine_is_not_the_rows_fault() -> None:
    with pytest.raises(EngineDead):
        await journey(World(EngineDead("gone")), settings())


async def test_what_a_benchmark_asks_is_asked_as_it_is() -> None:
    said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Yes?")]
    history = [Turn.model_validate({"role": role, "content": content}) for role, content in said]
    row = Asked(id=1, query="Sum?", history=history, max_tokens=9, temperature=0.3, top_p=0.8, stop=["Q:"])
    engine = saying(Completion(" 4\n", finish="length"))
    told = recipe()
    made = await run_journey(row, ("ask",), client_of(told, responder=engine), told)
    assert isinstance(made, Asked)
    assert (made.outcome, made.response) == ("answered", Response(text=" 4\n", finish="length"))
    (asked,) = engine.asked
    assert [message["content"] for message in asked.messages] == ["Be brief.", "Hi", "Yes?", "Sum?"]
    assert (asked.max_tokens, asked.temperature, asked.top_p, asked.sampling.given) == (9, 0.3, 0.8, {"stop": ["Q:"]})
    assert Asked.model_validate(to_table([made]).to_pylist()[0]) == made


async def test_a_given_answer_gets_its_probability_and_one_that_is_refused_fails() -> None:
    row = Asked(id=1, query="Sum?", continuation="4")
    engine = saying(Completion("4", logprob=-1.5, greedy=True), RequestRefused("too long"))
    client = client_of(recipe(), responder=engine)
    made = await run_journey(row.model_copy(deep=True), ("ask",), client, recipe())
    assert isinstance(made, Asked)
    assert (made.outcome, made.logprob, made.greedy, made.response) == ("answered", -1.5, True, None)
    assert engine.asked[0].continuation == "4"
    failed = await run_journey(row, ("ask",), client, recipe())
    assert (failed.outcome, failed.failures[0].reason) == ("failed", "too long")
    assert give_up(Asked(id=1, query="x"), ("ask",), "kind", "why").outcome == "failed"
