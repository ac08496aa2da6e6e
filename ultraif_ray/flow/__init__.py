"""Rows through Ray Data.

graph.py          the Ray Data pipeline: read, one operator per pool, write, with checkpoints (read this first)
placement.py      where a journey runs: its operators, what each asks of the cluster
worker.py         the actor: engines on an event loop of their own, many journeys at once
quarantine.py     which rows were in an engine when it died, and which of them is poisoned
breakers.py       when a worker ends the run, since it cannot be the rows
background.py     work in a task of Ray's own, beside the driver's
actors.py         where small actors of the driver's belong
cluster.py        the cluster: connecting to it, what it has, whether it can hold a run
ray_internals.py  everything that touches private parts of Ray
progress.py       what is seen while a run goes on
"""
