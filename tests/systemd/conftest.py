"""A machine that runs what `make install` put."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from .machine import Machine, missing

USERS = "u alice\nu bob\nm alice iommu\n"


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
