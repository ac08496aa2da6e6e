"""Mutants that only a run to which deaths happen can show: what a death may cost, and what it may leave behind."""

from tests.mutants.mutant import Mutant

CAMPAIGN = ("tests/chaos/test_campaign.py",)
COUNTED = '        attempts, ended = 0, ""\n'

MUTANTS = (
    Mutant(
        "a run that goes on starts from nothing",
        "README: what was written is not generated again",
        "ultraif_ray/steps/engines.py",
        COUNTED,
        f'{COUNTED}        folder.clear(self.name, "rows")\n        folder.clear(self.name, "checkpoint")\n',
        CAMPAIGN,
        heavy=True,
    ),
    Mutant(
        "a run that goes on does a quarter again",
        "README: never more than what was in flight is generated again",
        "ultraif_ray/steps/engines.py",
        COUNTED,
        f'{COUNTED}        for name in sorted(folder.names(self.name, "checkpoint"))[::4]:\n'
        '            folder.fs.rm(folder.at(self.name, "checkpoint", name))\n',
        CAMPAIGN,
        heavy=True,
    ),
    Mutant(
        "a row in flight at a death ends as failed",
        "docs/design.md: blocks in flight on what died are done again",
        "ultraif_ray/flow/quarantine.py",
        "            row.deaths += row.running\n",
        "            row.isolation = Isolation.POISONED if row.running else row.isolation\n",
        CAMPAIGN,
        heavy=True,
    ),
    Mutant(
        "ingest loses the last prompt of a file",
        "README: every prompt ends in the output exactly once",
        "ultraif_ray/steps/ingest.py",
        "            for number, record in read_records(source)\n            for found",
        "            for number, record in list(read_records(source))[:-1]\n            for found",
        CAMPAIGN,
        heavy=True,
    ),
    Mutant(
        "an actor outlives its run",
        "docs/design.md: what a run starts ends with it",
        "ultraif_ray/flow/quarantine.py",
        '{"num_cpus": 0, "max_restarts": -1,',
        '{"num_cpus": 0, "lifetime": "detached", "max_restarts": -1,',
        CAMPAIGN,
        heavy=True,
    ),
    Mutant(
        "no reply is noted",
        "recipe.py: each process notes each reply",
        "ultraif_ray/engine/simulated.py",
        "        if self._pool.replies:\n",
        "        if False:\n",
        ("tests/engine/test_simulated.py",),
    ),
    Mutant(
        "requests do not say whose they are",
        "Request.row: the id of the row that asks",
        "ultraif_ray/engine/protocol.py",
        "            row=self._row,\n",
        "",
        ("tests/engine/test_protocol.py",),
    ),
)
