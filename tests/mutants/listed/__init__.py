"""The mutants, in a file for each room of the product; each file has one tuple, `MUTANTS`."""
