"""The map of the package that a newcomer reads first, and what stands where."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

import ultraif_ray
from ultraif_ray.recipe import Recipe

ROOT = Path(ultraif_ray.__file__).parent
PAGES = [
    Path(name) for name in ("README.md", "CONTRIBUTING.md", "cluster/README.md", *map(str, Path("docs").glob("*.md")))
]
FOLDERS = sorted(file.parent for file in ROOT.glob("*/**/__init__.py"))


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


def test_the_map_in_the_docs_has_every_folder() -> None:
    text = Path("docs/design.md").read_text()
    tree = text.partition("## Where things are")[2].split("```")[1]
    assert set(re.findall(r"^  (\w+)/", tree, re.MULTILINE)) == {
        folder.name for folder in FOLDERS if folder.parent == ROOT
    } | {"recipes"}


def test_the_readme_names_every_job() -> None:
    said = re.search(r"^`jobs/` has (.*)$", Path("README.md").read_text(), re.MULTILINE)
    assert said
    assert set(re.findall(r"`(\w+)`", said[1])) == {file.stem for file in Path("jobs").glob("*.py")} - {"job"}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text())
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_setting_that_a_page_names_is_one_of_the_recipes(page: Path) -> None:
    sections: dict[str, Any] = {name: field.annotation for name, field in Recipe.model_fields.items()}
    for name in ("sft", "dpo", "pools", "roles"):  # TRL's own fields, and names of a user's own
        del sections[name]
    for section, key in re.findall(r"`(\w+)\.(\w+)[`=:]", page.read_text()):
        assert section not in sections or key in str(TypeAdapter(sections[section]).json_schema()), f"{section}.{key}"
