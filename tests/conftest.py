"""What every test of whole processes asks of the machine."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support import ROOT


@pytest.fixture
def root() -> None:
    """For a test that mounts, makes devices or changes its user."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A C program that knows nothing of iommud: one ioctl that succeeds and one that is refused; then what it was told to do."""
    compiler = shutil.which("cc") or "gcc"
    directory = tmp_path_factory.mktemp("probe")
    for above in (directory, *directory.parents[:2]):  # pytest's own are closed to others
        above.chmod(0o755)
    program = directory / "probe"
    source = Path(__file__).parent / "run" / "probe.c"
    include = ROOT / "include"
    subprocess.run([compiler, "-Wall", "-Wextra", "-Werror", f"-I{include}", source, "-o", program], check=True)
    return str(program)
