"""Ray Train and TRL: the composer, SFT, and the DPO rounds.

settings.py   the recipe's fields → TRL's configs, checked before a worker starts
run.py        a training step from its examples to its model, seen from the driver
job.py        a training as its workers receive it
worker.py     what every Ray Train worker runs: TRL's trainer, made durable and elastic
tasks.py      what needs a tokenizer or a model, once, beside training: measure, generate, merge
"""
