"""The loop: every step of a plan that is not done, in order."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import yaml

from ultraif_ray.errors import GO_ON, RecipeError, RunError
from ultraif_ray.recipe import Recipe, Replicas, fingerprint
from ultraif_ray.steps.decompose import Decompose
from ultraif_ray.steps.engines import EngineStep
from ultraif_ray.steps.plan import following, plan
from ultraif_ray.steps.serving import in_round
from ultraif_ray.steps.step import Context, Step, made_from, whole_settings
from ultraif_ray.store import ledger
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.store.lease import Lease
from ultraif_ray.store.ledger import Entry

if TYPE_CHECKING:
    from ultraif_ray.flow.cluster import Cluster, Need


def run(recipe: Recipe, until: str = "", worker_logs: bool = False, remake: bool = False, only: str = "") -> RunFolder:
    """Run every step up to `until` (all when empty); steps that are done are not done again.

    Args:
        recipe: the run's recipe.
        until: the name of the last step to run.
        worker_logs: show what the workers log.
        remake: delete what was made with other settings, instead of refusing to go on.
        only: run the step of this name, and nothing before it.

    Raises:
        UltraIFError: with what to change, or how to go on.
    """
    folder = RunFolder(recipe.run_folder)
    steps = plan(recipe, folder, decompose=until == Decompose.kind)
    names = [step.name for step in steps]
    for name in (only, until):
        if name and name not in names:
            raise RunError(f"this recipe has no step '{name}'; it has {', '.join(names)}")
    last = names.index(only or until) if only or until else len(steps) - 1
    run_steps(recipe, steps, steps[last if only else 0 : last + 1], worker_logs, remake)
    return folder


def run_steps(
    recipe: Recipe,
    steps: list[Step],
    wanted: list[Step],
    worker_logs: bool = False,
    remake: bool = False,
    retried: EngineStep | None = None,
) -> None:
    """Run the steps `wanted` of a plan: look at all of them first, then begin, run, enter in the ledger, finish each.
    Of `retried`, the failed rows are done again.

    Raises:
        UltraIFError: with what to change, or how to go on.
    """
    folder = RunFolder(recipe.run_folder)
    contexts = {step.name: Context(in_round(recipe, step.round), folder, worker_logs) for step in wanted}
    order = [name for step in steps for name in step.accounts]
    to_do = _to_do(wanted, contexts, remake, retried)
    if to_do:
        print("checking the recipe, its models and the cluster", file=sys.stderr, flush=True)
    for step in to_do:
        with naming(step):
            step.check(contexts[step.name])
    with _own_ray(), Lease(folder) as lease:
        folder.sweep()
        await_room(to_do, contexts, worker_logs)
        if retried:
            _take_out_failed(retried, steps, folder)
        for group in _groups(wanted, to_do, contexts):
            lease.check()
            begun: list[Step] = []
            for step in group:
                with naming(step):
                    if not _begin(step, steps, wanted, contexts[step.name], remake):
                        begun.append(step)
                        save_recipe(recipe, folder)
            for step, done in _run_together(begun, contexts):
                with naming(step):
                    for name, entry in done.entries.items():
                        ledger.enter(folder, name, entry, order)
                    step.check_outcome(contexts[step.name], done.entries)
                    folder.finish(step.name)
                print(f"{step.name}: done in {done.seconds:.0f} s", file=sys.stderr, flush=True)
        save_recipe(recipe, folder)


def _to_do(
    wanted: list[Step], contexts: dict[str, Context], remake: bool, retried: EngineStep | None = None
) -> list[Step]:
    """The steps that will run: those that are not done, or will be made anew, and what is made from these. One that was
    made with other settings, and is not to be made anew, is refused when it is reached.
    """
    to_do: list[Step] = []
    for step in wanted:
        folder = contexts[step.name].folder
        again = folder.state(step.name) != "done" or any(source in to_do for source in step.inputs.values())
        again = again or step == retried or bool(folder.lost_files(step.name))
        if not again and (remake or step.cheap or step.grows):
            with naming(step):
                again = bool(folder.changes(step.name, whole_settings(step, contexts[step.name])))
        if again:
            to_do.append(step)
    return to_do


def _groups(wanted: list[Step], to_do: list[Step], contexts: dict[str, Context]) -> Iterator[list[Step]]:
    """Each step by itself; or a training behind those that run beside it, where the cluster has room for all."""
    beside: list[Step] = []
    for step in wanted:
        if step.beside_training and step in to_do:
            beside.append(step)
        elif beside and step in to_do and _have_room(beside, step, contexts):
            yield [*beside, step]
            beside = []
        else:
            yield from ([one] for one in (*beside, step))
            beside = []
    yield from ([one] for one in beside)


def _have_room(beside: list[Step], step: Step, contexts: dict[str, Context]) -> bool:
    """Whether steps, one after another, find room beside all that a training may take, on the nodes that are up."""
    taken = step.takes_at_most(contexts[step.name])
    if taken is None:
        return False
    from ultraif_ray.flow.cluster import cluster

    found = replace(cluster(), grows=False)
    try:
        for one in beside:
            check_room({one.name: [*one.needs(contexts[one.name]), *taken]}, found)
    except RecipeError:
        return False
    return True


@dataclass(frozen=True)
class _Done:
    entries: dict[str, Entry]
    seconds: float


def _run_together(steps: list[Step], contexts: dict[str, Context]) -> Iterator[tuple[Step, _Done]]:
    """Run the last of these steps, and beside it those in front of it, one after another."""
    if len(steps) < 2:
        yield from ((step, _run(step, contexts[step.name])) for step in steps)
        return
    from ultraif_ray.flow.background import in_background

    *beside, last = steps
    print(f"{', '.join(step.name for step in beside)}: running beside {last.name}", file=sys.stderr, flush=True)
    fewest = [(step, _with_fewest_replicas(contexts[step.name])) for step in beside]
    with in_background(lambda: [_run(step, context) for step, context in fewest]) as result:
        yield last, _run(last, contexts[last.name])
        yield from zip(beside, result(), strict=True)


def _run(step: Step, context: Context) -> _Done:
    begun = time.monotonic()
    with naming(step):
        return _Done(step.run(context), time.monotonic() - begun)


def _with_fewest_replicas(context: Context) -> Context:
    """Of each pool as few replicas as it may have: what a training may take is not theirs to grow into."""
    pools = {
        name: pool.model_copy(update={"replicas": Replicas(min=pool.replicas.min, max=pool.replicas.min)})
        for name, pool in context.recipe.pools.items()
    }
    return replace(context, recipe=context.recipe.model_copy(update={"pools": pools}))


@contextmanager
def naming(step: Step) -> Iterator[None]:
    """Tell the user which step it was that the operating system or a store refused something."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{step.name}: {error}\n{GO_ON}") from error


def _begin(step: Step, steps: list[Step], wanted: list[Step], context: Context, remake: bool) -> bool:
    """Open a step for writing; True if it is done already.

    Raises:
        RunError: an input is not done, or the step was made with other settings.
    """
    folder = context.folder
    for source in step.inputs.values():
        if folder.state(source.name) != "done":
            raise RunError(
                f"{folder}: {step.name} is made from {source.name}, which is not done; run `ultraif run` first"
            )
    settings, state = whole_settings(step, context), folder.state(step.name)
    changes, lost = folder.changes(step.name, settings), folder.lost_files(step.name)
    later = [made for made in following(step, steps) if folder.state(made.name)]
    kept = step.still_holds(context, settings) if changes else "same"
    holds = folder.earlier_builds(step.name) if kept else []
    build = fingerprint(settings) if step.repeatable else ""
    if kept == "more":
        _refuse_what_was_trained(folder, step, [made for made in later if made in wanted], remake)
        holds.append(folder.build_of(step.name))
    if lost and kept:
        print(f"{step.name}: {len(lost)} of its files are gone; their rows are made again", file=sys.stderr, flush=True)
    if changes and kept == "same":
        folder.rename_settings(step.name, settings)
    if (lost and kept) or kept == "more" or not state or (state == "running" and not step.resumes):
        if step.resumes and state:
            folder.repair(step.name)
            folder.reopen(step.name, settings, grows=kept == "more" and not lost)
        elif state:
            folder.restart(step.name, settings, build, holds)
        else:  # what is there was left by a deletion cut off
            folder.clear(step.name)
    elif changes and not kept and step.cheap:
        folder.clear(step.name)
    if folder.open_step(step.name, settings, [made.name for made in later], remake, build):
        return True
    gone = [step, *(made for made in later if not folder.state(made.name))]
    ledger.remove(folder, [name for made in gone for name in made.accounts])
    return False


def _refuse_what_was_trained(folder: RunFolder, step: Step, later: list[Step], remake: bool) -> None:
    """Refuse to add to what models were trained on, before anything is added, unless they may be deleted."""
    trained = [made.name for made in later if not (made.cheap or made.grows or isinstance(made, EngineStep))]
    if trained and not remake:
        raise RunError(
            f"{folder.uri(step.name)}: prompts have come to those of this run, and {', '.join(trained)} were trained "
            "without them. Take these prompts away, add --remake to delete what was trained and train it anew, or go "
            "up to the training sets alone (`ultraif export`)"
        )


@contextmanager
def _own_ray() -> Iterator[None]:
    """Shut down a Ray that was started in between; one that was up before stays up."""
    before = _ray_is_up()
    try:
        yield
    finally:
        if not before and _ray_is_up():
            sys.modules["ray"].shutdown()


def _ray_is_up() -> bool:
    """Whether Ray is connected, without importing it: a run that is done never needs it."""
    return "ray" in sys.modules and bool(sys.modules["ray"].is_initialized())


def await_room(to_do: list[Step], contexts: dict[str, Context], worker_logs: bool) -> None:
    """Wait for a cluster that can hold every step, before the first of them costs anything.

    Raises:
        RecipeError: naming the step, the resource, what is asked and what there is.
    """
    needs = all_needs(to_do, contexts)
    if not any(needs.values()):
        return
    from ultraif_ray.flow import cluster

    cluster.connect(worker_logs)
    cluster.await_room(lambda found: check_room(needs, found))


def all_needs(steps: list[Step], contexts: dict[str, Context]) -> "dict[str, list[Need]]":
    """What each step needs, by its name.

    Raises:
        RecipeError: naming the step, and what could not be placed anywhere.
    """
    needs = {}
    for step in steps:
        with _placing(step.name):
            needs[step.name] = step.needs(contexts[step.name])
    return needs


def check_room(needs: "dict[str, list[Need]]", found: "Cluster") -> None:
    """Check that a cluster can hold what each step, by its name, needs.

    Raises:
        RecipeError: naming the step, the resource, what is asked and what there is.
    """
    from ultraif_ray.flow.cluster import check_needs

    for name, asked in needs.items():
        with _placing(name):
            check_needs(asked, found)


@contextmanager
def _placing(step: str) -> Iterator[None]:
    """Tell the user which step it is that cannot be placed."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{step}: {error}") from None


def save_recipe(recipe: Recipe, folder: RunFolder) -> None:
    """Keep the recipe that the run was last made with."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    folder.write_text(text, "recipe.yaml")


def retry(recipe: Recipe, remake: bool = False, worker_logs: bool = False) -> int:
    """Do the rows again that ended as failed, and those that an interrupted command has not done; their number.

    That is those of the round's synthesis that was interrupted, if one was; else those of the first synthesis, or of
    the decomposition where that is all there is.

    Args:
        recipe: the run's recipe.
        remake: delete what was trained from these rows, instead of refusing.
        worker_logs: show what the workers log.

    Raises:
        RunError: later steps were made from these rows, the recipe is not theirs, or no row has been anywhere yet.
    """
    folder = RunFolder(recipe.run_folder)
    steps = plan(recipe, folder)
    begun = [step for step in steps if isinstance(step, EngineStep) and step.retried and folder.state(step.name)]
    interrupted = [step for step in begun if step.round and folder.state(step.name) == "running"]
    step = next(iter(interrupted or [step for step in begun if not step.round][-1:]), None)
    if step is None:
        raise RunError(f"{folder}: no rows have been through an engine here; start with `ultraif run`")
    rows = step.rows_to_do(Context(in_round(recipe, step.round), folder))
    if not rows:
        return 0
    for one in [*made_from(step), step]:
        with naming(one):
            lines = folder.changes(one.name, whole_settings(one, Context(in_round(recipe, one.round), folder)))
        if lines:
            raise RunError(
                f"{folder.uri(one.name)} was made with other settings; set these back:\n  " + "\n  ".join(lines)
            )
    costly = [made.name for made in following(step, steps) if folder.state(made.name) and not made.cheap]
    if costly and not remake:
        raise RunError(f"{folder}: made from {step.name}: {', '.join(costly)}. Add --remake to delete these and retry")
    end = steps.index(step) + 1
    run_steps(recipe, steps, steps[: end + steps[end].cheap], worker_logs, retried=step)
    return rows


def _take_out_failed(step: EngineStep, steps: list[Step], folder: RunFolder) -> None:
    """Have a step's failed rows done again, and nothing left that was made from them."""
    made = [later for later in following(step, steps) if folder.state(later.name)]
    for later in made:
        folder.clear(later.name)
    ledger.remove(folder, [name for later in made for name in later.accounts])
    folder.forget(step.name, step.outcome_column, "failed")
