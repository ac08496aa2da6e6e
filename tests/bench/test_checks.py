import json
from pathlib import Path

import pytest

from tests.scripted import client_of, labels, recipe, saying
from ultraif_ray.bench.checks import find, measure, read_probes
from ultraif_ray.errors import InputError

TAKEN = {
    "id": "a", "what": "right", "kind": "decompose", "good": True, "query": "Describe fog in verse",
    "constraint": "in verse", "simplified_query": "Describe fog", "question": "Is it verse?",
}  # fmt: skip
PUT_IN = {
    "id": "b", "what": "left as it was", "kind": "compose", "good": False, "query": "Describe fog", "questions": [],
    "composed": "Describe fog", "question": ["Is it fog?"],
}  # fmt: skip


def probes_file(tmp_path: Path, *probes: dict[str, object]) -> Path:
    file = tmp_path / "probes.jsonl"
    file.write_text("".join(json.dumps(probe) + "\n" for probe in probes))
    return file


def test_the_table_counts_what_was_caught_and_what_was_thrown_away(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = TAKEN | {"id": "c", "what": "thrown away", "question": "In verse."}
    file = probes_file(tmp_path, TAKEN, PUT_IN, lost)
    measure(file, json_file=tmp_path / "out.jsonl")
    said = " ".join(capsys.readouterr().out.split())
    assert "c thrown away: refused by the text: not a question" in said
    assert "decompose text 0 of 0 1 of 2" in said
    assert "compose text 1 of 1 0 of 0" in said
    findings = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert findings == [
        {"id": "a", "accepted": True, "by": "", "reason": ""},
        {"id": "b", "accepted": False, "by": "text", "reason": "query left as it was"},
        {"id": "c", "accepted": False, "by": "text", "reason": "not a question"},
    ]


async def test_a_model_is_asked_about_what_the_text_lets_by(tmp_path: Path) -> None:
    right = PUT_IN | {"composed": "Describe fog in verse", "question": ["Is it verse?"]}
    first, second = read_probes(probes_file(tmp_path, TAKEN, right))
    engine = saying(labels(0.9), labels(0.1))
    client = client_of(recipe(), decomposer=engine, composer=engine)
    assert (await find(first, client)).accepted
    refused = await find(second, client)
    assert (refused.accepted, refused.by) == (False, "model")


def test_a_line_that_is_no_probe_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"probes.jsonl:2: not a probe: decompose.good: Input should be a valid boolean"
    ):
        read_probes(probes_file(tmp_path, TAKEN, TAKEN | {"good": "perhaps"}))
    with pytest.raises(InputError, match="no such file"):
        read_probes(tmp_path / "nowhere")
