"""Rows through Ray Data.

steps.py      the steps of a run in order: ingest, decompose, synthesize, export (read this first)
trained.py    the recipe as later steps see it, with what the run has trained in its place
graph.py      the Ray Data pipeline: read, one operator per pool, write, with checkpoints
worker.py     the actor: engines on an event loop of their own, many journeys at once
suspects.py   which rows were in an engine when it died, and which of them is to blame
cluster.py    the cluster: connecting to it, what it has, whether it can hold a run
progress.py   what is seen while a run goes on
"""
