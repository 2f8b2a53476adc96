"""The rules of the house: who may import whom, and how long a file may be."""

import ast
from pathlib import Path

import pytest

from tests.support import ROOT

# What a part may not import. Siblings share only iommud.errors; ops joins them; nothing imports upward.
COMMANDS = {"iommud.cli", "iommud.run", "iommud.serve", "iommud.stderr", "iommud.systemd"}
OUTSIDE = {"trio", "os", "cffi", "socket", "select", "mmap", "ctypes", "subprocess", "threading", "cuse_glue"}
FORBIDDEN = {
    "cuse_glue": {"iommud"},
    "iommud/errors.py": OUTSIDE | {"iommud"},
    "iommud/uapi": {"trio", "cuse_glue", "iommud.engine", "iommud.ops", "iommud.devices"} | COMMANDS,
    "iommud/engine": OUTSIDE | {"iommud.uapi", "iommud.ops", "iommud.devices"} | COMMANDS,
    "iommud/devices": {"cuse_glue", "iommud.uapi", "iommud.ops"} | COMMANDS,
    "iommud/ops": COMMANDS,
}
FILES = sorted(path for package in ("iommud", "cuse_glue") for path in (ROOT / package).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The absolute names of all that `path` imports anywhere, module and member alike."""
    package = path.relative_to(ROOT).parent.parts
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    return names


def breaches(path: Path, forbidden: set[str]) -> set[str]:
    return {name for name in imported(path) for rule in forbidden if name == rule or name.startswith(f"{rule}.")}


@pytest.mark.parametrize("part", FORBIDDEN)
def test_nothing_imports_upward(part: str) -> None:
    files = [path for path in FILES if path.relative_to(ROOT).as_posix().startswith(part)]
    found = {path.relative_to(ROOT).as_posix(): breaches(path, FORBIDDEN[part]) for path in files}
    assert not {path: names for path, names in found.items() if names}
    assert files or part == "iommud/devices", "a part that is not there cannot keep a rule"


def test_a_breach_is_found(tmp_path: Path) -> None:
    inside = ROOT / "iommud" / "engine" / "span.py"
    assert breaches(inside, {"os"}) == set()
    assert imported(ROOT / "iommud" / "serve.py") >= {"trio", "cuse_glue.mount", "iommud.stderr", "iommud.ops.files"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_file_has_one_noun(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 400
