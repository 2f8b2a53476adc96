"""`iommud serve --device` with a disk: its bytes are one file, or one memory, whichever worker has
the device.
"""

import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.broker.machine import Machine
from tests.clients.build import build
from tests.support import IOMMUD, PATIENCE

WRITES = 200
BLOCK = 512


def write(machine: Machine, round_: int) -> int:
    """A driver writes numbered blocks; up to which number it has flushed them."""
    command = [build("nvme/nvme_file"), "write", machine.device(0), str(machine.directory / "iommu"), str(round_)]
    done = subprocess.run([*command, str(WRITES)], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return int(done.stdout.splitlines()[-1].split()[1])


def is_there(file: Path, state: Path, round_: int, flushed: int) -> None:
    arguments = [str(file), str(BLOCK), str(state), str(round_), str(flushed)]
    done = subprocess.run(
        [build("nvme/nvme_file"), "check", *arguments], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_client_after_another_has_the_same_file(open_directory: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.img"
    with ExitStack() as stack:
        machine = Machine(open_directory, stack, "--device", f"nvme,file={image},size=8M")
        for round_ in (1, 2, 3):
            is_there(image, tmp_path / "state", round_, write(machine, round_))
        # It is in use as long as the daemon lives.
        other = subprocess.run(
            [IOMMUD, "run", "--device", f"nvme,file={image}", "--", "true"], capture_output=True, text=True, check=False
        )
        assert other.returncode != 0
        assert f"{image} is in use by somebody else" in other.stderr


def test_memory_stays_from_one_client_to_the_next(open_directory: Path) -> None:
    with ExitStack() as stack:
        machine = Machine(open_directory, stack, "--device", "nvme,size=8M")
        program = str(build("nvme/nvme_block"))
        for byte, before in (1, 0), (8, 1), (10, 8):
            command = [program, machine.device(0), str(machine.directory / "iommu"), str(byte)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
            assert (done.returncode, done.stdout) == (0, f"was {before}\n"), done.stderr


@pytest.mark.parametrize(
    ("disk", "why"),
    [
        ("file=/nowhere/at/all,size=8M", "cannot be opened: No such file or directory"),
        ("file=/dev/null", "neither a file nor a block device"),
        ("ns=2", "needs a size="),
    ],
)
def test_a_disk_that_cannot_be_had_is_told_at_the_start(open_directory: Path, disk: str, why: str) -> None:
    command = [IOMMUD, "serve", "--fuse", str(open_directory / "iommu"), "--device", f"nvme,{disk}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 1
    assert why in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert not (open_directory / "iommu").exists()
