"""Mutants of `ultraif_ray/store/`: what is written, in which order, and who may write."""

from tests.mutants.mutant import Mutant

FOLDER = "ultraif_ray/store/folder.py"
LEASE = "ultraif_ray/store/lease.py"
TESTS = "tests/store/test_folder.py"
CUT_OFF = "tests/store/test_folder.py::test_a_repair_or_a_retry_that_is_cut_off_anywhere_loses_no_row_and_doubles_none"
FINISH = (
    "tests/store/test_folder.py::test_a_step_that_is_finished_while_it_is_cut_off_is_done_with_its_files_or_not_done"
)

MUTANTS = (
    Mutant(
        "a constraint without a verdict counts as met",
        "ultraif_ray/store/difficulty.py: a constraint counts where a response has a verdict on it",
        "ultraif_ray/store/difficulty.py",
        """if "no" in answers or answers == {"yes"}:""",
        "if answers:",
        (
            "tests/store/test_difficulty.py::test_rates_are_of_responses_and_a_constraint_counts_where_there_is_a_verdict_on_it",
        ),
    ),
    Mutant(
        "contrast pairs have a pass rate",
        "ultraif_ray/records.py: no response is judged where nobody judged, as in a contrast pair",
        "ultraif_ray/records.py",
        "return [response for response in self.responses if response.verdicts]",
        "return list(self.responses)",
        ("tests/store/test_difficulty.py::test_where_nobody_judged_there_is_no_difficulty",),
    ),
    Mutant(
        "Parquet is replaced in place",
        "RunFolder.repair: each file is replaced whole",
        FOLDER,
        """        new = self.at(parts[0], f"{parts[-1]}{NEW}")
        with self.fs.open(new, "wb") as file:
            pq.write_table(table, file)
        self._to_disk(new)
        self.fs.mv(new, self.at(*parts))
""",
        """        with self.fs.open(self.at(*parts), "wb") as file:
            pq.write_table(table, file)
""",
        (CUT_OFF,),
    ),
    Mutant(
        "a file takes its name while it is in memory",
        "docs/design.md: they are flushed to a local disk",
        FOLDER,
        "                os.fsync(handle)\n",
        "                pass\n",
        ("tests/store/test_folder.py::test_a_file_is_on_the_disk_before_it_takes_its_name",),
    ),
    Mutant(
        "what was half written stays for good",
        "RunFolder.sweep: deletes what was being written when a process died",
        "ultraif_ray/steps/run.py",
        "        folder.sweep()\n",
        "",
        (
            "tests/steps/test_faults.py::test_a_command_that_is_cut_off_anywhere_ends_the_next_time_as_if_nothing_had_happened",
        ),
    ),
    Mutant(
        "JSON is replaced in place",
        "RunFolder.write_json: whole or not at all",
        FOLDER,
        """            with self.fs.open(new, "wb") as file:
                file.write(text.encode())
            self._to_disk(new)
            self.fs.mv(new, target)
""",
        """            with self.fs.open(target, "wb") as file:
                file.write(text.encode())
""",
        (FINISH,),
    ),
    Mutant(
        "what is written late counts",
        "RunFolder.settle: what a cut-off worker writes beside them does not count",
        FOLDER,
        """        listed = self._manifest(step).get("files", [])
""",
        """        listed: list[str] = []
""",
        (f"{TESTS}::test_what_is_written_between_the_counting_and_the_end_of_a_step_counts_in_neither",),
    ),
    Mutant(
        "files of other settings count",
        "RunFolder.checkpoint: since it was begun",
        FOLDER,
        """(step, "checkpoint", begun) if begun else (step, "checkpoint")""",
        """(step, "checkpoint")""",
        (f"{TESTS}::test_files_of_another_time_that_the_step_was_begun_never_count",),
    ),
    Mutant(
        "a broken file blocks a run for good",
        "RunFolder.repair: a file that cannot be read is moved aside",
        FOLDER,
        """    return said_by_pyarrow and not isinstance(error, MemoryError)
""",
        """    return False
""",
        (f"{TESTS}::test_a_file_that_cannot_be_read_is_moved_aside_and_its_rows_are_done_again",),
    ),
    Mutant(
        "a store that is down for a moment breaks files",
        "_is_unreadable: without the number that one of a store has",
        FOLDER,
        """(type(error) is OSError and error.errno is None)""",
        """isinstance(error, OSError)""",
        (f"{TESTS}::test_a_store_that_fails_for_a_moment_moves_no_file",),
    ),
    Mutant(
        "a retry takes rows out of a step that is done",
        "RunFolder.forget: a step that lacks rows is not done",
        FOLDER,
        """        self.reopen(step, forgets=f"{build}.parquet")
""",
        """        self._forget(step, f"{build}.parquet")
        self.reopen(step)
""",
        (CUT_OFF,),
    ),
    Mutant(
        "a retry keeps the failed rows last",
        "RunFolder.forget: they are kept in `retried/`",
        FOLDER,
        """        self.fs.mv(new, self.at(step, "retried", f"{build}.parquet"))
        self.reopen(step, forgets=f"{build}.parquet")
""",
        """        self.reopen(step, forgets=f"{build}.parquet")
        self.fs.mv(new, self.at(step, "retried", f"{build}.parquet"))
""",
        (CUT_OFF,),
    ),
    Mutant(
        "of a step that is deleted the manifest goes with the rest",
        "RunFolder.clear: its manifest first",
        FOLDER,
        """        if not parts:
            with suppress(FileNotFoundError):
                self.fs.rm(self.at(step, "manifest.json"))
""",
        "",
        ("tests/store/test_folder.py::test_a_step_whose_deletion_is_cut_off_is_done_with_all_its_rows_or_not_done",),
    ),
    Mutant(
        "a run that lost its folder goes on",
        "docs: a run that was suspended so long that another took over stops",
        LEASE,
        "                    signal.pthread_kill(threading.main_thread().ident or 0, _TAKEN_OVER)\n",
        "                    pass\n",
        ("tests/store/test_lease.py::test_a_run_that_was_suspended_too_long_stops",),
    ),
    Mutant(
        "the lease of a dead process is watched",
        "_died_here: then there is nothing to wait for",
        LEASE,
        "            if found and not _died_here(found):\n",
        "            if found:\n",
        ("tests/store/test_lease.py::test_the_lease_of_a_dead_process_of_this_machine_is_taken_without_watching_it",),
    ),
    Mutant(
        "a host name tells a machine",
        "this_machine: from others, whatever their host names are",
        LEASE,
        """ or found.get("machine") != this_machine()""",
        "",
        ("tests/store/test_lease.py::test_a_holder_of_this_name_in_another_container_is_not_taken_for_dead",),
    ),
    Mutant(
        "a lease that was deleted counts as mine",
        "Lease.check: raises where another run may come in",
        LEASE,
        "found = self._read() or (self._me if self._folder.create(self._me, LEASE) else self._read())",
        "found = self._read()",
        ("tests/store/test_lease.py::test_a_lease_that_somebody_deleted_is_taken_again_and_a_second_run_stays_out",),
    ),
    Mutant(
        "what a step that is begun anew will hold is noted last",
        "RunFolder.restart: can be cut off anywhere",
        FOLDER,
        """        self._write_begun(step, settings, build, holds)
        for name in self.names(step):
            if name != "manifest.json":
                self.clear(step, name)
""",
        """        self.clear(step)
        self._write_begun(step, settings, build, holds)
""",
        (f"{TESTS}::test_a_step_that_is_begun_anew_is_known_to_hold_what_it_held_wherever_that_is_cut_off",),
    ),
)
