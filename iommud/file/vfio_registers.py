"""Which registers a client has mapped where: what a mapping of a device's file, of which
/proc/PID/maps tells only which kind of file and which offset, is a mapping of.

We read a byte of it, as a debugger would, in a thread of our own. No page of registers is ever
there, so the kernel asks the session for the page, and tells by which open file it was mapped. The
session refuses the page, and knows.
"""

import threading
from typing import Final

from cuse_glue.process.vma import AddressSpaceGone, Vma
from cuse_glue.request.address_space import Mm
from cuse_glue.request.open_file import OpenFile

from ..pci.vfio_names import VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_OFFSET_MASK, VFIO_PCI_OFFSET_SHIFT
from ..vfio.outside import Registers
from .vfio_file import VfioFile

_asking: Final[dict[int, OpenFile | None]] = {}  # by thread of ours: whose page it touched


def touched(thread: int, file: OpenFile) -> bool:
    """Called by the session: `thread` touches a page of a file's. Whether it only asks whose it is,
    and so is to be refused.
    """
    if thread not in _asking:
        return False
    _asking[thread] = file
    return True


def find(mm: Mm, vmas: list[Vma]) -> list[Registers]:
    """What of these mappings is registers. For any thread but the session's, which must be able to
    answer meanwhile.
    """
    found = []
    for vma in vmas:
        file = _mapped_by(mm, vma.start)
        bar, offset = vma.offset >> VFIO_PCI_OFFSET_SHIFT, vma.offset & VFIO_PCI_OFFSET_MASK
        if isinstance(file, VfioFile) and file.file.bound is not None and bar <= VFIO_PCI_BAR5_REGION_INDEX:
            found.append(Registers(vma.start, vma.end, file.file.bound, bar, offset, vma.readable, vma.writable))
    return found


def candidates(mm: Mm, start: int, length: int) -> list[Vma]:
    """The mappings in these bytes that could be of registers: none, if nobody lives there."""
    try:
        return [vma for vma in mm.maps.covering(start, start + length) if vma.inode and vma.shared]
    except AddressSpaceGone:
        return []


def _mapped_by(mm: Mm, address: int) -> OpenFile | None:
    thread = threading.get_native_id()
    _asking[thread] = None
    try:
        mm.read(address, memoryview(bytearray(1)))
    finally:
        file = _asking.pop(thread)
    return file
