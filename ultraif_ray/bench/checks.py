"""What the checks of decompositions and compositions catch and let by, on probes.

    python -m ultraif_ray.bench.checks PROBES.jsonl [--model MODEL] [--json OUT]

A probe is a line of JSON: `id`, `what`, `kind` (`decompose` or `compose`), `good`, `query`, and the reply that is
checked: `constraint`, `simplified_query` and `question`, or `composed` and `question` (a list) after `questions` that
were added before. Without a model the text decides alone.
"""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from rich.table import Table

from ultraif_ray.cli import report_errors
from ultraif_ray.engine.opening import open_engine
from ultraif_ray.engine.protocol import RoleClient
from ultraif_ray.errors import InputError, UnusableReply
from ultraif_ray.method.checks import composition_holds, decomposition_holds, fault_of_decomposition
from ultraif_ray.method.compose import Composed, accept
from ultraif_ray.recipe import CHECK_LABELS, VllmPool, parse_recipe
from ultraif_ray.records import ROLES, AddedConstraint, Constraint, Instruction
from ultraif_ray.report.show import console


class _Probe(BaseModel):
    model_config = ConfigDict(extra="forbid")
    id: str
    what: str
    good: bool
    query: str


class DecompositionProbe(_Probe):
    """A constraint that was taken out of a query."""

    kind: Literal["decompose"]
    constraint: str
    simplified_query: str
    question: str


class CompositionProbe(_Probe):
    """A query that got one more constraint."""

    kind: Literal["compose"]
    questions: list[str]
    composed: str
    question: list[str]


Probe = Annotated[DecompositionProbe | CompositionProbe, Field(discriminator="kind")]


class Finding(BaseModel):
    """What became of a probe: `by` is the check that refused it, and `reason` why."""

    id: str
    accepted: bool
    by: Literal["", "text", "model"] = ""
    reason: str = ""


def read_probes(file: Path) -> list[DecompositionProbe | CompositionProbe]:
    """The probes of a file.

    Raises:
        InputError: the file is not there, or a line is none.
    """
    if not file.is_file():
        raise InputError(f"{file}: no such file")
    probe: TypeAdapter[Any] = TypeAdapter(Probe)
    probes = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            probes.append(probe.validate_json(line))
        except ValidationError as error:
            fault = error.errors()[0]
            place = ".".join(map(str, fault["loc"]))
            raise InputError(f"{file}:{number}: not a probe: {place or 'the line'}: {fault['msg']}") from None
    return probes


async def find(probe: DecompositionProbe | CompositionProbe, client: RoleClient | None) -> Finding:
    """Check a probe as the journey would check the reply."""
    if isinstance(probe, DecompositionProbe):
        taken = (probe.constraint, probe.simplified_query, probe.question)
        if fault := fault_of_decomposition(probe.query, *taken):
            return Finding(id=probe.id, accepted=False, by="text", reason=fault)
        text, simplified, question = taken
        constraint = Constraint(category="content", text=text, simplified_query=simplified, question=question)
        holds = client is None or await decomposition_holds(probe.query, constraint, client)
    else:
        reply = Composed.model_validate({"augmented query": probe.composed, "question": probe.question})
        before = AddedConstraint(round=1, text=probe.query, query=probe.query, questions=probe.questions)
        previous = Instruction(initial_query=probe.query, added=[before] if probe.questions else [])
        try:
            made = accept(reply, "", previous)
        except UnusableReply as unusable:
            return Finding(id=probe.id, accepted=False, by="text", reason=unusable.kind)
        holds = client is None or await composition_holds(made, client, "composer")
    return (
        Finding(id=probe.id, accepted=True) if holds else Finding(id=probe.id, accepted=False, by="model", reason="No")
    )


async def find_all(probes: list[DecompositionProbe | CompositionProbe], model: str) -> list[Finding]:
    """Check all probes, at once where a model is asked."""
    if not model:
        return [await find(probe, None) for probe in probes]
    pool = VllmPool(engine="vllm", model=model, max_model_len=4096)
    roles = {role: {"pool": "m"} for role in ROLES}
    recipe = parse_recipe({"name": "checks", "pools": {"m": pool.model_dump(mode="json")}, "roles": roles})
    engine = open_engine(pool, seed=0)
    try:
        await engine.check(CHECK_LABELS, schema=False)
        return await asyncio.gather(*(find(probe, RoleClient(recipe, {"m": engine})) for probe in probes))
    finally:
        await engine.close()


def table(
    probes: list[DecompositionProbe | CompositionProbe], findings: list[Finding], checks: tuple[str, ...]
) -> Table:
    """For each kind of reply and each check: the bad ones that it caught, the good ones that it threw away."""
    by_id = {finding.id: finding for finding in findings}
    total: Counter[tuple[str, bool]] = Counter()
    refused: Counter[tuple[str, bool, str]] = Counter()
    for probe in probes:
        total[probe.kind, probe.good] += 1
        refused[probe.kind, probe.good, by_id[probe.id].by] += 1
    shown = Table("replies", "check", "bad ones caught", "good ones thrown away", box=None)
    for kind in ("decompose", "compose"):
        for check in checks:
            caught, lost = (f"{refused[kind, good, check]} of {total[kind, good]}" for good in (False, True))
            shown.add_row(kind, check, caught, lost)
    return shown


def measure(
    probes: Annotated[Path, typer.Argument(metavar="PROBES.jsonl")],
    model: Annotated[str, typer.Option(help="Ask this model too: a folder, a hub id, or `packaged`.")] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="Write a line of JSON for each probe here.")] = None,
) -> None:
    """Check the probes of a file, print every one that went wrong, and the table."""
    read = read_probes(probes)
    findings = asyncio.run(find_all(read, model))
    if json_file:
        json_file.write_text("".join(finding.model_dump_json() + "\n" for finding in findings), encoding="utf-8")
    out = console()
    for probe, finding in zip(read, findings, strict=True):
        if finding.accepted != probe.good:
            fault = f"refused by the {finding.by}: {finding.reason}" if probe.good else "let by"
            out.print(f"{probe.id} {probe.what}: {fault}")
    out.print(table(read, findings, ("text", "model") if model else ("text",)))


if __name__ == "__main__":
    report_errors(lambda: typer.run(measure))
