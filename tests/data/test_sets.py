"""Sets that exist already: every accepted layout comes out as the same examples, and the rest is counted."""

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ultraif_ray.data.export import examples, held_out
from ultraif_ray.data.ingest import Rejection
from ultraif_ray.data.sets import check_set, find_files, read_set, to_example
from ultraif_ray.errors import InputError
from ultraif_ray.recipe import Export
from ultraif_ray.records import Constraint, Instruction, Response, Row, Turn, prompt_id
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.ledger import Entry

NAMES = ("composer", "sft", "dpo")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
PAIRS = st.lists(st.tuples(TEXT, TEXT), max_size=3)


def row(query: str, pairs: list[tuple[str, str]], chosen: str, rejected: str) -> Row:
    """A row that gives an example to every set."""
    history = [
        Turn(role=role, content=text) for pair in pairs for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    instruction = Instruction(
        initial_query=query,
        history=history,
        responses=[Response(text=chosen, passed=True), Response(text=rejected)],
    )
    constraint = Constraint(category="format", text="x", simplified_query=query, question="Is it?")
    return Row(id=1, query=query, history=history, constraints=[constraint], instructions=[instruction])


@given(TEXT, PAIRS, TEXT, TEXT, st.sampled_from(NAMES), st.sampled_from(["trl", "reference"]))
def test_what_export_writes_in_either_layout_is_read_as_the_same_examples(
    query: str, pairs: list[tuple[str, str]], chosen: str, rejected: str, name: str, layout: str
) -> None:
    made = row(query, pairs, chosen, rejected)
    (written_as_trl,) = examples(made, name, Export())
    (written,) = examples(made, name, Export.model_validate({"layout": layout}))
    read = to_example(json.loads(json.dumps(written.columns)), name, "file:1")
    assert isinstance(read, dict)
    columns = {"prompt", "completion", "chosen", "rejected"} & written_as_trl.columns.keys()
    assert read == {name: written_as_trl.columns[name] for name in columns} | {"id": read["id"]}


CHAT = [("user", "hi"), ("assistant", "yes?"), ("user", "ask"), ("assistant", "told")]
MESSAGES = [{"role": role, "content": text} for role, text in CHAT]
TURNS = [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in CHAT]
HISTORIES: dict[str, Any] = {
    "turns": TURNS[:2],
    "messages": MESSAGES[:2],
    "pairs": [["hi", "yes?"]],
    "texts": ["hi", "yes?"],
    "values": [{"value": "hi"}, {"value": "yes?"}],
}


@pytest.mark.parametrize(
    "record",
    [
        *({"instruction": "ask", "output": "told", "history": history} for history in HISTORIES.values()),
        {"prompt": MESSAGES[:3], "completion": MESSAGES[3:]},
        {"prompt": "ask", "completion": "told", "history": [["hi", "yes?"]]},
        {"messages": MESSAGES},
        {"conversations": TURNS},
    ],
)
def test_one_conversation_in_every_layout_of_sft(record: dict[str, Any]) -> None:
    made = to_example(record, "sft", "file:1")
    assert isinstance(made, dict)
    assert (made["prompt"], made["completion"]) == (MESSAGES[:3], MESSAGES[3:])


NO = {"role": "assistant", "content": "no"}


@pytest.mark.parametrize(
    "record",
    [
        *({"prompt": "ask", "chosen": "told", "rejected": "no", "history": history} for history in HISTORIES.values()),
        {"prompt": MESSAGES[:3], "chosen": MESSAGES[3:], "rejected": [NO]},
        {"prompt": "ask", "chosen": MESSAGES, "rejected": [*MESSAGES[:3], NO]},
        {"chosen": MESSAGES, "rejected": [*MESSAGES[:3], NO]},
    ],
)
def test_one_pair_in_every_layout_of_dpo(record: dict[str, Any]) -> None:
    made = to_example(record, "dpo", "file:1")
    assert isinstance(made, dict)
    assert (made["prompt"], made["chosen"], made["rejected"]) == (MESSAGES[:3], MESSAGES[3:], [NO])


def test_a_system_message_stands_first_and_an_input_belongs_to_its_instruction() -> None:
    record = {"system": "Be kind.", "instruction": "ask", "input": "this", "output": "told", "history": ["hi", "yes?"]}
    made = to_example(record, "sft", "file:1")
    assert isinstance(made, dict)
    assert [m["content"] for m in made["prompt"]] == ["Be kind.", "hi", "yes?", "ask\n\nthis"]
    assert made["prompt"][0]["role"] == "system"


@pytest.mark.parametrize(
    ("name", "record", "reason"),
    [
        ("sft", {"instruction": "ask", "output": " "}, "no answer"),
        ("sft", {"instruction": "ask", "output": None}, "no answer"),
        ("sft", {"instruction": " ", "output": "told"}, "empty"),
        ("sft", {"messages": MESSAGES[:3]}, "no answer"),
        ("sft", {"messages": MESSAGES[3:]}, "no human turn"),
        ("sft", {"prompt": MESSAGES[:2], "completion": "told"}, "answered already"),
        ("sft", {"instruction": "ask", "output": 3}, "broken answer"),
        ("sft", {"instruction": "ask", "output": "told", "history": ["hi"]}, "broken history"),
        ("sft", {"instruction": "ask", "output": "told", "history": [["hi"]]}, "broken history"),
        ("sft", {"instruction": "ask", "output": "told", "history": "hi"}, "broken history"),
        ("sft", {"messages": [{"role": "tool", "content": "x"}]}, "unknown speaker"),
        ("sft", {"title": "x"}, "no field of prompts"),
        ("sft", {"prompt": "ask", "chosen": "told"}, "no field of answers"),
        ("sft", "ask", "not a record"),
        ("dpo", {"prompt": "ask", "chosen": "told"}, "no fields `chosen` and `rejected`"),
        ("dpo", {"prompt": "ask", "chosen": "told", "rejected": ""}, "no answer"),
        ("dpo", {"chosen": MESSAGES, "rejected": [MESSAGES[0], NO]}, "two prompts"),
        ("composer", {"instruction": "ask", "output": "told"}, "not what a composer is asked"),
    ],
)
def test_what_is_no_example_has_a_reason(name: str, record: Any, reason: str) -> None:
    made = to_example(record, name, "file:1")
    assert isinstance(made, Rejection)
    assert (made.reason, made.source) == (reason, "file:1")


@given(st.sampled_from(NAMES), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: (
    st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["prompt", "instruction", "output", "history", "chosen", "rejected", "messages",
                                       "completion", "role", "content", "from", "value"]), inner, max_size=5)
), max_leaves=12))  # fmt: skip
def test_any_record_at_all_ends_as_an_example_or_a_reason(name: str, record: Any) -> None:
    made = to_example(record, name, "file:1")
    assert isinstance(made, Rejection) or {"prompt", "id"} < made.keys()


# ---- files -----------------------------------------------------------------------------------------------------------


def sft(number: int) -> dict[str, Any]:
    return {"instruction": f"ask {number}", "output": f"told {number}", "history": []}


def write(file: Path, *records: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(record) + "\n" for record in records)
    file.write_text(json.dumps(records, indent=1) if file.suffix == ".json" else text)
    return file


def read(tmp_path: Path, *files: Path, name: str = "sft", share: float = 0.0) -> Entry:
    specs = tuple(str(file) for file in files)
    sources = find_files(specs)
    check_set(name, sources)
    return read_set(name, sources, RunFolder(str(tmp_path / "run")), "export", share)


def prompts(tmp_path: Path, split: str, name: str = "sft") -> list[str]:
    table = pq.read_table(tmp_path / f"run/export/{name}/{split}.parquet")
    return [prompt[-1]["content"] for prompt in table.column("prompt").to_pylist()]


def test_every_record_is_counted_once_and_what_gave_no_example_is_kept(tmp_path: Path) -> None:
    lines = write(tmp_path / "in/a.jsonl", sft(0), sft(1), {"instruction": "ask", "output": ""})
    lines.write_text(lines.read_text() + "{broken\n")
    write(tmp_path / "in/b.json", sft(2), {"instruction": "ask"})
    made = read(tmp_path, tmp_path / "in")
    assert made.outcomes == {"accepted": 3, "no answer": 1, "broken JSON": 1, "no field of answers": 1}
    assert made.input == 6
    assert made.examples == {"sft": {"train": 3, "held_out": 0}}
    assert prompts(tmp_path, "train") == ["ask 0", "ask 1", "ask 2"]
    assert not (tmp_path / "run/export/sft/held_out.parquet").exists()
    kept = [json.loads(line) for line in (tmp_path / "run/export/rejected.jsonl").read_text().splitlines()]
    assert [(Path(one["source"]).name, one["reason"]) for one in kept] == [
        ("a.jsonl:3", "no answer"),
        ("a.jsonl:4", "broken JSON"),
        ("b.json:2", "no field of answers"),
    ]


def test_the_split_is_by_conversation_as_in_export_unless_there_is_one_already(tmp_path: Path) -> None:
    later = [{"instruction": f"more {n}", "output": "told", "history": [[f"ask {n}", "told"]]} for n in range(40)]
    file = write(tmp_path / "in/train.jsonl", *(sft(n) for n in range(40)), *later)
    made = read(tmp_path, file, share=0.3)
    aside = prompts(tmp_path, "held_out")
    assert 0 < len(aside) == made.examples["sft"]["held_out"] < 40
    assert aside == [
        f"{word} {n}" for word in ("ask", "more") for n in range(40) if held_out(prompt_id(f"ask {n}", []), 0.3)
    ]
    assert len(prompts(tmp_path, "train")) == 80 - len(aside)
    for name in ("held_out.jsonl", "test-00000-of-00001.jsonl", "validation.jsonl"):
        other = write(tmp_path / "in" / name, sft(99))
        made = read(tmp_path, tmp_path / "in", share=0.3)
        assert made.examples == {"sft": {"train": 80, "held_out": 1}}
        assert prompts(tmp_path, "held_out") == ["ask 99"]
        other.unlink()


def test_of_a_set_in_two_formats_one_is_read_and_a_note_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = read(tmp_path, write(tmp_path / "in/train.jsonl", sft(0), sft(1)))
    write(tmp_path / "run/export/sft/train.jsonl", sft(0), sft(1))
    specs = (str(tmp_path / "run/export/sft"),)
    assert read_set("sft", find_files(specs), RunFolder(str(tmp_path / "again")), "export", 0.0) == first
    assert f"{specs[0]}: 1 of these are there as Parquet too, which is read in their place\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "record", "message"),
    [
        ("sft", {"title": "x"}, r"a.jsonl:1: no field of prompts: has title. Accepted for sft: `prompt`\+`completion`"),
        ("sft", {"prompt": "ask", "chosen": "a", "rejected": "b"}, "no field of answers: has chosen, prompt, rejected"),
        ("dpo", sft(0), "no fields `chosen` and `rejected`: has history, instruction, output. Accepted for dpo"),
    ],
)
def test_another_kind_of_file_is_refused_in_one_line(tmp_path: Path, name: str, record: Any, message: str) -> None:
    file = write(tmp_path / "a.jsonl", record)
    with pytest.raises(InputError, match=message) as caught:
        check_set(name, find_files((str(file),)))
    assert "\n" not in str(caught.value)


def test_nothing_to_train_on_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"test.jsonl: a held-out split by its name, and no file to train on: add one"):
        read(tmp_path, write(tmp_path / "test.jsonl", sft(0)))
    with pytest.raises(InputError, match=r"no example for sft in these files: 2 no answer. They stand in .*rejected"):
        read(tmp_path, write(tmp_path / "a.jsonl", *[{"instruction": "ask", "output": ""}] * 2))
    with pytest.raises(InputError, match=r"all 1 examples for sft are held out, .*: lower export.held_out"):
        read(tmp_path, write(tmp_path / "a.jsonl", sft(0)), share=0.9999)
    with pytest.raises(InputError, match=r"holds no record. Accepted for sft"):
        read(tmp_path, write(tmp_path / "a.jsonl"))
