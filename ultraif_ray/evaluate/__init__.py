"""Benchmarks, on lm-eval: it owns prompts, metrics and sample logs, our engines answer.

lm.py           what lm-eval's tasks ask as rows, and scores of the rows that come back (the tasks are in tasks/)
verifiable.py   answers that code can verify: the checkers of IFEval, IFBench and LiveBench
judged.py       benchmarks whose answers a judge reads: FollowBench, InfoBench, ComplexBench
followbench.py  what FollowBench's authors check by rule
multi_turn.py   Multi-IF: conversations of three turns
given.py        answers that exist already, read from a file
results.py      lm-eval's files of results and samples
statistics.py   intervals, and whether two models differ
table.py        models side by side: tables and a plot
punkt.py        the data of NLTK that lm-eval's checkers need, found offline
"""
