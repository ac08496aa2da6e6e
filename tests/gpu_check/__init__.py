"""A day with a GPU: what no CPU can prove, looked at in under ten minutes (`make gpu-check`).

It belongs to the tests, whose references it holds the engine and the trainers against, and to no suite: it wants a GPU,
and takes the libraries that are there, whatever their versions. See docs/gpu.md.

__main__.py       the command: every part in a process of its own, and the table
part.py           one part, as its process runs it
machine.py        what is installed, and the GPU
models.py         a random model and an adapter to ask and to train
engines.py        vLLM: its start, sequences in flight, an adapter, grammars, log-probabilities, throughput
training.py       DPO under FSDP 2, and an adapter
troubled.py       parts that go wrong, for the tests of the command
test_command.py   those
"""
