"""In a chroot into a directory that is no mount, as installers and old build hosts have it."""

import subprocess
from pathlib import Path

import pytest

from tests.support import IOMMUD, PATIENCE, ROOT

pytestmark = pytest.mark.usefixtures("root")

# The mounts are shared: what the program's namespace does must not be seen in this one either.
OUTSIDE = ["unshare", "--mount", "--propagation=shared", "sh", "-c"]
LOOK = 'sh "$@"; status=$?; grep -c -e new/dev/iommu -e new/dev/vfio /proc/self/mountinfo >&2; exit $status'


def inside(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    script = str(ROOT / "tests" / "run" / "chroot.sh")
    arguments = [script, str(directory), str(ROOT), *command]
    return subprocess.run([*OUTSIDE, LOOK, "sh", *arguments], capture_output=True, text=True, timeout=PATIENCE)


def test_a_program_has_its_device(open_directory: Path, probe: str) -> None:
    (open_directory / "new").mkdir()
    where = f"cd {ROOT} && exec {IOMMUD} run --vfio -- sh -c 'pwd; exec {probe} once'"
    done = inside(open_directory / "new", "sh", "-c", where)
    assert done.stdout == f"{ROOT}\nioas 1\nrefused 2\n", done.stderr
    assert done.stderr == "0\n", "and nobody else sees it"
    assert done.returncode == 0


def test_a_program_sees_its_device_in_sys(open_directory: Path) -> None:
    (open_directory / "new").mkdir()
    look = "ls /sys/bus/pci/devices | grep e0; cat /sys/bus/pci/devices/0000:e0:00.0/vendor"
    done = inside(open_directory / "new", "sh", "-c", f"cd {ROOT} && exec {IOMMUD} run --device edu -- sh -c '{look}'")
    assert done.stdout == "0000:e0:00.0\n0x1234\n", done.stderr


def test_where_there_is_no_sys_the_device_can_be_opened(open_directory: Path) -> None:
    (open_directory / "new").mkdir()
    look = "test ! -e /sys && exec 9<>/dev/vfio/devices/vfio0 && echo open"
    script = f"umount -l /sys && rmdir /sys && cd {ROOT} && exec {IOMMUD} run --device edu -- sh -c '{look}'"
    done = inside(open_directory / "new", "sh", "-c", script)
    assert done.stdout == "open\n", done.stderr
    assert "there is no /sys for the devices to be seen in" in done.stderr


def test_without_the_capability_for_it_there_is_a_sentence(open_directory: Path) -> None:
    (open_directory / "new").mkdir()
    done = inside(
        open_directory / "new", "setpriv", "--bounding-set=-sys_chroot", "--inh-caps=-sys_chroot", IOMMUD, "run", "true"
    )
    assert done.returncode == 125
    assert (
        "this chroot cannot be made a mount in a private namespace; Operation not permitted: a chroot into"
        in done.stderr
    )


@pytest.mark.parametrize("command", [["serve", "--fuse", "/new/iommu"]])
def test_serve(open_directory: Path, probe: str, command: list[str]) -> None:
    (open_directory / "new").mkdir()
    script = (
        f"{IOMMUD} {' '.join(command)} 2>/log & until grep -q serving /log; do kill -0 $! || exit 3; done; "
        f"{probe} once /new/iommu; kill $!; wait $!; ls / | grep -c new"
    )
    done = inside(open_directory / "new", "sh", "-c", script)
    assert done.stdout == "ioas 1\nrefused 2\n0\n", done.stderr
