"""Small files in the forms that the authors of benchmarks publish, made up."""

import csv
import json
from pathlib import Path
from typing import Any


def lines(file: Path, *records: dict[str, Any]) -> str:
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(file)


def array(file: Path, *records: dict[str, Any]) -> str:
    file.write_text(json.dumps(records))
    return str(file)


def infobench(folder: Path) -> str:
    first = {
        "id": "domain_oriented_task_0",
        "input": "A river, a bridge.",
        "category": "Writing",
        "instruction": "Write two lines about this place, in capitals.",
        "decomposed_questions": ["Is it two lines?", "Is it in capitals?"],
        "subset": "Hard_set",
        "question_label": [["Number"], ["Format"]],
    }
    second = {
        "id": "user_oriented_task_1",
        "input": "",
        "instruction": "Name a bird.",
        "decomposed_questions": ["One?"],
    }
    return lines(folder / "infobench.jsonl", first, second)


def complexbench(folder: Path) -> str:
    questions = [
        {"point_id": 0, "question": "甲？", "question_en": "Is A right?", "rule": None, "dep": []},
        {"point_id": 1, "question": "乙？", "question_en": "Is B long?", "rule": "model_length:[9,99]", "dep": [0]},
        {"point_id": 2, "question": "丙？", "question_en": "Is C there?", "rule": None, "dep": []},
    ]
    record = {"main_id": 7, "instruction": "写。", "instruction_en": "Write A, then B.", "scoring_questions": questions}
    return array(folder / "data_final.json", record)


def evolved(example: int, category: str, source: str, *steps: str, **more: Any) -> list[dict[str, Any]]:
    """The levels of one instruction of FollowBench, from 0 on."""
    whole = [" ".join(steps[: level + 1]) for level in range(len(steps))]
    return [
        {
            "example_id": example,
            "category": category,
            "source": source,
            "level": level,
            "instruction": text,
            "target": "",
        }
        | more
        for level, text in enumerate(whole)
    ]


STYLE = ("Write about rain.", "Be gentle.", "Be short.", "Rhyme.", "Sound old.", "Name no cloud.")


def followbench(folder: Path) -> str:
    """One instruction that is judged, two that are checked by rule, and one of examples, which has no level 0."""
    place = folder / "followbench"
    place.mkdir()
    array(place / "style_constraints.json", *evolved(1, "style", "oasst", *STYLE))
    steps = [f"Say apple{'!' * level}" for level in range(6)]
    two = [record for example in (3, 4) for record in evolved(example, "content", "E2E", *steps, target="apple")]
    array(place / "content_constraints.json", *two)
    form = {"target": "{instruction}\nBOT: {answer}", "answer": "BOT: yes"}
    examples = evolved(1, "example", "imdb", *[f"Shown {level}." for level in range(6)], **form)
    array(place / "example_constraints.json", *examples[1:])
    return str(place)


def multi_if(folder: Path) -> str:
    """Two conversations: one of three turns in English, one of two in Hindi."""
    capitals, comma, words = "change_case:english_capital", "punctuation:no_comma", "length_constraints:number_words"
    few = {"num_words": 4, "relation": "less than"}
    rows = [
        _conversation("1:1:en", "English", ("Say it.", [capitals], [{}]), ("Again.", [capitals, comma], [{}, {}]),
                      ("Shorter.", [capitals, comma, words], [{}, {}, few])),
        _conversation("2:1:hi", "Hindi", ("Say.", [comma], [{}]), ("More.", [comma, words], [{}, few])),
    ]  # fmt: skip
    file = folder / "multi_if.csv"
    with file.open("w", newline="") as out:
        writer = csv.DictWriter(out, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(file)


def _conversation(key: str, language: str, *turns: tuple[str, list[str], list[dict[str, Any]]]) -> dict[str, str]:
    row = {"turns": "None", "responses": "None", "key": key, "language": language}
    for number in (1, 2, 3):
        query, names, arguments = turns[number - 1] if number <= len(turns) else ("", [], [])
        message = json.dumps({"role": "user", "content": query}) if query else "None"
        row |= {
            f"turn_{number}_prompt": message,
            f"turn_{number}_instruction_id_list": json.dumps(names) if query else "None",
            f"turn_{number}_kwargs": json.dumps([json.dumps(given) for given in arguments]) if query else "None",
        }
    return row
