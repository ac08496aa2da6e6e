"""What a module imports when it runs, told by Python itself."""

import subprocess
import sys


def imported_by(module: str, *words: str) -> set[str]:
    """The top-level names of all that `python -m module words` imports."""
    command = [sys.executable, "-X", "importtime", "-m", module, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line[-1].strip().split(".")[0] for line in lines}
