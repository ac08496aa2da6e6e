"""A run, step by step. Each kind of step is a small frozen dataclass in a file of its own.

plan.py         the steps of a run in order, each with the steps that it is made from (read this first)
run.py          the loop: every step that is not done; and retry
step.py         what all kinds of step have in common
ingest.py       prompts in
engines.py      what decompose and synthesize share: rows through engines, resumed row by row
decompose.py    constraints found
synthesize.py   harder instructions, answered and judged
responses.py    the responses of another run, in their place
judge.py        these, judged again
export.py       training sets
sets.py         read a training set that exists already, in the place of export
train.py        composer, SFT, DPO
evaluate.py     the policy on benchmarks, before, between and after the trainings
model.py        the final model, with its card
serving.py      the recipe as a step after training sees it: trained models in their roles
"""
