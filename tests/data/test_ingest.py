"""Every accepted shape, the one rule for turns, and what happens to the rest."""

import bz2
import gzip
import json
import lzma
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ultraif_ray.data.ingest import Rejection, funnel, read_prompts, to_prompts
from ultraif_ray.data.readers import find_sources
from ultraif_ray.errors import InputError
from ultraif_ray.recipe import Ingest
from ultraif_ray.records import Prompt, Turn

SHAREGPT = {
    "conversations": [
        {"from": "human", "value": "hi"},
        {"from": "gpt", "value": "yes?"},
        {"from": "human", "value": "ask"},
    ]
}
MESSAGES = {
    "messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": "ask"},
    ]
}
WILDCHAT = {
    "conversation": [{"role": "user", "content": "ask", "toxic": False}, {"role": "assistant", "content": "told"}],
    "model": "m",
}
OPENHERMES = {
    "system_prompt": "Be kind.",
    "conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "told"}],
    "skip_prompt_formatting": None,
}
TRL = {"prompt": [{"role": "user", "content": "ask"}], "completion": [{"role": "assistant", "content": "told"}]}


def read(*paths: Any, **options: Any) -> list[Prompt | Rejection]:
    return list(read_prompts(find_sources([str(p) for p in paths]), Ingest(**options)))


def prompts(*paths: Any, **options: Any) -> list[Prompt]:
    return [item for item in read(*paths, **options) if isinstance(item, Prompt)]


def jsonl(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.mark.parametrize(
    ("record", "query", "history"),
    [
        (SHAREGPT, "ask", ["hi", "yes?"]),
        (MESSAGES, "ask", ["hi", "yes?"]),
        (WILDCHAT, "ask", []),
        (OPENHERMES, "ask", ["Be kind."]),
        (TRL, "ask", []),
        ({"prompt": "ask", "uid": "1"}, "ask", []),
        ({"query": "ask"}, "ask", []),
        ({"turns": [{"content": "ask"}]}, "ask", []),
        ({"instruction": "ask", "input": "", "output": "told"}, "ask", []),
        ({"instruction": "ask", "input": "this", "output": "told"}, "ask\n\nthis", []),
    ],
    ids=["sharegpt", "messages", "wildchat", "openhermes", "trl", "prompt", "query", "turns", "alpaca", "alpaca-input"],
)
def test_shapes(tmp_path: Path, record: Any, query: str, history: list[str]) -> None:
    array = tmp_path / "all.json"
    array.write_text(json.dumps([record], indent=1))
    for file in (array, jsonl(tmp_path / "lines.jsonl", record)):
        (prompt,) = prompts(file)
        assert prompt.query == query
        assert [turn.content for turn in prompt.history] == history
        assert prompt.source == f"{file}:1"


def test_text_csv_parquet_and_compressed_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\ufefffirst\n\nsecond \n", encoding="utf-8")
    (tmp_path / "b.csv").write_text('id,prompt\n1,"third, with\na line break"\n2,\n')
    pq.write_table(pa.table({"messages": [MESSAGES["messages"]]}), tmp_path / "c.parquet")
    with gzip.open(tmp_path / "d.jsonl.gz", "wt") as file:
        file.write(json.dumps({"prompt": "fifth"}))
    (tmp_path / "e.tsv").write_text("query\tx\nsixth\ty\n")
    items = read(tmp_path)
    assert [p.query for p in items if isinstance(p, Prompt)] == [
        "first", "second", "third, with\na line break", "ask", "fifth", "sixth",
    ]  # fmt: skip
    assert [i.reason for i in items if isinstance(i, Rejection)] == ["empty"]


@pytest.mark.parametrize("suffix", [".gz", ".bz2", ".xz", ".zst"])
def test_every_compression_that_is_named_is_read(tmp_path: Path, suffix: str) -> None:
    compress: Any = {
        ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": partial(pa.compress, codec="zstd"),
    }[suffix]  # fmt: skip
    for name, text in (("a.jsonl", '{"prompt": "ask"}\n'), ("b.csv", "prompt\nask\n"), ("c.txt", "ask\n")):
        whole = bytes(compress(text.encode()))
        (tmp_path / f"{name}{suffix}").write_bytes(whole + bytes(compress(b'{"prompt": "so"}\n')))  # as `cat` makes it
        (tmp_path / f"cut-{name}{suffix}").write_bytes(whole[:-6])
    assert [prompt.query for prompt in prompts(*tmp_path.glob("a.*"))] == ["ask", "so"]
    assert len(prompts(*tmp_path.glob("[bc].*"))) == 4
    for cut in tmp_path.glob("cut-*"):
        with pytest.raises(InputError, match="cannot be read"):
            prompts(cut)


def test_a_saved_dataset_a_glob_and_a_store(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"prompt": "saved"}]).save_to_disk(str(tmp_path / "saved"))
    assert [p.query for p in prompts(tmp_path / "saved")] == ["saved"]
    jsonl(tmp_path / "b-2.jsonl", {"prompt": "two"})
    jsonl(tmp_path / "b-1.jsonl", {"prompt": "one"})
    assert [p.query for p in prompts(tmp_path / "b-*.jsonl")] == ["one", "two"]
    with fsspec.open("memory://bucket/x/p.jsonl", "w") as file:
        file.write(json.dumps({"prompt": "stored"}))
    (stored,) = prompts("memory://bucket/x/*.jsonl")
    assert (stored.query, stored.source) == ("stored", "memory:///bucket/x/p.jsonl:1")


def test_a_file_that_was_cut_off_keeps_its_whole_conversations_and_says_so(tmp_path: Path) -> None:
    whole = json.dumps([SHAREGPT, WILDCHAT, OPENHERMES])
    file = tmp_path / "cut.json"
    file.write_text(whole[: len(whole) - 60])
    *kept, cut = read(file)
    assert [type(item) for item in kept] == [Prompt, Prompt]
    assert isinstance(cut, Rejection)
    assert (cut.reason, cut.source) == ("cut off", f"{file}:3")
    assert "the 2 before it are whole" in cut.seen


# ---- the rule for turns ----------------------------------------------------------------------------------------------


def every(*turns: tuple[str, Any], **options: Any) -> list[Prompt | Rejection]:
    record = {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}
    return list(to_prompts(record, "f:1", Ingest(**options)))


def turned(*turns: tuple[str, Any], **options: Any) -> Prompt | Rejection:
    (item,) = every(*turns, **options)
    return item


@pytest.mark.parametrize(
    ("turns", "history", "query"),
    [
        ([("gpt", "welcome"), ("human", "ask")], [], "ask"),
        ([("human", "a"), ("human", "b")], [], "a\n\nb"),
        ([("human", "a"), ("gpt", "b"), ("gpt", "c"), ("human", "d")], ["a", "b\n\nc"], "d"),
        ([("human", "a"), ("gpt", "b"), ("human", "")], [], "a"),
        ([("human", "a"), ("gpt", None), ("human", "b")], [], "a\n\nb"),
        ([("system", "s"), ("gpt", "hello"), ("human", "a"), ("gpt", "b")], ["s"], "a"),
        ([("human", "a"), ("system", "s"), ("gpt", "b"), ("human", "c")], ["a", "b"], "c"),
        ([("Human", " a \x00\r\n")], [], "a"),
        ([("human", "a"), ("gpt", "<think>\nhm\n</think>\n\nb"), ("human", "c")], ["a", "b"], "c"),
        ([("human", "a"), ("gpt", "<think>\nhm"), ("human", "c")], [], "a\n\nc"),
        ([("human", "<think>hm</think>a")], [], "<think>hm</think>a"),
    ],
)
def test_odd_orders_follow_one_rule(turns: list[tuple[str, Any]], history: list[str], query: str) -> None:
    prompt = turned(*turns)
    assert isinstance(prompt, Prompt)
    assert (prompt.query, [turn.content for turn in prompt.history]) == (query, history)


@pytest.mark.parametrize(
    ("turns", "options", "reason"),
    [
        ([("gpt", "welcome")], {}, "no human turn"),
        ([], {}, "no human turn"),
        ([("human", "  ")], {}, "empty"),
        ([("tool", "x"), ("human", "a")], {}, "unknown speaker"),
        ([("human", 3)], {}, "broken turn"),
        ([("human", "a" * 11)], {"max_chars": 10}, "too long"),
        ([("human", "a")], {"multi_turn_only": True}, "single turn"),
        ([("human", "a"), ("gpt", "b"), ("human", "Thanks!")], {}, "asks nothing"),
    ],
)
def test_rejections_have_a_reason(turns: list[tuple[str, Any]], options: dict[str, Any], reason: str) -> None:
    item = turned(*turns, **options)
    assert isinstance(item, Rejection)
    assert item.reason == reason


@given(st.lists(st.tuples(st.sampled_from(["human", "gpt", "system"]), st.text(max_size=5)), max_size=8))
def test_turns_always_alternate_and_end_with_the_human(turns: list[tuple[str, str]]) -> None:
    item = turned(*turns)
    if isinstance(item, Prompt):
        roles = [turn.role for turn in item.history if turn.role != "system"]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert item.query.strip()


# ---- which turns -----------------------------------------------------------------------------------------------------

THREE = (("system", "s"), ("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d"), ("human", "e"), ("gpt", "f"))
conversations = st.lists(
    st.tuples(
        st.sampled_from(["human", "human", "gpt", "system"]),
        st.one_of(st.text(max_size=5), st.sampled_from(["continue", "thanks!", "a longer one of the turns"])),
    ),
    max_size=9,
)


def content(item: Prompt | Rejection) -> Prompt | Rejection:
    """An item without its place."""
    if isinstance(item, Prompt):
        return item.model_copy(update={"source": ""})
    return replace(item, source="")


def test_every_human_turn_is_a_prompt_with_what_came_before_it() -> None:
    found = every(*THREE, turns="all")
    assert [(p.query, [t.content for t in p.history], p.source) for p in found if isinstance(p, Prompt)] == [
        ("a", ["s"], "f:1:1"),
        ("c", ["s", "a", "b"], "f:1:2"),
        ("e", ["s", "a", "b", "c", "d"], "f:1:3"),
    ]
    (only,) = every(("human", "a"), turns="all")
    assert only.source == "f:1"  # there is no other turn that it could be


@given(conversations, st.sampled_from([4, 30, 12_000]), st.booleans())
def test_all_has_an_item_for_every_human_turn_and_the_others_choose_among_these(
    turns: list[tuple[str, str]], max_chars: int, multi_turn_only: bool
) -> None:
    options: dict[str, Any] = {"max_chars": max_chars, "multi_turn_only": multi_turn_only}
    numbered = every(*turns, turns="all", **options)
    found = [content(item) for item in numbered]
    whole = turned(*turns, ("gpt", "so"), ("human", "what was said?"))
    assert isinstance(whole, Prompt)
    spoken = sum(turn.role == "user" for turn in whole.history)
    assert len(found) == max(spoken, 1)  # one that says why, where no human speaks
    assert content(turned(*turns, turns="last", **options)) == found[-1]
    mixed = turned(*turns, turns="mixed", **options)
    assert mixed in numbered
    assert turned(*turns, turns="mixed", **options) == mixed
    if not multi_turn_only:
        assert content(turned(*turns, turns="first", **options)) == found[0]


@given(conversations)
def test_all_prompts_of_a_conversation_share_its_hash_and_it_is_the_first_ones_id(turns: list[tuple[str, str]]) -> None:
    found = [item for item in every(*turns, ("human", "and a plain end"), turns="all") if isinstance(item, Prompt)]
    assert len({prompt.conversation for prompt in found}) == 1
    for prompt in found:
        assert 0 <= prompt.conversation < 2**63
        if not any(turn.role == "user" for turn in prompt.history):
            assert prompt.conversation == prompt.id


def test_a_mixed_turn_is_drawn_evenly_and_whatever_the_split_is() -> None:
    drawn: Counter[str] = Counter()
    for number in range(3000):
        item = turned(
            ("human", f"a{number}"), ("gpt", "b"), ("human", "c"), ("gpt", "d"), ("human", "e"), turns="mixed"
        )
        assert isinstance(item, Prompt)
        drawn[f"{item.query[0]}, {item.conversation % 2}"] += 1
    assert len(drawn) == 6
    assert all(count == pytest.approx(500, abs=100) for count in drawn.values())


def test_an_early_turn_is_taken_where_a_late_one_is_too_long() -> None:
    found = every(("human", "a" * 5), ("gpt", "b" * 3), ("human", "c" * 3), turns="all", max_chars=10)
    assert [item.reason if isinstance(item, Rejection) else item.query for item in found] == ["aaaaa", "too long"]
    (first,) = every(("human", "a" * 5), ("gpt", "b" * 30), ("human", "c"), turns="first", max_chars=10)
    assert isinstance(first, Prompt)


def test_a_first_turn_has_no_history_and_is_counted_out_where_one_is_wanted() -> None:
    found = every(*THREE, turns="all", multi_turn_only=True)
    assert [item.reason if isinstance(item, Rejection) else item.query for item in found] == ["single turn", "c", "e"]
    with pytest.raises(ValidationError, match="turns is first, and multi_turn_only takes no first turn"):
        Ingest(turns="first", multi_turn_only=True)


def test_conversations_that_begin_alike_give_their_first_prompt_once_and_share_a_hash(tmp_path: Path) -> None:
    def chat(*texts: str) -> dict[str, Any]:
        speakers = ("human", "gpt") * len(texts)
        return {"conversations": [{"from": s, "value": t} for s, t in zip(speakers, texts, strict=False)]}

    file = jsonl(
        tmp_path / "a.jsonl",
        chat("tell me", "one answer", "shorter"),
        chat(" tell me\r\n", "another answer", "longer", "so", "thanks"),
        chat("tell her", "one answer", "shorter"),
    )
    ends = list(funnel(read(file, turns="all"), Ingest(turns="all")))
    assert ends[-1][1] == {"accepted": 5, "duplicate": 1, "asks nothing": 1}
    assert sum(ends[-1][1].values()) == len(ends) == 7  # human turns
    kept = {(p.source.removeprefix(str(file)), p.query): p.conversation for p, _ in ends if isinstance(p, Prompt)}
    assert list(kept) == [
        (":1:1", "tell me"), (":1:2", "shorter"), (":2:2", "longer"), (":3:1", "tell her"), (":3:2", "shorter"),
    ]  # fmt: skip
    first, second, third, *other = kept.values()
    assert first == second == third
    assert len(set(other)) == 1
    assert other[0] != first


def test_a_system_message_is_part_of_how_a_conversation_begins() -> None:
    later = (("gpt", "Which part?"), ("human", "All of it."))
    for turns in ((), later):
        one, two = (turned(("system", s), ("human", "Summarise this."), *turns) for s in ("text a", "text b"))
        assert isinstance(one, Prompt)
        assert isinstance(two, Prompt)
        assert one.conversation != two.conversation


def test_a_long_conversation_is_turned_into_prompts_one_at_a_time() -> None:
    """A reader of the first few never makes the rest, whose histories together are the square of the conversation."""
    record = {"messages": [{"role": ("user", "assistant")[i % 2], "content": f"turn {i}"} for i in range(20_000)]}
    items = to_prompts(record, "f:1", Ingest(turns="all", max_chars=10_000_000))
    assert [item.query for item in islice(items, 2) if isinstance(item, Prompt)] == ["turn 0", "turn 2"]


def test_the_funnel_drops_duplicates_counts_everything_and_stops_at_the_limit(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "a.jsonl", *({"prompt": p} for p in ["a", "b", "a", " ", "a ", "c", "d"]))
    ends = list(funnel(read(file), Ingest()))
    assert ends[-1][1] == {"accepted": 4, "duplicate": 2, "empty": 1}
    assert len(ends) == 7
    *_, (_, counts) = funnel(read(file), Ingest(limit=3))
    assert counts == {"accepted": 3, "duplicate": 2, "empty": 1}


def test_a_broken_line_inside_a_good_file_is_a_counted_rejection(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"prompt": "a"}\n{"prompt": "b\n[1]\n{"x": 1}\n{"prompt": "c"}\n')
    kinds = [item.reason if isinstance(item, Rejection) else item.query for item in read(file)]
    assert kinds == ["a", "broken JSON", "not a record", "no field of prompts", "c"]


def test_a_first_record_without_text_does_not_condemn_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,prompt\n1,\n2,hello\n")
    jsonl(tmp_path / "b.jsonl", {"prompt": None}, {"prompt": "there"})
    items = read(tmp_path)
    assert [i.reason if isinstance(i, Rejection) else i.query for i in items] == ["empty", "hello", "empty", "there"]


def test_damage_inside_a_json_array_is_an_error_and_not_a_cut(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('[{"prompt": "a"}, {"prompt" "b"}, {"prompt": "c"}]')
    with pytest.raises(InputError, match="broken JSON after record 1"):
        read(file)


# ---- what is no prompts file -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "seen"),
    [
        ("a.jsonl", "hello there\n", "line 1: not JSON: 'hello there'"),
        ("a.jsonl", "[1]\n", "not a record"),
        ("a.jsonl", '{"title": "x", "body": "y"}\n', "has body, title"),
        ("a.json", "{}", "has nothing"),
        ("a.json", '[{"prompt": ', "cut off"),
        ("a.json", "[}", "broken JSON after record 0"),
        ("a.parquet", "PAR1", "not a Parquet file"),
        ("a.csv", "title\nx\n", "has title"),
        ("a.txt", "\n\n", "holds no record"),
        ("a.docx", "x", "cannot tell what this is"),
        ("a.parquet.gz", "x", "cannot tell what this is"),  # Parquet compresses within
        ("a.jsonl.gz", "x", "cannot be read"),
    ],
)
def test_a_file_that_is_no_such_thing_gets_one_line(tmp_path: Path, name: str, content: str, seen: str) -> None:
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(InputError) as caught:
        read(file)
    message = str(caught.value)
    assert str(file) in message
    assert seen in message
    assert "\n" not in message
    assert "Accepted" in message or "cannot be read" in message or "Fix the file" in message


@pytest.mark.parametrize("name", ["nowhere.jsonl", "no/where", "*.nothing", "nobody/has-this-dataset", "s4://x/y"])
def test_nothing_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=name.replace("*", r"\*")):
        read(name)


def test_no_prompts_at_all() -> None:
    with pytest.raises(InputError, match="--prompts"):
        find_sources(())


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["from", "value", "role", "content", "messages", "prompt", "conversations"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


@given(json_values)
def test_no_record_makes_nothing_or_anything_but_prompts_and_rejections(record: Any) -> None:
    items = list(to_prompts(record, "f:1", Ingest(turns="all")))
    assert items
    for item in items:
        assert isinstance(item, Prompt | Rejection)
        if isinstance(item, Prompt):
            assert item.query
            pa.array([item.query])  # UTF-8 can hold it
            assert all(isinstance(turn, Turn) for turn in item.history)
