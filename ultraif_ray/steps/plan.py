"""The plan of a run: its steps in order, each with the steps that it is made from.

ingest → [decompose → composer →] synthesize → export → sft → (synthesize → export → dpo) x iterations → model
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

    Two steps that need engines never stand side by side: what could, goes through them in one pipeline. So engines
    that are up are never stopped for the next step to start the same, and no row waits for the last one of a step.

    Args:
        recipe: the run's recipe.
        folder: the run's folder: a run that has begun keeps its shape.
        decompose: whether decomposing is asked for as a step of its own, as it is where a composer is trained.
    """
    rows: Step = Ingest()
    steps = [rows]
    if decompose or recipe.composer or _has_decomposed_apart(folder):
        steps += [rows := Decompose(rows)]
    composer = TrainComposer(rows) if recipe.composer else None
    if composer:
        steps += [composer]
    steps += [synthesis := Synthesize(rows, composer), export := Export(synthesis)]
    decomposed = rows if isinstance(rows, Decompose) else synthesis
    if not recipe.policy:
        return steps
    policy: Step = TrainSFT(export)
    steps += [policy]
    for number in range(1, recipe.align.iterations + 1):
        synthesis = Synthesize(decomposed, composer, policy, round=number)
        export = Export(synthesis, round=number)
        policy = TrainDPO(export, policy, round=number)
        steps += [synthesis, export, policy]
    return [*steps, Model(policy)]


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
