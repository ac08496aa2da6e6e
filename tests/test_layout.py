"""The map of the package that a newcomer reads first."""

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
