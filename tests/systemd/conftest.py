"""A machine that runs what `make install` put."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from .machine import Machine, missing

USERS = "u alice\nu bob\nm alice iommu\n"


@contextmanager
def boot(directory: Path, tree: Path, probe: str) -> Iterator[Machine]:
    """A running systemd with the files of `tree` (which need not exist) over this machine's, and
    `probe` in /run/shared.
    """
    if os.geteuid() != 0:
        pytest.skip("needs root")
    lacking = missing()
    if lacking:
        pytest.skip(f"a systemd of our own cannot be started: {lacking}")
    tree.mkdir(exist_ok=True)
    os.chmod(directory, 0o755)
    one = Machine(directory, tree)
    try:
        os.chmod(one.shared, 0o755)
        shutil.copy(probe, one.shared / "probe")
        yield one
    finally:
        one.close()


@pytest.fixture(scope="session")
def machine(installed: Path, probe: str) -> Iterator[Machine]:
    """A running systemd with iommud installed, and with the users alice, who is in the group iommu,
    and bob, who is not.
    """
    with TemporaryDirectory(prefix="iommud-test-") as name, boot(Path(name), installed, probe) as one:
        one.write("/run/sysusers.d/test.conf", USERS)
        one.check("systemd-sysusers")
        yield one
