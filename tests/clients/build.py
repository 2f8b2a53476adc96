"""Builds the C clients into build/clients, each when a test asks for it."""

import functools
import os
import shutil
import subprocess
from pathlib import Path
from typing import Literal

from tests.support import ROOT

Arch = Literal["64", "32"]
SOURCES = Path(__file__).parent
OUTPUT = ROOT / "build" / "clients"
MORE_FLAGS: dict[Arch, list[str]] = {"64": [], "32": ["-m32", "-D_FILE_OFFSET_BITS=64"]}
FLAGS = ["-std=gnu11", "-O1", "-g", "-pthread", "-Wall", "-Wextra", "-Werror"]


@functools.cache
def build(name: str, arch: Arch = "64") -> str:
    """The program of `name`.c (`name` may hold a folder), compiled against our own declaration of
    the ABI.
    """
    compiler = shutil.which("cc") or "gcc"
    program = (OUTPUT if arch == "64" else OUTPUT / arch) / name
    program.parent.mkdir(parents=True, exist_ok=True)
    if program.exists() and program.stat().st_mtime > _newest_source():
        return str(program)
    made = program.with_suffix(f".{os.getpid()}")  # others may be running it, or making it as well
    command = [
        compiler,
        *FLAGS,
        *MORE_FLAGS[arch],
        f"-I{ROOT / 'include'}",
        str(SOURCES / f"{name}.c"),
        "-o",
        str(made),
    ]
    subprocess.run(command, check=True)
    made.replace(program)
    return str(program)


@functools.cache
def _newest_source() -> float:
    """When the last of all sources and headers was changed (they include each other)."""
    return max(path.stat().st_mtime for where in (SOURCES, ROOT / "include") for path in where.rglob("*.[chp]*"))


@functools.cache
def why_not_32_bit() -> str | None:
    """Why no 32-bit program can be built or run here; None: it can. What is missing is installed,
    if it can be.
    """
    if subprocess.run([str(ROOT / "scripts" / "need"), "gcc-multilib"], check=False).returncode:
        return "32-bit clients need gcc-multilib"
    try:
        subprocess.run([build("destroy", "32"), "--help"], capture_output=True, check=False)
    except subprocess.CalledProcessError:
        return "the compiler makes no 32-bit programs"
    except OSError as error:
        return f"this kernel runs no 32-bit programs: {error.strerror}"
    return None
