"""A program that loses a device's file, by umount or pivot_root, and keeps the descriptor that it
has of it, or of the other.
"""

import subprocess
from pathlib import Path

import pytest

from tests.support import IOMMUD, PATIENCE

pytestmark = pytest.mark.usefixtures("root")

FILES = ("/dev/iommu", "/dev/vfio/vfio")


def run(programs: Path, *arguments: str) -> list[str]:
    command = [IOMMUD, "run", "--vfio", "--", str(programs / "leaves"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("has", ["iommu", "vfio", "both"])
def test_pivot_root(programs: Path, has: str) -> None:
    assert run(programs, f"pivot-{has}") == ["before: ok", "pivot_root: ok", "detached: ok"]


@pytest.mark.parametrize("has", ["iommu", "vfio", "both"])
@pytest.mark.parametrize("order", [FILES, FILES[::-1]])
def test_umount(programs: Path, has: str, order: tuple[str, str]) -> None:
    assert run(programs, f"umount-{has}", *order) == ["before: ok", f"{order[0]}: ok", f"{order[1]}: ok"]
