"""The list of mutants keeps up with the product: each still applies, and its tests are there."""

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.mutants.mutant import Mutant, all_mutants

ROOT = Path(__file__).resolve().parents[2]


@cache
def defined_in(file: str) -> set[str]:
    """The names of its tests, those in a class after the class's."""
    tree = ast.parse((ROOT / file).read_text())
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return {*_functions(tree), *(f"{one.name}::{name}" for one in classes for name in _functions(one))}


def _functions(within: ast.Module | ast.ClassDef) -> list[str]:
    return [node.name for node in within.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("mutant", all_mutants(), ids=lambda mutant: mutant.name)
def test_a_mutant_applies_and_names_tests_that_exist(mutant: Mutant) -> None:
    mutated = mutant.applied((ROOT / mutant.file).read_text())
    if mutant.file.endswith(".py"):
        ast.parse(mutated)
    assert mutant.tests
    for test in mutant.tests:
        file, _, function = test.partition("::")
        assert not function or function.partition("[")[0] in defined_in(file), test


def test_names_are_unique() -> None:
    names = [mutant.name for mutant in all_mutants()]
    assert len(names) == len(set(names))
