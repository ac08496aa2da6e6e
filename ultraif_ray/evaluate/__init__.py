"""Benchmarks, on lm-eval: it owns prompts, metrics and sample logs, our engines answer.

punkt.py        the data of NLTK that lm-eval's checkers need, found offline
verifiable.py   answers that code can verify: the checkers of IFEval, IFBench and LiveBench
judged.py       benchmarks whose answers a judge reads: FollowBench, InfoBench, ComplexBench
followbench.py  what FollowBench's authors check by rule
multi_turn.py   Multi-IF: conversations of three turns
statistics.py   intervals, and whether two models differ
table.py        models side by side: tables and a plot
"""
