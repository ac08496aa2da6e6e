"""Rows through Ray Data.

steps.py      the steps of a run in order: ingest, decompose, synthesize, export (read this first)
graph.py      the Ray Data pipeline: read, one operator per pool, write, with checkpoints
worker.py     the actor: engines on an event loop of their own, many journeys at once
folder.py     the run's folder: manifests, fingerprints, what is committed
ledger.py     every input row in exactly one outcome, counted from the files
progress.py   what is seen while a run goes on
"""
