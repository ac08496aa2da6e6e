"""What the roles are told: system prompts, few-shot examples, and what each category of constraint is.

A set of templates is one YAML file. Two ship with the package: `large`, for models of 8B and more, and `small`, for
models that copy better than they understand. A recipe may name a file of its own. What the set says decides what steps
write, so it is part of their fingerprints.
"""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ultraif_ray.records import Category, Check, Turn

Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """Base of every part of a set: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Categories(Part):
    """What each of the paper's categories of constraint is (section 2.2), as the words after "a constraint of …:"."""

    content: Text
    numerical: Text
    stylistic: Text
    format: Text
    linguistic: Text


class Found(Part):
    """A constraint in an example of the decomposer."""

    constraint: Text
    """The demand, quoted."""
    simplified_query: Text
    """The query without it."""
    question: str
    """The yes/no question that checks it; empty for what is only background."""
    category: Category
    check: Check | None = None
    """What code can check of it; shown where checkers are on (`synthesize.checkers`)."""


class Decomposition(Part):
    """An example of the decomposer: a query, after what was said before, and its constraints."""

    history: tuple[Turn, ...] = ()
    query: Text
    constraints: tuple[Found, ...]

    @model_validator(mode="after")
    def _each_takes_something_away(self) -> "Decomposition":
        for found in self.constraints:
            if found.simplified_query.strip() == self.query.strip():
                raise ValueError(
                    f"the simplified_query of '{found.constraint}' is the query itself: take it away there"
                )
        return self


class Composition(Part):
    """An example of the prompted composer: a query with one constraint more."""

    history: tuple[Turn, ...] = ()
    category: Category
    """The kind that was asked for."""
    query: Text
    composed: Text
    """The query with the new constraint."""
    question: Text
    """The yes/no question that checks the new constraint."""
    check: Check | None = None
    """What code can check of it; shown where checkers are on (`synthesize.checkers`)."""

    @property
    def addition(self) -> str:
        """What was put behind the query."""
        return self.composed.removeprefix(self.query).lstrip(". ")

    @model_validator(mode="after")
    def _adds_something(self) -> "Composition":
        if self.composed.strip() == self.query.strip():
            raise ValueError("composed is the query itself: add a constraint there")
        return self


class RoleTemplates(Part):
    """What a role is told at the start."""

    system: Text | None = None
    """The system prompt; none where null. `{categories}` in it stands for the list of categories."""


_CHECK = """\
Beside each question stands check. Some {demands} can be checked by code, without reading: those in the list below. \
Where one of these says all that the {demand} says, name it as {"name": …, "relation": …, "number": …, "texts": […]}. \
The relation is "exactly", "at least", "at most", "more than" or "fewer than", as the {demand} says it; the number and \
the texts are words of the {demand}. Number is null, and texts are empty, where the list does not ask for them. In \
every other case, and in doubt, check is null.
{checkers}"""


class DecomposerTemplates(RoleTemplates):
    """What the decomposer is told. `{question}` in its system prompt stands for what it is told about questions, where
    constraints and questions are asked for in one call.
    """

    question: Text = "a yes/no question in English that checks whether an answer meets the demand"
    """What a question is, as the words after "question:"."""
    question_system: Text = (
        "You get a request and one demand that it makes. Write {question}. Leave it empty if the demand is only "
        'background to the task. Reply with JSON alone: {"question": …}'
    )
    """The system prompt of a call that asks for one question (`decompose.calls: 2`); `{question}` as above."""
    check: Text = _CHECK.replace("{demand}", "demand").replace("{demands}", "demands")
    """What follows on the system prompt where checkers are on; `{checkers}` in it stands for their list."""
    examples: tuple[Decomposition, ...] = ()


class ComposerTemplates(RoleTemplates):
    """What the prompted composer is told. A trained one is asked in its own form, without any of it."""

    writes: Literal["query", "addition"] = "query"
    """`query`: the whole query again, with the constraint woven in, as in the paper. `addition`: the constraint alone,
    which is put behind the query. Models that cannot copy a query lose it otherwise, and a long one costs no tokens.
    The system prompt must ask for the same: `augmented query`, or `addition`, beside `question`."""
    check: Text = _CHECK.replace("{demand}", "new constraint").replace("{demands}", "constraints")
    """What follows on the system prompt where checkers are on; `{checkers}` in it stands for their list."""
    examples: tuple[Composition, ...] = ()

    @model_validator(mode="after")
    def _what_is_added_stands_behind(self) -> "ComposerTemplates":
        for example in self.examples if self.writes == "addition" else ():
            if not example.composed.startswith(example.query):
                raise ValueError(
                    f"writes is addition, but '{example.composed}' does not begin with its query: put the constraint "
                    "behind it"
                )
        return self


class JudgeTemplates(RoleTemplates):
    """What the judge is told."""

    follow_up: Text = (
        "Leave the role that you had so far: you now check the answer above, which somebody else wrote, to the last "
        "request above. The rules for this:"
    )
    """What stands before the system prompt where the judge goes on with the response's own conversation
    (`synthesize.follow_up`)."""
    standing: tuple[Text, ...] = (
        "Does the answer do what the request asks for, instead of refusing, evading or doing something else?",
        "Is the answer free of preamble, of remarks about itself, and of claims that it meets the requirements?",
    )
    """Questions about every answer, whatever was composed (`synthesize.standing`)."""


class Templates(Part):
    """A set: everything that the roles are told, apart from the row itself and the form of the reply."""

    categories: Categories
    decomposer: DecomposerTemplates
    composer: ComposerTemplates
    responder: RoleTemplates
    judge: JudgeTemplates


# ---- the sets that ship with the package ---------------------------------------------------------------------------

_SHIPPED = Path(__file__).parent / "recipes" / "templates"


def shipped_templates() -> list[str]:
    """Their names."""
    return sorted(file.stem for file in _SHIPPED.glob("*.yaml"))


@cache
def load_shipped(name: str) -> Templates:
    """The set of this name, one of `shipped_templates()`."""
    return Templates.model_validate(yaml.safe_load((_SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")))
