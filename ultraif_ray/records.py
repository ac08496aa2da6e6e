"""The rows: what flows from a wild prompt to a training example.

One prompt is one row from ingest to export. A step fills in more of the row and never splits it; one prompt becomes
several training examples only in export. Everything here is plain data that Arrow can hold: `arrow_schema` gives the
Parquet schema of each record, so that a file's columns never depend on which rows happened to be in it.
"""

import hashlib
import json
import re
import types
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

Role = Literal["decomposer", "composer", "responder", "judge"]
ROLES: tuple[Role, ...] = get_args(Role)

Category = Literal["content", "numerical", "stylistic", "format", "linguistic"]
CATEGORIES: tuple[Category, ...] = get_args(Category)
"""The kinds of constraint the paper names (section 2.2)."""


CheckerName = Literal[
    "words", "sentences", "paragraphs", "lines", "characters", "distinct_words", "includes", "avoids", "occurrences",
    "letters", "all_capitals", "all_lower_case", "capital_words", "title_case", "starts_with", "ends_with",
    "ends_with_a_question", "in_quotation_marks", "postscript", "without_commas", "exclamation_marks", "bullet_points",
    "numbered_points", "sorted_items", "labelled_sections", "title_in_brackets", "highlights", "placeholders",
    "is_json", "json_with_keys", "csv_with_columns", "one_of", "in_language", "numbers", "emoji",
    "without_first_person", "line_lengths", "sentence_lengths", "paragraph_lengths", "table_rows", "table_columns",
    "headings", "has_headings", "code_blocks", "code_in", "plain_text", "links", "hashtags", "inside_tag",
    "percentages", "amounts_of_money", "checkboxes", "acrostic", "every_line_starts_with", "every_line_ends_with",
    "dialogue", "in_this_order", "varied_openings", "without_contractions", "in_script",
]  # fmt: skip
"""What code can check: the rows of `method/checkers/registry.py`."""

Family = Literal[
    "length", "vocabulary", "keywords", "case", "beginning_and_end", "punctuation", "lists", "sorting", "sections",
    "title", "highlighting", "slots", "json_data", "csv_data", "choice", "language", "figures", "emojis", "pronouns",
    "line_length", "sentence_length", "paragraph_length", "tables", "markdown_headings", "code", "plain", "web", "tags",
    "quantities", "task_lists", "verse", "lines_alike", "speakers", "order", "variety", "contractions", "script",
]  # fmt: skip
"""The kinds of constraint that code can check: of one family are checkers that can stand for each other."""

Relation = Literal["at least", "at most", "exactly", "more than", "fewer than"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)

Message = dict[str, str]
"""A chat message as models take it: `{"role": "system" | "user" | "assistant", "content": …}`."""


class Record(BaseModel):
    """Base of all rows: no unknown fields, cheap to make."""

    model_config = ConfigDict(extra="forbid")


class Turn(Record):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


_PLACE_IN_A_FILE = re.compile(r"(:\d+){1,2}$")


class Prompt(Record):
    """A wild prompt: what a human asked in one turn of a conversation, and what was said before.

    `id` is a hash of `query` and `history` (see `prompt_id`), so the same prompt has the same id in every run;
    `conversation` tells which prompts go to the same side of every split (see `conversation_id`); `source` says where
    it was found (`file:line`, and `file:line:turn` where the line could have given others) and is part of neither.
    """

    id: int
    query: str
    history: list[Turn] = []
    source: str = ""
    conversation: int = Field(default_factory=lambda known: conversation_id(known["id"], known["history"]))

    @property
    def file(self) -> str:
        """The file or data set that it was found in: `source` without its line and turn."""
        return _PLACE_IN_A_FILE.sub("", self.source)


def prompt_id(query: str, history: list[Turn]) -> int:
    """Hash a query and all that was said before it, see `content_hash`."""
    return content_hash([query, [[turn.role, turn.content] for turn in history]])


def conversation_id(own_id: int, history: list[Turn]) -> int:
    """Hash how a conversation begins: the id of its first prompt, which is its first human turn with the system
    message before it, if there is one.

    All prompts of a conversation share it, and so do conversations that begin alike and go on in different ways
    (answers sampled again, branches, a longer copy): their first prompts are one and the same, and their later ones
    hold it in their history, so a split by anything longer would have it on both sides.

    Args:
        own_id: the id of the prompt, which is the answer where it is the first of its conversation.
        history: the prompt's.
    """
    first = next((i for i, turn in enumerate(history) if turn.role == "user"), None)
    return own_id if first is None else prompt_id(history[first].content, history[:first])


def content_hash(content: Any) -> int:
    """Hash JSON values to 63 bits: never negative in Arrow's int64, and small in Ray's checkpoint filter."""
    text = json.dumps(content, ensure_ascii=False)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


@dataclass(frozen=True)
class IdSlice:
    """A part of all prompts, by id: ids are hashes, spread evenly over 63 bits. From `start` up to and without `end`;
    on from the lowest id where `end` is not above `start`.
    """

    start: int
    end: int

    def holds(self, number: int) -> bool:
        """Whether an id lies in it."""
        if self.start < self.end:
            return self.start <= number < self.end
        return number >= self.start or number < self.end


def slice_of_round(number: int, fraction: float) -> IdSlice | None:
    """The prompts of a DPO round (counted from 1) that takes a fraction of all: each round goes on where the one before
    ended, so that none is seen again before all were; None where a round takes all.
    """
    if fraction >= 1.0:
        return None
    # Multiples of the fraction, so that a round begins exactly where the one before it ends.
    start, end = (int((times * fraction) % 1.0 * 2**63) for times in (number - 1, number))
    return IdSlice(start, end)


SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}
"""Roles by the names that ShareGPT's files, and the authors', have for them."""


def as_sharegpt(history: list[Turn]) -> list[dict[str, str]]:
    """History as the authors' code has it, and ShareGPT's files: a flat list of turns, `{"from": …, "value": …}` each.

    An opening system message is a turn of its own, said by `system`.
    """
    return [{"from": SPEAKERS[turn.role], "value": turn.content} for turn in history]


class Check(Record):
    """What code checks of an answer: a checker's name and its arguments, one flat form for all.

    `relation` and `number` are for those that count, `texts` for those that look for words, names or labels; what a
    checker does not use is left as it is here.
    """

    name: CheckerName
    relation: Relation = "exactly"
    number: int | None = Field(default=None, ge=0, le=10**9)
    texts: list[str] = []

    @property
    def line(self) -> str:
        """The check in a line, to be read."""
        number = "" if self.number is None else f" {self.relation} {self.number}"
        return f"{self.name}{number}{''.join(f' {text!r}' for text in self.texts)}"


class Constraint(Record):
    """One demand found in a prompt: the demand, the prompt without it, and how to check that an answer meets it: a
    question, and a check where code can answer it.
    """

    category: Category
    text: str
    simplified_query: str
    question: str
    check: Check | None = None


class Verdict(Record):
    """The answer to one question about one response; `by` says whether code or the judge gave it.

    `answer` is `missing` when the judge gave none that counts (which fails the response), `not asked` when an earlier
    answer had already settled it. `p_yes` is the probability of yes, in [0, 1], where the judge was asked for one.
    """

    question: str
    by: Literal["code", "judge"] = "judge"
    answer: Literal["yes", "no", "missing", "not asked"]
    p_yes: float | None = None
    explanation: str = ""


class Response(Record):
    """One sampled answer to an instruction. `finish` is `length` when it was cut off, `repetitive` or `refusal` where a
    filter says that it is no answer; only one with `stop` can pass.
    """

    text: str
    finish: Literal["stop", "length", "repetitive", "refusal"] = "stop"
    verdicts: list[Verdict] = []
    passed: bool = False

    @property
    def whole(self) -> bool:
        """Whether there is an answer, and it was not cut off, nor is one in name only."""
        return self.finish == "stop" and bool(self.text)

    @property
    def failed(self) -> bool:
        """Whether it is whole and the judge, or code, said no to it.

        A missing verdict keeps a response from passing, but is no evidence against it. In a contrast pair no judge was
        asked, and the response to the simpler query is the failed one.
        """
        said_no = not self.verdicts or any(verdict.answer == "no" for verdict in self.verdicts)
        return not self.passed and self.whole and said_no

    @property
    def score(self) -> float:
        """How well it meets its questions, in [0, 1]: the mean probability of yes, or the share of yes, over the
        questions that have a verdict; without any, whether it passed.
        """
        given = [verdict for verdict in self.verdicts if verdict.answer in ("yes", "no")]
        met = [float(one.answer == "yes") if one.p_yes is None else one.p_yes for one in given]
        return sum(met) / len(met) if met else float(self.passed)


class AddedConstraint(Record):
    """What one round of composing added to a query.

    `round` counts from 1. `category` is the one that was asked for; empty where a trained composer chose it itself.
    `text` is what is new in `query`, the whole query with it, in order, with `…` between pieces that stand apart.
    `questions` are what an answer must meet. With a `check` there is one question, and code answers it.
    """

    round: int
    category: Category | Literal[""] = ""
    text: str
    query: str
    questions: list[str]
    check: Check | None = None


class Instruction(Record):
    """A composed prompt: `initial_query` with the constraints of `added`, one round after another; none was added to a
    plain one.
    """

    initial_query: str
    added: list[AddedConstraint] = []
    history: list[Turn] = []
    responses: list[Response] = []

    @property
    def level(self) -> int:
        """How many constraints were added."""
        return len(self.added)

    @property
    def query(self) -> str:
        """The query with all of them."""
        return self.added[-1].query if self.added else self.initial_query

    @property
    def simpler_query(self) -> str:
        """The query one constraint earlier; of a plain one, the query itself."""
        return self.at(max(0, self.level - 1)).query

    @property
    def questions(self) -> list[str]:
        """The questions of all constraints, in the order of the rounds."""
        return [question for constraint in self.added for question in constraint.questions]

    def at(self, level: int) -> "Instruction":
        """The instruction as it was with so many constraints, before it was answered."""
        return Instruction(initial_query=self.initial_query, added=self.added[:level], history=self.history)

    @property
    def chosen(self) -> Response | None:
        """The first response, in sampling order, that passed every question."""
        return next((r for r in self.responses if r.passed), None)

    @property
    def rejected(self) -> Response | None:
        """The first response, in sampling order, that failed."""
        return next((r for r in self.responses if r.failed), None)

    @property
    def widest(self) -> tuple[Response | None, Response | None]:
        """Of the responses that passed the one with the highest score, of those that failed the one with the lowest;
        of equal ones the first.
        """
        passed, failed = ([r for r in self.responses if getattr(r, end)] for end in ("passed", "failed"))
        best = max(passed, key=lambda response: response.score, default=None)
        return best, min(failed, key=lambda response: response.score, default=None)

    @property
    def judged(self) -> list[Response]:
        """The responses that were held to questions, also those that were cut off; none where nobody judged, as in a
        contrast pair.
        """
        return [response for response in self.responses if response.verdicts]

    @property
    def pass_rate(self) -> float | None:
        """The share of the judged responses that passed, in [0, 1]; None without any."""
        judged = self.judged
        return sum(response.passed for response in judged) / len(judged) if judged else None


class Usage(Record):
    """Tokens one role used for one row. `cached` is the part of `prompt` found in the engine's prefix cache."""

    role: Role
    requests: int = 0
    prompt: int = 0
    cached: int = 0
    generated: int = 0


class Failure(Record):
    """Where a step gave a row up, or left a part of a reply out (`stage`, a role), why, and the reply (`raw`).

    `kind` is what can be counted: the name of an engine's error, or what is wrong with a reply as a fixed phrase.
    `reason` is the whole of it.
    """

    stage: Role
    kind: str
    reason: str
    raw: str = ""


class Row(Prompt):
    """A prompt on its journey, with all that the steps made of it.

    `decomposed` and `outcome` are the end states of the two steps (empty while a step has not run):
    decompose ends as `decomposed`, `simple` (no constraint to take away) or `failed`; synthesize as `paired` (holds a
    passing and a failing response), `satisfied` (a passing one), `unsatisfied` (none passed) or `failed`.
    A step that ends as `failed` leaves an entry in `failures`. Composing needs no decomposition, so a row whose
    decomposition failed goes on, and one whose first rounds of composing worked goes on with these: `rounds` is how
    many it drew. `dropped` are the replies, and the parts of replies, that were left out on the way.
    """

    constraints: list[Constraint] = []
    instructions: list[Instruction] = []
    decomposed: Literal["", "decomposed", "simple", "failed"] = ""
    outcome: Literal["", "paired", "satisfied", "unsatisfied", "answered", "failed"] = ""
    rounds: int = 0
    failures: list[Failure] = []
    dropped: list[Failure] = []
    usage: list[Usage] = []

    def fail(self, stage: Role, kind: str, reason: str = "", raw: str = "") -> None:
        """End the step that `stage` belongs to as failed; `reason` is `kind` where there is no more to say."""
        self.failures.append(Failure(stage=stage, kind=kind, reason=reason or kind, raw=raw))
        if stage == "decomposer":
            self.decomposed = "failed"
        else:
            self.outcome = "failed"


class Asked(Row):
    """What a benchmark asks: a conversation to go on, or how probable a text is as the answer (`continuation`).

    It ends as `answered` or `failed`. `logprob` is the natural-log probability of the continuation, `greedy` whether it
    is what the model would have said.
    """

    max_tokens: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    stop: list[str] = []
    continuation: str | None = None
    response: Response | None = None
    logprob: float | None = None
    greedy: bool | None = None


def arrow_schema(record: type[BaseModel]) -> pa.Schema:
    """The Arrow schema of a record: one column per field, nested records as structs, lists as lists."""
    return pa.schema([pa.field(name, _arrow_type(field.annotation)) for name, field in record.model_fields.items()])


def to_table(rows: Sequence[Row]) -> pa.Table:
    """Rows of one kind as one Arrow table with the full schema, even where every list is empty."""
    schema = arrow_schema(type(rows[0]) if rows else Row)
    return pa.Table.from_pylist([row.model_dump() for row in rows], schema=schema)


def _arrow_type(annotation: Any) -> pa.DataType:
    scalars = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
    if annotation in scalars:
        return scalars[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return pa.string()
    if origin is list:
        return pa.list_(_arrow_type(args[0]))
    if origin in (Union, types.UnionType):
        return _arrow_type(next(a for a in args if a is not type(None)))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return pa.struct([(n, _arrow_type(f.annotation)) for n, f in annotation.model_fields.items()])
    raise TypeError(f"no Arrow type for {annotation!r}")
