"""Rows through Ray Data.

graph.py          the Ray Data pipeline: read, one operator per pool, write, with checkpoints (read this first)
worker.py         the actor: engines on an event loop of their own, many journeys at once
suspects.py       which rows were in an engine when it died, and which of them is to blame
cluster.py        the cluster: connecting to it, what it has, whether it can hold a run
ray_internals.py  everything that touches private parts of Ray
progress.py       what is seen while a run goes on
"""
