"""Who grades a judge's verdicts: a person, in the terminal or a CSV file; a second judge; nobody, of planted ones."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tests.simulated import recipe
from ultraif_ray.api import Run
from ultraif_ray.cli import app
from ultraif_ray.errors import InputError
from ultraif_ray.records import Turn
from ultraif_ray.report.audit import Case, cases_of
from ultraif_ray.report.grades import INJECTIONS, Auditing, ask_for_grades, audit_run, read_grades, write_cases
from ultraif_ray.steps.run import run


def case(number: int, **texts: str) -> Case:
    shown = {"request": "Write it", "answer": "It", "question": "Is it?"} | texts
    turns = (Turn(role="user", content="before"),)
    return Case(number, 0, 0, 0, turns, **shown, verdict="no", category="format", level=1)


CASES = [case(1), case(2), case(3), case(4)]


def test_a_person_sees_all_but_the_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    said = iter(["y", "N", "s", "q"])
    grades = ask_for_grades(CASES, Console(width=100), lambda prompt: next(said))
    assert grades == {"1:0:0:0": "yes", "2:0:0:0": "no"}
    shown = capsys.readouterr().out
    for text in ("1 of 4", "user: before", "Write it", "It", "Is it?"):
        assert text in shown
    assert "no" not in shown


def fill_in(file: Path, *grades: str) -> None:
    with file.open(newline="", encoding="utf-8-sig") as opened:
        lines = list(csv.DictReader(opened))
    for line, grade in zip(lines, grades, strict=True):
        line["grade"] = grade
    with file.open("w", newline="", encoding="utf-8-sig") as opened:
        writer = csv.DictWriter(opened, lines[0])
        writer.writeheader()
        writer.writerows(lines)


def test_a_file_goes_out_without_verdicts_and_comes_back_with_grades(tmp_path: Path) -> None:
    write_cases(CASES, file := tmp_path / "a.csv")
    assert "no" not in file.read_text(encoding="utf-8-sig").replace("\r\n", ",").split(",")
    fill_in(file, "yes", "", " NO ", "y")
    assert read_grades(file, CASES) == {"1:0:0:0": "yes", "3:0:0:0": "no", "4:0:0:0": "yes"}
    with pytest.raises(InputError, match=r"a\.csv: row 2 is case '1:0:0:0', which was not drawn: give the --n"):
        read_grades(file, CASES[1:])
    fill_in(file, "yes", "maybe", "", "")
    with pytest.raises(InputError, match=r"row 3 has the grade 'maybe': write yes or no"):
        read_grades(file, CASES)


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n"), min_size=1)


@given(TEXT, TEXT, st.sampled_from(["=1+1", "+1", "-1", "@SUM(A1)", "\tx"]))
def test_whatever_a_model_wrote_is_one_cell_and_no_formula(
    tmp_path_factory: pytest.TempPathFactory, request_text: str, answer: str, formula: str
) -> None:
    file = tmp_path_factory.mktemp("csv") / "a.csv"
    write_cases([case(1, request=request_text, answer=answer, question=formula)], file)
    with file.open(newline="", encoding="utf-8-sig") as opened:
        (line,) = csv.DictReader(opened)
    assert line["answer"].removeprefix("'") == answer.removeprefix("'")
    assert all(not text.startswith(("=", "+", "-", "@", "\t")) for text in line.values())


@pytest.mark.usefixtures("no_ray")
def test_a_second_judge_grades_and_violations_are_planted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one_question = {"k": 1, "rounds": {1: 1}, "judge": "logprob", "goal": "sft", "ask_all": True}
    made = recipe(tmp_path, count=8, synthesize=one_question | {"questions": "all", "standing": True})
    run(made, until="synthesize")
    rows, result = Run(str(made.run)).rows(), tmp_path / "out.json"
    second = tmp_path / "second.yaml"  # asks fewer questions
    second.write_text(yaml.safe_dump(made.model_dump(mode="json") | {"synthesize": one_question}))
    app(["audit", str(made.run), "--against", str(second), "--n", "99", "--json", str(result)], standalone_mode=False)
    same = json.loads(result.read_text())
    every = sum(1 for row in rows for _ in cases_of(row))
    assert every > 5 * 3  # a row that was judged has one question of each kind at least
    assert (same["graded"], same["agreement"]["value"]) == (every, 1)  # the same judge says the same again
    tried = made.model_copy(update={"run": str(tmp_path / "new")})
    audit_run(rows, Auditing(8, judge=tried, planted=True, result=result))
    judged = [row for row in Run(tried.run_folder).rows(step="judge") if row.outcome != "failed"]
    said = [row.instructions[0].responses[0].verdicts[0].answer for row in judged]
    assert json.loads(result.read_text())["recall_on_planted"]["value"] == said.count("no") / len(said)
    for row in judged:  # this engine repeats what it is asked
        (instruction,) = row.instructions
        assert instruction.responses[0].text.endswith(f"About: {instruction.simpler_query[:80]}")
    again = Run(f"{tried.run_folder}/injected").rows(step="judge")
    injected = {row.id: row.instructions[0].responses[0] for row in again if row.outcome != "failed"}
    plain = {row.id: row.instructions[0].responses[0] for row in judged}
    assert injected  # this engine refuses some requests
    assert injected.keys() <= plain.keys()
    orders = [response.text.removeprefix(plain[number].text) for number, response in injected.items()]
    assert set(orders) <= set(INJECTIONS)
    said = [response.verdicts[0].answer for response in injected.values()]
    assert json.loads(result.read_text())["recall_on_injected"]["value"] == said.count("no") / len(said)


def test_one_way_to_grade_at_a_time(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    found = CliRunner().invoke(app, ["audit", str(tmp_path), "--planted", "--csv", "a.csv"])
    assert "give one of --csv, --against and --planted" in str(found.exception)
