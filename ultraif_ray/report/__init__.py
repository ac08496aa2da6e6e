"""A run in words.

plan.py     what a run would do, without loading a model
show.py     the end of a command, rows, one journey; `preview`
stats.py    what a data set holds, in one screen
audit.py    how often the judge is right, by grades of a sample of its verdicts
grades.py   such grades, by a person or a second judge; and violations that were planted
"""
