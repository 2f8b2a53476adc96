"""The mock's vIOMMU: nested page tables, a cache in each device, events, two hardware queues, and a page of its own that clients may map.

Ref: v7.3 selftest.c mock_viommu_*, mock_hw_queue_*, iommufd_test_trigger_vevent
"""

import struct
from collections.abc import Generator
from errno import EEXIST, EINVAL, EIO, ENOENT, ENOMEM, EOPNOTSUPP
from typing import TYPE_CHECKING, Final

from ..engine.domain import NestedDomain
from ..engine.hw_queue import HwQueue
from ..engine.pages import PAGE_SIZE
from ..engine.user_data import UserArray, UserData
from ..engine.viommu import Viommu, ViommuDriver
from ..errors import IoctlError
from .mock_domains import INVALIDATE_ALL, MockNested

if TYPE_CHECKING:
    from .mock import MockDriver

VIOMMU_SELFTEST: Final = 0xDEADBEEF
INVALIDATE_VIOMMU_SELFTEST: Final = 0xDEADBEEF
VEVENTQ_SELFTEST: Final = 0xBEEFBEEF
HW_QUEUE_SELFTEST: Final = 0xDEADBEEF
HW_QUEUES: Final = 2

_DATA: Final = struct.Struct("<IIQQ")  # a number; the same one back; where the page can be mapped: offset and length
_DATA_LEAST: Final = 8
_ENTRY: Final = struct.Struct("<III")  # flags; the guest's number of the device; which cache entry
_MOST_ENTRIES: Final = (4 << 20) // _ENTRY.size  # the kernel's mock copies them all, into what it can allocate at once
_NUMBER: Final = struct.Struct("<I")


class MockViommu(ViommuDriver):
    """With `data`, it shows two pages that begin with the number in it, if they can be mapped. Errors: UserData.struct, UserData.answer."""

    hw_queue_types = frozenset({HW_QUEUE_SELFTEST})

    def __init__(self, viommu: Viommu, device: "MockDriver", data: UserData | None) -> None:
        self._device = device
        self._viommu = viommu
        self._queues: list[HwQueue | None] = [None] * HW_QUEUES
        if data is not None:
            number = _DATA.unpack(data.struct(VIOMMU_SELFTEST, _DATA.size, _DATA_LEAST))[0]
            memory = bytearray(2 * PAGE_SIZE)
            _NUMBER.pack_into(memory, 0, number)
            self.shown = viommu.context.host.shown.show(viommu.context, memory)
            try:
                data.answer(_DATA.pack(number, number, *(self.shown or (0, 0))))
            except BaseException:
                self.destroy()
                raise

    def destroy(self) -> None:
        if self.shown is not None:
            self._viommu.context.host.shown.hide(self.shown[0])

    def nested_domain(self, flags: int, data: UserData) -> NestedDomain:
        return MockNested(self._device, flags, data, self._viommu)

    def invalidate(self, array: UserArray) -> Generator[None, None, None]:
        """EOPNOTSUPP: an entry has unknown flags. EINVAL: no such cache entry, or no such device. What came before it is done. ENOMEM: more
        than 4 MiB of them."""
        if not array.count:
            array.expect(INVALIDATE_VIOMMU_SELFTEST)
            return
        if array.count > _MOST_ENTRIES:
            array.done = array.count  # none is, but so the kernel's mock tells
            raise IoctlError(ENOMEM, f"{array.count} entries are more than {_MOST_ENTRIES}")
        entries = yield from array.entries(INVALIDATE_VIOMMU_SELFTEST, _ENTRY.size)
        for flags, virt_id, number in _ENTRY.iter_unpack(entries):
            self._invalidate(array.done, flags, virt_id, number)
            array.done += 1

    def _invalidate(self, at: int, flags: int, virt_id: int, number: int) -> None:
        if flags & ~INVALIDATE_ALL:
            raise IoctlError(EOPNOTSUPP, f"entry {at} has the unknown flags {flags:#x}")
        device = self._viommu.device_of(virt_id)
        cache = device.driver.cache if device is not None else None  # type: ignore[attr-defined]
        entries = len(self._device.cache)
        if number >= entries:
            raise IoctlError(EINVAL, f"entry {at} names cache entry {number}, there are {entries}")
        if cache is None:
            raise IoctlError(EINVAL, f"entry {at} names device {virt_id:#x}, which {self._viommu} has not")
        if flags & INVALIDATE_ALL:
            cache[:] = [0] * entries
        else:
            cache[number] = 0

    def add_hw_queue(self, queue: HwQueue) -> None:
        """EINVAL: there is no such index. EEXIST: it has a queue. EIO: the one before it has none."""
        index = queue.index
        if index >= HW_QUEUES:
            raise IoctlError(EINVAL, f"queue {index} of {HW_QUEUES}")
        if self._queues[index] is not None:
            raise IoctlError(EEXIST, f"queue {index} is {self._queues[index]}")
        if index:
            before = self._queues[index - 1]
            if before is None:
                raise IoctlError(EIO, f"queue {index} depends on the one before it, which is not there")
            before.users.append(queue)
        self._queues[index] = queue

    def remove_hw_queue(self, queue: HwQueue) -> None:
        self._queues[queue.index] = None
        if queue.index:
            before = self._queues[queue.index - 1]
            assert before is not None
            before.users.remove(queue)


def trigger_event(device: "MockDriver") -> None:
    """An event of the device, to whom it is attached below. ENOENT: nobody, or under the number 0. EOPNOTSUPP: nobody reads events."""
    if device.viommu is None or not device.virt_id:
        raise IoctlError(ENOENT, f"{device.name} is attached to no page table of a vIOMMU that knows it by a number")
    device.viommu.report_event(VEVENTQ_SELFTEST, _NUMBER.pack(device.virt_id & 0xFFFFFFFF))
