"""What code can check of an answer, code checks: small pure functions, named by composer and decomposer, never written
by them.

registry.py    every checker, with its family and the benchmark that has the like: read this first
counts.py      how many of something an answer has
properties.py  what is true of an answer, or not
parts.py       words, sentences, paragraphs, lines: what each is
languages.py   which language a text is in
naming.py      a check as models name it: the schema, the words, and whether it says what its constraint says
"""
