"""Benchmarks, on lm-eval: it owns prompts, metrics and sample logs, our engines answer.

lm.py         what lm-eval's tasks ask as rows, and scores of the rows that come back
given.py      answers that exist already, read from a file
results.py    lm-eval's files of results and samples, and a table
punkt.py      the data of NLTK that lm-eval's checkers need, found offline
"""
