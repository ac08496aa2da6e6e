"""When a trained composer takes over from the prompted one. What models answer is scripted here; nothing is trained."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.simulated import recipe
from ultraif_ray.data.export import schema_of
from ultraif_ray.method.prompts import composer_answer, composer_request
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import Turn
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.step import Context
from ultraif_ray.steps.synthesize import Synthesize
from ultraif_ray.steps.train import TrainComposer
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Training
from ultraif_ray.train import run as training
from ultraif_ray.train.tasks import Chats

HISTORY = [Turn(role="user", content="Is it cold there?"), Turn(role="assistant", content="Often.")]
QUERIES = ["Describe fog", "Name three birds"]
GOOD = [composer_answer(f"{query} in verse", "Is it verse?") for query in QUERIES]
HALF = [GOOD[0], composer_answer(QUERIES[1], "Is it three?")]  # to which nothing was added
NONE = ["no JSON", "no JSON"]
REPORT = Training(loss=[1.0], held_out_loss=[2.0, 1.0])


def context_of(tmp_path: Path, **composer: Any) -> Context:
    tmp_path.mkdir(exist_ok=True)
    made = recipe(tmp_path, composer={"model": "packaged", "min_pairs": 2, **composer})
    place = tmp_path / "run/composer/examples"
    place.mkdir(parents=True)
    pairs = [
        {
            "prompt": [{"role": "user", "content": composer_request(HISTORY, query)}],
            "completion": [{"role": "assistant", "content": answer}],
            "id": number,
            "start": {"query": query, "history": [turn.model_dump() for turn in HISTORY]},
        }
        for number, (query, answer) in enumerate(zip(QUERIES, GOOD, strict=True))
    ]
    pq.write_table(pa.Table.from_pylist(pairs, schema=schema_of("composer", "trl")), place / "held_out.parquet")
    return Context(made, RunFolder(made.run_folder))


def steps_of(made: Recipe) -> tuple[TrainComposer, Synthesize]:
    steps = plan(made, RunFolder(made.run_folder))
    composer = next(step for step in steps if isinstance(step, TrainComposer))
    return composer, next(step for step in steps if isinstance(step, Synthesize))


def answering(monkeypatch: pytest.MonkeyPatch, trained: list[str], prompted: list[str]) -> list[Chats]:
    models: list[Chats] = []

    def answer(train: Any, asked: list[Chats], **more: Any) -> list[list[str]]:
        models.extend(asked)
        return [trained if len(one.chats[0]) == 1 else prompted for one in asked]

    monkeypatch.setattr(training, "answer", answer)
    return models


@pytest.mark.parametrize(
    ("trained", "prompted", "takes_over"),
    [(GOOD, HALF, True), (GOOD, GOOD, True), (HALF, GOOD, False), (NONE, HALF, False)],
)
def test_it_takes_over_where_no_fewer_of_its_answers_can_be_used(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    trained: list[str],
    prompted: list[str],
    takes_over: bool,
) -> None:
    context = context_of(tmp_path)
    asked = answering(monkeypatch, trained, prompted)
    composer, synthesis = steps_of(context.recipe)
    report = composer.evaluate(context, REPORT)
    usable, usable_prompted = (sum(text in GOOD for text in texts) / 2 for texts in (trained, prompted))
    assert (report.evaluated, report.takes_over) == (2, takes_over)
    assert report.valid_json == (0 if trained is NONE else 1)
    assert (report.usable, report.usable_prompted) == (usable, usable_prompted)
    assert [len(one.chats[0]) > 1 for one in asked] == [False, True]  # the prompted one gets the whole prompt
    assert "Is it cold there?" in asked[1].chats[0][-1]["content"]  # and what was said before
    assert ("the prompted composer stays" in capsys.readouterr().err) is not takes_over
    entry = ledger.Entry(input=2, outcomes={"trained on": 2}, training=report)
    ledger.enter(context.folder, composer.name, entry)
    assert synthesis.serving(context).roles.composer.trained is takes_over


def test_without_held_out_pairs_nobody_could_tell_and_none_is_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_of(tmp_path)
    composer, _ = steps_of(context.recipe)
    counts = {"train": {"accepted": 9}, "held_out": {}}
    assert not composer.too_few(context.recipe, counts | {"held_out": {"accepted": 1}})
    entry = composer.without_examples(context, counts)
    assert entry.outcomes == {"too few to train on": 9}
    assert "no pair is held out to try it on (export.held_out): the prompted" in capsys.readouterr().err
    untried = context_of(tmp_path / "other", eval_samples=0).recipe
    assert not composer.too_few(untried, counts)


def test_who_asks_for_no_trial_gets_the_trained_one(tmp_path: Path) -> None:
    context = context_of(tmp_path, eval_samples=0)
    assert steps_of(context.recipe)[0].evaluate(context, REPORT).takes_over is True


def test_too_few_pairs_train_no_composer_and_the_run_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    context = context_of(tmp_path)
    composer, synthesis = steps_of(context.recipe)
    entry = composer.without_examples(context, {"train": {"accepted": 1, "too long": 1}, "held_out": {}})
    assert (entry.input, entry.outcomes) == (2, {"too few to train on": 1, "too long": 1})
    assert "1 pairs to train on, fewer than composer.min_pairs=2" in capsys.readouterr().err
    ledger.enter(context.folder, composer.name, entry)
    assert not synthesis.serving(context).roles.composer.trained
