"""Debian trixie's qemu-io and qemu-img, which drive disks from userspace: virtio-blk by libblkio,
and NVMe by a driver of QEMU's own, which knows only VFIO's own container.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Final

from .unpacked import Unpacked

QEMU_IO: Final = Unpacked("qemu-io", ("qemu-utils", "qemu-block-extra"))
SIZE: Final = 64 << 20  # bytes of the disk
LENGTHS: Final = (512, 4096, 12 << 10, 64 << 10, 1 << 20, (3 << 20) + 512)
UNTOUCHED: Final = 4096  # bytes at its start that stay zeros
_SECTOR: Final = 512


@cache
def _found() -> Unpacked:
    """It is looked for when it is first needed. Raises NotHere."""
    found = QEMU_IO.find()
    print(f"qemu-io {found.version}", flush=True)
    return found


# What QEMU calls each model, by its place.
IMAGES: Final = {
    "virtio-blk": "driver=virtio-blk-vfio-pci,path=/sys/bus/pci/devices/{},cache.direct=on,discard=unmap",
    "nvme": "driver=nvme,device={},namespace=1,discard=unmap",
}


def _program(name: str) -> list[str]:
    found = _found()
    return ["env", f"QEMU_MODULE_DIR={found.libraries / 'qemu'}", *found.program(name)]


def command(model: str, bdf: str, asked: Sequence[str]) -> list[str]:
    """The command of qemu-io that carries out what is asked for, in order, until one fails."""
    words = [word for each in asked for word in ("-c", each)]
    return [*_program("qemu-io"), "--image-opts", IMAGES[model].format(bdf), *words]


def copy(bdf: str, to: Path) -> list[str]:
    """The command of qemu-img that copies all of an NVMe disk into a file."""
    return [*_program("qemu-img"), "convert", "-f", "raw", "-O", "raw", f"nvme://{bdf}/1", str(to)]


class Patterns:
    """Commands of qemu-io, and what they make of a disk of zeros."""

    def __init__(self, seed: int) -> None:
        self._random: Final = random.Random(seed)
        self._bytes: Final = bytearray(SIZE)
        self.commands: Final = [each for _ in range(4) for each in self._commands()]

    @property
    def checksum(self) -> str:
        return hashlib.sha256(self._bytes).hexdigest()

    def _commands(self) -> Iterator[str]:
        """Of each length one: written and read at some offset, and in part zeros afterwards."""
        for length in LENGTHS:
            at = self._random.randrange(UNTOUCHED, SIZE - length, _SECTOR)
            byte = self._random.randrange(1, 256)
            yield f"write -P {byte:#x} {at} {length}"
            self._bytes[at : at + length] = bytes([byte]) * length
            yield f"read -P {byte:#x} {at} {length}"
            if length <= 64 << 10:
                half = length // 2 // _SECTOR * _SECTOR
                yield f"readv -P {byte:#x} {at} {length - half} {half}" if half else "flush"
                yield f"writev -P {byte:#x} {at} {length - half} {half}" if half else "flush"
            part = length // 3 // _SECTOR * _SECTOR
            if not part:
                continue
            how, place = self._random.choice(("write -z", "write -z -u", "discard")), at + _SECTOR
            yield f"{how} {place} {part}"
            self._bytes[place : place + part] = bytes(part)
            yield f"read -P 0 {place} {part}"
            yield f"read -P {byte:#x} {at} {_SECTOR}"
        yield "flush"


def checksum(file: Path) -> str:
    """Of what is in it."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


def spoil(file: Path, at: int) -> None:
    """Change one bit."""
    with file.open("r+b") as opened:
        opened.seek(at)
        (byte,) = opened.read(1)
        opened.seek(at)
        opened.write(bytes([byte ^ 1]))
