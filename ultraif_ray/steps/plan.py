"""The plan of a run: its steps in order, each with the steps that it is made from.

ingest → decompose → composer → synthesize → export → sft → (synthesize → export → dpo) x iterations → model
"""

from ultraif_ray.recipe import Recipe
from ultraif_ray.steps.decompose import Decompose
from ultraif_ray.steps.export import Export
from ultraif_ray.steps.ingest import Ingest
from ultraif_ray.steps.model import Model
from ultraif_ray.steps.step import Step
from ultraif_ray.steps.synthesize import Synthesize
from ultraif_ray.steps.train import TrainComposer, TrainDPO, TrainSFT
from ultraif_ray.store.folder import RunFolder


def plan(recipe: Recipe, folder: RunFolder, decompose: bool = False) -> list[Step]:
    """The steps of a run, in order.

    Args:
        recipe: the run's recipe.
        folder: the run's folder: a run that has begun keeps its shape.
        decompose: whether decomposing is asked for as a step of its own.
    """
    rows: Step = Ingest()
    steps = [rows]
    if decompose or _decomposes_apart(recipe, folder):
        steps += [rows := Decompose(rows)]
    composer = TrainComposer(rows) if recipe.composer else None
    if composer:
        steps += [composer]
    steps += [synthesis := Synthesize(rows, composer), export := Export(synthesis)]
    if not recipe.policy:
        return steps
    policy: Step = TrainSFT(export)
    steps += [policy]
    for number in range(1, recipe.align.iterations + 1):
        synthesis = Synthesize(rows, composer, policy, round=number)
        export = Export(synthesis, round=number)
        policy = TrainDPO(export, policy, round=number)
        steps += [synthesis, export, policy]
    return [*steps, Model(policy)]


def _decomposes_apart(recipe: Recipe, folder: RunFolder) -> bool:
    """Whether decomposing is a step of its own: where a later step reads its rows, or the run has begun so."""
    if recipe.composer is not None:
        return True
    if rows := folder.inputs(Synthesize.kind).get("rows"):
        return bool(rows["step"] == Decompose.kind)
    rounds = recipe.policy is not None and recipe.align.iterations > 0
    return recipe.decompose.separate or rounds or bool(folder.state(Decompose.kind))


def following(step: Step, steps: list[Step]) -> list[Step]:
    """The steps of a plan that are made from `step`, directly or not, in order."""
    made: list[Step] = []
    for later in steps:
        if any(source == step or source in made for source in later.inputs.values()):
            made.append(later)
    return made
