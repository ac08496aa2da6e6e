"""Benchmarks whose answers a judge reads: FollowBench, InfoBench, ComplexBench.

A reader makes a row of each prompt: one instruction with its questions, which the journey's stage `respond` answers and
judges like any other (`as_asked` gives the recipe for it). A scorer takes the rows that come back. Where the authors
check by rule, so does code here (`followbench.py`), and the judge is not asked.

An answer that was cut off is not judged, and meets no question.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, pairwise
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ultraif_ray.data.readers import find_sources, read_records
from ultraif_ray.errors import InputError
from ultraif_ray.evaluate.followbench import LEVELS, Rule, rule_of
from ultraif_ray.evaluate.statistics import Estimate, Score, estimate
from ultraif_ray.method.texts import new_text
from ultraif_ray.recipe import Recipe, Synthesize
from ultraif_ray.records import AddedConstraint, Instruction, Response, Row, Verdict, content_hash


@dataclass(frozen=True)
class Item:
    """One prompt of a benchmark: the row that goes through the journey, and what its scorer must know."""

    key: str
    """The authors' name for it, unique in the benchmark."""
    row: Row
    doc: dict[str, Any]
    """The authors' record."""
    group: str = ""
    """The prompts that belong together, such as the levels of one instruction."""
    kind: str = ""
    """The kind of constraint, where there is a mean for each."""
    level: int = 0
    rule: Rule | None = None
    """What code checks in place of the judge."""


@dataclass(frozen=True)
class Graded:
    """A prompt, its answer, and which of its questions the answer meets, in their order; a rule is one question."""

    item: Item
    row: Row
    met: list[bool]


@dataclass(frozen=True)
class Scored:
    """What a benchmark says of a model: each prompt's scores by metric, a record of each prompt as lm-eval's sample
    files have them, and what is to be said beside the figures (`counts`).
    """

    scores: dict[str, list[Score]]
    samples: list[dict[str, Any]]
    counts: dict[str, int]

    @property
    def estimates(self) -> dict[str, Estimate]:
        """The metrics, each with its interval."""
        return {metric: estimate(scores) for metric, scores in self.scores.items()}


@dataclass(frozen=True)
class Judged:
    """A benchmark: how its files are read, and what its metrics are."""

    read: Callable[[Sequence[str]], Iterator[Item]]
    metrics: Callable[[list[Graded]], dict[str, list[Score]]]


def read(name: str, files: Sequence[str]) -> list[Item]:
    """The prompts of a benchmark, in the order of its files.

    Args:
        name: one of `BENCHMARKS`.
        files: files, folders or hub ids that hold it in its authors' form.

    Raises:
        InputError: a record is not of that form, two have one name, or there is none.
    """
    items = list(BENCHMARKS[name].read(files))
    twice = [key for key, times in Counter(item.key for item in items).items() if times > 1]
    if twice:
        raise InputError(f"{name}: {twice[0]} stands there twice: name each file once")
    if not items:
        raise InputError(f"{name}: {', '.join(files)} hold no prompt")
    return items


def score(name: str, items: Iterable[Item], rows: Iterable[Row]) -> Scored:
    """Score the rows that came back. One that failed meets no question; an item without a row was not asked.

    Raises:
        InputError: a row that is none of the items'.
    """
    by_id = {row.id: row for row in rows}
    graded = [grade(item, by_id.pop(item.row.id)) for item in items if item.row.id in by_id]
    if by_id:
        raise InputError(f"{name}: {len(by_id)} rows are of other prompts than those of its files: evaluate it anew")
    metrics = BENCHMARKS[name].metrics(graded)
    by_prompt: dict[str, dict[str, Score]] = {one.item.key: {} for one in graded}
    for metric, scores in metrics.items():
        for each in scores:
            by_prompt[each.prompt][metric] = each
    samples = [_sample(number, one, by_prompt[one.item.key]) for number, one in enumerate(graded)]
    return Scored(metrics, samples, _counts(graded))


def as_asked(recipe: Recipe, max_tokens: int) -> Recipe:
    """The recipe as a benchmark asks: the bare query, answered once at temperature 0, and every question put to the
    judge, who judges as the recipe says.
    """
    responder = recipe.roles.responder.model_copy(
        update={"system": None, "temperature": 0.0, "top_p": 1.0, "max_tokens": max_tokens}
    )
    kept = recipe.synthesize.model_dump(include={"judge", "follow_up", "threshold", "labels", "attempts"})
    asked = Synthesize(**kept, k=1, goal="all", ask_all=True, check="text")
    roles = recipe.roles.model_copy(update={"responder": responder})
    return recipe.model_copy(update={"roles": roles, "synthesize": asked})


# ---- grading ---------------------------------------------------------------------------------------------------------


def grade(item: Item, row: Row) -> Graded:
    """Which questions of a prompt its answer meets: by the rule where there is one, else where the judge said yes."""
    (instruction,) = row.instructions
    response = instruction.responses[0] if instruction.responses else Response(text="")
    if item.rule:
        right = bool(response.text.strip()) and item.rule(response.text, item.doc["target"], item.level)
        return Graded(item, row, [right])
    answers = [verdict.answer for verdict in response.verdicts] or ["not asked"] * len(instruction.questions)
    return Graded(item, row, [answer == "yes" for answer in answers])


def _counts(graded: list[Graded]) -> dict[str, int]:
    """What bears on how far to trust the figures."""
    responses = [one.row.instructions[0].responses for one in graded]
    verdicts: list[Verdict] = [verdict for some in responses for response in some for verdict in response.verdicts]
    return {
        "prompts": len(graded),
        "failed": sum(one.row.outcome == "failed" for one in graded),
        "cut off": sum(response.finish == "length" for some in responses for response in some),
        "empty": sum(not response.text for some in responses for response in some),
        "by rule": sum(one.item.rule is not None for one in graded),
        "questions": sum(len(one.met) for one in graded),
        "verdicts missing": sum(verdict.answer == "missing" for verdict in verdicts),
    }


def _sample(number: int, one: Graded, scores: Mapping[str, Score]) -> dict[str, Any]:
    (instruction,) = one.row.instructions
    texts = [response.text for response in instruction.responses]
    verdicts = [verdict.model_dump() for response in instruction.responses for verdict in response.verdicts]
    failures = [failure.model_dump() for failure in one.row.failures]
    return {
        "doc_id": number,
        "doc": one.item.doc,
        "target": one.item.doc.get("target", ""),
        "arguments": [[instruction.query]],
        "resps": [texts],
        "filtered_resps": texts,
        "filter": "none",
        "metrics": sorted(scores),
        **{metric: score.got / score.of for metric, score in scores.items()},
        "scores": {metric: [asdict(score)] for metric, score in scores.items()},
        "key": one.item.key,
        "met": one.met,
        "verdicts": verdicts,
        "failures": failures,
    }


# ---- reading ---------------------------------------------------------------------------------------------------------

Text = Annotated[str, Field(min_length=1)]


class AuthorsRecord(BaseModel):
    """A record as the authors of a benchmark publish it; what is not needed here is kept with it."""

    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)


Form = TypeVar("Form", bound=AuthorsRecord)


def records(files: Sequence[str], form: type[Form]) -> Iterator[tuple[str, Form]]:
    """The records of the files, each with the file that it is in.

    Raises:
        InputError: the file, the number of the first record that is not of this form, and what is wrong with it.
    """
    for source in find_sources(list(files)):
        for number, found in read_records(source):
            try:
                yield source.path, form.model_validate(found)
            except ValidationError as error:
                fault = error.errors()[0]
                where = ".".join(str(part) for part in fault["loc"])
                raise InputError(
                    f"{source.path}: record {number} is not of the form that the benchmark's authors publish: "
                    f"{where or 'the whole'}: {fault['msg']} (got {fault['input']!r:.80})"
                ) from None


def _row(key: str, instruction: Instruction) -> Row:
    """The row of a prompt. Its id is of the questions as well: one query may be asked with others elsewhere."""
    content = [key, instruction.model_dump()]
    return Row(id=content_hash(content), query=instruction.query, source=key, instructions=[instruction])


def _plain(query: str, questions: list[str]) -> Instruction:
    """A query as it is, with questions about its answer."""
    return Instruction(initial_query=query, added=[AddedConstraint(round=1, text="", query=query, questions=questions)])


# ---- InfoBench (arXiv 2401.03601) ------------------------------------------------------------------------------------


class InfoBenchRecord(AuthorsRecord):
    """As in the data set kqsong/InFoBench."""

    id: Text
    instruction: Text
    input: str = ""
    decomposed_questions: list[Text] = Field(min_length=1)


def read_infobench(files: Sequence[str]) -> Iterator[Item]:
    """One prompt a record: the instruction, and below it the input where there is one."""
    for _, record in records(files, InfoBenchRecord):
        query = "\n\n".join(text for text in (record.instruction, record.input) if text)
        row = _row(f"infobench {record.id}", _plain(query, record.decomposed_questions))
        yield Item(record.id, row, record.model_dump(mode="json"))


def decomposed(graded: list[Graded]) -> dict[str, list[Score]]:
    """DRFR: of all questions, the share that is met; and of all prompts, the share that meets all of its own."""
    return {
        "drfr": [Score(one.item.key, sum(one.met), len(one.met)) for one in graded],
        "all_met": [Score(one.item.key, float(all(one.met))) for one in graded],
    }


# ---- ComplexBench (arXiv 2407.03978) ---------------------------------------------------------------------------------


class ScoringQuestion(AuthorsRecord):
    """A question, and the numbers of those that must be met for it to count."""

    question_en: Text
    dep: list[int] = []


class ComplexBenchRecord(AuthorsRecord):
    """As in data/data_final.json of thu-coai/ComplexBench; the English translation is asked."""

    main_id: Text
    instruction_en: Text
    scoring_questions: list[ScoringQuestion] = Field(min_length=1)


def read_complexbench(files: Sequence[str]) -> Iterator[Item]:
    """One prompt a record. The judge is asked all questions, also those that the authors check by rule, since their
    rules are for parts of an answer that a model of theirs picks out of it.
    """
    for _, record in records(files, ComplexBenchRecord):
        questions = [one.question_en for one in record.scoring_questions]
        row = _row(f"complexbench {record.main_id}", _plain(record.instruction_en, questions))
        yield Item(record.main_id, row, record.model_dump(mode="json"))


def depending(graded: list[Graded]) -> dict[str, list[Score]]:
    """DRFR, where a question counts as met only if those that it depends on were met too."""
    return decomposed([Graded(one.item, one.row, _with_dependencies(one)) for one in graded])


def _with_dependencies(one: Graded) -> list[bool]:
    questions = one.item.doc["scoring_questions"]
    return [
        met and all(one.met[number] for number in question["dep"])
        for met, question in zip(one.met, questions, strict=True)
    ]


# ---- FollowBench (arXiv 2310.20410) ----------------------------------------------------------------------------------


class FollowBenchRecord(AuthorsRecord):
    """As in data/*_constraints.json of YJiangcm/FollowBench."""

    example_id: int
    category: Text
    source: Text
    level: int = Field(ge=0, le=LEVELS)
    instruction: str
    target: str = ""


def read_followbench(files: Sequence[str]) -> Iterator[Item]:
    """One prompt a level from 1 on. Records of one example follow each other, level 0 first where there is one: what
    each level added to the one before is what the judge is asked about.
    """
    for (file, _), group in groupby(records(files, FollowBenchRecord), lambda one: (one[0], one[1].example_id)):
        levels = [record for _, record in group]
        kind = levels[0].category
        for place, record in enumerate(levels):
            if record.level == 0:
                continue
            key = f"{kind}-{record.example_id}-{record.level}"
            rule = rule_of(kind, record.source, record.example_id)
            path = [one.instruction for one in levels[: place + 1]]
            if not rule and [one.level for one in levels[: place + 1]] != list(range(record.level + 1)):
                raise InputError(f"{file}: {key} does not stand behind its levels 0 to {record.level - 1}, in order")
            yield Item(
                key,
                _row(f"followbench {key}", _plain(record.instruction, []) if rule else _evolved(path)),
                record.model_dump(mode="json"),
                group=f"{kind}-{record.example_id}",
                kind=kind,
                level=record.level,
                rule=rule,
            )


def read_rules(files: Sequence[str]) -> Iterator[Item]:
    """The prompts of FollowBench that are checked by rule, which need no judge."""
    for item in read_followbench(files):
        if item.rule:
            apart = content_hash(["followbench_rules", item.row.id])  # both may be asked in one go
            yield replace(item, row=item.row.model_copy(update={"id": apart}))


def _evolved(path: list[str]) -> Instruction:
    """An instruction that grew by one constraint a level, with a question about each."""
    added = [
        AddedConstraint(round=level, text=new_text(before, after), query=after, questions=[_asking(before, after)])
        for level, (before, after) in enumerate(pairwise(path), start=1)
    ]
    return Instruction(initial_query=path[0], added=added)


def _asking(before: str, after: str) -> str:
    """A question about what one level added."""
    return (
        "The request was written in steps, each of which added one constraint. Before one of these steps it read "
        f"{json.dumps(before, ensure_ascii=False)}, and after it {json.dumps(after, ensure_ascii=False)}. "
        "Does the answer meet the constraint that this step added?"
    )


def satisfaction(graded: list[Graded]) -> dict[str, list[Score]]:
    """HSR: of the prompts, the share that meets all constraints. SSR: the mean share of constraints that a prompt
    meets, all or none by rule. Both also by level. CSL: how many levels are met in full, up to the first that is not.
    Each is the mean of the kinds of constraint.
    """
    metrics: dict[str, list[Score]] = {}
    for one in graded:
        item = one.item
        for name, got in (("hsr", float(all(one.met))), ("ssr", sum(one.met) / len(one.met))):
            for metric in (name, f"{name}_level_{item.level}"):
                metrics.setdefault(metric, []).append(Score(item.key, got, 1.0, item.group, item.kind))
    csl = [_levels_in_a_row(list(group)) for _, group in groupby(graded, lambda one: one.item.group)]
    whole = [one for one in csl if one]
    return dict(sorted(metrics.items())) | ({"csl": whole} if whole else {})


def _levels_in_a_row(path: list[Graded]) -> Score | None:
    """None where not all levels were asked."""
    if {one.item.level for one in path} != set(range(1, LEVELS + 1)):
        return None
    full = [all(one.met) for one in sorted(path, key=lambda one: one.item.level)]
    first = path[0].item
    return Score(first.key, float((*full, False).index(False)), 1.0, first.group, first.kind)


BENCHMARKS = {
    "followbench": Judged(read_followbench, satisfaction),
    "followbench_rules": Judged(read_rules, satisfaction),
    "infobench": Judged(read_infobench, decomposed),
    "complexbench": Judged(read_complexbench, depending),
}
"""By name."""
