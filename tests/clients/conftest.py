"""What several tests of a daemon look at."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cuse_glue.system import libc


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Path]:
    """The kernel's view of all FUSE connections."""
    path = tmp_path / "connections"
    path.mkdir()
    libc.mount("fusectl", str(path), "fusectl", 0)
    yield path
    libc.umount(str(path), libc.MNT_DETACH)
