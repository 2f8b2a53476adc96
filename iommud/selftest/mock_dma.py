"""What the mock's DMA leaves behind, without any data: marks of writes, and page faults.

Ref: v7.3 selftest.c iommufd_test_dirty, iommufd_test_trigger_iopf
"""

from errno import EINVAL
from typing import Final

from ..engine.device.device import Device
from ..engine.device.fault import PageFault
from ..engine.device.hwpt import HwptPaging
from ..engine.mapping.dirty import runs
from ..errors import IoctlError

AT_ONCE: Final = 1024  # bytes of a bitmap


def check_tracking(hwpt: HwptPaging) -> None:
    """EINVAL: nothing records what DMA writes."""
    if hwpt.domain.dirty is None or not hwpt.domain.dirty.enabled:
        raise IoctlError(EINVAL, f"dirty tracking is off in {hwpt}")


def set_dirty(hwpt: HwptPaging, iova: int, page_size: int, bits: bytes) -> int:
    """Mark the byte at iova + n * page_size (bytes) as written, for each bit n that is set. What is
    not mapped is skipped. Returns how many bits are set."""
    record = hwpt.domain.dirty
    assert record is not None
    for base in range(0, len(bits), AT_ONCE):
        for at, count in runs(int.from_bytes(bits[base : base + AT_ONCE], "little")):
            first = iova + (base * 8 + at) * page_size
            last = first + (count - 1) * page_size
            if page_size <= record.unit:
                _write(hwpt, first, last)
            else:
                for position in range(first, last + 1, page_size):
                    _write(hwpt, position, position)
    return int.from_bytes(bits, "little").bit_count()


def _write(hwpt: HwptPaging, first: int, last: int) -> None:
    record, iopt = hwpt.domain.dirty, hwpt.ioas.iopt
    assert record is not None
    area = iopt.areas.first(first, last)
    while area is not None and area.iova <= last:
        record.wrote(area, max(first, area.iova), min(last, area.last), large_pages=iopt.large_pages)
        area = iopt.areas.after(area)


def fault(device: Device, wanted: PageFault) -> None:
    """Report a page fault. Nobody asks how it ends: the mock's DMA does not wait for anything."""
    try:
        device.report_fault(wanted, lambda code: None)
    except IoctlError:
        pass  # nobody handles faults: the kernel's mock does not tell either
