"""Mutants of `ultraif_ray/flow/`, and of how a worker opens its engines: where things run, and on what."""

from tests.mutants.mutant import Mutant

GRAPH = "ultraif_ray/flow/graph.py"
PLACEMENT = "ultraif_ray/flow/placement.py"
OPENING = "ultraif_ray/engine/opening.py"
TOLD = ("tests/flow/test_placement.py::test_ray_is_told_all_that_the_pools_of_a_worker_ask_for",)
SHARED = ("tests/engine/test_opening.py::test_engines_of_whole_gpus_that_share_a_worker_see_their_own",)
WORKER = "ultraif_ray/flow/worker.py"
ROWS = "tests/flow/test_worker.py::test_as_many_rows_run_as_may_whatever_blocks_they_are_of"
LAST = "tests/flow/test_worker.py::test_the_last_rows_on_a_gpu_sample_as_many_responses_as_there_are_places"
HELD = "tests/flow/test_graph.py::test_a_replica_holds_the_rows_that_take_the_places_of_those_that_end"
NODES = (
    "tests/flow/test_cluster.py::"
    "test_pools_run_where_their_labels_accelerators_and_resources_say_and_an_engine_over_two_nodes_gives_them_back",
)

MUTANTS = (
    Mutant(
        "Ray is not told a pool's labels",
        "cluster/README.md: to keep a pool on either, give it Ray's node label",
        PLACEMENT,
        '        options["label_selector"] = labels\n',
        "        pass\n",
        TOLD,
    ),
    Mutant(
        "Ray is not told a pool's accelerator",
        "pools.*.accelerator_type",
        PLACEMENT,
        '            options["accelerator_type"] = accelerators[0].accelerator_type\n',
        "            pass\n",
        TOLD,
    ),
    Mutant(
        "Ray is not told a pool's further resources",
        "pools.*.resources",
        PLACEMENT,
        '            options["resources"] = asked\n',
        "            pass\n",
        TOLD,
    ),
    Mutant(
        "a worker's options go nowhere",
        "cluster/README.md: to keep a pool on either, give it Ray's node label",
        GRAPH,
        "        **actor_options(recipe, operator, groups),\n",
        "        num_gpus=1,\n",
        NODES,
        heavy=True,
    ),
    Mutant(
        "an engine's GPUs are held after its step",
        "actor_options: the group ends up in `groups`, to be freed",
        GRAPH,
        "            remove_placement_group(group)\n",
        "            pass\n",
        NODES,
        heavy=True,
    ),
    Mutant(
        "every engine of a worker sees all of its GPUs",
        "_devices_of: show an engine only its own part of the worker's GPUs",
        OPENING,
        'visible.split(",")[int(start) : math.ceil(start + gpus[name])]',
        'visible.split(",")',
        SHARED,
    ),
    Mutant(
        "the driver keeps what Ray notes of every block",
        "keep_memory_flat: however many blocks go by",
        "ultraif_ray/flow/ray_internals.py",
        "                op._output_blocks_stats.clear()\n",
        "                pass\n",
        ("tests/steps/test_run.py::test_a_pool_grows_with_its_backlog_and_no_further_and_the_driver_holds_few_blocks",),
        heavy=True,
    ),
    Mutant(
        "Ray has renamed the statistics of a block",
        "keep_memory_flat: however many blocks go by",
        "ultraif_ray/flow/ray_internals.py",
        """            if hasattr(op, "_output_blocks_stats"):
                op._output_blocks_stats.clear()
""",
        """            if hasattr(op, "_output_blocks_statistics"):
                op._output_blocks_statistics.clear()
""",
        ("tests/steps/test_run.py::test_a_pool_grows_with_its_backlog_and_no_further_and_the_driver_holds_few_blocks",),
        heavy=True,
    ),
    Mutant(
        "all rows that a replica holds run at once",
        "pools.*.rows_in_flight: journeys that run at once in one replica",
        WORKER,
        "async with self._places, self._gate.shared():",
        "async with self._gate.shared():",
        (ROWS,),
        heavy=True,
    ),
    Mutant(
        "a waiting row counts as in flight",
        "docs/design.md: a row that was there at two deaths of an engine",
        WORKER,
        "        self._in_flight.add(row.id)\n",
        "        self._in_flight.update(range(100))\n",
        ("tests/flow/test_worker.py::test_a_death_is_put_down_to_rows_that_had_begun_and_not_to_those_that_wait",),
        heavy=True,
    ),
    Mutant(
        "the last rows leave places empty",
        "synthesize.wave: on GPUs as many as the rows that are left do not fill",
        WORKER,
        "        return self._most // len(self._in_flight)\n",
        "        return 1\n",
        (LAST,),
        heavy=True,
    ),
    Mutant(
        "rows sample wide where each response takes time from the others",
        "synthesize.wave: by default 1, and on GPUs more",
        WORKER,
        "        if not self._for.recipe.pools[self._for.recipe.roles.responder.pool].gpus:\n",
        "        if False:\n",
        (LAST,),
        heavy=True,
    ),
    Mutant(
        "a block waits for its longest row with nothing beside it",
        "docs/design.md: a replica holds three times as many",
        GRAPH,
        "math.ceil(min(max(share, in_flight), most) / flow.rows_per_block)",
        "math.ceil(in_flight / flow.rows_per_block)",
        (HELD,),
    ),
    Mutant(
        "the first replica that is up takes the rows of all",
        "docs/design.md: in a step of few rows a replica holds no more than its part",
        GRAPH,
        "math.ceil(min(max(share, in_flight), most) / flow.rows_per_block)",
        "math.ceil(most / flow.rows_per_block)",
        (HELD,),
    ),
)
