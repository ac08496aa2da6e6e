"""A run's folder on any store that fsspec knows, and what is written in it.

folder.py      where everything is: manifests, fingerprints, row files and their repair
ledger.py      every input row in exactly one outcome, counted from the files
difficulty.py  how often responses pass, by level, category and checker
lease.py       one run at a time in a folder
"""
