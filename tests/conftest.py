"""What every test of whole processes asks of the machine."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import ROOT, make


@pytest.fixture
def root() -> None:
    """For a test that mounts, makes devices or changes its user."""
    if os.geteuid() != 0:
        pytest.skip("needs root")


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """An empty directory that other users may search, which pytest's own are not."""
    with TemporaryDirectory(prefix="iommud-test-") as name:
        os.chmod(name, 0o755)
        yield Path(name)


@pytest.fixture(scope="session")
def probe() -> Iterator[str]:
    """A C program that knows nothing of iommud (run/probe.c), for every user."""
    with TemporaryDirectory(prefix="iommud-test-") as name:
        os.chmod(name, 0o755)
        program = Path(name, "probe")
        source = ROOT / "tests" / "run" / "probe.c"
        flags = ["-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'include'}"]
        subprocess.run([shutil.which("cc") or "gcc", *flags, source, "-o", program], check=True)
        yield str(program)


@pytest.fixture(scope="session")
def built() -> None:
    """What can be installed is there."""
    done = make("build")
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def installed(built: None) -> Iterator[Path]:
    """A DESTDIR with all that `make install` puts there. Not to be changed."""
    with TemporaryDirectory(prefix="iommud-test-") as name:
        done = make("install", f"DESTDIR={name}")
        assert done.returncode == 0, done.stderr
        os.chmod(name, 0o755)
        yield Path(name)
