"""Files as others write them: read right, counted out, or refused in one line; never anything else."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hub import dataset_hub, hub
from ultraif_ray.data.ingest import Rejection, read_prompts
from ultraif_ray.data.readers import find_sources, versions
from ultraif_ray.errors import InputError
from ultraif_ray.recipe import Ingest
from ultraif_ray.records import Prompt


def read(*specs: Path | str, encoding: str = "") -> list[str]:
    """What was asked, and of each rejection its reason in brackets."""
    items = read_prompts(find_sources([str(spec) for spec in specs], encoding), Ingest())
    return [item.query if isinstance(item, Prompt) else f"({item.reason})" for item in items]


def written(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def refused(*specs: Path | str) -> str:
    with pytest.raises(InputError) as caught:
        read(*specs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- encodings -------------------------------------------------------------------------------------------------------

FRENCH, CHINESE = "Où est la bibliothèque?", "请写一首关于春天的诗"
FORMS = {
    "a.txt": "{}\n",
    "a.csv": "prompt,id\n{},1\n",
    "a.jsonl": '{{"prompt": "{}"}}\n',
    "a.json": '[{{"prompt": "{}"}}]',
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be"])
def test_utf8_and_every_byte_order_mark_are_read(tmp_path: Path, name: str, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    assert read(written(tmp_path / name, (mark + FORMS[name].format(CHINESE)).encode(encoding))) == [CHINESE]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize(
    ("text", "encoding", "guess"),
    [
        (FRENCH, "latin-1", "cp1252"),
        ("Zażółć gęślą jaźń", "cp1250", "cp1250"),
        (CHINESE, "gb18030", "gb18030"),
        ("日本の首都はどこですか", "shift_jis", "cp932"),
        ("日本の首都はどこですか", "iso2022_jp", "iso2022_jp"),
        ("Где находится библиотека", "cp1251", "cp1251"),
        ("Name a lake", "utf-16-le", "utf_16_le"),
    ],
)
def test_another_encoding_is_refused_with_a_guess_and_read_where_it_is_named(
    tmp_path: Path, name: str, text: str, encoding: str, guess: str
) -> None:
    file = written(tmp_path / name, FORMS[name].format(text).encode(encoding))
    said = refused(file)
    assert str(file) in said
    assert f"set ingest.encoding={guess}" in said
    assert read(file, encoding=encoding) == [text]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", b"one\nb\xffd\ntwo\n"),
        ("a.csv", b"prompt\none\nb\xffd\ntwo\n"),
        ("a.jsonl", b'{"prompt": "one"}\n{"prompt": "b\xffd"}\n{"prompt": "two"}\n'),
        ("a.json", b'[{"prompt": "one"}, {"prompt": "b\xffd"}, {"prompt": "two"}]'),
    ],
)
def test_a_line_that_is_not_in_the_encoding_that_is_named_is_counted(tmp_path: Path, name: str, content: bytes) -> None:
    file = written(tmp_path / name, content)
    assert "not UTF-8" in refused(file)
    assert read(file, encoding="utf-8") == ["one", "(not in the encoding)", "two"]


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    for name in FORMS:
        assert "it may be compressed, or of another format" in refused(
            written(tmp_path / name, gzip.compress(b"ask\n" * 99))
        )


def test_files_that_were_put_together_have_several_marks(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    for name, content, found in (
        ("a.jsonl", mark + b'{"prompt": "a"}\n' + mark + mark + b'{"prompt": "b"}\n', ["a", "b"]),
        ("b.jsonl", mark + b'{"prompt": "a"}' + mark + b'{"prompt": "b"}', ["a", "b"]),
        ("a.json", mark + b'[{"prompt": "a"}]\n' + mark + b'[{"prompt": "b"}]', ["a", "b"]),
        ("a.txt", mark + b"a\n" + mark + b"b\n", ["a", "b"]),
        ("a.csv", mark + b"prompt\na\n" + mark + b"prompt\nb\n", ["a", "(names of columns)", "b"]),
    ):
        assert read(written(tmp_path / name, content)) == found, name


# ---- JSON ------------------------------------------------------------------------------------------------------------

BIG, HUGE = str(2**64 - 1), "9" * 5000
TURNS = '[{"role": "user", "content": "a"}, {"role": "assistant", "content": "x"}, {"role": "user", "content": "b"}]'


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (f'[{{"prompt": "a"}}, {{"prompt": "b", "id": {BIG}}}, {{"prompt": "c", "id": {HUGE}}}]', ["a", "b", "c"]),
        (f'{{"prompt": "a", "id": {HUGE}}}\n{{"prompt": "b", "s": -Infinity}}\n', ["a", "b"]),
        ('[{"prompt": "a"}, {"prompt": "b", "score": NaN}, {"prompt": "c", "s": [Infinity]}]', ["a", "b", "c"]),
        ('{\n  "prompt": "a"\n}\n{\n  "prompt": "b"\n}\n', ["a", "b"]),
        ('{\n "prompt": "a"\n},\n{\n "prompt": "b"\n}\n', ["a", "b"]),
        ('{"prompt": "a"}{"prompt": "b"}\n{"prompt": "c"}\n', ["a", "b", "c"]),
        ('[\n{"prompt": "a"}\n]\n[\n{"prompt": "b"}\n]', ["a", "b"]),
        ('[{"prompt": "a"}]\n[{"prompt": "b"}, {"prompt": "c"}]\n', ["a", "b", "c"]),
        (f"{TURNS}\n{TURNS}\n", ["b", "b"]),
        (TURNS, ["b"]),
        (TURNS.replace(", {", ",\n{"), ["b"]),
        (f'[{TURNS}, {{"prompt": "c"}}]', ["b", "c"]),
        ('["a", "b"]', ["a", "b"]),
        ('"a"\n"b"\n', ["a", "b"]),
        ('{"prompt": "a"}\n{"prompt": "b"\n{"prompt": "c"}\n', ["a", "(broken JSON)", "c"]),
        ('[{"prompt": "a"}, {"prompt": "b"}, {"pro', ["a", "b", "(cut off)"]),
        ('[{"prompt": "a"}, {"prompt": "b"}, {"n": 1.', ["a", "b", "(cut off)"]),
        ('[{"prompt": "a"}, {"prompt": "\\u00', ["a", "(cut off)"]),
        ('[{"prompt": "a"}, {"prompt": nu', ["a", "(cut off)"]),
        ('[{"prompt": "a"}', ["a", "(cut off)"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
def test_json_in_every_form(tmp_path: Path, name: str, content: str, found: list[str]) -> None:
    assert read(written(tmp_path / name, content)) == found


def test_long_values_are_read_wherever_the_pieces_of_a_file_end(tmp_path: Path) -> None:
    texts = [f"{n}: " + "é" * (30_000 * n) for n in range(1, 5)]
    numbers = [float(f"1.5e{n}") for n in range(300)] * 9
    records = [{"n": numbers, "big": 2**70, "prompt": text} for text in texts]
    found = [text[:12_000] for text in texts]
    for name, content in (
        ("a.json", json.dumps(records, ensure_ascii=False)),
        ("b.json", json.dumps(records, indent=1)),
        ("c.jsonl", "\n".join(json.dumps(record) for record in records)),
        ("d.jsonl", "\n".join(json.dumps(record, indent=1, ensure_ascii=False) for record in records)),
    ):
        items = read_prompts(find_sources([str(written(tmp_path / name, content))]), Ingest(max_chars=10**6))
        assert [item.query[:12_000] for item in items if isinstance(item, Prompt)] == found


@pytest.mark.parametrize("content", ['[{"prompt": "a"}, ]', '[{"prompt": "a"} {"prompt": "b"}]', '{"prompt":\n"a"}\nx'])
def test_damage_behind_the_first_record_is_one_line(tmp_path: Path, content: str) -> None:
    assert "broken JSON after record 1" in refused(written(tmp_path / "a.json", content))


def test_a_file_that_ends_too_early_is_one_line(tmp_path: Path) -> None:
    lines = "".join(json.dumps({"prompt": os.urandom(400).hex()}) + "\n" for _ in range(2000))
    file = written(tmp_path / "a.jsonl.gz", gzip.compress(lines.encode())[:-90_000])
    assert "cannot be read after record" in refused(file)


# ---- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('id,prompt\n1,"an unclosed quote\n2,Name a fruit\n3,a\n', ["(broken CSV)", "Name a fruit", "a"]),
        ('id,prompt\n1,"an unclosed quote\n2,"Name a fruit"\n3,a\n', ["(broken CSV)", "Name a fruit", "a"]),
        ('id,prompt\n1,a\n2,"to the end', ["a", "(broken CSV)"]),
        ('prompt\n"She said "hi"\nand left"\nName a tree\n', ["(broken CSV)", "(broken CSV)", "Name a tree"]),
        ("prompt,id\nName a fruit, then a nut,1\nName a tree,2\n", ["(more cells than columns)", "Name a tree"]),
        ('prompt,id\n"two\nlines, and ""quotes""",1\n', ['two\nlines, and "quotes"']),
        ('prompt,id\na 5" disk,1\n', ['a 5" disk']),
        ("id,prompt\n1\n2,b\n", ["(empty)", "b"]),
        ("id,prompt\r1,a\r2,b\r", ["a", "b"]),
        ("id,prompt\n\n1,a\n\n", ["a"]),
        ('id,messages\n1,"[{""role"": ""user"", ""content"": ""a""}]"\n2,x\n', ["a", "(no field of prompts)"]),
        ("id,conversations\n1,\"[{'from': 'human', 'value': 'a'}]\"\n", ["a"]),
    ],
)  # fmt: skip
def test_a_row_that_is_none_is_counted_and_costs_no_other(tmp_path: Path, content: str, found: list[str]) -> None:
    assert read(written(tmp_path / "a.csv", content)) == found
    if "a nut" not in content and "role" not in content and "from" not in content and "lines," not in content:
        assert read(written(tmp_path / "a.tsv", content.replace(",", "\t"))) == found


# ---- Parquet ---------------------------------------------------------------------------------------------------------


def test_columns_of_every_type_that_holds_a_prompt(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "a"}]
    pairs = pa.map_(pa.string(), pa.string())
    columns = {
        "struct": pa.array([{"role": ["user"], "content": ["a"]}]),
        "text": pa.array([json.dumps(chat)]),
        "binary": pa.array([json.dumps(chat).encode()]),
        "maps": pa.array([[[("role", "user"), ("content", "a")]]], pa.list_(pairs)),
        "list": pa.array([chat]),
    }
    for name, column in columns.items():
        pq.write_table(pa.table({"messages": column}), tmp_path / f"{name}.parquet")
        assert read(tmp_path / f"{name}.parquet") == ["a"], name
    odd = pa.array([b"a", b"\xff", None]).view(pa.string())
    times = pa.array([2**62, 0, 1], pa.timestamp("us"))
    pq.write_table(pa.table({"prompt": odd, "when": times}), tmp_path / "odd.parquet")
    assert read(tmp_path / "odd.parquet") == ["a", "(not UTF-8)", "(empty)"]


# ---- folders and names -----------------------------------------------------------------------------------------------

LINE = '{"prompt": "a"}\n'


def test_what_stands_beside_data_in_a_folder_is_passed_over_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "a.jsonl", LINE)
    beside = ["LICENSE.txt", "requirements-dev.txt", "dataset_infos.json", "config.json", "manifest.json", "._a.jsonl",
              ".ipynb_checkpoints/a.txt", "THIRD_PARTY_LICENSES.txt", "README.md"]  # fmt: skip
    for name in [*beside, "_SUCCESS.json"]:
        written(tmp_path / name, "torch\n")
    written(tmp_path / "b.jsonl", "")
    assert read(tmp_path) == ["a"]
    assert read(f"{tmp_path}/*.jsonl") == ["a"]
    said = capsys.readouterr().err
    assert "1 files are read, these are passed over: ._a.jsonl, .ipynb_checkpoints/a.txt" in said
    assert "and 6 more" in said
    assert said.count("are passed over") == 1
    assert read(tmp_path / "LICENSE.txt") == ["torch"]  # named, so it is meant
    assert read(f"{tmp_path}/.ipynb*/*.txt", tmp_path / "LICENSE.txt") == ["torch", "torch"]


def test_a_file_without_a_record_is_passed_over_in_a_folder_and_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "a.jsonl", LINE)
    empty = [
        written(tmp_path / "b.csv", "prompt\n"),
        written(tmp_path / "c.json", "[]"),
        written(tmp_path / "d.txt", " \n"),
    ]
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "e.parquet")
    assert read(tmp_path) == ["a"]
    said = capsys.readouterr().err
    for file in [*empty, tmp_path / "e.parquet"]:
        assert f"{file}: holds no record, and is passed over" in said
        assert "holds no record" in refused(file)


def test_what_is_no_file_of_prompts_in_a_folder_is_named_with_the_way_out(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", LINE)
    odd = written(tmp_path / "stats.json", '{"rows": 1}')
    said = refused(tmp_path)
    assert f"{odd}:1: no field of prompts: has rows" in said
    assert "name the others, by a glob or each" in said


@pytest.mark.parametrize("name", ["data [v2].jsonl", "what?.jsonl", "a*b.jsonl", "x [v2]/a.jsonl", "[a]/[b]/a.jsonl"])
def test_a_name_that_is_there_comes_before_a_glob(tmp_path: Path, name: str) -> None:
    file = written(tmp_path / name, LINE)
    written(tmp_path / "data v.jsonl", '{"prompt": "another"}\n')
    assert read(file) == ["a"]
    if "/" in name:
        assert read(file.parent) == ["a"]
        assert read(f"{file.parent}/*.jsonl") == ["a"]
        assert read(f"{file.parent.parent}/*/[ab].jsonl") == ["a"]


def test_an_empty_name_is_refused() -> None:
    for spec in ("", " "):
        assert "is a variable of the shell not set?" in refused(spec)


# ---- datasets --------------------------------------------------------------------------------------------------------


def test_a_saved_dataset_of_several_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    splits = {name: datasets.Dataset.from_list([{"prompt": name}]) for name in ("test", "train", "extra")}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "dd"))
    assert read(tmp_path / "dd") == ["train"]
    said = capsys.readouterr().err
    assert f"of its splits train is read, not test, extra; to choose: {tmp_path}/dd[test]" in said
    assert read(f"{tmp_path}/dd[test]", f"{tmp_path}/dd[extra]") == ["test", "extra"]
    assert "no such split; it has test, train, extra" in refused(f"{tmp_path}/dd[validation]")


def test_a_dataset_that_is_saved_anew_is_another_version(tmp_path: Path) -> None:
    found = []
    for text in ("one", "two", "two"):
        datasets.Dataset.from_list([{"prompt": text}]).save_to_disk(str(tmp_path / "saved"))
        found.append(versions(find_sources([str(tmp_path / "saved")])))
    assert found[0].keys() == found[1].keys()
    assert found[0] != found[1]


def test_a_typo_is_no_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with hub(monkeypatch):
        assert "no such file" in refused("prompts/typo.jsonl")
        assert "org/none: no file here has this name, and no dataset on the Hugging Face Hub" in refused("org/none")
        assert "its licence must be accepted" in refused("org/gated")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE keeps from asking the Hugging Face Hub" in refused("org/offline")
    monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    assert "org/other: no file here has this name, and the Hugging Face Hub cannot be asked" in refused("org/other")


def test_a_dataset_on_the_hub_is_known_by_its_files_and_not_by_its_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    found: list[str] = []
    for name, content, readme in (("a", "one", "x"), ("b", "one", "y"), ("c", "two", "x")):
        with dataset_hub(f"org/{name}", {"data.jsonl": content, "README.md": readme}) as endpoint:
            monkeypatch.setattr("huggingface_hub.hf_api.api.endpoint", endpoint)
            found += versions(find_sources([f"org/{name}"])).values()
    assert found[0] == found[1] != found[2]


HUB = """
import sys
from ultraif_ray.data.ingest import read_prompts
from ultraif_ray.data.readers import find_sources, versions
from ultraif_ray.errors import InputError
from ultraif_ray.recipe import Ingest
for spec in sys.argv[1:]:
    try:
        sources = find_sources([spec])
        print(spec, [item.query for item in read_prompts(sources, Ingest())], len(*versions(sources).values()))
    except InputError as error:
        print(error)
"""


@pytest.mark.long  # `datasets` is imported anew, under another address of the hub
def test_configurations_and_splits_of_the_hub(tmp_path: Path) -> None:
    readme = """---
configs:
- {config_name: en, data_files: [{split: train_sft, path: en/a.jsonl}, {split: test_sft, path: en/b.jsonl}]}
- {config_name: de, data_files: [{split: train, path: de.jsonl}]}
---
"""
    files = {"README.md": readme, "de.jsonl": '{"prompt": "drei"}\n'}
    files |= {f"en/{name}.jsonl": json.dumps({"prompt": name}) + "\n" for name in "ab"}
    specs = ["org/set:en", "org/set:en[test_sft]", "org/set:de", "org/set", "org/set:fr", "org/set:de[x]"]
    with dataset_hub("org/set", files) as endpoint:
        environment = os.environ | {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"}
        done = subprocess.run(
            [sys.executable, "-c", HUB, *specs], env=environment, capture_output=True, text=True, check=True
        )
    en, test, de, none, french, no_split = done.stdout.splitlines()
    assert (en, test, de) == ("org/set:en ['a'] 16", "org/set:en[test_sft] ['b'] 16", "org/set:de ['drei'] 16")
    assert "several configurations, en, de: say which, as org/set:CONFIG" in none
    assert "fr" in french
    assert no_split == "org/set:de[x]: no such split; it has train"
    assert "org/set:en: of its splits train_sft is read, not test_sft; to choose: org/set:en[test_sft]" in done.stderr


# ---- any bytes -------------------------------------------------------------------------------------------------------

NAMES = [
    "a.json",
    "a.jsonl",
    "a.csv",
    "a.tsv",
    "a.txt",
    "a.parquet",
    "a.jsonl.gz",
    "a.txt.zst",
    "a.csv.xz",
    "a.json.bz2",
]
PARQUET = pa.BufferOutputStream()
pq.write_table(pa.table({"prompt": ["a", "b"]}), PARQUET)
PIECES = [b'{"prompt": "a"}', b"[", b"]", b",", b"\n", b'"', b"\xef\xbb\xbf", b"\xff\xfe", b"\x00", b"prompt",
          b'{"prompt": ', "é".encode(), b"\\u12", b"NaN", b'[{"role": "user", "content": "a"}]', b"\r", b"1" * 5000,
          b"[" * 2000, PARQUET.getvalue().to_pybytes()]  # fmt: skip
contents = st.binary(max_size=120) | st.lists(st.sampled_from(PIECES) | st.binary(max_size=3), max_size=9).map(b"".join)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(st.sampled_from(NAMES), contents, st.booleans(), st.sampled_from(["", "utf-8", "cp1252", "gb18030", "utf-16"]))
def test_any_bytes_give_prompts_counted_rejections_or_one_line(
    tmp_path: Path, name: str, content: bytes, pack: bool, encoding: str
) -> None:
    for old in tmp_path.iterdir():
        old.unlink()
    file = tmp_path / name
    if pack and name.count(".") == 2:
        if name.endswith(".zst"):
            content = pa.compress(content, codec="zstd", asbytes=True)
        else:
            with fsspec.open(str(file), "wb", compression="infer") as packed:
                packed.write(content)
            content = file.read_bytes()
    file.write_bytes(content)
    for named in (str(file), str(tmp_path)):
        try:
            items: list[Any] = list(read_prompts(find_sources([named], encoding), Ingest(max_chars=10**6)))
        except InputError as error:
            said = str(error)
        else:
            said = ""
            assert all(isinstance(item, Prompt | Rejection) for item in items)
            assert "\ufffd" not in "".join(item.query for item in items if isinstance(item, Prompt))
        assert "\n" not in said
