"""Mutants of `ultraif_ray/steps/`: what is done again, what is deleted, and what is refused."""

from tests.mutants.mutant import Mutant

RUN = "ultraif_ray/steps/run.py"
STEPS = "tests/steps/test_step.py"
REMAKE = (f"{STEPS}::test_remake_deletes_the_step_that_changed_and_what_was_made_from_it_and_a_refusal_nothing",)
IN_USE = f"{STEPS}::test_a_command_in_a_folder_that_another_works_in_is_refused_and_changes_nothing"
BESIDE = f"{STEPS}::test_a_step_runs_beside_a_training_where_there_is_room_for_all_that_both_may_take"
RUNS = "tests/steps/test_run.py"
RETRY = (f"{RUNS}::test_failed_rows_are_done_again_and_no_others_and_what_they_were_is_kept",)
AGAIN = "tests/method/test_journey.py::test_responses_are_judged_again_in_their_place_and_none_is_sampled"
COPIED = "tests/steps/test_judge.py::test_responses_are_copied_without_what_they_cost_and_not_read_again"
SEVERAL = (f"{RUNS}::test_prompts_of_several_files_come_in_order_and_whole_and_what_was_rejected_is_kept",)

STATE = "tests/steps/test_state.py"

MUTANTS = (
    Mutant(
        "engines that are to share a GPU have one each",
        "docs/design.md: with policy.share_gpu they share its one GPU",
        "ultraif_ray/steps/serving.py",
        'update={"gpus": recipe.pools[name].gpus / 2}',
        'update={"gpus": recipe.pools[name].gpus}',
        ("tests/steps/test_serving.py::test_policy_and_judge_share_a_gpu_where_the_recipe_says_so",),
    ),
    Mutant(
        "a DPO round does not ask whether a GPU is shared",
        "ultraif_ray/recipe.py: share_gpu: put both on one GPU",
        "ultraif_ray/steps/synthesize.py",
        "recipe.policy.share_gpu:",
        "not recipe.policy.share_gpu:",
        ("tests/test_recipe.py::test_every_shipped_recipe_fits_the_gpus_that_its_head_names_and_no_fewer",),
    ),
    Mutant(
        "an evaluation holds up the next training",
        "docs/evaluation.md: it runs beside the next training where there is room",
        RUN,
        "    if taken is None:\n",
        "    if taken is None or beside:\n",
        (f"{BESIDE}[7-True]",),
        heavy=True,
    ),
    Mutant(
        "an evaluation takes the room of a training's workers",
        "docs/evaluation.md: where the nodes that are up have room for train.workers.max workers too",
        RUN,
        "[*one.needs(contexts[one.name]), *taken]",
        "one.needs(contexts[one.name])",
        (f"{BESIDE}[8-False]",),
        heavy=True,
    ),
    Mutant(
        "an evaluation beside a training grows",
        "docs/evaluation.md: the fewest replicas of its pools",
        RUN,
        "max=pool.replicas.min)",
        "max=pool.replicas.max)",
        (f"{BESIDE}[7-True]",),
        heavy=True,
    ),
    Mutant(
        "what runs beside a training outlives the run",
        "docs/design.md: which ends with the run",
        "ultraif_ray/flow/background.py",
        "        ray.cancel(reference, force=True)\n",
        "        pass\n",
        ("tests/flow/test_background.py::test_it_ends_with_the_block",),
        heavy=True,
    ),
    Mutant(
        "a run holds no lease",
        "cluster/README.md: two runs in one folder are refused",
        RUN,
        "    with _own_ray(), Lease(folder) as lease:\n        folder.sweep",
        "    lease = Lease(folder)\n    with _own_ray():\n        folder.sweep",
        (f"{IN_USE}[run]",),
    ),
    Mutant(
        "a retry holds no lease",
        "cluster/README.md: two runs in one folder are refused",
        RUN,
        "    with _own_ray(), Lease(folder) as lease:\n",
        "    if retried:\n        _take_out_failed(retried, steps, folder)\n"
        "    with _own_ray(), Lease(folder) as lease:\n",
        (f"{IN_USE}[retry]",),
    ),
    Mutant(
        "the next step begins in a folder that was lost",
        "docs: a run that was suspended so long that another took over stops",
        RUN,
        "            lease.check()\n",
        "",
        (f"{STEPS}::test_a_run_that_lost_its_folder_begins_no_further_step",),
    ),
    Mutant(
        "remake leaves what was made from the step",
        "ultraif run --remake: and what was made from it",
        "ultraif_ray/store/folder.py",
        "            for one in (*later, step):\n",
        "            for one in (step,):\n",
        REMAKE,
    ),
    Mutant(
        "remake deletes every later step",
        "ultraif run --remake: what was made from it, and no more",
        RUN,
        "    later = [made for made in following(step, steps) if folder.state(made.name)]\n",
        "    later = [made for made in steps if made != step and folder.state(made.name)]\n",
        REMAKE,
    ),
    Mutant(
        "a step is deleted before it is refused",
        "ultraif run: a refusal deletes nothing",
        "ultraif_ray/store/folder.py",
        "            if not remake:\n                raise",
        "            if not remake:\n                self.clear(step, 'note.json')\n                raise",
        REMAKE,
    ),
    Mutant(
        "a step begun with other settings keeps its files",
        "RunFolder.open_step: rows of two kinds are not mixed",
        "ultraif_ray/store/folder.py",
        """            if manifest:
                self.clear(step)  # files that do not count yet are of the other settings too
""",
        "",
        REMAKE,
    ),
    Mutant(
        "the ledger keeps the entries of what was deleted",
        "RUN/ledger.json: per step",
        RUN,
        "    gone = [step, *(made for made in later if not folder.state(made.name))]\n",
        "    gone = [step]\n",
        REMAKE,
    ),
    Mutant(
        "what a deletion left is taken for a step's own",
        "_begin: without a state, what is there was left by a deletion cut off",
        RUN,
        ' or not state or (state == "running"',
        ' or (state == "running"',
        (f"{STEPS}::test_a_step_goes_on_with_what_it_has_but_not_with_what_a_deletion_that_was_cut_off_has_left",),
    ),
    Mutant(
        "every step begins anew",
        "README: the same command resumes it",
        RUN,
        '(state == "running" and not step.resumes):\n        if step.resumes and state:',
        'state == "running":\n        if False:',
        (f"{STEPS}::test_a_step_goes_on_with_what_it_has_but_not_with_what_a_deletion_that_was_cut_off_has_left",),
    ),
    Mutant(
        "what the disk refuses is a traceback",
        "naming: tell the user which step it was",
        RUN,
        "    except OSError as error:\n        raise RunError",
        "    except FileNotFoundError as error:\n        raise RunError",
        (f"{STEPS}::test_what_the_disk_refuses_names_the_step_in_one_line_and_the_same_command_goes_on",),
    ),
    Mutant(
        "what was paid for is thrown away at every start",
        "README: never more than what is in flight is done again",
        "ultraif_ray/steps/engines.py",
        "        part = self.part(context.recipe)\n",
        """        part = self.part(context.recipe)
        folder.clear(self.name, "rows")
        folder.clear(self.name, "checkpoint")
""",
        RETRY,
        heavy=True,
    ),
    Mutant(
        "a refused retry has deleted what was trained",
        "ultraif retry: a refusal deletes nothing",
        RUN,
        "    if costly and not remake:\n",
        "    [folder.clear(later.name) for later in following(step, steps)]\n    if costly and not remake:\n",
        RETRY,
        heavy=True,
    ),
    Mutant(
        "what was decomposed is decomposed again",
        "docs: decompose feeds synthesis",
        "ultraif_ray/steps/synthesize.py",
        "        return STAGES if self._in_one_go else STAGES[1:]\n",
        "        return STAGES\n",
        ("tests/steps/test_decompose.py::test_decompose_as_a_step_of_its_own_feeds_synthesis",),
        heavy=True,
    ),
    Mutant(
        "a file of prompts is read up to its first part",
        "README: every row is counted",
        "ultraif_ray/steps/ingest.py",
        "        while some := list(islice(rows, ROWS_AT_ONCE)):\n",
        "        if some := list(islice(rows, ROWS_AT_ONCE)):\n",
        SEVERAL,
        heavy=True,
    ),
    Mutant(
        "each file that ingest writes takes the place of the one before",
        "README: every row is counted",
        "ultraif_ray/steps/ingest.py",
        "{len(self.files):05d}",
        "{0:05d}",
        SEVERAL,
        heavy=True,
    ),
    Mutant(
        "only the last instruction is judged again",
        "ultraif judge: judge the responses of a run again",
        "ultraif_ray/method/journey.py",
        "row, client, settings) for one in row.instructions))",
        "row, client, settings) for one in row.instructions[-1:]))",
        (AGAIN,),
    ),
    Mutant(
        "judging again samples anew",
        "docs/method.md: judges stored responses again, and samples none anew",
        "ultraif_ray/method/journey.py",
        "            await judge_again(row, client, recipe.synthesize)\n",
        "            for one in row.instructions:\n                one.responses = []\n"
        "                await answer(one, row, client, recipe.synthesize)\n",
        (AGAIN,),
    ),
    Mutant(
        "responses are paid for twice",
        "steps/responses.py: what they cost stays there",
        "ultraif_ray/steps/responses.py",
        'row | {"usage": []}',
        "row",
        (COPIED,),
    ),
    Mutant(
        "responses must be there for ever",
        "steps/responses.py: read once, they need not be there any more",
        "ultraif_ray/steps/responses.py",
        'if not made_by and folder.state(self.name) == "done":',
        "if False:",
        (COPIED,),
    ),
    Mutant(
        "a step does not know the build that it was made from",
        "docs/design.md: the manifest of what is made from it holds its id",
        "ultraif_ray/steps/step.py",
        "context.folder.build_of(source.name)",
        '""',
        (f"{STATE}::test_rows_whose_prompts_were_replaced_under_the_same_name_are_refused_and_not_counted",),
    ),
    Mutant(
        "prompts that come to a run are refused",
        "docs/design.md: the same command does these rows alone",
        "ultraif_ray/steps/ingest.py",
        'return "more" if more else "same"',
        'return "" if more else "same"',
        (f"{STATE}::test_prompts_that_come_to_a_run_are_done_alone_and_what_was_made_says_so",),
    ),
    Mutant(
        "prompts that were taken away are not missed",
        "docs/design.md: prompts that were taken away or replaced are refused",
        "ultraif_ray/steps/ingest.py",
        "if not np.isin(before, now).all():",
        "if False:",
        (f"{STATE}::test_a_saved_dataset_is_told_by_its_content",),
    ),
    Mutant(
        "what was trained is left beside other rows",
        "docs/design.md: what was trained on the old ones is refused, before anything is done",
        RUN,
        "    if trained and not remake:\n",
        "    if False:\n",
        (f"{STATE}::test_prompts_that_come_to_a_run_are_done_alone_and_what_was_made_says_so",),
    ),
    Mutant(
        "a small step may fail whole",
        "flow.breaker_share: or of all rows of a step",
        "ultraif_ray/steps/engines.py",
        "failed > context.recipe.flow.breaker_share * entry.input",
        "failed > 200",
        (f"{STATE}::test_a_step_all_of_whose_rows_failed_is_no_success_however_small",),
    ),
    Mutant(
        "a lost file is not missed",
        "docs/design.md: once it is deleted, the same command makes its rows again",
        "ultraif_ray/store/folder.py",
        'return sorted(set(files) - set(self.names(step, "rows"))) if files else []',
        "return []",
        (f"{STATE}::test_a_file_that_was_lost_is_made_again_and_no_other",),
    ),
)
