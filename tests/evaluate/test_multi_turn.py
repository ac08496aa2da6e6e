import json
from pathlib import Path

import pytest

from tests.evaluate import files
from tests.scripted import Answer, ScriptedEngine, client_of, recipe
from ultraif_ray.engine.protocol import Completion, Request
from ultraif_ray.errors import InputError, RequestRefused
from ultraif_ray.evaluate.judged import Scored, as_asked
from ultraif_ray.evaluate.multi_turn import Conversation, read_multi_if, score_multi_if
from ultraif_ray.evaluate.statistics import estimates_of
from ultraif_ray.flow.placement import cut
from ultraif_ray.method.journey import give_up, run_journey
from ultraif_ray.records import Row, Turn, to_table


async def conversed(conversations: list[Conversation], engine: ScriptedEngine) -> list[Row]:
    made = as_asked(recipe(), max_tokens=64)
    client = client_of(made, responder=engine)
    rows = [await run_journey(one.row.model_copy(deep=True), ("converse",), client, made) for one in conversations]
    return [Row.model_validate(row) for row in to_table(rows).to_pylist()]


async def scored(folder: Path, engine: ScriptedEngine) -> Scored:
    conversations = read_multi_if([files.multi_if(folder)])
    return score_multi_if(conversations, await conversed(conversations, engine))


def last_words(request: Request, number: int) -> Answer:
    return f"IT RAINS AND RAINS, {request.query.upper()}"


async def test_each_turn_has_those_before_it_and_their_answers_as_its_history(tmp_path: Path) -> None:
    engine = ScriptedEngine(last_words)
    english, hindi = await conversed(read_multi_if([files.multi_if(tmp_path)]), engine)
    said = [[message["content"] for message in request.messages] for request in engine.asked]
    assert said[:3] == [
        ["Say it."],
        ["Say it.", "IT RAINS AND RAINS, SAY IT.", "Again."],
        ["Say it.", "IT RAINS AND RAINS, SAY IT.", "Again.", "IT RAINS AND RAINS, AGAIN.", "Shorter."],
    ]
    assert len(said) == 5
    assert all(request.role == "responder" for request in engine.asked)
    assert english.instructions[1].history == [
        Turn(role="user", content="Say it."), Turn(role="assistant", content="IT RAINS AND RAINS, SAY IT."),
    ]  # fmt: skip
    assert [len(turn.responses) for row in (english, hindi) for turn in row.instructions] == [1] * 5


async def test_the_four_figures_of_each_turn_and_their_mean(tmp_path: Path) -> None:
    answers = {"Say it.": "IT RAINS TODAY", "Again.": "IT RAINS, TODAY", "Shorter.": "IT, rains today again.",
               "Say.": "Yes.", "More.": "Well, then,\nno more"}  # fmt: skip
    result = await scored(tmp_path, ScriptedEngine(lambda request, number: answers[request.query]))
    found = {metric: one.value for metric, one in result.estimates.items()}
    second = {
        "prompt_level_strict": 0,
        "prompt_level_loose": 1 / 2,
        "inst_level_strict": 1 / 4,
        "inst_level_loose": 3 / 4,
    }
    for way, value in second.items():
        assert found[f"turn_2_{way}_acc"] == pytest.approx(value), way
    assert found["turn_2"] == pytest.approx(sum(second.values()) / 4)
    assert (found["turn_1"], found["turn_3"]) == (1.0, 0.0)
    assert found["turn_2_English"] == pytest.approx((0 + 0 + 1 / 2 + 1 / 2) / 4)
    assert "turn_3_Hindi" not in found
    first, _ = result.samples
    assert first["followed"][1] == {"strict": [True, False], "loose": [True, False], "unscored": ""}
    assert first["resps"] == [["IT RAINS TODAY", "IT RAINS, TODAY", "IT, rains today again."]]
    assert result.counts == {"conversations": 2, "turns": 5, "failed": 0, "unscored": 0, "counted otherwise": 1}
    stored = estimates_of([json.loads(json.dumps(sample)) for sample in result.samples])
    assert stored == {f"{metric},none": one for metric, one in result.estimates.items()}


async def test_a_turn_that_is_refused_ends_a_conversation_which_keeps_what_it_has(tmp_path: Path) -> None:
    def script(request: Request, number: int) -> Answer:
        return RequestRefused("too long") if request.query == "Again." else "IT RAINS TODAY"

    result = await scored(tmp_path, ScriptedEngine(script))
    found = {metric: one.value for metric, one in result.estimates.items()}
    assert (found["turn_1_English"], found["turn_2_English"], found["turn_3_English"]) == (1.0, 0.0, 0.0)
    assert (result.counts["failed"], result.samples[0]["resps"]) == (1, [["IT RAINS TODAY"]])
    assert result.samples[0]["failures"][0]["reason"] == "too long"


async def test_an_empty_answer_follows_nothing_and_the_conversation_goes_on(tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda request, number: Completion("", "length"))
    result = await scored(tmp_path, engine)
    assert len(engine.asked) == 5
    assert {one.value for one in result.estimates.values()} == {0.0}


def test_the_stage_needs_the_responder_alone() -> None:
    made = recipe()
    (operator,) = cut(made, ("converse",))
    assert operator.pools == ("responders",)
    row = give_up(Row(id=1, query="x"), ("converse",), "kills its engine", "each time")
    assert (row.outcome, row.failures[0].stage) == ("failed", "responder")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("turn_1_prompt", "None", "its turns have gaps"),
        ("turn_2_prompt", "None", "its turns have gaps"),
        ("turn_1_prompt", "Say it.", "conversation 1:1:en: a turn cannot be read"),
        ("turn_1_instruction_id_list", "[]", "turn 1 has no instruction to verify"),
        ("language", "", "language: String should have at least 1"),
    ],
)
def test_a_record_of_another_form_is_named(tmp_path: Path, column: str, value: str, message: str) -> None:
    import csv

    with open(files.multi_if(tmp_path)) as file:
        record = next(csv.DictReader(file))
    with pytest.raises(InputError, match=message):
        read_multi_if([files.lines(tmp_path / "bad.jsonl", record | {column: value})])


def test_what_is_no_conversation_to_score_is_refused(tmp_path: Path) -> None:
    file = files.multi_if(tmp_path)
    with pytest.raises(InputError, match="stands there twice"):
        read_multi_if([file, file])
    with pytest.raises(InputError, match="hold no conversation"):
        read_multi_if([files.array(tmp_path / "empty.json")])
    with pytest.raises(InputError, match="1 rows are of other conversations"):
        score_multi_if(read_multi_if([file]), [Row(id=1, query="x")])
