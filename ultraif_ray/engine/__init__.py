"""How a role talks to a model: one small protocol, and three engines that speak it.

protocol.py    Request, Completion, Engine; and the RoleClient, which knows which engine plays which role
chat.py        through a chat template, also one that knows no system role
control.py     control tokens that stand in a text, which are no more than text
thoughts.py    a reasoning model's thoughts, apart from its answer
opening.py     open the engines of a recipe's pools
vllm.py        vLLM in this process (GPU or CPU): the only file that imports vllm, beside its bench
openai.py      any OpenAI-compatible server
simulated.py   no model at all, for scale tests
cache.py       folders that are made once on a machine
models.py      from a model's name to a folder that can be loaded; whether it may be read, and how large it is
devices.py     the machine's GPUs: why there is none, and what fits one
packaged.py    the small real model that comes as a Python package
"""
