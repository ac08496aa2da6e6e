"""Ray Train and TRL: the composer, SFT, and the DPO rounds.

settings.py        the recipe's fields → TRL's configs, checked before a worker starts
fsdp.py            FSDP: what the libraries leave to be said, and what they would pass over
memory.py          what a training takes of its GPUs' memory and of its machines'
run.py             Ray Train and its tasks, seen from the driver
job.py             a training as its workers receive it
worker.py          what every Ray Train worker runs: TRL's trainer
order.py           the order of rows, the same however many workers there are
checkpointing.py   checkpoints, metrics and the model, handed to Ray Train and the step's folder
tasks.py           what needs a tokenizer or a model, once, beside training: tokenise, generate, merge
"""
