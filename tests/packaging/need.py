"""Programs that a test of packaging wants, installed where that is possible."""

import shutil
import subprocess

import pytest

from tests.support import ROOT


def need(program: str, package: str | None = None) -> str:
    """The path of `program`, from the Debian package of its name or `package`. Skips where neither
    is to be had.
    """
    if shutil.which(program) is None:
        subprocess.run([ROOT / "scripts" / "need", package or program], check=False)
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not here, and cannot be installed")
    return found
