"""Prompts in, training sets out.

readers.py   any accepted file, one record at a time
encodings.py a file's bytes → its text
values.py    a JSON text → its values, one at a time
shapes.py    a record → its turns
ingest.py    a record → its prompts and counted rejections
asking.py    turns that ask nothing
benchmarks.py files of benchmarks → what is kept out
duplicates.py prompts that came before, exactly or nearly
filters.py   secrets, private data, what is flagged as toxic
language.py  which language a text is in
export.py    judged rows → SFT, DPO, RL and composer sets
sets.py      training sets that exist already → the layout that export writes
caps.py      which examples stay: conditions, caps, weights
card.py      the dataset card beside them
stats.py     what a data set holds
"""
