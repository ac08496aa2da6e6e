"""The Ray Data pipeline: `read_parquet → map_batches(worker) → write_parquet`, one operator per pool, checkpointed."""

import math
import re

import ray
from ray.data import ActorPoolStrategy, DataContext, ExecutionOptions
from ray.data.checkpoint import CheckpointConfig
from ray.data.expressions import Expr, col, lit
from ray.util.placement_group import PlacementGroup, remove_placement_group

from ultraif_ray import errors
from ultraif_ray.errors import GO_ON, NodeLost, RunError, UltraIFError
from ultraif_ray.flow.cluster import await_room, check_needs
from ultraif_ray.flow.placement import Operator, actor_options, cut, needs
from ultraif_ray.flow.progress import Display
from ultraif_ray.flow.quarantine import FAILED_STARTS, start_crash_tracker
from ultraif_ray.flow.ray_internals import (
    WaitingBlocks,
    keep_memory_flat,
    limit_waiting_blocks,
    read_footers_with_one_actor,
)
from ultraif_ray.flow.worker import Assignment, Worker, rows_in_flight
from ultraif_ray.recipe import Recipe
from ultraif_ray.records import IdSlice
from ultraif_ray.store.folder import RunFolder

# ---- the pipeline ----------------------------------------------------------------------------------------------------


def run_pipeline(
    recipe: Recipe,
    folder: RunFolder,
    source: str,
    step: str,
    stages: tuple[str, ...],
    rows: int,
    *,
    part: IdSlice | None = None,
    columns: list[str] | None = None,
) -> None:
    """Take the rows of step `source` through `stages` into step `step`; rows written before are not done again.

    Args:
        recipe: the recipe, with what was trained in its place.
        folder: the run's folder.
        source: the step whose rows are read.
        step: the step whose rows are written.
        stages: the stages of the journey.
        rows: how many rows are left, for the display.
        part: the part of the source's rows, by id, that is taken; None for all.
        columns: the columns of the source's rows that are taken; None for all.

    Raises:
        UltraIFError: what ended the pipeline, in the user's words where a worker gave some.
    """
    asked = needs(recipe, stages)
    await_room(lambda found: check_needs(asked, found))
    operators = cut(recipe, stages)
    context = _context(recipe, operators, rows, folder.uri(*folder.checkpoint(step)))
    groups: list[PlacementGroup] = []
    try:
        with DataContext.current(context), Display(step, rows, recipe.flow.progress_s) as display:
            files = [folder.uri(source, "rows", path.rsplit("/", 1)[-1]) for path in folder.data_files(source)]
            read_footers_with_one_actor()
            dataset = ray.data.read_parquet(files)
            # Columns and an expression go into the read itself. An operator more would starve the others on a small
            # machine.
            if columns:
                dataset = dataset.select_columns(columns)
            if part:
                dataset = dataset.filter(expr=lies_in(part))
            # A block is the unit of lost work, and small text never fills Ray's own block size.
            dataset = dataset.repartition(target_num_rows_per_block=recipe.flow.rows_per_block)
            crashes = start_crash_tracker()
            for operator in operators:
                assignment = Assignment(
                    recipe=recipe,
                    stages=operator.stages,
                    pools=operator.pools,
                    scoreboard=display.scoreboard,
                    crashes=crashes,
                    last=operator is operators[-1],
                )
                dataset = _add_operator(dataset, operator, assignment, rows, groups)
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
    blocks = -(-rows_in_flight(recipe, last.pools) // recipe.flow.rows_per_block)
    at_work = blocks * recipe.flow.rows_per_block * recipe.pools[last.pools[0]].replicas.max
    most = min(4096, rows // 1000, at_work)
    return recipe.flow.rows_per_file or max(recipe.flow.rows_per_block, most)


def lies_in(part: IdSlice) -> Expr:
    """`IdSlice.holds` as an expression over the column `id`."""
    from_start, before_end = col("id") >= lit(part.start), col("id") < lit(part.end)
    return from_start & before_end if part.start < part.end else from_start | before_end


def _context(recipe: Recipe, operators: list[Operator], rows: int, checkpoint: str) -> DataContext:
    """The settings of this pipeline alone."""
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.checkpoint_config = CheckpointConfig(
        id_column="id", checkpoint_path=checkpoint, delete_checkpoint_on_success=False
    )
    # The actor that leaves out what is done asks for a gigabyte, and waits for ever where no node has it; an id is 8 B.
    context.checkpoint_config.checkpoint_actor_memory_bytes = 0
    context.execution_options = ExecutionOptions(preserve_order=False)
    context.execution_no_progress_timeout_s = -1  # waiting for spot GPUs is no failure
    context.wait_for_min_actors_s = -1  # start with the first replica
    most_replicas = max(pool.replicas.max for pool in recipe.pools.values())
    context.max_consecutive_actor_init_deaths = FAILED_STARTS * most_replicas
    # Each worker takes as many blocks as it holds, and none to wait: a full pool is at 1.0, not above.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 0.9
    keep_memory_flat(context)
    first, between = recipe.pools[operators[0].pools[0]], recipe.flow.blocks_between
    ahead = max(between, blocks_held(recipe, operators[0], rows) * first.replicas.max)
    limit_waiting_blocks(context, WaitingBlocks(between=between, ahead=ahead, readers=1 + first.replicas.max))
    return context


def _add_operator(
    dataset: ray.data.Dataset, operator: Operator, assignment: Assignment, rows: int, groups: list[PlacementGroup]
) -> ray.data.Dataset:
    recipe = assignment.recipe
    pools = [recipe.pools[name] for name in operator.pools]
    blocks = blocks_held(recipe, operator, rows)
    return dataset.map_batches(
        Worker,
        fn_constructor_args=(assignment,),
        batch_size=recipe.flow.rows_per_block,  # a block; Ray wants it said where there are GPUs
        batch_format="pyarrow",
        compute=ActorPoolStrategy(
            min_size=pools[0].replicas.min,
            max_size=pools[0].replicas.max,
            max_tasks_in_flight_per_actor=blocks,
            max_concurrent_calls_per_actor=blocks,
            enable_true_multi_threading=True,
        ),
        **actor_options(recipe, operator, groups),
    )


def blocks_held(recipe: Recipe, operator: Operator, rows: int) -> int:
    """How many blocks a replica holds: those it works at, and those whose rows take the places of rows that end. No
    more than its part of `rows`, or the first replica that is up would take those of all others.
    """
    flow, in_flight = recipe.flow, rows_in_flight(recipe, operator.pools)
    most = max(flow.rows_held * in_flight, in_flight + flow.rows_per_block)
    share = rows / recipe.pools[operator.pools[0]].replicas.max
    return math.ceil(min(max(share, in_flight), most) / flow.rows_per_block)


# ---- errors ---------------------------------------------------------------------------------------------------------

_OF_A_NODE = re.compile(
    r"ray\.exceptions\.(ActorDied|NodeDied|OwnerDied|ObjectLost|ActorUnavailable|WorkerCrashed)Error"
)

_ADVICE = re.compile(r"\s+Failed to [^\n]+ after \d+/\d+ attempts.*", re.DOTALL)
"""What Ray Data writes behind an error's own text: how to have it try again."""

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


def _cause_in_a_task(error: BaseException | None) -> BaseException | None:
    """What a task or an actor raised, without Ray's words around it."""
    while error is not None:
        if isinstance(error, ray.exceptions.RayTaskError):
            return error.cause if isinstance(error.cause, BaseException) else None
        error = error.__cause__
    return None


def unwrap_error(error: BaseException) -> UltraIFError:
    """What ended a pipeline, without the traceback: a worker's own error where there was one."""
    if own := _own_error(error):
        own.args = (_ADVICE.sub("", str(own)),)
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
    if (cause := _cause_in_a_task(error)) is not None:
        what = f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}"
        return RunError(f"the pipeline ended: {what}\n{GO_ON} --worker-logs shows more.")
    return RunError(
        f"the pipeline ended: {first[:300]}" + (f" … {last[:300]}" if last != first else "")
        + f"\n{GO_ON} --worker-logs shows more."
    )  # fmt: skip
