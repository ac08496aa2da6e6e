"""What the system costs: each module is a command that measures two ways side by side and prints their ratio.

scale.py   a long run without a model: does it stream, in flat memory, and resume?
checks.py  what the checks of decompositions and compositions catch, on probes
occupancy.py  how full an engine's batch is, and how long the last rows of a step take
requests.py  what a request costs the CPU beside the model
train.py   training throughput against plain TRL
scale.py          a long run without a model: does it stream, in flat memory, and resume?
checks.py         what the checks of decompositions and compositions catch, on probes
contamination.py  what decontamination misses and hits falsely; and the index that ships
filters.py        how fast the filters of prompts are, in how much memory
train.py          training throughput against plain TRL
"""
