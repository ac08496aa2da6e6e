"""Mutants of `ultraif_ray/cli.py` and `jobs/`: what a user types."""

from tests.mutants.mutant import Mutant

CLI, JOBS = "tests/test_cli.py", "tests/test_jobs.py"

MUTANTS = (
    Mutant(
        "a command is not in the help",
        "README.md: the table of commands",
        "ultraif_ray/cli.py",
        "@app.command()\ndef retry(",
        "@app.command(hidden=True)\ndef retry(",
        (f"{CLI}::test_help_and_the_readme_name_every_command_and_nothing_heavy_is_imported",),
    ),
    Mutant(
        "a command of the readme is not there",
        "README.md: `ultraif retry RUN`",
        "README.md",
        "| `ultraif retry RUN` |",
        "| `ultraif redo RUN` |",
        (f"{CLI}::test_help_and_the_readme_name_every_command_and_nothing_heavy_is_imported",),
    ),
    Mutant(
        "plan converts the packaged model",
        "README.md: plan checks recipe, prompts and cluster without loading a model",
        "ultraif_ray/engine/models.py",
        "unpack(weights)",
        "unpack()",
        (f"{CLI}::test_plan_loads_no_model_and_writes_nothing",),
    ),
    Mutant(
        "plan wants a model's weights for its configuration",
        "README.md: plan checks recipe, prompts and cluster without loading a model",
        "ultraif_ray/train/settings.py",
        "            resolve_model(section.model, weights=False), trust",
        "            resolve_model(section.model), trust",
        (f"{CLI}::test_plan_loads_no_model_and_writes_nothing",),
    ),
    Mutant(
        "an error of the user's ends with 1",
        "README.md: what went wrong is one message, and exit code 2",
        "ultraif_ray/cli.py",
        "sys.exit(2)",
        "sys.exit(1)",
        (f"{CLI}::test_an_error_is_one_message_and_no_traceback",),
    ),
    Mutant(
        "of several prompts the first alone is taken",
        "README.md: --prompts takes files, globs, …, one or several",
        "ultraif_ray/cli.py",
        'return [*files, *(word for word in words if "=" not in word)]',
        "return files",
        (f"{CLI}::test_several_prompt_files_as_a_shell_glob_gives_them",),
    ),
    Mutant(
        "the job for the composer trains the policy",
        "README.md: one entry point for each part",
        "jobs/train_composer.py",
        'until="composer"',
        'until="sft"',
        (f"{JOBS}::test_a_job_is_for_the_step_of_its_name",),
    ),
    Mutant(
        "the job for DPO knows no round",
        "jobs/train_dpo.py: one DPO round's training",
        "jobs/train_dpo.py",
        "in_round=True",
        "in_round=False",
        (f"{JOBS}::test_a_job_is_for_the_step_of_its_name",),
    ),
    Mutant(
        "a job ends before its step",
        "README.md: one entry point for each part, which prints where its output is",
        "jobs/align.py",
        'until=""',
        'until="synthesize"',
        (f"{JOBS}::test_jobs_run_their_part_go_on_from_one_another_and_print_where_it_is",),
        heavy=True,
    ),
    Mutant(
        "a job keeps its run in the copy that is thrown away",
        "jobs/job.py: a submitted job works in a copy of the project that is thrown away with the cluster",
        "jobs/job.py",
        "        _check_place(loaded.run_folder)\n",
        "",
        (f"{JOBS}::test_a_run_folder_that_would_be_lost_with_the_job_is_refused",),
    ),
)
