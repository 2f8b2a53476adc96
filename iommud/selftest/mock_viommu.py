"""The mock's vIOMMU: nested page tables, a cache in each device, events, two hardware queues, and a
page of its own that clients may map.

Ref: v7.3 selftest.c mock_viommu_*, mock_hw_queue_*, iommufd_test_trigger_vevent
"""

import struct
from collections.abc import Generator
from errno import EEXIST, EINVAL, EIO, ENOMEM, EOPNOTSUPP
from typing import Final

from ..engine.device.viommu import GuestQueue, Viommu, ViommuDriver
from ..engine.mapping.domain import NestedDomain
from ..engine.mapping.user_data import UserArray, UserData
from ..engine.memory.origin import PAGE_SIZE
from ..errors import IoctlError
from .mock_domains import INVALIDATE_ALL, MockNested

VIOMMU_SELFTEST: Final = 0xDEADBEEF
INVALIDATE_VIOMMU_SELFTEST: Final = 0xDEADBEEF
VEVENTQ_SELFTEST: Final = 0xBEEFBEEF
HW_QUEUE_SELFTEST: Final = 0xDEADBEEF
HW_QUEUES: Final = 2
CACHE_DEFAULT: Final = 0xBADDAD
CACHE_ENTRIES: Final = 4

# a number; the same one back; where the page can be mapped: offset and length
_DATA: Final = struct.Struct("<IIQQ")
_DATA_LEAST: Final = 8
_ENTRY: Final = struct.Struct("<III")  # flags; the guest's number of the device; which cache entry
# the kernel's mock copies all at once, and the kernel allocates no more for that
_MOST_ENTRIES: Final = (4 << 20) // _ENTRY.size
_NUMBER: Final = struct.Struct("<I")


class Cached:
    """A port with a cache for its device. The device's guest is to invalidate the cache, and the
    tests look at it.
    """

    def __init__(self) -> None:
        self.cache: Final = [CACHE_DEFAULT] * CACHE_ENTRIES


class MockViommu(ViommuDriver):
    """With `data`: if pages can be mapped, it shows two that begin with the number in the data.
    Errors: UserData.struct, UserData.answer.
    """

    hw_queue_types = frozenset({HW_QUEUE_SELFTEST})

    def __init__(self, viommu: Viommu, data: UserData | None) -> None:
        self._viommu = viommu
        self._queues: list[GuestQueue | None] = [None] * HW_QUEUES
        if data is not None:
            number = _DATA.unpack(data.struct(VIOMMU_SELFTEST, _DATA.size, _DATA_LEAST))[0]
            memory = bytearray(2 * PAGE_SIZE)
            _NUMBER.pack_into(memory, 0, number)
            self.shown = viommu.host.shown.show(viommu.context, memory)
            try:
                data.answer(_DATA.pack(number, number, *(self.shown or (0, 0))))
            except BaseException:
                self.destroy()
                raise

    def destroy(self) -> None:
        if self.shown is not None:
            self._viommu.host.shown.hide(self.shown[0])

    def nested_domain(self, flags: int, data: UserData) -> NestedDomain:
        return MockNested(flags, data, self._viommu)

    def invalidate(self, array: UserArray) -> Generator[None, None, None]:
        """EOPNOTSUPP: an entry has unknown flags. EINVAL: no such cache entry, or no such device.
        The entries before it are done. ENOMEM: more than 4 MiB of entries."""
        if not array.count:
            array.expect(INVALIDATE_VIOMMU_SELFTEST)
            return
        if array.count > _MOST_ENTRIES:
            array.done = array.count  # none is done, but the kernel's mock says so
            raise IoctlError(ENOMEM, f"{array.count} entries are more than {_MOST_ENTRIES}")
        entries = yield from array.entries(INVALIDATE_VIOMMU_SELFTEST, _ENTRY.size)
        for flags, virt_id, number in _ENTRY.iter_unpack(entries):
            self._invalidate(array.done, flags, virt_id, number)
            array.done += 1

    def _invalidate(self, at: int, flags: int, virt_id: int, number: int) -> None:
        if flags & ~INVALIDATE_ALL:
            raise IoctlError(EOPNOTSUPP, f"entry {at} has the unknown flags {flags:#x}")
        device = self._viommu.device_of(virt_id)
        if number >= CACHE_ENTRIES:
            raise IoctlError(EINVAL, f"entry {at} names cache entry {number}, there are {CACHE_ENTRIES}")
        if device is None:
            raise IoctlError(EINVAL, f"entry {at} names device {virt_id:#x}, which {self._viommu} has not")
        assert isinstance(device.port, Cached)  # it is behind the same IOMMU
        if flags & INVALIDATE_ALL:
            device.port.cache[:] = [0] * CACHE_ENTRIES
        else:
            device.port.cache[number] = 0

    def add_hw_queue(self, queue: GuestQueue) -> None:
        """EINVAL: there is no such index. EEXIST: it has a queue already. EIO: the index before it
        has none.
        """
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

    def remove_hw_queue(self, queue: GuestQueue) -> None:
        self._queues[queue.index] = None
        if queue.index:
            before = self._queues[queue.index - 1]
            assert before is not None
            before.users.remove(queue)
