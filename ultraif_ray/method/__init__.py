"""UltraIF, step by step (arXiv 2502.04153). Pure async functions: no Ray, no vLLM, no files but one.

journey.py        one row from prompt to judged responses: read this first
decompose.py      find a prompt's constraints, what is left without each, and a question that checks it
compose.py        add a constraint to a prompt, with its question
respond.py        answer an instruction
answers.py        is a response an answer at all, by its text?
verdicts.py       does the answer meet every question? code first, then the judge
judge.py          the judge's answers
checkers/         what code can check of an answer
checks.py         is a decomposition, or a composition, what it claims to be?
contamination.py  is it a prompt of a benchmark? by hashes of these (benchmarks.npz)
replies.py        ask a role for JSON until the reply can be used
texts.py          what went from a text and what came to it
prompts.py        the prompt of each role
"""

RULES = 1
"""By which rules replies are asked for and accepted. Raised with every change after which the same replies make other
rows, beside those of the settings, the prompts and the checkers: rows of two kinds are not mixed in a run.
"""
