"""`iommud run --vfio`: where the container is, and whose."""

import os
import subprocess

import pytest

from tests.support import AS_NOBODY, IOMMUD, PATIENCE

LOOK = ["stat", "-c", "%n %a %F", "/dev/vfio", "/dev/vfio/vfio", "/dev/iommu"]
SEEN = "/dev/vfio 755 directory\n/dev/vfio/vfio 666 regular file\n/dev/iommu 660 regular file\n"


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


@pytest.mark.parametrize(
    "prefix", [[], ["sh", "-c", 'umask 077; exec "$@"', "sh"]], ids=["plain", "with a strict umask"]
)
def test_it_is_there_for_everybody(prefix: list[str]) -> None:
    before = os.path.lexists("/dev/vfio")
    assert output(*prefix, IOMMUD, "run", "--vfio", "--", *LOOK) == SEEN
    assert os.path.lexists("/dev/vfio") == before


@pytest.mark.usefixtures("root")
def test_without_any_privilege() -> None:
    assert output(*AS_NOBODY, IOMMUD, "run", "--vfio", "--", *LOOK) == SEEN


def test_only_when_asked_for() -> None:
    assert not os.path.exists("/dev/vfio/vfio"), "a machine with VFIO of its own"
    done = subprocess.run([IOMMUD, "run", "--", *LOOK], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "/dev/vfio/vfio" in done.stderr


def test_what_else_is_in_its_directory_stays() -> None:
    """A /dev/vfio of somebody else's, here that of an iommud around it, with a group's file
    in it.
    """
    inner = f"{IOMMUD} run --vfio -- ls /dev/vfio"
    assert output(IOMMUD, "run", "--vfio", "--", "sh", "-c", f"touch /dev/vfio/7 && {inner}").split() == ["7", "vfio"]
