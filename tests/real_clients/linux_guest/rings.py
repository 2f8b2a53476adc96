"""What Linux's driver does with virtio-blk beyond files: packed rings with tables and events,
several queues at once, both kinds of cache, discards.
"""

import hashlib
from pathlib import Path
from typing import Final

from . import ramdisk
from .files import contented
from .machine import Guest
from .setup import SIZE, Disk

SERIAL: Final = "of-the-test"
QUEUES: Final = 2
KEYS: Final = f"serial={SERIAL},queues={QUEUES}"
PACKED, EVENT_IDX, INDIRECT, MQ, DISCARD = 34, 29, 28, 12, 13  # features
BLOCK: Final = 64 << 10
PATTERN: Final = hashlib.shake_128(b"virtio-blk").digest(64 * BLOCK)  # where the disk begins
PART: Final = 24  # blocks of what the guest writes, by each of its writers
DATA: Final = b"".join(data for _, data in sorted(ramdisk.files().items()))[: 4 * PART * BLOCK]


def fill(file: Path) -> None:
    """What the guest finds."""
    with file.open("wb") as disk:
        disk.write(PATTERN)
        disk.truncate(SIZE)


def drive(guest: Guest, disk: Disk) -> str:
    """Ask the driver what it found, and write and read by it. What is worth saying."""
    block = f"/sys/block/{Path(disk.device).name}"
    features = guest.run(f"cat {block}/device/features")
    missing = [bit for bit in (PACKED, EVENT_IDX, INDIRECT, MQ, DISCARD) if features[bit] != "1"]
    assert not missing, f"features that were not taken: {missing} of {features}"
    _same("serial number", guest.run(f"cat {block}/serial").strip(), SERIAL)
    _same("sectors", int(guest.run(f"cat {block}/size")), SIZE // 512)
    _same("queues", int(guest.run(f"ls {block}/mq | wc -l")), QUEUES)
    _same("what was there", _md5(guest, disk, 0, 64), hashlib.md5(PATTERN).hexdigest())

    guest.run(f"cat /files/* | head -c {len(DATA)} >/data")
    writers = [  # beside one another, on all queues
        f"dd if=/data of={disk.device} oflag=direct bs=64k count={PART} skip={PART * part} seek={64 + PART * part} &"
        for part in range(4)
    ]
    guest.run(" ".join([*writers, "wait"]))
    _same("what was written", _md5(guest, disk, 64, 4 * PART), hashlib.md5(DATA).hexdigest())

    guest.run(f"echo write through >{block}/cache_type")
    guest.run(f"dd if=/data of={disk.device} bs=4k count=64 seek=4096 conv=fsync")
    guest.run(f"echo write back >{block}/cache_type")
    guest.run(f"dd if=/data of={disk.device} bs=512 count=100 seek=65536 conv=fsync")
    guest.run(f"blkdiscard -o {16 * BLOCK} -l {16 * BLOCK} {disk.device}")
    _same("what was discarded in part", _md5(guest, disk, 0, 64), hashlib.md5(_discarded()).hexdigest())

    vectors = int(guest.run("grep -c virtio0-req /proc/interrupts"))
    _same("vectors of queues", vectors, QUEUES)
    contented(guest)
    return f"{vectors} vectors"


def check_outside(file: Path) -> None:
    """Where the guest wrote is what it wrote."""
    data = file.read_bytes()
    for position, expected in (
        (0, _discarded()),
        (64 * BLOCK, DATA),
        (4096 * 4096, DATA[: 64 * 4096]),
        (65536 * 512, DATA[: 100 * 512]),
    ):
        assert data[position : position + len(expected)] == expected, f"not what was written at {position:#x}"


def _same(what: str, found: object, expected: object) -> None:
    assert found == expected, f"{what}: {found}, not {expected}"


def _md5(guest: Guest, disk: Disk, at: int, count: int) -> str:
    """Of so many blocks, as the guest reads them."""
    return guest.run(f"dd if={disk.device} iflag=direct bs=64k skip={at} count={count} 2>/dev/null | md5sum").split()[0]


def _discarded() -> bytes:
    """The pattern, without what the guest has discarded."""
    return PATTERN[: 16 * BLOCK] + bytes(16 * BLOCK) + PATTERN[32 * BLOCK :]
