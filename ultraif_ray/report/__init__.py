"""A run in words.

plan.py   what a run would do, without loading a model
show.py   the end of a command, rows, one journey; `preview`
"""
