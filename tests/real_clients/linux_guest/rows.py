"""What the guest does with the disks, and what must be true of them then: `guest_...`.

Each row takes some boots. In the guest a disk's driver is taken away and comes back, and the
function is reset; from outside the machine's button (`system_reset`) makes QEMU reset it, with a
file system mounted that has nothing left to write.
"""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Final

from .. import qemu
from ..users import Check, User, users
from . import files, kills, machine, ramdisk, rings
from .files import FRESH, LARGE
from .machine import Guest
from .setup import NVME, VIRTIO, Disk, Setup

BOTH: Final = (NVME, VIRTIO)
LOCKED: Final = 2 * machine.MEMORY  # bytes: more than is ever pinned
FEW: Final = 3  # rounds of kills, unless more are asked for


def checks(into: Path, *, rounds: int = FEW, brief: bool = False) -> Iterator[Check]:
    """`into`: where the guest's archive is made. `rounds`: of kills. `brief`: only those that are
    part of `make test`.
    """
    everybody = list(_users())
    for user in everybody:
        yield f"guest_both_fd, as {user.name}", partial(_short, into, Setup(user, BOTH, shared=user.is_root))
    for user in everybody[:1]:
        for mapped in False, True:
            setup = Setup(user, (VIRTIO,), shared=not mapped, processors=2, mapped=mapped, keys=rings.KEYS)
            yield f"guest_virtio_rings{'_mapped' if mapped else ''}", partial(_rings, into, setup)
    if brief or not everybody:
        return
    user = everybody[0]
    for disk in BOTH:
        for way in "host", "fd":
            for viommu in False, True:
                # what else can differ is dealt out, so that each disk meets each
                setup = Setup(user, (disk,), way, viommu, way == "host", viommu == (way == "fd"), 1 + viommu)
                name = f"guest_{disk.model.partition('-')[0]}_{way}{'_viommu' if viommu else ''}"
                yield name, partial(_long, into, setup)
    yield "guest_kill_guest", partial(_kill, into, Setup(user, BOTH), rounds, "the guest")
    yield "guest_kill_daemon", partial(_kill, into, Setup(user, BOTH), rounds, "the daemon")


def _users() -> Iterator[User]:
    """Who may have the guest's memory pinned, or is allowed to by us."""
    allow = ("prlimit", f"--memlock={LOCKED}")
    for user in users("--open", str(qemu.QEMU.root)):
        if user.may_lock(LOCKED):
            yield user
        elif not subprocess.run([*allow, "true"], capture_output=True).returncode:
            yield replace(user, before=(*allow, *user.before))
        else:
            print(f"guest_: not as {user.name}, who may lock no {LOCKED >> 20} MiB", flush=True)


def _short(into: Path, setup: Setup) -> str:
    """One boot."""
    said = []
    with _place(setup) as place:
        with _boot(into, setup, place) as guest:
            for disk in setup.disks:
                files.make(guest, disk)
                _rebind(guest, disk)
                files.check(guest, disk)
                files.compare(guest, disk, place)
                said.append(f"{disk.model}: {files.interrupts(guest, disk)} interrupts")
            files.contented(guest)
            guest.power_off()
        for disk in setup.disks:
            files.check_outside(disk, place, "files")
    return ", ".join(said)


def _long(into: Path, setup: Setup) -> str:
    """Three boots, of two QEMUs."""
    [disk] = setup.disks
    with _place(setup) as place:
        with _boot(into, setup, place) as guest:
            said = f"{_first(guest, disk)} interrupts"
            guest.reset()
            _is_set_up(guest, setup)
            files.check(guest, disk)
            guest.run(f"mount {disk.part} /mnt && cmp /files/{LARGE} /mnt/late && umount /mnt")
            files.contented(guest)
            before = files.compare(guest, disk, place)
            guest.power_off()
        files.check_outside(disk, place, "files")
        with _boot(into, setup, place) as guest:
            assert files.compare(guest, disk, place) == before, "the disk is not what it was"
            files.check(guest, disk)
            said += f", {_second(guest, disk)} MiB trimmed"
            files.compare(guest, disk, place)
            files.contented(guest)
            guest.power_off()
        files.check_outside(disk, place, "more")
    return said


def _rings(into: Path, setup: Setup) -> str:
    """One boot, without files."""
    [disk] = setup.disks
    with _place(setup) as place:
        rings.fill(disk.file(place))
        with _boot(into, setup, place) as guest:
            said = rings.drive(guest, disk)
            guest.power_off()
        rings.check_outside(disk.file(place))
    return said


def _first(guest: Guest, disk: Disk) -> int:
    """Files are made, the driver goes and comes, and one more file is written; the disk stays
    mounted. Its interrupts.
    """
    files.make(guest, disk)
    files.check(guest, disk)
    _rebind(guest, disk)
    files.check(guest, disk)
    count = files.interrupts(guest, disk)
    guest.run(f"mount {disk.part} /mnt")
    if disk is NVME:  # its driver can do with a reset while it is at work
        guest.run(
            "dd if=/dev/nvme0n1 of=/dev/null bs=65536 iflag=direct & echo 1 >/sys/class/nvme/nvme0/reset_controller && wait $!"
        )
        guest.run(f"echo 1 >{disk.function}/reset")
    guest.run(f"cp /files/{LARGE} /mnt/late && sync")
    files.contented(guest)
    return count


def _second(guest: Guest, disk: Disk) -> int:
    """Most files are removed, the room is given back, and others are written. How many MiB were
    given back.
    """
    guest.run(f"mount {disk.part} /mnt && rm -r /mnt/files && sync && {FRESH}")
    trimmed = int(guest.run("fstrim -v /mnt").split()[1]) >> 20
    guest.run("umount /mnt")
    files.write(guest, disk, "more")
    files.check(guest, disk, "more")
    return trimmed


def _rebind(guest: Guest, disk: Disk) -> None:
    """The driver is taken away, the function is reset, and it comes back."""
    driver = f"/sys/bus/pci/drivers/{disk.driver}"
    guest.run(f"echo {disk.name} >{driver}/unbind && ! test -e {disk.device}")
    guest.run(f"echo 1 >{disk.function}/reset")
    guest.run(f"echo {disk.name} >{driver}/bind")
    guest.wait_for(disk.part)


@contextmanager
def _boot(into: Path, setup: Setup, place: Path) -> Iterator[Guest]:
    with Guest(setup.command(place), _ramdisk(into), place / "console", setup.parameters) as guest:
        _is_set_up(guest, setup)
        yield guest


def _is_set_up(guest: Guest, setup: Setup) -> None:
    """Wait for the disks. With an IOMMU of the guest's own, they are behind it, and nothing is
    mapped longer than it has to be.
    """
    for disk in setup.disks:
        guest.wait_for(disk.device)
        if setup.viommu:
            kind = guest.run(f"cat {disk.function}/iommu_group/type").strip()
            assert kind == "DMA", f"{disk.model} is in a group of {kind}"


def _kill(into: Path, setup: Setup, rounds: int, whom: str) -> str:
    counts = []
    with _place(setup) as place:
        for number in range(1, rounds + 1):
            how = replace(setup, shared=bool(number % 2))
            counts.append(kills.round_(how, _ramdisk(into), place, number, whom))
    told, begun = (sum(each) for each in zip(*counts, strict=True))
    return f"{rounds} rounds: {told} records are there, and of {begun} more at least a part"


@cache
def _ramdisk(into: Path) -> Path:
    into.mkdir(parents=True, exist_ok=True)
    return ramdisk.build(into)


@contextmanager
def _place(setup: Setup) -> Iterator[Path]:
    """A directory where everybody may write."""
    where = "/dev/shm" if setup.tmpfs else None
    with tempfile.TemporaryDirectory(prefix="iommud-test-", dir=where) as name:
        os.chmod(name, 0o777)
        yield Path(name)
