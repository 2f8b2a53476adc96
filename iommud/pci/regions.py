"""A function's regions, as VFIO has them: BARs, ROM and configuration space, each at its index <<
40 in the device's file.

A read or write of any size is cut into accesses of 8, 4, 2 or 1 bytes, aligned, and stops at the
region's end. MSI-X's table reads as ones and is not written: the host keeps it. While memory is
disabled, or the function is in D3hot, a memory BAR answers EIO.

Ref: v7.3 drivers/vfio/pci/vfio_pci_rdwr.c; vfio_pci_core.c vfio_pci_rw,
vfio_pci_ioctl_get_region_info, vfio_pci_core_mmap
"""

from dataclasses import dataclass
from errno import EINVAL, EIO, ENOMEM
from typing import Final

from ..errors import IoctlError
from . import vfio_names as v
from .bars import PAGE, ROM
from .config import VirtualConfig
from .function import PciFunction
from .rom import image_size

_READ_WRITE: Final = v.VFIO_REGION_INFO_FLAG_READ | v.VFIO_REGION_INFO_FLAG_WRITE
VGA_WINDOWS: Final = (range(0x3B0, 0x3BC), range(0x3C0, 0x3E0), range(0xA0000, 0xC0000))


@dataclass(frozen=True, slots=True)
class RegionInfo:
    """struct vfio_region_info. `msix_mappable`: the capability VFIO_REGION_INFO_CAP_MSIX_MAPPABLE
    goes with it.
    """

    flags: int
    size: int
    offset: int
    msix_mappable: bool = False


class Regions:
    """From open to close. `mappable`: BARs of memory can be mapped."""

    def __init__(self, function: PciFunction, config: VirtualConfig, *, mappable: bool = True) -> None:
        self._function: Final = function
        self._config: Final = config
        self._mappable: Final = mappable
        bar, table = function.messages.table
        self._table: Final = (bar, table.start, table.stop)
        self._rom_size: Final = image_size(function.rom)
        # BARs without a hole: their size, and whether they are memory. Most accesses are single
        # ones to these.
        self._whole: Final = {
            index: (found.bar.size, not found.bar.io)
            for index, found in function.layout.resources.items()
            if index not in (bar, ROM)
        }

    def info(self, index: int) -> RegionInfo:
        """EINVAL: there is no such region. Ref: v7.3 vfio_pci_core.c
        vfio_pci_ioctl_get_region_info
        """
        offset, size = index << v.VFIO_PCI_OFFSET_SHIFT, self._function.layout.size(index)
        if index == v.VFIO_PCI_CONFIG_REGION_INDEX:
            return RegionInfo(_READ_WRITE, self._config.size, offset)
        if index == v.VFIO_PCI_ROM_REGION_INDEX:
            return (
                RegionInfo(v.VFIO_REGION_INFO_FLAG_READ, size, offset) if self._rom_size else RegionInfo(0, 0, offset)
            )
        if index == v.VFIO_PCI_VGA_REGION_INDEX and self._function.is_vga:
            return RegionInfo(_READ_WRITE, 0xC0000, offset)
        if index > v.VFIO_PCI_BAR5_REGION_INDEX:
            raise IoctlError(EINVAL, f"{self._function.name} has no region {index}")
        if not size:
            return RegionInfo(0, 0, offset)
        if not self._can_map(index):
            return RegionInfo(_READ_WRITE, size, offset)
        return RegionInfo(_READ_WRITE | v.VFIO_REGION_INFO_FLAG_MMAP, size, offset, index == self._table[0])

    def read(self, position: int, length: int) -> bytes:
        """pread of the device's file: at most `length` bytes, fewer at a region's end.

        EINVAL: no such region, or beyond its end. EFAULT: beyond the end of configuration space.
        EIO: memory is disabled. ENOMEM: the ROM is not valid.
        """
        index, offset = position >> v.VFIO_PCI_OFFSET_SHIFT, position & v.VFIO_PCI_OFFSET_MASK
        if self._is_one(index, offset, length):
            return self._function.read_bar(index, offset, length).to_bytes(length, "little")
        if not length:
            return b""
        if index == v.VFIO_PCI_CONFIG_REGION_INDEX:
            return self._config.read(offset, length)
        bar, offset, last, hole, widest, checked = self._find(index, offset)
        length = min(length, last - offset)
        found = bytearray()
        while len(found) < length:
            at, left = offset + len(found), length - len(found)
            size = _access(at, left, hole, widest)
            if size:
                self._reachable(checked)
                found += self._function.read_bar(bar, at, size).to_bytes(size, "little")
            else:
                found += b"\xff" * min(left, hole.stop - at)
        return bytes(found)

    def write(self, position: int, data: bytes | memoryview) -> int:
        """pwrite: how many bytes were taken. As `read`. EINVAL too: the ROM."""
        index, offset, size = position >> v.VFIO_PCI_OFFSET_SHIFT, position & v.VFIO_PCI_OFFSET_MASK, len(data)
        if self._is_one(index, offset, size):
            self._function.write_bar(index, offset, size, int.from_bytes(data, "little"))
            return size
        if not data:
            return 0
        if index == v.VFIO_PCI_CONFIG_REGION_INDEX:
            self._config.write(offset, bytes(data))
            return len(data)
        if index == v.VFIO_PCI_ROM_REGION_INDEX:
            raise IoctlError(EINVAL, "the expansion ROM cannot be written")
        bar, offset, last, hole, widest, checked = self._find(index, offset)
        length, done = min(len(data), last - offset), 0
        while done < length:
            at, left = offset + done, length - done
            size = _access(at, left, hole, widest)
            if size:
                self._reachable(checked)
                self._function.write_bar(bar, at, size, int.from_bytes(data[done : done + size], "little"))
            done += size or min(left, hole.stop - at)
        return done

    def map(self, position: int, length: int, *, shared: bool) -> tuple[int, int]:
        """(BAR, offset in it) of a mapping that may be made. Position and length are multiples of a
        page.

        EINVAL: it is private, no BAR of memory, or beyond the end of the BAR's last page. Ref: v7.3
        vfio_pci_core.c vfio_pci_core_mmap
        """
        index, offset = position >> v.VFIO_PCI_OFFSET_SHIFT, position & v.VFIO_PCI_OFFSET_MASK
        if not shared or index > v.VFIO_PCI_BAR5_REGION_INDEX or not self._can_map(index):
            raise IoctlError(EINVAL, f"region {index} cannot be mapped{'' if shared else ' privately'}")
        whole = -(-self._function.layout.size(index) // PAGE) * PAGE
        if offset + length > whole:
            raise IoctlError(EINVAL, f"{offset:#x}+{length:#x} is beyond the {whole:#x} bytes of BAR {index}")
        return index, offset

    def load(self, bar: int, offset: int, size: int) -> int:
        """A load through a mapping, of 1, 2, 4 or 8 bytes, as the instruction makes it. EIO, which
        is a SIGBUS: memory is disabled.

        Beyond the end of a BAR that is smaller than its page nobody answers: all ones.
        """
        self._reachable(True)
        if offset + size > self._function.layout.size(bar):
            return (1 << 8 * size) - 1
        return self._function.read_bar(bar, offset, size)

    def store(self, bar: int, offset: int, size: int, value: int) -> None:
        """As `load`."""
        self._reachable(True)
        if offset + size <= self._function.layout.size(bar):
            self._function.write_bar(bar, offset, size, value)

    def peek(self, bar: int, offset: int, size: int) -> bytes | None:
        """What loads of 4 bytes would give in whole pages of a mapping. None: a load may have an
        effect, or memory is disabled.
        """
        if not self._function.quiet_loads or not self._config.memory_enabled:
            return None
        return b"".join(self.load(bar, at, 4).to_bytes(4, "little") for at in range(offset, offset + size, 4))

    def _can_map(self, index: int) -> bool:
        """Windows of memory never share a page here, so small ones can be mapped too. Ref: v7.3
        vfio_pci_core.c vfio_pci_probe_mmaps
        """
        found = self._function.layout.resources.get(index)
        return self._mappable and found is not None and not found.bar.io

    def _find(self, index: int, offset: int) -> tuple[int, int, int, range, int, bool]:
        """Of a region other than configuration space: BAR, offset and end, what is left out, the
        widest access, whether it is memory.
        """
        if index == v.VFIO_PCI_VGA_REGION_INDEX and self._function.is_vga:
            for window in VGA_WINDOWS:
                if offset in window:
                    return index, offset, window.stop, range(0), 4, False
            raise IoctlError(EINVAL, f"no VGA is at {offset:#x}")
        if index >= v.VFIO_PCI_NUM_REGIONS or index == v.VFIO_PCI_VGA_REGION_INDEX:
            raise IoctlError(EINVAL, f"{self._function.name} has no region {index}")
        found = self._function.layout.resources.get(index)
        if found is None or offset >= found.bar.size:
            raise IoctlError(
                EINVAL, f"{offset:#x} is beyond the {self._function.layout.size(index)} bytes of region {index}"
            )
        if index == ROM:
            if not self._rom_size:
                raise IoctlError(ENOMEM, "the expansion ROM does not begin with an image")
            return index, offset, found.bar.size, range(self._rom_size, found.bar.size), 4, True
        hole = range(self._table[1], self._table[2]) if index == self._table[0] else range(0)
        return index, offset, found.bar.size, hole, 8, not found.bar.io

    def _is_one(self, index: int, offset: int, length: int) -> bool:
        """Whether this is one access to a BAR that has no hole. EIO: the BAR is not reachable."""
        if length not in (4, 8, 2, 1) or offset % length or index not in self._whole:
            return False
        size, memory = self._whole[index]
        if offset + length > size:
            return False
        self._reachable(memory)
        return True

    def _reachable(self, memory: bool) -> None:
        if memory and not self._config.memory_enabled:
            raise IoctlError(
                EIO, f"{self._function.name}: memory is disabled in its command register, or it is in D3hot"
            )


def _access(at: int, left: int, hole: range, widest: int) -> int:
    """Bytes of the next access; 0: in the hole. Ref: v7.3 vfio_pci_rdwr.c vfio_pci_core_do_io_rw"""
    if at < hole.start:
        left = min(left, hole.start - at)
    elif at < hole.stop:
        return 0
    size = widest
    while size > left or at % size:
        size >>= 1
    return size
