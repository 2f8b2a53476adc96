"""What every test of whole processes asks of the machine."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings

from tests.examples import QUICK, WHOLE
from tests.support import ROOT, make


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick", action="store_true", help="a tenth of hypothesis's examples, and nothing that is marked slow"
    )


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile(QUICK if config.getoption("--quick") else WHOLE)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


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
def programs() -> Iterator[Path]:
    """C programs that know nothing of iommud (run/*.c), for every user."""
    with TemporaryDirectory(prefix="iommud-test-") as name:
        os.chmod(name, 0o755)
        for source in (ROOT / "tests" / "run").glob("*.c"):
            flags = ["-Wall", "-Wextra", "-Werror", "-pthread", f"-I{ROOT / 'include'}"]
            subprocess.run([shutil.which("cc") or "gcc", *flags, source, "-o", Path(name, source.stem)], check=True)
        yield Path(name)


@pytest.fixture(scope="session")
def probe(programs: Path) -> str:
    """A program that uses the device (run/probe.c)."""
    return str(programs / "probe")


@pytest.fixture(scope="session")
def calls(programs: Path) -> str:
    """A program whose system calls are watched (run/calls.c)."""
    return str(programs / "calls")


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
