"""Files on a disk's partition: written in the guest, and looked at from within and from outside."""

import hashlib
import re
import subprocess
from pathlib import Path
from typing import Final

from . import ramdisk
from .machine import Guest
from .setup import Disk

BEGIN: Final = 2048  # of the partition, in sectors of 512 bytes
# What the kernel says when a disk, or the way to it, is not as it should be.
WRONG: Final = re.compile(
    r"I/O error|[Tt]imeout|polled|EXT4-fs (error|warning)|JBD2: .*[Ee]rr|DMAR.*[Ff]ault|Buffer I/O|WARNING: CPU|BUG: |"
    r"Call Trace|controller is down|not ready|Ignoring bogus"
)
FRESH: Final = "echo 3 >/proc/sys/vm/drop_caches"
LARGE: Final = next(name for name in sorted(ramdisk.files()) if name.endswith(f"-{1 << 20}"))


def make(guest: Guest, disk: Disk) -> None:
    """A partition, a file system, and the files on it; synced, and not mounted any more."""
    guest.run(f"echo start={BEGIN} | sfdisk -q {disk.device}")
    guest.wait_for(disk.part)
    guest.run(f"mkfs.ext4 -q {disk.part}")
    write(guest, disk, "files")


def write(guest: Guest, disk: Disk, directory: str) -> None:
    """All files, and one more past the page cache."""
    direct = f"dd if=/files/{LARGE} of=/mnt/{directory}/direct bs=65536 oflag=direct"
    guest.run(f"mount {disk.part} /mnt && cp -r /files /mnt/{directory} && {direct} && sync && umount /mnt")


def check(guest: Guest, disk: Disk, directory: str = "files") -> None:
    """They are what was written, as the guest reads them from the disk."""
    sums = "(sha256sum -c /sums >/said || ! grep -v OK /said)"
    direct = f"dd if=direct bs=65536 iflag=direct | cmp - /files/{LARGE}"
    guest.run(f"{FRESH}; mount {disk.part} /mnt && (cd /mnt/{directory} && {sums} && {direct}) && umount /mnt")


def compare(guest: Guest, disk: Disk, place: Path) -> str:
    """The whole disk is in the guest what the file is outside. Its checksum."""
    inside = guest.run(f"{FRESH}; sha256sum {disk.device}").split()[0]
    outside = hashlib.sha256(disk.file(place).read_bytes()).hexdigest()
    assert inside == outside, f"{disk.device} and its file differ: {inside}, {outside}"
    return inside


def check_outside(disk: Disk, place: Path, *directories: str) -> None:
    """The file system in the file is whole, and the files in it are what was written. There is no
    guest.
    """
    image = f"{disk.file(place)}?offset={BEGIN * 512}"
    _tool("e2fsck", "-fn", image)
    for directory in directories:
        into = place / f"{disk.model}.{directory}"
        into.mkdir()
        _tool("debugfs", "-R", f"rdump /{directory} {into}", image)
        given = ramdisk.files()
        given["direct"] = given[LARGE]
        found = {path.name: path.read_bytes() for path in (into / directory).iterdir()}
        wrong = sorted(name for name in given.keys() | found.keys() if given.get(name) != found.get(name))
        assert not wrong, f"{disk.model}, outside: {', '.join(wrong)} in {directory} are not what was written"


def interrupts(guest: Guest, disk: Disk) -> int:
    """How many came to its I/O queues, all by MSI-X."""
    mine = dict(re.findall(r"(?m)/(\d+):(\w+)$", guest.run(f"grep -H . {disk.function}/msi_irqs/*")))
    assert set(mine.values()) == {"msix"}, f"{disk.model} interrupts by {mine or 'a line'}"
    said = guest.run("cat /proc/interrupts")
    head, *lines = said.splitlines()
    count = 0
    for line in lines:
        number, _, rest = line.strip().partition(":")
        if number in mine and re.search(disk.queues, line):
            count += sum(map(int, rest.split()[: len(head.split())]))
    assert count, f"{disk.model} has not interrupted for its I/O queues\n{said}"
    return count


def contented(guest: Guest) -> None:
    """The kernel has not complained of anything."""
    wrong = [line for line in guest.run("dmesg").splitlines() if WRONG.search(line)]
    assert not wrong, "\n".join(["the guest's kernel complains:", *wrong])


def _tool(name: str, *arguments: str) -> None:
    """One of e2fsprogs, outside."""
    done = subprocess.run([*ramdisk.TOOLS.program(name), *arguments], capture_output=True, text=True)
    assert not done.returncode, f"{name}: status {done.returncode}\n{done.stdout}{done.stderr}"
