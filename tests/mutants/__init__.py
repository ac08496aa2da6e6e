"""Small faults put into the product by hand, each with the tests that must notice it (`make mutants`)."""
