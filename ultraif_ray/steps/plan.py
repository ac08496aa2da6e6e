"""The plan of a run: its steps in order, each with the steps that it is made from.

ingest → [decompose → composer →] synthesize → export → sft → (synthesize → export → dpo) x iterations → model

Where the composer has prompts of its own, `composer-ingest → composer-decompose` stand in the place of `decompose`.
Where the sets exist already (`sets` in the recipe), reading them takes the place of all that would make them. Where the
responses do (`responses`), `responses → judge` takes the place of all up to the first export.

Where the policy is measured (`evaluate`), `benchmarks` stand before its first training, `evaluate/start` and
`evaluate/sft` in front of the next one, the last of them and `evaluation` before `model`; each in as many parts as the
benchmarks have.
"""

from dataclasses import replace

from ultraif_ray.method.journey import STAGES
from ultraif_ray.recipe import Recipe, Sets
from ultraif_ray.steps.decompose import Decompose, DecomposeForComposer
from ultraif_ray.steps.evaluate import AnswerBenchmarks, Benchmarks, Evaluation, parts_of
from ultraif_ray.steps.export import Export
from ultraif_ray.steps.ingest import Ingest, IngestForComposer
from ultraif_ray.steps.judge import Judge
from ultraif_ray.steps.model import Model
from ultraif_ray.steps.responses import ReadResponses
from ultraif_ray.steps.sets import ReadSet
from ultraif_ray.steps.step import Step
from ultraif_ray.steps.synthesize import Synthesize
from ultraif_ray.steps.train import PolicyTraining, TrainComposer, TrainDPO, TrainSFT
from ultraif_ray.store.folder import RunFolder


def plan(recipe: Recipe, folder: RunFolder, decompose: bool = False) -> list[Step]:
    """The steps of a run, in order.

    Two steps that make data never stand side by side: what could, goes through the engines in one pipeline. So engines
    that are up are never stopped for the next step to start the same, and no row waits for the last one of a step.

    Args:
        recipe: the run's recipe.
        folder: the run's folder: a run that has begun keeps its shape.
        decompose: whether decomposing is asked for as a step of its own, as it is where a composer is trained from
            these prompts.
    """
    if recipe.sets:
        return _plan_of_sets(recipe, recipe.sets)
    if recipe.responses:
        return _plan_of_responses(recipe, recipe.responses.planted)
    rows: Step = Ingest()
    steps = [rows]
    own_prompts = bool(recipe.composer and recipe.composer.prompts)
    if decompose or (recipe.composer and not own_prompts) or _has_decomposed_apart(folder):
        steps += [rows := Decompose(rows)]
    composer = None
    if recipe.composer:
        learnt_from = rows
        if own_prompts:
            steps += [ingest := IngestForComposer(), learnt_from := DecomposeForComposer(ingest)]
        steps += [composer := TrainComposer(learnt_from)]
    needed = not own_prompts or recipe.synthesize.questions == "all"  # the constraints of the prompts
    synthesis = Synthesize(rows, composer, decompose=needed)
    again = synthesis if synthesis.stages == STAGES else rows
    first = [synthesis, export := Export(synthesis)]
    return [*steps, *first, *_trainings(recipe, export, Synthesize(again, composer, decompose=needed))]


def _plan_of_responses(recipe: Recipe, planted: bool) -> list[Step]:
    """From responses that exist already: they are judged again, and no more are sampled before the DPO rounds."""
    responses = ReadResponses()
    first = [responses, judged := Judge(responses, planted=planted), export := Export(judged)]
    return [*first, *_trainings(recipe, export, Synthesize(responses))]


def _trainings(recipe: Recipe, export: Export, in_a_round: Synthesize) -> list[Step]:
    """SFT on what was exported, the DPO rounds, each with a synthesis like `in_a_round`, and the model at the end."""
    if not recipe.policy:
        return []
    policy: PolicyTraining = TrainSFT(export)
    steps: list[Step] = [policy]
    for number in range(1, recipe.align.iterations + 1):
        synthesis = replace(in_a_round, policy=policy, round=number)
        export = Export(synthesis, round=number)
        policy = TrainDPO(export, policy, round=number)
        steps += [synthesis, export, policy]
    return _measured(recipe, steps, policy)


def _measured(recipe: Recipe, trainings: list[Step], policy: Step) -> list[Step]:
    """These steps and the model that they end with, the policy measured before the first training and after each: in
    front of the next one, beside which that may run.
    """
    if not recipe.evaluate:
        return [*trainings, Model(policy)]
    asked = [Benchmarks(part) for part in parts_of(recipe)]
    latest = [AnswerBenchmarks(rows, of="start") for rows in asked]
    answers: list[AnswerBenchmarks] = []
    steps: list[Step] = [*asked]
    for step in trainings:
        if isinstance(step, PolicyTraining):
            answers += latest
            steps += latest
            of = f"round-{step.round}" if step.round else step.kind
            latest = [AnswerBenchmarks(rows, of=of, policy=step) for rows in asked]
        steps.append(step)
    answers += latest
    return [*steps, *latest, evaluation := Evaluation(tuple(answers)), Model(policy, evaluation)]


def _plan_of_sets(recipe: Recipe, sets: Sets) -> list[Step]:
    """The trainings on sets that exist already, each after its set is read."""
    if sets.composer:
        return [pairs := ReadSet("composer"), TrainComposer(pairs)]
    steps: list[Step] = []
    policy: Step | None = None
    if sets.sft:
        steps += [examples := ReadSet("sft"), policy := TrainSFT(examples)]
    for number in sorted(sets.dpo):
        examples = ReadSet("dpo", round=number)
        steps += [examples, policy := TrainDPO(examples, policy, round=number)]
    assert policy  # noqa: S101 - sets hold one at least
    return _measured(recipe, steps, policy)


def _has_decomposed_apart(folder: RunFolder) -> bool:
    """Whether the run has begun with decomposing as a step of its own."""
    if rows := folder.inputs(Synthesize.kind).get("rows"):
        return bool(rows["step"] == Decompose.kind)
    return bool(folder.state(Decompose.kind))


def following(step: Step, steps: list[Step]) -> list[Step]:
    """The steps of a plan that are made from `step`, directly or not, in order."""
    made: list[Step] = []
    for later in steps:
        if any(source == step or source in made for source in later.inputs.values()):
            made.append(later)
    return made
