"""The Ray Data pipeline: `read_parquet → map_batches(worker) → write_parquet`, one operator per pool, checkpointed."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionOptions
from ray.data.checkpoint import CheckpointConfig
from ray.data.expressions import col, lit
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ultraif_ray import errors
from ultraif_ray.errors import GO_ON, NodeLost, RecipeError, RunError, UltraIFError
from ultraif_ray.flow.cluster import READING_AND_WRITING, Need, await_room, check_needs
from ultraif_ray.flow.progress import Display
from ultraif_ray.flow.ray_internals import (
    WaitingBlocks,
    keep_memory_flat,
    limit_waiting_blocks,
    read_footers_with_one_actor,
)
from ultraif_ray.flow.suspects import STARTS_LOST, start_register
from ultraif_ray.flow.worker import Worker
from ultraif_ray.recipe import OpenAIPool, Pool, Recipe, VllmPool
from ultraif_ray.records import Role
from ultraif_ray.store.folder import RunFolder

ROLES_OF_STAGE: dict[str, tuple[Role, ...]] = {
    "decompose": ("decomposer",),
    "compose": ("composer",),
    "respond": ("responder", "judge"),
}


@dataclass(frozen=True)
class Operator:
    """A part of the journey that runs in one pool of Ray actors.

    `pools` are those whose engines the actor opens. The first decides how many replicas there are; a replica asks for
    what all of them ask together.
    """

    stages: tuple[str, ...]
    pools: tuple[str, ...]


def cut(recipe: Recipe, stages: tuple[str, ...]) -> list[Operator]:
    """Cut a journey into operators at the borders of the pools that live in a worker.

    Neighbouring stages that share a pool stay together, so that no engine is loaded twice, and in self-alignment the
    whole journey is one operator. A server reached over HTTP lives in no worker and causes no cut.
    """
    operators: list[Operator] = []
    for stage in stages:
        pools = tuple(dict.fromkeys(getattr(recipe.roles, role).pool for role in ROLES_OF_STAGE[stage]))
        if operators:
            last = operators[-1]
            resident, before = _resident(recipe, pools), _resident(recipe, last.pools)
            if resident & before or not resident or not before:
                operators[-1] = Operator((*last.stages, stage), _in_order(recipe, (*last.pools, *pools)))
                continue
        operators.append(Operator((stage,), _in_order(recipe, pools)))
    return operators


def _resident(recipe: Recipe, pools: tuple[str, ...]) -> set[str]:
    return {pool for pool in pools if not isinstance(recipe.pools[pool], OpenAIPool)}


def _in_order(recipe: Recipe, pools: tuple[str, ...]) -> tuple[str, ...]:
    """Each pool once, those that live in the worker first."""
    return tuple(sorted(dict.fromkeys(pools), key=lambda pool: isinstance(recipe.pools[pool], OpenAIPool)))


ADVICE = "lower replicas.min, cpus or gpus of the pools, or add nodes"


def needs(recipe: Recipe, stages: tuple[str, ...]) -> list[Need]:
    """What a journey's operators, with the fewest replicas, and what reads and writes ask of the cluster.

    Raises:
        RecipeError: pools that could share no worker.
    """
    needs = [Need("reading and writing", READING_AND_WRITING, {"CPU": 1.0}, advice=ADVICE)]
    for operator in cut(recipe, stages):
        _check_spread(recipe, operator)
        pools = [recipe.pools[name] for name in operator.pools]
        kinds = {f"accelerator_type:{pool.accelerator_type}": 0.001 for pool in pools if pool.accelerator_type}
        labels = {key: value for pool in pools for key, value in pool.labels.items()}
        what, count = f"a replica of pool '{operator.pools[0]}'", pools[0].replicas.min
        asked = resources(recipe, operator)
        if any(spreads(pool) for pool in pools):  # each of its GPUs may be on a node of its own
            others = count * (int(asked["GPU"]) - 1)
            needs.append(Need(f"a further GPU of {what}", others, {"GPU": 1.0} | kinds, labels, ADVICE))
            asked["GPU"] = 1.0
        needs.append(Need(what, count, asked | kinds, labels, ADVICE))
    return needs


def _check_spread(recipe: Recipe, operator: Operator) -> None:
    """An engine whose GPUs are on several nodes has its worker for itself, and loads what all of them can see."""
    resident = sorted(_resident(recipe, operator.pools))
    for name in resident:
        pool = recipe.pools[name]
        if not isinstance(pool, VllmPool) or not spreads(pool):
            continue
        if len(resident) > 1:
            raise RecipeError(
                f"pools {' and '.join(resident)} share a worker, but the GPUs of {name} may be on several nodes "
                "(distributed_executor_backend: ray): keep them on one node, or reach one of the two through `openai`"
            )
        adapters = [settings.adapter for _, settings in recipe.roles if settings.pool == name and settings.adapter]
        for model in (pool.model, *adapters):
            if "://" in model:
                raise RecipeError(
                    f"pool '{name}' may have its GPUs on several nodes, which must all see its model as a folder, but "
                    f"it is {model}: give --run and the model on a shared file system, or keep the GPUs on one node"
                )


def resources(recipe: Recipe, operator: Operator) -> dict[str, float]:
    """What one replica of an operator asks of the cluster, by Ray's resource names."""
    asked: Counter[str] = Counter()
    for name in operator.pools:
        pool = recipe.pools[name]
        asked.update({"CPU": pool.cpus, "GPU": pool.gpus, **pool.resources})
    return {name: amount for name, amount in asked.items() if amount}


# ---- the pipeline ----------------------------------------------------------------------------------------------------


def run_pipeline(
    recipe: Recipe, folder: RunFolder, source: str, step: str, stages: tuple[str, ...], rows: int, fraction: float = 1.0
) -> None:
    """Take the rows of step `source` through `stages` into step `step`; rows written before are not done again.

    Args:
        recipe: the recipe, with what was trained in its place.
        folder: the run's folder.
        source: the step whose rows are read.
        step: the step whose rows are written.
        stages: the stages of the journey.
        rows: how many rows are left, for the display.
        fraction: the fraction of the source's rows, by id, that is taken.

    Raises:
        UltraIFError: what ended the pipeline, in the user's words where a worker gave some.
    """
    asked = needs(recipe, stages)
    await_room(lambda found: check_needs(asked, found))
    operators = cut(recipe, stages)
    context = _context(recipe, operators, folder.uri(step, "checkpoint"))
    groups: list[PlacementGroup] = []
    try:
        with DataContext.current(context), Display(step, rows, recipe.flow.progress_s) as display:
            files = [folder.uri(source, "rows", path.rsplit("/", 1)[-1]) for path in folder.data_files(source)]
            read_footers_with_one_actor()
            dataset = ray.data.read_parquet(files)
            if fraction < 1.0:
                # An expression goes into the read itself. An operator more would starve the others on a small machine.
                dataset = dataset.filter(expr=col("id") < lit(_bound(fraction)))
            # A block is the unit of lost work, and small text never fills Ray's own block size.
            dataset = dataset.repartition(target_num_rows_per_block=recipe.flow.rows_per_block)
            register = start_register()
            for operator in operators:
                told = (
                    recipe,
                    operator.stages,
                    operator.pools,
                    display.scoreboard,
                    register,
                    operator is operators[-1],
                )
                dataset = _add_operator(dataset, operator, recipe, told, groups)
            per_file = _rows_per_file(recipe, operators[-1], rows)
            dataset.write_parquet(folder.uri(step, "rows"), min_rows_per_file=per_file)
    except Exception as error:
        raise unwrap_error(error) from error
    finally:
        for group in groups:
            remove_placement_group(group)


def _rows_per_file(recipe: Recipe, last: Operator, rows: int) -> int:
    """Some thousand files for a large run, which every store lists quickly; a block a file for a small one.

    Rows that are done wait for their file to be full, and are lost with what dies: never more than are at work.
    """
    at_work = _blocks_at_once(recipe, last) * recipe.flow.rows_per_block * recipe.pools[last.pools[0]].replicas.max
    most = min(4096, rows // 1000, at_work)
    return recipe.flow.rows_per_file or max(recipe.flow.rows_per_block, most)


def in_fraction(prompt_id: int, fraction: float) -> bool:
    """Whether a prompt is in a fraction of all, by its id alone: ids are hashes, spread evenly over 63 bits."""
    return prompt_id < _bound(fraction)


def _bound(fraction: float) -> int:
    return min(int(fraction * 2**63), 2**63 - 1)


def _context(recipe: Recipe, operators: list[Operator], checkpoint: str) -> DataContext:
    """The settings of this pipeline alone."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=checkpoint, delete_checkpoint_on_success=False
    )
    context.execution_options = ExecutionOptions(preserve_order=False)
    context.execution_no_progress_timeout_s = -1  # waiting for spot GPUs is no failure
    context.wait_for_min_actors_s = -1  # start with the first replica
    most_replicas = max(pool.replicas.max for pool in recipe.pools.values())
    context.max_consecutive_actor_init_deaths = STARTS_LOST * most_replicas
    # Each worker takes as many blocks as it works at, and none to wait: a full pool is at 1.0, not above.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 0.9
    keep_memory_flat(context)
    first, between = recipe.pools[operators[0].pools[0]], recipe.flow.blocks_between
    ahead = max(between, _blocks_at_once(recipe, operators[0]) * first.replicas.max)
    limit_waiting_blocks(context, WaitingBlocks(between=between, ahead=ahead, readers=1 + first.replicas.max))
    return context


def _add_operator(dataset: Any, operator: Operator, recipe: Recipe, told: Any, groups: list[PlacementGroup]) -> Any:
    pools = [recipe.pools[name] for name in operator.pools]
    blocks = _blocks_at_once(recipe, operator)
    return dataset.map_batches(
        Worker,
        fn_constructor_args=told,
        batch_size=recipe.flow.rows_per_block,  # a block; Ray wants it said where there are GPUs
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=pools[0].replicas.min,
            max_size=pools[0].replicas.max,
            max_tasks_in_flight_per_actor=blocks,
            max_concurrent_calls_per_actor=blocks,
            enable_true_multi_threading=True,
        ),
        **_placement(recipe, operator, groups),
    )


def _blocks_at_once(recipe: Recipe, operator: Operator) -> int:
    """How many blocks a replica works at."""
    rows = min(recipe.pools[name].rows_in_flight for name in operator.pools)
    return max(1, -(-rows // recipe.flow.rows_per_block))


def _placement(recipe: Recipe, operator: Operator, groups: list[PlacementGroup]) -> dict[str, Any]:
    """Ray's options for the actors of an operator.

    An engine that Ray spreads over nodes gets a placement group for each replica: one bundle for each GPU, as vLLM
    wants it, on as few nodes as will do. The group ends up in `groups`, to be freed.
    """
    pools = [recipe.pools[name] for name in operator.pools]
    asked = resources(recipe, operator)
    cpus, gpus = asked.pop("CPU", 0), asked.pop("GPU", 0)
    options: dict[str, Any] = {"num_cpus": cpus}
    kinds = [pool.accelerator_type for pool in pools if pool.accelerator_type]
    if labels := {key: value for pool in pools for key, value in pool.labels.items()}:
        options["label_selector"] = labels
    if not any(spreads(pool) for pool in pools):
        if gpus:
            options["num_gpus"] = gpus
        if kinds:
            options["accelerator_type"] = kinds[0]
        if asked:
            options["resources"] = asked
        return options
    kind = {f"accelerator_type:{kinds[0]}": 0.001} if kinds else {}
    bundles = [{"GPU": 1.0, **kind} for _ in range(int(gpus))]
    bundles[0] |= {"CPU": cpus, **asked}
    selectors = [labels] * len(bundles) if labels else None

    def in_a_group() -> dict[str, Any]:
        groups.append(placement_group(bundles, strategy="PACK", bundle_label_selector=selectors))
        strategy = PlacementGroupSchedulingStrategy(
            groups[-1], placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
        return {"scheduling_strategy": strategy}

    return {"num_cpus": cpus, "resources": asked or None, "ray_remote_args_fn": in_a_group}


def spreads(pool: Pool) -> bool:
    """Whether one replica's GPUs may be on several nodes: vLLM's Ray executor places them."""
    return isinstance(pool, VllmPool) and pool.args.get("distributed_executor_backend") == "ray"


_OF_A_NODE = re.compile(
    r"ray\.exceptions\.(ActorDied|NodeDied|OwnerDied|ObjectLost|ActorUnavailable|WorkerCrashed)Error"
)

_FROM_A_WORKER = re.compile(r"ultraif_ray\.errors\.(\w+): (.+)")


def _own_error(error: BaseException | None) -> UltraIFError | None:
    """The error of ours that `error` is or was made from. What `ray.get` raises is an instance of the task's own error
    class too, but its text is Ray's coloured traceback; the error itself, with its whole message, is its `cause`.
    """
    while error is not None:
        if isinstance(error, UltraIFError) and not isinstance(error, ray.exceptions.RayError):
            return error
        error = error.cause if isinstance(error, ray.exceptions.RayTaskError) else error.__cause__
    return None


def unwrap_error(error: BaseException) -> UltraIFError:
    """What ended a pipeline, without the traceback: a worker's own error where there was one."""
    if own := _own_error(error):
        return own
    text = str(error)
    if found := _FROM_A_WORKER.search(text):
        kind = getattr(errors, found[1], RunError)
        return kind(found[2]) if issubclass(kind, UltraIFError) else RunError(found[2])
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    first, last = lines[0], lines[-1]
    if _OF_A_NODE.search(text):
        # Such as the readers of Parquet's footers, which Ray Data starts once and not again.
        return NodeLost(f"the pipeline ended with a node or a process of Ray's own: {last[:300]}\n{GO_ON}")
    return RunError(
        f"the pipeline ended: {first[:300]}" + (f" … {last[:300]}" if last != first else "")
        + f"\n{GO_ON} --worker-logs shows more."
    )  # fmt: skip
