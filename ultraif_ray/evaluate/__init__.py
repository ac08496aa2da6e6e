"""Benchmarks, on lm-eval: it owns prompts, metrics and sample logs, our engines answer.

punkt.py        the data of NLTK that lm-eval's checkers need, found offline
statistics.py   intervals, and whether two models differ
"""
