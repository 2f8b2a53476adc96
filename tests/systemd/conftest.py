"""What `make install` puts, and a machine that runs it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import ROOT

from .machine import Machine, missing

USERS = "u alice\nu bob\nm alice iommu\n"


def make(target: str, *variables: str) -> subprocess.CompletedProcess[str]:
    """`make TARGET VARIABLE=VALUE...`, whatever variables this make was given."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")}
    command = ["make", "--no-print-directory", "-C", str(ROOT), target, *variables]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


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


@pytest.fixture(scope="session")
def machine(installed: Path, probe: str) -> Iterator[Machine]:
    """A running systemd with iommud installed, and with the users alice, who is in the group iommu, and bob, who is not."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    lacking = missing()
    if lacking:
        pytest.skip(f"a systemd of our own cannot be started: {lacking}")
    with TemporaryDirectory(prefix="iommud-test-") as name:
        os.chmod(name, 0o755)
        one = Machine(Path(name), installed)
        try:
            os.chmod(one.shared, 0o755)
            shutil.copy(probe, one.shared / "probe")
            one.write("/run/sysusers.d/test.conf", USERS)
            one.check("systemd-sysusers")
            yield one
        finally:
            one.close()
