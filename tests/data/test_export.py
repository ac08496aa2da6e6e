"""What stands in the sets, that stock loaders open them, and that TRL takes them as its own."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import pyarrow.parquet as pq
import pytest
import yaml
from markdown_it import MarkdownIt
from trl.data_utils import apply_chat_template, is_conversational

from tests.scripted import composed
from ultraif_ray.data.card import card
from ultraif_ray.data.export import SETS, SPLITS, export, held_out
from ultraif_ray.data.ingest import to_prompts
from ultraif_ray.recipe import Ingest, Recipe, parse_recipe
from ultraif_ray.records import Check, Constraint, Prompt, Response, Row, Turn, Verdict, prompt_id, to_table
from ultraif_ray.store.difficulty import Counting
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry

HISTORY = [Turn(role="user", content="hi"), Turn(role="assistant", content="yes?")]


def row(number: int, *texts: str, history: list[Turn] | None = None, constraints: int = 1) -> Row:
    """A row whose responses pass where they begin with `good`."""
    responses = [Response(text=t, passed=t.startswith("good")) for t in texts]
    instruction = composed("ask", ("ask more", "Is it?"), history=history or [], responses=responses)
    chosen, rejected = instruction.chosen, instruction.rejected
    return Row(
        id=number,
        query="ask in French",
        history=history or [],
        constraints=[Constraint(category="format", text="in French", simplified_query="ask", question="Is it?")]
        * constraints,
        instructions=[instruction],
        decomposed="decomposed",
        outcome="paired" if chosen and rejected else "satisfied" if chosen else "unsatisfied",
    )


FAILED = row(5, "good", "bad", constraints=0).model_copy(update={"outcome": "failed"})  # at a deeper instruction
ROWS = [
    row(8_001, "bad", "good", history=HISTORY),
    row(8_002, "good", constraints=0),
    row(8_003, "bad first", "bad last"),
    row(20_000, "good held", "bad held"),  # 20000 % 10000 is below any share
    FAILED,
]


def exported(tmp_path: Path, rows: list[Row] = ROWS, **settings: Any) -> tuple[Path, Entry]:
    recipe = made(**settings)
    folder = RunFolder(str(tmp_path))
    (tmp_path / "synthesize/rows").mkdir(parents=True, exist_ok=True)
    pq.write_table(to_table(rows), tmp_path / "synthesize/rows/a.parquet")
    behind = {"ingest": Entry(input=6, outcomes={"accepted": 5, "empty": 1})}
    counting = Counting()
    for one in rows:
        counting.add(one.instructions, one.constraints)
    behind["synthesize"] = Entry(input=len(rows), outcomes={}, difficulty=counting.found)
    return tmp_path / "export", export(recipe, folder, "synthesize", "export", SETS, behind)


def made(**settings: Any) -> Recipe:
    roles = ("decomposer", "composer", "responder", "judge")
    data = {
        "name": "x",
        "prompts": ["/home/me/some.jsonl", "org/prompts"],
        "pools": {"m": {"engine": "simulated"}},
        "roles": {r: {"pool": "m"} for r in roles},
        "export": settings,
    }
    return parse_recipe(data)


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_sets_hold_what_the_rows_earned(tmp_path: Path) -> None:
    place, counted = exported(tmp_path)
    assert counted.input == len(ROWS)
    assert counted.outcomes == {"sft+dpo+rl+composer": 2, "sft+rl": 1, "rl+composer": 1, "nothing to export": 1}
    assert counted.examples == {
        "sft": {"train": 2, "held_out": 1},
        "dpo": {"train": 1, "held_out": 1},
        "rl": {"train": 3, "held_out": 1},
        "composer": {"train": 2, "held_out": 1},
    }
    (pair,) = lines(place / "dpo/train.jsonl")
    assert [m["content"] for m in pair["prompt"]] == ["hi", "yes?", "ask more"]
    assert (pair["chosen"], pair["rejected"]) == (
        [{"role": "assistant", "content": "good"}],
        [{"role": "assistant", "content": "bad"}],
    )
    composer = lines(place / "composer/train.jsonl")[0]
    assert composer["prompt"][0]["content"] == (
        "[history]: [{'from': 'human', 'value': 'hi'}, {'from': 'gpt', 'value': 'yes?'}] \n [initial query]: ask"
    )
    assert json.loads(composer["completion"][0]["content"]) == {
        "augmented query": "ask in French",
        "question": ["Is it?"],
    }


def test_an_example_knows_what_was_asked_of_its_answer(tmp_path: Path) -> None:
    steps = (("ask more", "Is it more?"), ("ask more, kindly", "Is it kind?"))
    verdicts = [Verdict(question="Is it more?", answer="yes"), Verdict(question="Is it kind?", answer="no", p_yes=0.25)]
    responses = [Response(text="good", passed=True), Response(text="bad", verdicts=verdicts)]
    instruction = composed("ask", *steps, responses=responses)
    instruction.added[1].category = "stylistic"
    check = instruction.added[0].check = Check(name="words", relation="at least", number=3)
    some = Row(id=9_001, query="ask", instructions=[instruction], outcome="paired")
    place, _ = exported(tmp_path, rows=[some])
    asked = {
        "questions": ["Is it more?", "Is it kind?"],
        "checks": [check.model_dump(), None],
        "constraints": [{"category": "", "text": "ask more"}, {"category": "stylistic", "text": "ask more, kindly"}],
        "level": 2,
    }
    for name in ("sft", "dpo", "rl"):
        (example,) = pq.read_table(place / name / "train.parquet").to_pylist()
        assert {key: example[key] for key in asked} == asked
    (pair,) = pq.read_table(place / "dpo/train.parquet").to_pylist()
    assert pair["rejected_verdicts"] == [verdict.model_dump(exclude={"explanation"}) for verdict in verdicts]
    (rewarded,) = pq.read_table(place / "rl/train.parquet").to_pylist()
    assert rewarded["prompt"] == [{"role": "user", "content": "ask more, kindly"}]


def of(number: int, level: int, category: str, source: str) -> Row:
    steps = [(f"ask {n}", "Is it?") for n in range(level)]
    instruction = composed("ask", *steps, responses=[Response(text="good", passed=True)])
    for constraint in instruction.added:
        constraint.category = category  # type: ignore[assignment]
    identity = prompt_id(str(number), [])
    return Row(id=identity, query="ask", source=source, instructions=[instruction], outcome="satisfied")


CAPPED = [
    of(n, 1 + n % 3, category=("format", "content")[n % 2], source=f"{('a', 's3://b/c:d')[n % 5 == 0]}.jsonl:{n}:2")
    for n in range(60)
]


@pytest.mark.parametrize(
    ("caps", "most"),
    [
        ({"level": 7}, {"level": 7}),
        ({"category": 11, "level": 9}, {"category": 11, "level": 9}),
        ({"source": "smallest"}, {"source": 12}),
        ({"source": 5}, {"source": 5}),
    ],
)
def test_caps_hold_and_what_stays_depends_on_the_rows_alone(
    tmp_path: Path, caps: dict[str, Any], most: dict[str, int]
) -> None:
    kept = []
    for order, rows in (("one", CAPPED), ("other", CAPPED[::-1])):
        place, counted = exported(tmp_path / order, rows=rows, caps=caps, held_out=0)
        stay = {example["id"] for example in lines(place / "sft/train.jsonl")}
        kept.append(stay)
        assert counted.outcomes == {"sft+rl": len(stay), "over a cap": len(rows) - len(stay)}
    assert kept[0] == kept[1]
    staying = [one for one in CAPPED if one.id in kept[0]]
    values: dict[str, Counter[Any]] = {
        "level": Counter(one.instructions[0].level for one in staying),
        "category": Counter(one.instructions[0].added[0].category for one in staying),
        "source": Counter(one.file for one in staying),
    }
    for field, cap in most.items():
        assert 0 < max(values[field].values()) <= cap
    if len(caps) == 1:
        assert set(values[next(iter(most))].values()) == set(most.values())


@pytest.mark.parametrize(
    ("weights", "ratio"),
    [
        ({"level": {1: 1, 2: 2}}, {"level": {1: 10, 2: 20, 3: 20}}),
        ({"level": {1: 0.5, 3: 0.25}}, {"level": {1: 20, 2: 20, 3: 10}}),
        ({"level": {1: 0}}, {"level": {2: 20, 3: 20}}),
        ({"level": {1: 3, 2: 1, 3: 0}}, {"level": {1: 20, 2: 6}}),
        ({"category": {"format": 1, "content": 3}}, {"category": {"format": 10, "content": 30}}),
        ({"source": {"a.jsonl": 3, "b": 1}}, {"source": {"a.jsonl": 36, "s3://b/c:d.jsonl": 12}}),
        ({"source": {"*.jsonl": 1, "a.jsonl": 0}}, {"source": {"a.jsonl": 48, "s3://b/c:d.jsonl": 12}}),
        ({"level": {1: 1, 7: 1}}, {"level": {1: 20, 2: 20, 3: 20}}),
    ],
)
def test_weights_set_a_ratio_out_of_what_is_there(
    tmp_path: Path, weights: dict[str, Any], ratio: dict[str, dict[Any, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    kept = []
    for order, rows in (("one", CAPPED), ("other", CAPPED[::-1])):
        place, _ = exported(tmp_path / order, rows=rows, weights=weights, held_out=0)
        kept.append({example["id"] for example in lines(place / "sft/train.jsonl")})
    assert kept[0] == kept[1]
    for field, wanted in ratio.items():
        value = {
            "level": lambda one: one.instructions[0].level,
            "category": lambda one: one.instructions[0].added[0].category,
            "source": lambda one: one.file,
        }[field]
        assert Counter(value(one) for one in CAPPED if one.id in kept[0]) == wanted
    said = "export.weights.level: no example is of 7; there are 1, 2, 3\n"
    assert (said in capsys.readouterr().err) == (7 in weights.get("level", {}))


def test_a_cap_and_weights_hold_together(tmp_path: Path) -> None:
    place, _ = exported(tmp_path, rows=CAPPED, caps={"level": 8}, weights={"level": {1: 1, 2: 2}}, held_out=0)
    assert Counter(example["level"] for example in lines(place / "sft/train.jsonl")) == {1: 4, 2: 8, 3: 8}


NO = Verdict(question="Is it?", answer="no")
YES = NO.model_copy(update={"answer": "yes"})


def answered(number: int, passed: int, failed: int, level: int = 1, **more: Any) -> Row:
    responses = [Response(text="good", passed=True, verdicts=[YES])] * passed
    responses = responses + [Response(text="bad", verdicts=[NO])] * failed
    instruction = composed("ask", *[(f"ask {n}", "Is it?") for n in range(level)], responses=responses)
    for name, value in more.pop("added", {}).items():
        setattr(instruction.added[0], name, value)
    found = Constraint(category="content", text="in French", simplified_query="ask", question="Is it?")
    return Row(
        id=number, query="ask", constraints=[found], instructions=[instruction], outcome="satisfied", **more
    )  # fmt: skip


RATED = [
    answered(9_001, 4, 0),
    answered(9_002, 0, 4, level=2),
    answered(9_003, 1, 3, added={"category": "format"}),
    answered(9_004, 1, 1, source="/data/a.jsonl:1", added={"check": Check(name="words", number=3)}),
    row(9_005, "good", constraints=0),  # nobody judged
]


@pytest.mark.parametrize(
    ("where", "taken"),
    [
        ({"pass_rate": {"above": 0, "below": 1}}, {9_003, 9_004}),
        ({"pass_rate": {"min": 0.25, "max": 0.5}}, {9_003, 9_004}),
        ({"pass_rate": {"above": 0.25}}, {9_001, 9_004}),
        ({"pass_rate": 1}, {9_001}),
        ({"samples": {"min": 4}, "pass_rate": {"below": 1}}, {9_002, 9_003}),
        ({"level": {"min": 2}}, {9_002}),
        ({"category": "format"}, {9_003}),
        ({"checker": ["words", "lines"]}, {9_004}),
        ({"source": "data/a.jsonl"}, {9_004}),
        ({"source": "/data"}, {9_004}),
        ({"source": "ata/a.jsonl"}, set()),
        ({}, {9_001, 9_002, 9_003, 9_004, 9_005}),
    ],
)  # fmt: skip
def test_conditions_choose_examples_by_what_they_are(tmp_path: Path, where: dict[str, Any], taken: set[int]) -> None:
    place, counted = exported(tmp_path, rows=RATED, where=where, files=("jsonl",), held_out=0)
    found = lines(place / "rl/train.jsonl") if taken else []
    assert {example["id"] for example in found} == taken
    assert sum(counted.outcomes.values()) == len(RATED)
    if set(where) <= {"pass_rate", "samples", "level"}:  # of which the composer's set has none
        assert counted.examples["composer"]["train"] == len(RATED) - 1
    else:
        assert counted.examples["composer"]["train"] == (1 if "source" in where and taken else 0)
        assert counted.outcomes["not selected"] == len(RATED) - len(taken)


def test_examples_say_how_many_of_how_many_passed(tmp_path: Path) -> None:
    place, _ = exported(tmp_path, rows=RATED, held_out=0)
    rates = {e["id"]: (e["pass_rate"], e["samples"]) for e in pq.read_table(place / "rl/train.parquet").to_pylist()}
    assert rates == {9_001: (1.0, 4), 9_002: (0.0, 4), 9_003: (0.25, 4), 9_004: (0.5, 2), 9_005: (None, 0)}


def test_a_share_of_all_conversations_is_held_out_by_their_hash_alone() -> None:
    share = sum(held_out(i * 7_919_111, 0.1) for i in range(20_000)) / 20_000
    assert share == pytest.approx(0.1, abs=0.01)
    assert not held_out(0, 0.0)
    assert [held_out(number, 0.05) for number in (499, 500, 10_499, 10_500)] == [True, False, True, False]


def test_all_examples_of_a_conversation_stand_on_one_side_in_every_set(tmp_path: Path) -> None:
    """As ingest makes prompts, of conversations some of which begin alike; each gives a set several examples."""
    rows = []
    for number in range(80):
        turns = [f"start {number % 40}", f"answer {number}", "go deeper", "I did", "and now shorter"]
        record = {"messages": [{"role": ("user", "assistant")[i % 2], "content": t} for i, t in enumerate(turns)]}
        for prompt in to_prompts(record, f"f:{number}", Ingest(turns="all")):
            assert isinstance(prompt, Prompt)
            texts = row(0, "good", "bad", constraints=2).model_dump(exclude=set(Prompt.model_fields))
            texts["instructions"] *= 2
            rows.append(Row.model_validate(prompt.model_dump() | texts))
    beginning = {row.id: row.history[0].content if row.history else row.query for row in rows}
    place, counted = exported(tmp_path, rows=rows, held_out=0.3)
    sides: dict[str, dict[str, set[str]]] = {
        split: {name: {beginning[e["id"]] for e in lines(place / name / f"{split}.jsonl")} for name in SETS}
        for split in SPLITS
    }
    assert {name: sum(made.values()) for name, made in counted.examples.items()} == dict.fromkeys(SETS, 2 * len(rows))
    train, held = (set.union(*sides[split].values()) for split in SPLITS)
    assert not train & held
    assert len(held) == pytest.approx(12, abs=8)
    for name in SETS:
        assert (sides["train"][name], sides["held_out"][name]) == (train, held)


def test_a_row_without_a_conversation_goes_by_its_beginning(tmp_path: Path) -> None:
    first, later = row(20_000, "good", "bad"), row(8_000, "good", "bad", history=HISTORY)
    assert first.conversation == first.id
    assert later.conversation == prompt_id("hi", [])


@pytest.mark.parametrize("layout", ["trl", "reference"])
@pytest.mark.parametrize("files", [("parquet", "jsonl"), ("parquet",), ("jsonl",)])
def test_load_dataset_opens_each(tmp_path: Path, layout: str, files: tuple[str, ...]) -> None:
    place, counted = exported(tmp_path, layout=layout, files=files)
    for name in SETS:
        loaded = datasets.load_dataset(str(place / name), cache_dir=str(tmp_path / "cache"))
        assert {split: loaded[split].num_rows for split in loaded} == counted.examples[name]


def test_a_split_or_a_set_without_an_example_leaves_no_file_that_a_loader_would_refuse(tmp_path: Path) -> None:
    place, counted = exported(tmp_path, rows=[ROWS[1], FAILED])
    assert counted.examples["sft"] == {"train": 1, "held_out": 0}
    assert sorted(p.name for p in place.iterdir()) == ["rl", "sft"]
    assert sorted(p.name for p in (place / "sft").iterdir()) == ["README.md", "train.jsonl", "train.parquet"]
    assert list(datasets.load_dataset(str(place / "sft"), cache_dir=str(tmp_path / "cache"))) == ["train"]


def test_trl_takes_the_sets_as_its_own(tmp_path: Path, tiny: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny)
    place, _ = exported(tmp_path)
    for name in SETS:
        for example in datasets.load_dataset(str(place / name), split="train", cache_dir=str(tmp_path / "cache")):
            assert is_conversational(example)
            text = apply_chat_template({k: v for k, v in example.items() if k != "id"}, tokenizer)
            assert example["prompt"][-1]["content"].strip() in text["prompt"]
            assert set(text) <= {"prompt", "completion", "chosen", "rejected"}  # what else is known is passed over
    assert text["completion"].startswith('{"augmented query"')


SAID = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes?"}]


def test_the_reference_layout_has_its_field_names(tmp_path: Path) -> None:
    place, _ = exported(tmp_path, layout="reference")
    assert lines(place / "sft/train.jsonl")[0] == {"instruction": "ask more", "output": "good", "history": SAID}
    assert lines(place / "dpo/train.jsonl")[0] == {
        "prompt": "ask more", "chosen": "good", "rejected": "bad", "history": SAID,
    }  # fmt: skip
    assert lines(place / "composer/train.jsonl")[0]["history"] == []


@pytest.mark.parametrize("files", [("parquet",), ("jsonl",)])
def test_the_authors_trainers_can_read_the_reference_layout(tmp_path: Path, files: tuple[str, ...]) -> None:
    """By the way they go through it: two turns at a time, `history[i]["value"]`, human and model."""
    system = Turn(role="system", content="Be kind.")
    rows = [
        row(8_001, "good", "bad", history=HISTORY),
        row(8_002, "good", "bad"),
        row(8_003, "good", "bad", history=[system, *HISTORY]),
        row(8_004, "good", "bad", history=[system]),
    ]
    place, _ = exported(tmp_path, rows=rows, layout="reference", files=files)
    saved = tmp_path / "saved"  # they read what `datasets` saved
    for name, asked in (("sft", "instruction"), ("dpo", "prompt")):
        loaded = datasets.load_dataset(str(place / name), split="train", cache_dir=str(tmp_path / "cache"))
        loaded.save_to_disk(saved / name)
        conversations = []
        for example in datasets.load_from_disk(str(saved / name)):
            history = example["history"]
            assert [turn["from"] for turn in history] == ["human", "gpt"] * (len(history) // 2)
            said = [(history[i]["value"], history[i + 1]["value"]) for i in range(0, len(history), 2)]
            conversations.append((said, example[asked]))
        assert conversations == [
            ([("hi", "yes?")], "ask more"),
            ([], "ask more"),
            ([("Be kind.\n\nhi", "yes?")], "ask more"),
            ([], "Be kind.\n\nask more"),
        ]


def test_the_references_failing_targets_only_on_request(tmp_path: Path) -> None:
    place, _ = exported(tmp_path)
    assert {e["completion"][0]["content"] for e in lines(place / "sft/train.jsonl")} == {"good"}
    place, counted = exported(tmp_path, keep_unsatisfied=True)
    assert "bad last" in {e["completion"][0]["content"] for e in lines(place / "sft/train.jsonl")}
    assert counted.examples["sft"] == {"train": 3, "held_out": 1}


def test_a_pair_may_be_the_widest_of_all_samples(tmp_path: Path) -> None:
    one = row(8_001, "bad", "good", "bad and worse", "good and better")
    for response, p in zip(one.instructions[0].responses, (0.4, 0.6, 0.1, 0.9), strict=True):
        response.verdicts = [Verdict(question="Is it?", answer="yes" if p > 0.5 else "no", p_yes=p)]
    for pair, texts in (("first", ("good", "bad")), ("widest", ("good and better", "bad and worse"))):
        folder, _ = exported(tmp_path / pair, [one], pair=pair)
        (example,) = lines(folder / "dpo/train.jsonl")
        assert tuple(example[side][0]["content"] for side in ("chosen", "rejected")) == texts
        assert ("lowest" in (folder / "dpo/README.md").read_text()) == (pair == "widest")
        assert lines(folder / "sft/train.jsonl")[0]["completion"][0]["content"] == "good"


def test_a_system_prompt_goes_before_sft_and_dpo_only_when_asked(tmp_path: Path) -> None:
    place, _ = exported(tmp_path, system_prompt="Be exact.")
    assert lines(place / "sft/train.jsonl")[0]["prompt"][0] == {"role": "system", "content": "Be exact."}
    assert lines(place / "composer/train.jsonl")[0]["prompt"][0]["role"] == "user"


def test_parquet_has_few_row_groups(tmp_path: Path) -> None:
    place, _ = exported(tmp_path, rows=[row(10_000 * i + 9_000, "good", "bad") for i in range(1500)])
    assert pq.ParquetFile(place / "sft/train.parquet").metadata.num_row_groups == 2


def test_the_card_says_what_it_is(tmp_path: Path) -> None:
    place, _ = exported(tmp_path)
    text = (place / "dpo/README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["configs"][0]["data_files"] == [
        {"split": "train", "path": "train.parquet"},
        {"split": "held_out", "path": "held_out.parquet"},
    ]
    for part in (
        "- `some.jsonl`\n- `org/prompts`",
        "Fingerprint of the settings that made its rows",
        "and of what was composed of them: prompts of `ifeval`, `ifbench`, `followbench`, `gsm8k`.",
        "| ingest | 6 | 5 accepted, 1 empty |",
        "judge: `simulated`",
        '"rejected"',
    ):
        assert part in text


def test_the_card_says_how_hard_the_set_is_and_what_is_in_it(tmp_path: Path) -> None:
    place, _ = exported(tmp_path, rows=RATED)
    text = (place / "rl/README.md").read_text()
    for line in (
        "| level | 1 | 4 |",
        "| level | 2 | 1 |",
        "| category | format | 1 |",
        "| source | `a.jsonl` | 1 |",
        "| level | 1 | 10 | 60% |",
        "| level | 2 | 4 | 0% |",
        "| category | format | 4 | 25% |",
        "| checker | words | 2 | 50% |",
        "Instructions of which no response passed: 1; some: 2; all: 1. Their `pass_rate` is 0, between, and 1.",
    ):
        assert f"{line}\n" in text
    assert "/data" not in text
    assert "Difficulty" not in (place / "composer/README.md").read_text()


NAME = "a `<img src=x onerror=alert(1)>` [b](javascript:alert(1)) \u202e\n# c``"


def test_nothing_in_a_card_runs() -> None:
    """What a file or a model is called, and what an example says, is code in Markdown, whatever it holds."""
    recipe = made()
    named = recipe.model_copy(update={"prompts": (f"/data/{NAME}.jsonl", NAME)})
    example = {"prompt": f"```\n{NAME}\n~~~~\n<script>alert(1)</script>", "chosen": "````"}
    text = card("dpo", named, {}, {"train": 1, "held_out": 0}, "", example).split("---\n", 2)[2]
    inline = [one for token in MarkdownIt().parse(text) for one in [token, *(token.children or [])]]
    kinds = {one.type for one in inline}
    assert not kinds & {"html_inline", "html_block", "link_open", "image"}
    assert [one.content for one in inline if one.type == "heading_open" and one.tag == "h1"] == [""]  # the card's own
    shown = " ".join(NAME.replace("\u202e", "\\u202e").split())
    assert [one.content for one in inline if one.type == "code_inline"][:2] == [f"{shown}.jsonl", shown]
    assert "\u202e" not in text
    (block,) = [one.content for one in inline if one.type == "fence"]
    assert json.loads(block) == example


@pytest.mark.parametrize("pair", ["first", "widest"])
def test_the_card_says_who_said_no(pair: str) -> None:
    for checkers, who in (("none", "that the judge said no to"), ("all", "that code or the judge said no to")):
        recipe = parse_recipe(made(pair=pair).model_dump() | {"synthesize": {"checkers": checkers}})
        said = card("dpo", recipe, {}, {"train": 1, "held_out": 0}, "", {})
        assert who in said


def test_another_runs_set_is_never_read_in_its_place(tmp_path: Path) -> None:
    """`datasets` caches a folder by its last name and its card."""
    sizes = []
    for run, rows in (("one", 3), ("two", 5)):
        place, _ = exported(tmp_path / run, rows=[row(10_000 * i + 9_000, "good", "bad") for i in range(rows)])
        sizes.append(len(datasets.load_dataset(str(place / "sft"), split="train", cache_dir=str(tmp_path / "cache"))))
    assert sizes == [3, 5]
