"""VFIO's groups, asked by C programs that print what they are answered: as Linux 7.3 answered them
of QEMU's edus.

expected/groups/ has what they printed there. groups, group_orders and group_walk: in a machine of
QEMU 7.2's with an emulated VT-d, and two functions of one slot, which are one group, and one alone:
`-device edu -device edu,addr=0x13.0,multifunction=on -device edu,addr=0x13.1`. noiommu_group and
noiommu_device: in one without an IOMMU, with vfio.enable_unsafe_noiommu_mode=1. All with
vfio-pci.ids=1234:11e8. not_viable: in the first one, where the slot's other function is a
`virtio-rng-pci,addr=0x13.1,multifunction=on`, which virtio-pci has.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import bare
from tests.support import AS_NOBODY, IOMMUD, PATIENCE

from .build import build
from .test_device_clients import EXPECTED, compare

ADDRESSES = ("0000:e0:01.0", "0000:e0:02.0", "0000:e0:00.0")
DEVICES = [f"--device=edu,group={group},bdf={address}" for address, group in zip(ADDRESSES, (1, 1, 2), strict=True)]
TWO_GROUPS = [IOMMUD, "run", *DEVICES]
# The second has another driver.
WITH_A_NATIVE_DRIVER = [
    f"--device=edu,group=1,bdf={ADDRESSES[0]}",
    f"--device=ioat,group=1,driver=ioatdma,bdf={ADDRESSES[1]}",
]
NO_IOMMU = "--device=edu,iommu=none"
WITHOUT_IOMMU = [IOMMUD, "run", NO_IOMMU]
ANSWERS = EXPECTED / "groups"
# Nobody watches the program; and a device that is open in one context stays there.
IN_SERVE = {
    "read of nothing: EINVAL": "read of nothing: 0",
    "mmap: ENODEV": "mmap: 0",
    "the device again: 0": "the device again: EINVAL",
    "it is: 300421684": "it is: EBADF",
}
# What all that `group_walk ... SEED 1000` was answered comes to there, as a checksum.
LINUX_WALKED = {
    1: "1c5370eb3c67f25d",
    2: "a9efae4fb800fc6d",
    3: "9dab1198d1ec98df",
}


@pytest.mark.parametrize("program", ["groups", "group_orders"])
def test_groups_are_as_on_linux(program: str) -> None:
    """`group_orders ... trace` prints each order, where one differs."""
    compare([*TWO_GROUPS, "--"], program, *ADDRESSES, answers=ANSWERS, patience=6 * PATIENCE)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("watch", [[], ["--no-watch"]], ids=["watched", "traced"])
def test_without_any_privilege(watch: list[str]) -> None:
    """Descriptors of devices come by the watcher, or by ptrace. It sees a mapping of no range by
    its mmap(2) only where it is watched.
    """
    command = [*AS_NOBODY, *TWO_GROUPS, *watch, "--", build("vfio/group_walk"), *ADDRESSES, "1", "300"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("root")
def test_a_group_of_which_another_driver_has_a_device_is_as_on_linux() -> None:
    compare([IOMMUD, "run", *WITH_A_NATIVE_DRIVER, "--"], "not_viable", *ADDRESSES[:2], answers=ANSWERS)


@pytest.mark.usefixtures("root")
@pytest.mark.parametrize("program", ["noiommu_group", "noiommu_device"])
def test_a_device_without_an_iommu_is_as_on_linux(program: str) -> None:
    compare([*WITHOUT_IOMMU, "--"], program, ADDRESSES[2], answers=ANSWERS)


@pytest.mark.parametrize("seed", LINUX_WALKED)
def test_a_random_walk_is_answered_as_by_linux(seed: int) -> None:
    """`group_walk ... SEED 1000 trace` prints each step, where one differs."""
    command = [*TWO_GROUPS, "--", build("vfio/group_walk"), *ADDRESSES, str(seed), "1000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert (done.stdout, done.stderr) == (f"seed {seed}, 1000 steps: {LINUX_WALKED[seed]}\n", "")


# --- `iommud serve`: a group's file goes to the worker of its container ---


@contextmanager
def served(place: Path, *devices: str) -> Iterator[list[str]]:
    """How to start a program that sees an `iommud serve` with these devices, in /dev and /sys."""
    sysfs = str(place / "sys")
    with bare.served(IOMMUD, "serve", "--mode", "0666", "--sysfs", sysfs, *devices) as inside:
        subprocess.run([*inside, "mount", "--rbind", sysfs, "/sys"], check=True, timeout=PATIENCE)
        yield inside


@pytest.mark.usefixtures("root")
def test_groups_of_serve_are_as_on_linux(tmp_path: Path) -> None:
    with served(tmp_path, *DEVICES) as inside:
        compare(inside, "groups", *ADDRESSES, answers=ANSWERS, instead=IN_SERVE)


@pytest.mark.usefixtures("root")
def test_a_device_of_serve_without_an_iommu_is_as_on_linux(tmp_path: Path) -> None:
    with served(tmp_path, NO_IOMMU) as inside:
        compare(inside, "noiommu_group", ADDRESSES[2], answers=ANSWERS)


@pytest.mark.usefixtures("root")
def test_a_group_of_serve_of_which_another_driver_has_a_device_is_as_on_linux(tmp_path: Path) -> None:
    with served(tmp_path, *WITH_A_NATIVE_DRIVER) as inside:
        compare(inside, "not_viable", *ADDRESSES[:2], answers=ANSWERS)
