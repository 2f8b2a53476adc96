"""Debian's stock kernel in a QEMU, whose only disk is virtio-blk: Linux's own driver, which takes
packed rings with tables and events. linux.sh is what it does there.
"""

import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.boot import initramfs, kernel

MEMORY: Final = 256 << 20  # bytes of the guest
SIZE: Final = 64 << 20  # of the disk
MODULES: Final = ("virtio_pci", "virtio_blk")
SECONDS: Final = 600.0
FIRST: Final = Path(__file__).with_name("linux.sh")
BLOCK: Final = 64 << 10
PATTERN: Final = hashlib.shake_128(b"virtio-blk").digest(64 * BLOCK)
SERIAL: Final = "of-the-test"
PACKED, EVENT_IDX, INDIRECT, MQ, DISCARD = 34, 29, 28, 12, 13  # features
SHARED: Final = (
    "-object",
    f"memory-backend-memfd,id=memory,size={MEMORY},share=on",
    "-machine",
    "memory-backend=memory",
)


def fill(disk: Path) -> None:
    """What the guest finds."""
    with disk.open("wb") as file:
        file.write(PATTERN)
        file.truncate(SIZE)


def machine(place: Path, *, shared: bool) -> list[str]:
    """QEMU's options. `place`: for the ramdisk; `shared`: the guest's memory is a memfd. Raises
    NotHere.
    """
    found = kernel.find()
    ramdisk = place / "initramfs.cpio"
    ramdisk.write_bytes(initramfs.start(found, MODULES, FIRST).finish())
    return [
        *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"),
        *("-machine", "q35", "-accel", "tcg", "-cpu", "max,la57=off", "-smp", "2", "-m", f"{MEMORY >> 20}"),
        *("-kernel", str(found.image), "-initrd", str(ramdisk), "-append", "console=ttyS0 quiet panic=-1"),
        *(SHARED if shared else ()),
    ]


def boot(command: Sequence[str], disk: Path) -> str:
    """Boot it, and see that both sides have the same bytes. AssertionError: they have not."""
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", timeout=SECONDS, stdin=subprocess.DEVNULL, cwd="/"
    )
    said = done.stdout + done.stderr
    lines = [line[2:].strip() for line in done.stdout.splitlines() if line.startswith("+ ")]
    assert lines[-1:] == ["done"], said[-8000:]
    facts = dict(line.partition(" ")[::2] for line in lines)
    assert "wrong" not in facts, said[-8000:]
    features = facts["features"]
    assert all(features[bit] == "1" for bit in (PACKED, EVENT_IDX, INDIRECT, MQ, DISCARD)), features
    assert facts["serial"] == SERIAL
    assert facts["sectors"] == f"{SIZE // 512} of 512, 2 queues"
    data = disk.read_bytes()

    def md5(at: int, count: int) -> str:
        return hashlib.md5(data[at * BLOCK : (at + count) * BLOCK]).hexdigest()

    before = PATTERN[: 16 * BLOCK] + bytes(16 * BLOCK) + PATTERN[32 * BLOCK :]
    assert data[: 64 * BLOCK] == before
    assert facts["found"] == hashlib.md5(PATTERN).hexdigest()
    assert facts["discarded"] == hashlib.md5(before).hexdigest()
    assert facts["data"] == facts["read"] == md5(64, 128)
    assert data[256 * BLOCK : 260 * BLOCK] == data[64 * BLOCK : 68 * BLOCK]
    assert data[512 * BLOCK : 512 * BLOCK + 51200] == data[64 * BLOCK : 64 * BLOCK + 51200]
    assert int(facts["interrupts"]) >= 2, "each queue has a vector"
    return ", ".join(f"{name} {facts[name]}" for name in ("interrupts", "sectors"))
