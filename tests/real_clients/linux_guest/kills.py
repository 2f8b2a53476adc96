"""A kill -9 amid writes, of the guest's QEMU or of the daemon with the disks: what the guest was
told to be on a disk is on it.
"""

import os
import random
import re
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.support import wait_for_end

from .blocks import judge
from .machine import Guest
from .setup import SIZE, Disk, Setup

MOST: Final = 500  # records, of both disks, before the kill
_RECORD: Final = re.compile(r"(\S+) (\d+)")


def round_(setup: Setup, ramdisk: Path, place: Path, number: int, whom: str) -> tuple[int, int]:
    """One boot. How many records the guest was told to be on the disks, and how many others had
    been begun. `number`: of the round; it says when the kill comes, and what is written.
    AssertionError: one is missing or not whole.
    """
    before = {disk: _content(disk, place) for disk in setup.disks}
    command = setup.command(place)
    least = random.Random(number).randrange(1, MOST)
    with Guest(command, ramdisk, place / "console", setup.parameters) as guest:
        for disk in setup.disks:
            guest.wait_for(disk.device)
        writers = [f"writer {disk.device} {number} {disk.model} &" for disk in setup.disks]
        guest.start(" ".join([*writers, "wait"]))
        lines = guest.lines()
        told = _told((next(lines, "their end") for _ in range(least)), setup)
        if whom == "the daemon":
            os.kill(guest.daemon, signal.SIGKILL)
            wait_for_end(guest.daemon)
        guest.kill()
        late = [line for line in lines if _RECORD.fullmatch(line)]  # on its way; and errors
    others = 0
    for disk, numbers in _told(late, setup).items():
        told[disk] |= numbers
        wrong, begun = judge(before[disk], _content(disk, place), number, told[disk])
        assert not wrong, "\n".join([f"round {number}, {disk.model}, {whom} killed after {least} records:", *wrong])
        others += begun
    return sum(map(len, told.values())), others


def _content(disk: Disk, place: Path) -> bytes:
    file = disk.file(place)
    return file.read_bytes() if file.exists() else bytes(SIZE)


def _told(lines: Iterable[str], setup: Setup) -> dict[Disk, set[int]]:
    """The numbers of the records that are on a disk, by what the writers say. AssertionError: they
    say something else.
    """
    told: dict[Disk, set[int]] = {disk: set() for disk in setup.disks}
    for line in lines:
        found = _RECORD.fullmatch(line)
        assert found, f"the writers were not to say: {line!r}"
        [disk] = [disk for disk in setup.disks if disk.model == found[1]]
        told[disk].add(int(found[2]))
    return told
