"""Mutants of `ultraif_ray/store/`: what is written, in which order, and who may write."""

from tests.mutants.mutant import Mutant

FOLDER = "ultraif_ray/store/folder.py"
LEASE = "ultraif_ray/store/lease.py"
CUT_OFF = "tests/store/test_folder.py::test_a_repair_or_a_retry_that_is_cut_off_anywhere_loses_no_row_and_doubles_none"
FINISH = (
    "tests/store/test_folder.py::test_a_step_that_is_finished_while_it_is_cut_off_is_done_with_its_files_or_not_done"
)

MUTANTS = (
    Mutant(
        "a retry takes the data out before the ids",
        "RunFolder.forget: a row whose id stands in the checkpoint is there",
        FOLDER,
        """        forgotten = gone.column("id").to_numpy()
""",
        """        forgotten = gone.column("id").to_numpy()
        for name in self.names(step, "rows"):
            self._keep_only(np.setdiff1d(self._ids(step, "rows", name), forgotten), step, name)
""",
        (CUT_OFF,),
    ),
    Mutant(
        "Parquet is replaced in place",
        "RunFolder.repair: each file is replaced whole",
        FOLDER,
        """        new = self.at(parts[0], f"new-{parts[-1]}")
        with self.fs.open(new, "wb") as file:
            pq.write_table(table, file)
        self.fs.mv(new, self.at(*parts))
""",
        """        with self.fs.open(self.at(*parts), "wb") as file:
            pq.write_table(table, file)
""",
        (CUT_OFF,),
    ),
    Mutant(
        "JSON is replaced in place",
        "RunFolder.write_json: whole or not at all",
        FOLDER,
        """            with self.fs.open(f"{target}.new", "w", encoding="utf-8") as file:
                file.write(text)
            self.fs.mv(f"{target}.new", target)
""",
        """            with self.fs.open(target, "w", encoding="utf-8") as file:
                file.write(text)
""",
        (FINISH,),
    ),
    Mutant(
        "a step is done before its files are listed",
        "RunFolder.finish: what a dead run's worker may still write counts no more",
        FOLDER,
        """        if files := self.data_files(step):
            self.write_json({"files": [path.rsplit("/", 1)[-1] for path in files]}, step, "files.json")
        self.write_json({**self._manifest(step), "state": "done"}, step, "manifest.json")
""",
        """        self.write_json({**self._manifest(step), "state": "done"}, step, "manifest.json")
        if files := self.data_files(step):
            self.write_json({"files": [path.rsplit("/", 1)[-1] for path in files]}, step, "files.json")
""",
        (FINISH,),
    ),
    Mutant(
        "a retry takes rows out of a step that is done",
        "RunFolder.forget: a step that lacks rows is not done",
        FOLDER,
        """        self.write_json({**self._manifest(step), "state": "running"}, step, "manifest.json")
        forgotten = gone.column("id").to_numpy()
        for id_file in ids:
            before = self._ids(step, "checkpoint", id_file)
            again = np.isin(before, forgotten)
            if again.any():
                self._replace(pa.table({"id": before[~again]}), step, "checkpoint", id_file)
""",
        """        forgotten = gone.column("id").to_numpy()
        for id_file in ids:
            before = self._ids(step, "checkpoint", id_file)
            again = np.isin(before, forgotten)
            if again.any():
                self._replace(pa.table({"id": before[~again]}), step, "checkpoint", id_file)
        self.write_json({**self._manifest(step), "state": "running"}, step, "manifest.json")
""",
        (CUT_OFF,),
    ),
    Mutant(
        "a retry keeps the failed rows last",
        "RunFolder.forget: they are kept in `retried/`",
        FOLDER,
        """        self._replace(gone, step, "retried", f"attempt-{number}.parquet")
        self.write_json({**self._manifest(step), "state": "running"}, step, "manifest.json")
        forgotten = gone.column("id").to_numpy()
        for id_file in ids:
            before = self._ids(step, "checkpoint", id_file)
            again = np.isin(before, forgotten)
            if again.any():
                self._replace(pa.table({"id": before[~again]}), step, "checkpoint", id_file)
        self.repair(step)
""",
        """        self.write_json({**self._manifest(step), "state": "running"}, step, "manifest.json")
        forgotten = gone.column("id").to_numpy()
        for id_file in ids:
            before = self._ids(step, "checkpoint", id_file)
            again = np.isin(before, forgotten)
            if again.any():
                self._replace(pa.table({"id": before[~again]}), step, "checkpoint", id_file)
        self.repair(step)
        self._replace(gone, step, "retried", f"attempt-{number}.parquet")
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
        "if (found := self._read()) and not _died_here(found):",
        "if found := self._read():",
        ("tests/store/test_lease.py::test_the_lease_of_a_dead_process_of_this_machine_is_taken_without_watching_it",),
    ),
)
