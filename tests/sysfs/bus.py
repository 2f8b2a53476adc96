"""A device on the machine's PCI bus, as a tree of ours: enough to try everything that a tree can
do.
"""

import errno
import os
from collections.abc import Mapping

import trio

from cuse_glue.request.inline import interruptible, leave
from cuse_glue.tree.entries import Bytes, Directory, Entry, Link, Text, constant

ADDRESS = "0000:e0:00.0"
DEVICE = f"devices/pci0000:e0/{ADDRESS}"


class Bus:
    """The device, until it is removed."""

    def __init__(self) -> None:
        self.there = True
        self.override = b"(null)\n"
        self.config = bytearray(256)
        self.config[:4] = bytes.fromhex("3412e811")
        self.config[0x08:0x0C] = bytes.fromhex("1000ff00")
        self.reads = 0

    def tree(self) -> Directory:
        """Below /sys."""
        link = Link(f"../../../{DEVICE}")
        devices = Directory(lambda: {ADDRESS: link} if self.there else {}, grows=True)
        pci: dict[str, Entry] = {"devices": devices, "rescan": Text(write=self._rescan, mode=0o200)}
        root = Directory(lambda: {ADDRESS: Directory(self._device())} if self.there else {})
        return Directory(
            {
                "bus": Directory({"pci": Directory(pci)}),
                "devices": Directory({"pci0000:e0": root}),
                "class": Directory({"iommud-test": Directory({"one": Link(f"../../{DEVICE}")})}),
                "kernel": Directory({"iommu_groups": Directory({"4242": Directory({"type": constant("DMA")})})}),
            }
        )

    def _device(self) -> Mapping[str, Entry]:
        return {
            "vendor": constant("0x1234"),
            "device": constant("0x11e8"),
            "class": constant("0x00ff00"),
            "irq": constant("0"),
            "resource": constant("\n".join(["0x0000000000000000 0x0000000000000000 0x0000000000000000"] * 13)),
            "subsystem": Link("../../../bus/pci"),
            "config": Bytes(256, self._read_config, self._write_config, 0o644),
            "driver_override": Text(lambda: self.override, self._set_override, 0o644),
            "remove": Text(write=self._remove, mode=0o200),
            "counted": Text(self._count),
            "long": Text(lambda: b"x" * 3000 + b"\n"),
            "refuses": Text(lambda: b"\n", _refuse, 0o644),
            "waits": Text(lambda: b"\n", _wait, 0o644),
            "unreadable": Bytes(16, mode=0o444, read=_unreadable),
            "resource0": Bytes(4096, mode=0o600),
            "takes": Bytes(0, lambda offset, size: b"", lambda offset, data: min(len(data), 3), 0o600),
        }

    def _rescan(self, data: bytes) -> None:
        if data.strip() != b"1":
            raise OSError(errno.EINVAL, "not 1")
        self.there = True

    def _remove(self, data: bytes) -> None:
        self.there = False

    def _set_override(self, data: bytes) -> None:
        self.override = (data.strip() or b"(null)") + b"\n"

    def _read_config(self, offset: int, size: int) -> bytes:
        return bytes(self.config[offset : offset + size])

    def _write_config(self, offset: int, data: bytes) -> None:
        self.config[offset : offset + len(data)] = data

    def _count(self) -> bytes:
        self.reads += 1
        return f"{self.reads} of many\n".encode()


def _refuse(data: bytes) -> None:
    """With the errno whose name is written."""
    number = getattr(errno, data.decode().strip())
    raise OSError(number, os.strerror(number))


async def _wait(data: bytes) -> None:
    """Until the writer is interrupted; or, for `now`, not."""
    if data.strip() != b"now":
        await leave()
        with interruptible():
            await trio.sleep_forever()


def _unreadable(offset: int, size: int) -> bytes:
    raise OSError(errno.EIO, "broken")
