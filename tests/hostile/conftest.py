"""The stage on which all attacks are played."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.hostile.stage import Stage


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with TemporaryDirectory(prefix="iommud-test-") as name:
        os.chmod(name, 0o755)
        it = Stage(Path(name))
        yield it
        it.close()
