"""Prints the oldest versions of the dependencies that pyproject.toml allows, as pip's constraints.

The linters are left out: only new ones know all supported Python versions, and what users install
does not depend on them.
"""

import re
import tomllib
from pathlib import Path

LINTERS = {"mypy", "ruff", "types-cffi"}


def lowest(requirement: str) -> str:
    """`trio>=0.27` becomes `trio==0.27`. ValueError: it is more, or less, than a lower bound."""
    found = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\d.]+)", requirement)
    if found is None:
        raise ValueError(f"pyproject.toml: {requirement} is not a name and a lower bound")
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    for line in map(lowest, [*project["dependencies"], *project["optional-dependencies"]["test"]]):
        if line.split("==")[0] not in LINTERS:
            print(line)
