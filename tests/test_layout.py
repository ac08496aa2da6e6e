"""The map of the package that a newcomer reads first, and what stands where."""

import ast
import re
from pathlib import Path

import pytest

import ultraif_ray

ROOT = Path(ultraif_ray.__file__).parent
FOLDERS = sorted(file.parent for file in ROOT.glob("*/__init__.py"))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folders_docstring_lists_its_modules_and_no_other(folder: Path) -> None:
    text = (folder / "__init__.py").read_text()
    listed = {line.split()[0] for line in text.splitlines() if line.split() and line.split()[0].endswith(".py")}
    assert listed == {file.name for file in folder.glob("*.py")} - {"__init__.py"}


def test_private_parts_of_ray_are_in_one_file() -> None:
    private = re.compile(r"\bray(\.\w+)*\._\w|\bfrom ray\S* import .*\b_\w")
    found = {file.relative_to(ROOT).as_posix() for file in ROOT.rglob("*.py") if private.search(file.read_text())}
    assert found == {"flow/ray_internals.py"}


def test_tests_import_no_private_name_of_ours() -> None:
    for file in Path(__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("ultraif_ray", "tests"):
                assert not [one.name for one in node.names if one.name.startswith("_")], file
