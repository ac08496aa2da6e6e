"""A run's folder on any store that fsspec knows, and what is written in it.

folder.py   where everything is: manifests, fingerprints, row files and their repair
ledger.py   every input row in exactly one outcome, counted from the files
lease.py    one run at a time in a folder
"""
