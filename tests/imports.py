"""What a module imports, and a Python that has some packages and no others."""

import ast
import subprocess
import sys
import venv
from collections.abc import Collection, Iterator
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def imported_by(module: str, *words: str) -> set[str]:
    """The top-level names of all that `python -m module words` imports, told by Python itself."""
    command = [sys.executable, "-X", "importtime", "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line[-1].strip().split(".")[0] for line in lines}


def distributions_of(*modules: str) -> set[str]:
    """The distributions that to import modules wants: those that they, and each module of ours that they import, name
    outside of functions. They are read, not run.
    """
    seen, waiting, wanted = set[Path](), list(modules), set[str]()
    while waiting:
        name = waiting.pop()
        place = ROOT / name.replace(".", "/")
        for file in (place.with_suffix(".py"), place / "__init__.py"):
            if file.exists() and file not in seen:
                seen.add(file)
                waiting += [*_imports(ast.parse(file.read_text(encoding="utf-8"))), name.rpartition(".")[0] or name]
        if not (ROOT / name.split(".")[0]).is_dir():
            wanted.add(name.split(".")[0])
    of = packages_distributions()
    return {canonicalize_name(found) for name in wanted - sys.stdlib_module_names for found in of[name]}


def _imports(node: ast.AST) -> Iterator[str]:
    """What may be a module, of all that is imported when this one runs."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (one.name for one in child.names)
        elif isinstance(child, ast.ImportFrom):
            yield from (str(child.module), *(f"{child.module}.{one.name}" for one in child.names))
        elif not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not (
            isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
        ):
            yield from _imports(child)


def closure_of(*packages: str) -> set[str]:
    """Distributions, and all that they require here."""
    found, waiting = set[str](), list(packages)
    while waiting:
        if (name := canonicalize_name(waiting.pop())) not in found:
            found.add(name)
            wanted = map(Requirement, distribution(name).requires or ())
            waiting += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def python_with(folder: Path, packages: Collection[str]) -> str:
    """A Python of its own that has these distributions and no others."""
    venv.EnvBuilder(symlinks=True).create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    for of in map(distribution, packages):
        for entry in {file.parts[0] for file in of.files or ()} - {"..", "__pycache__"}:
            (site / entry).symlink_to(Path(str(of.locate_file(entry))).absolute())
    return str(folder / "bin/python")
