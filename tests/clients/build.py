"""Builds the C clients into build/clients, each when a test asks for it."""

import functools
import shutil
import subprocess
from pathlib import Path

from tests.support import ROOT

SOURCES = Path(__file__).parent
OUTPUT = ROOT / "build" / "clients"
FLAGS = ["-std=gnu11", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror"]


@functools.cache
def build(name: str) -> str:
    """The program of `name`.c (mock/... those that need mock devices), compiled against our own declaration of the ABI."""
    compiler = shutil.which("cc") or "gcc"
    program = OUTPUT / name
    program.parent.mkdir(parents=True, exist_ok=True)
    command = [compiler, *FLAGS, f"-I{ROOT / 'include'}", str(SOURCES / f"{name}.c"), "-o", str(program)]
    subprocess.run(command, check=True)
    return str(program)
