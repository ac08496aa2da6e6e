import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.evaluate import files
from tests.scripted import Answer, ScriptedEngine, as_json, client_of, labels, recipe
from ultraif_ray.engine.protocol import Completion, Request
from ultraif_ray.errors import InputError, RequestRefused
from ultraif_ray.evaluate import judged
from ultraif_ray.evaluate.judged import Item, Scored, as_asked
from ultraif_ray.evaluate.statistics import estimates_of
from ultraif_ray.method.journey import run_journey
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import Row, to_table

Says = Callable[[str], Answer]
"""What is said to a query, or about a question."""


async def asked(items: list[Item], answer: Says, met: Callable[[str], bool], made: Recipe) -> list[Row]:
    """The items' rows as the journey brings them back, from a responder and a judge that say so."""

    def script(request: Request, number: int) -> Answer:
        if request.role == "responder":
            return answer(request.query)
        text = request.messages[-1]["content"]
        if request.labels:
            return labels(0.9 if met(text) else 0.1)
        questions = [
            line.partition(". ")[2] for line in text.rpartition("[Questions ")[2].splitlines()[1:] if line[:1].isdigit()
        ]
        said = [{"explanation": "", "answer": "YES" if met(question) else "NO"} for question in questions]
        return as_json({str(number): one for number, one in enumerate(said, start=1)})

    engine = ScriptedEngine(script)
    client = client_of(made, responder=engine)
    rows = [await run_journey(item.row.model_copy(deep=True), ("respond",), client, made) for item in items]
    return [Row.model_validate(row) for row in to_table(rows).to_pylist()]


async def scored(name: str, file: str, answer: Says, met: Callable[[str], bool], **synthesize: Any) -> Scored:
    items = judged.read(name, [file])
    made = as_asked(recipe(synthesize=synthesize), max_tokens=64)
    return judged.score(name, items, await asked(items, answer, met, made))


def values(result: Scored) -> dict[str, float]:
    return {metric: one.value for metric, one in result.estimates.items()}


# ---- InfoBench, ComplexBench -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["rationale", "logprob"])
async def test_infobench_is_the_share_of_all_questions_that_are_met(tmp_path: Path, way: str) -> None:
    result = await scored(
        "infobench", files.infobench(tmp_path), lambda query: "Text.", lambda asked: "capitals?" not in asked, judge=way
    )
    assert values(result) == {"drfr": pytest.approx(2 / 3), "all_met": 0.5}
    first, second = result.samples
    assert first["arguments"] == [["Write two lines about this place, in capitals.\n\nA river, a bridge."]]
    assert second["arguments"] == [["Name a bird."]]  # nothing below it where there is no input
    assert (first["met"], first["resps"], first["doc"]["subset"]) == ([True, False], [["Text."]], "Hard_set")
    assert [verdict["question"] for verdict in first["verdicts"]] == ["Is it two lines?", "Is it in capitals?"]


async def test_after_a_no_the_judge_goes_on(tmp_path: Path) -> None:
    result = await scored(
        "infobench", files.infobench(tmp_path), lambda query: "Text.", lambda asked: "two lines?" not in asked,
        judge="logprob",
    )  # fmt: skip
    assert [sample["met"] for sample in result.samples] == [[False, True], [True]]


async def test_complexbench_counts_a_question_with_those_that_it_depends_on(tmp_path: Path) -> None:
    file = files.complexbench(tmp_path)
    result = await scored("complexbench", file, lambda query: "Text.", lambda asked: "A right" not in asked)
    assert values(result)["drfr"] == pytest.approx(1 / 3)  # B is met, but rests on A
    result = await scored("complexbench", file, lambda query: "Text.", lambda asked: "B long" not in asked)
    assert values(result)["drfr"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("answer", [Completion("", "stop"), Completion("Cut", "length"), RequestRefused("too long")])
async def test_what_was_not_answered_in_full_meets_nothing_and_is_counted(tmp_path: Path, answer: Answer) -> None:
    result = await scored("infobench", files.infobench(tmp_path), lambda query: answer, lambda asked: True)
    assert values(result) == {"drfr": 0.0, "all_met": 0.0}
    kind = {"": "empty", "Cut": "cut off"}[answer.text] if isinstance(answer, Completion) else "failed"
    assert {name: result.counts[name] for name in ("empty", "cut off", "failed")} == dict.fromkeys(
        ("empty", "cut off", "failed"), 0
    ) | {kind: 2}
    assert (result.counts["prompts"], result.counts["questions"]) == (2, 3)


async def test_a_verdict_that_is_missing_is_counted_and_is_no_yes(tmp_path: Path) -> None:
    items = judged.read("infobench", [files.infobench(tmp_path)])
    made = as_asked(recipe(synthesize={"attempts": 1}), max_tokens=64)
    engine = ScriptedEngine(lambda request, number: "Text." if request.role == "responder" else "no JSON")
    rows = [await run_journey(item.row, ("respond",), client_of(made, responder=engine), made) for item in items]
    result = judged.score("infobench", items, rows)
    assert (values(result)["drfr"], result.counts["verdicts missing"]) == (0.0, 3)


# ---- FollowBench -----------------------------------------------------------------------------------------------------


async def test_followbench_by_level_and_by_kind(tmp_path: Path) -> None:
    result = await scored(
        "followbench",
        files.followbench(tmp_path),
        lambda query: "BOT: yes" if "Shown" in query and "Shown 3" not in query else "apple",
        lambda asked: "Rhyme" not in asked.split("after it")[1],  # the third constraint, and those that follow it
    )
    found = values(result)
    style = {"hsr": 2 / 5, "ssr": (1 + 1 + 2 / 3 + 2 / 4 + 2 / 5) / 5, "csl": 2.0}
    content, example = {"hsr": 1.0, "ssr": 1.0, "csl": 5.0}, {"hsr": 2 / 5, "ssr": 2 / 5, "csl": 2.0}
    for name in style:
        assert found[name] == pytest.approx((style[name] + content[name] + example[name]) / 3), name
    assert [found[f"hsr_level_{level}"] for level in range(1, 6)] == pytest.approx([1, 1, 1 / 3, 1 / 3, 1 / 3])
    assert found["ssr_level_3"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (result.counts["prompts"], result.counts["by rule"]) == (20, 15)
    assert {score.cluster for score in result.scores["hsr"]} == {"style-1", "content-3", "content-4", "example-1"}


async def test_the_judge_is_asked_about_each_step_from_the_first_on_and_of_rules_nothing(tmp_path: Path) -> None:
    items = {item.key: item for item in judged.read("followbench", [files.followbench(tmp_path)])}
    (instruction,) = items["style-1-3"].row.instructions
    assert instruction.query == " ".join(files.STYLE[:4])
    assert [added.text for added in instruction.added] == ["Be gentle", "Be short", "Rhyme"]
    for step, question in enumerate(instruction.questions):
        before, after = (json.dumps(" ".join(files.STYLE[: step + more])) for more in (1, 2))
        assert f"it read {before}, and after it {after}." in question
    assert items["content-3-2"].row.instructions[0].questions == []


async def test_the_rules_alone_ask_no_judge(tmp_path: Path) -> None:
    place = files.followbench(tmp_path)
    whole, rules = (judged.read(name, [place]) for name in ("followbench", "followbench_rules"))
    assert [item.key for item in rules] == [item.key for item in whole if item.rule]
    assert len({item.row.id for item in whole + rules}) == len(whole + rules)
    engine = ScriptedEngine(lambda request, number: "apple")
    made = as_asked(recipe(), max_tokens=64)
    rows = [await run_journey(item.row, ("respond",), client_of(made, responder=engine), made) for item in rules]
    assert {request.role for request in engine.asked} == {"responder"}
    assert values(judged.score("followbench_rules", rules, rows))["hsr"] == 0.5  # of content all, of examples none


async def test_levels_in_a_row_are_counted_only_where_all_were_asked(tmp_path: Path) -> None:
    items = judged.read("followbench", [files.followbench(tmp_path)])[:4]
    made = as_asked(recipe(), max_tokens=64)
    result = judged.score("followbench", items, await asked(items, lambda query: "x", lambda asked: True, made))
    assert "csl" not in result.scores
    assert len(result.samples) == 4


def test_an_empty_answer_has_no_form(tmp_path: Path) -> None:
    items = [item for item in judged.read("followbench", [files.followbench(tmp_path)]) if item.kind == "content"]
    for item in items:
        item.doc["target"] = ""  # which an empty answer would be
    result = judged.score("followbench", items, [item.row for item in items])
    assert values(result)["hsr"] == 0.0


# ---- what all of them do ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(judged.BENCHMARKS))
async def test_figures_can_be_had_again_from_the_samples(tmp_path: Path, name: str) -> None:
    file = getattr(files, name.removesuffix("_rules"))(tmp_path)
    result = await scored(name, file, lambda query: "apple", lambda asked: len(asked) % 2 == 0)
    stored = [json.loads(json.dumps(sample)) for sample in result.samples]
    assert estimates_of(stored) == {f"{metric},none": one for metric, one in result.estimates.items()}


async def test_one_query_with_other_questions_is_another_row(tmp_path: Path) -> None:
    record = {"instruction": "Name a bird.", "input": ""}
    file = files.lines(
        tmp_path / "two.jsonl",
        record | {"id": "a", "decomposed_questions": ["One?"]},
        record | {"id": "b", "decomposed_questions": ["Two?"]},
    )
    first, second = judged.read("infobench", [file])
    assert first.row.id != second.row.id
    assert [item.row.id for item in judged.read("infobench", [file])] == [first.row.id, second.row.id]


def test_the_recipe_asks_the_bare_query_once_and_leaves_the_judge_alone() -> None:
    before = recipe(
        synthesize={"judge": "logprob", "threshold": 0.7, "standing": True, "k": 5, "questions": "all"},
        roles={"responder": {"pool": "responders", "system": "Obey.", "max_tokens": 9}},
    )
    made = as_asked(before, max_tokens=77)
    responder = made.roles.responder
    assert (responder.temperature, responder.top_p, responder.max_tokens) == (0.0, 1.0, 77)
    assert made.templates_of_roles.responder.system is None
    assert made.roles.judge == before.roles.judge
    settings = made.synthesize
    assert (settings.judge, settings.threshold, settings.k, settings.goal) == ("logprob", 0.7, 1, "all")
    assert (settings.standing, settings.questions, settings.ask_all) == (False, "composed", True)


BAD: list[tuple[str, dict[str, Any], str]] = [
    (
        "infobench",
        {"id": "a", "instruction": "x"},
        r"record 1 is not of the form .*decomposed_questions: Field required",
    ),
    ("infobench", {"id": "a", "instruction": "x", "decomposed_questions": []}, "decomposed_questions: List should"),
    (
        "complexbench",
        {"main_id": 1, "instruction_en": "x", "scoring_questions": [{}]},
        r"0\.question_en: Field required",
    ),
    ("followbench", files.evolved(1, "style", "oasst", *files.STYLE)[2], "levels 0 to 1"),
    (
        "followbench",
        {"example_id": 1, "category": "style", "source": "x", "level": 6, "instruction": ""},
        "level: Input",
    ),
]


@pytest.mark.parametrize(("name", "record", "message"), BAD)
def test_a_record_of_another_form_is_named(tmp_path: Path, name: str, record: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as raised:
        judged.read(name, [files.lines(tmp_path / "bad.jsonl", record)])
    assert "bad.jsonl" in str(raised.value)


def test_what_is_no_benchmark_to_score_is_refused(tmp_path: Path) -> None:
    file = files.infobench(tmp_path)
    with pytest.raises(InputError, match="domain_oriented_task_0 stands there twice"):
        judged.read("infobench", [file, file])
    with pytest.raises(InputError, match="hold no prompt"):
        judged.read("infobench", [files.array(tmp_path / "empty.json")])
    items = judged.read("infobench", [file])
    with pytest.raises(InputError, match="1 rows are of other prompts"):
        judged.score("infobench", items, [Row(id=1, query="x")])


@settings(max_examples=40)
@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=4), min_size=5, max_size=5))
def test_levels_in_a_row_end_at_the_first_that_is_not_full(met: list[list[bool]]) -> None:
    graded = [
        judged.Graded(
            Item(str(level), Row(id=level, query=""), {}, group="g", kind="k", level=level), Row(id=0, query=""), one
        )
        for level, one in enumerate(met, start=1)
    ]
    (score,) = judged.satisfaction(graded)["csl"]
    levels = int(score.got)
    assert all(all(one) for one in met[:levels])
    assert levels == 5 or not all(met[levels])
