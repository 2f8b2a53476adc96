"""The mock device: the kernel's selftest driver, answered from here (only with `--mock`).

A mock device is alone in its group, has pages of 2 KiB and reaches IOVAs from 16 MiB to 2 GiB, so that alignment, apertures and reserved
ranges have something to bite on. Its DMA goes nowhere: the checks look at what its page table shows.

Written on the engine's device and access API only, as any device is. How its operations look on the wire is ops/test_cmd.py.

Ref: v7.3 selftest.c
"""

import struct
from collections.abc import Iterable
from errno import EBADE, EINVAL, EIO, ENOENT, ENOMEM, EOPNOTSUPP
from typing import ClassVar, Final

from ..engine.access import Access
from ..engine.device import Device, Driver
from ..engine.domain import DIRTY_TRACKING, AnyDomain, Domain, NestedDomain
from ..engine.host import Host
from ..engine.hwpt import HwptPaging
from ..engine.objects import Object
from ..engine.pages import Identity, Pages
from ..engine.span import U64_MAX
from ..engine.user_data import UserData
from ..engine.viommu import Viommu, ViommuDriver
from ..errors import IoctlError
from .kinds import NO_DIRTY, PASIDS
from .mock_domains import MockNested, paging_domain
from .mock_viommu import VIOMMU_SELFTEST, MockViommu

CACHE_DEFAULT: Final = 0xBADDAD
CACHE_ENTRIES: Final = 4

MAX_PASIDS: Final = 1 << 20
FAILING_PASID: Final = 1024  # its attachments fail every other time, so that the way back is gone as well

HW_INFO_DEFAULT: Final = 0
HW_INFO_SELFTEST: Final = 0xFEEDBEEF
HW_INFO: Final = struct.pack("<II", 0, 0xDEADBEEF)  # flags; a register


class MockDriver(Driver):
    """One mock device. `flags`: MOCK_FLAGS_DEVICE_*; EINVAL: an unknown one."""

    _numbers: ClassVar[set[int]] = set()
    iommu = "mock"
    nesting = True
    viommu_types = frozenset({VIOMMU_SELFTEST})

    def __init__(self, flags: int) -> None:
        if flags & ~(NO_DIRTY | PASIDS):
            raise IoctlError(EINVAL, f"the mock device knows no flags {flags & ~(NO_DIRTY | PASIDS):#x}")
        self.dirty_tracking = not flags & NO_DIRTY
        # A device without PASIDs has one after all, 0, as the kernel reckons it from a width of 0 bits.
        self.max_pasids = MAX_PASIDS if flags & PASIDS else 1
        self._fail_next = False
        self.number = next(n for n in range(len(self._numbers) + 1) if n not in self._numbers)
        self._numbers.add(self.number)
        self.name = self.group = f"iommufd_mock{self.number}"
        self.current: AnyDomain | None = None
        self.viommu: Viommu | None = None  # what `current` is nested in
        self.virt_id = 0  # its number there, when it was attached
        self.cache = [CACHE_DEFAULT] * CACHE_ENTRIES

    def unplugged(self) -> None:
        """Its number is free again."""
        self._numbers.discard(self.number)

    def domain(self, flags: int, data: UserData | None) -> Domain:
        if flags & DIRTY_TRACKING and not self.dirty_tracking:
            raise IoctlError(EOPNOTSUPP, f"{self.name} was made without dirty tracking")
        return paging_domain(self, flags, data)

    def nested_domain(self, parent: Domain, flags: int, data: UserData) -> NestedDomain:
        return MockNested(self, flags, data)

    def new_viommu(self, viommu: Viommu, viommu_type: int, data: UserData | None) -> ViommuDriver:
        return MockViommu(viommu, self, data)

    def hw_info(self, data_type: int) -> tuple[int, bytes]:
        if data_type not in (HW_INFO_DEFAULT, HW_INFO_SELFTEST):
            raise IoctlError(EOPNOTSUPP, f"the mock has nothing to tell of type {data_type:#x}")
        return HW_INFO_SELFTEST, HW_INFO

    def attach(self, domain: AnyDomain) -> None:
        if domain.dirty is not None and not self.dirty_tracking:
            raise IoctlError(EINVAL, f"{self.name} was made without dirty tracking, the page table has it")
        viommu = domain.viommu if isinstance(domain, MockNested) else None
        virt_id = viommu.virt_id_of(self) if viommu is not None else 0
        if virt_id is None:
            raise IoctlError(ENOENT, f"{self.name} has no vDEVICE in {viommu}, which the page table is nested in")
        if viommu is not self.viommu:
            self.viommu, self.virt_id = viommu, virt_id
        self.current = domain

    def detach(self) -> None:
        self.current = self.viommu = None
        self.virt_id = 0

    def attach_pasid(self, pasid: int, domain: AnyDomain, old: AnyDomain | None) -> None:
        """ENOMEM: PASID 1024, every other time."""
        # Ref: v7.3 selftest.c mock_domain_set_dev_pasid_nop
        if pasid == FAILING_PASID:
            self._fail_next = not self._fail_next
            if not self._fail_next:
                raise IoctlError(ENOMEM, f"PASID {pasid} fails every other time")

    def detach_pasid(self, pasid: int) -> None:
        if pasid == FAILING_PASID:
            self._fail_next = False


class Selftest(Object):
    """What a client destroys to have a device of the test ioctl's, of whatever kind, detached, unbound and gone."""

    kind = "mock device"
    __slots__ = ("device", "driver")

    def __init__(self) -> None:
        super().__init__()
        self.driver: Driver | None = None
        self.device: Device | None = None

    def destroy(self) -> None:
        if self.device is not None:
            # PASIDs too; the kernel's mock forgets them, and warns.
            self.device.detach_all()
            self.device.unbind()
        if self.driver is not None:
            self.driver.unplugged()


class Item:
    """Pages that a client had an access pin."""

    __slots__ = ("iova", "length", "number")

    def __init__(self, number: int, iova: int, length: int) -> None:
        self.number = number
        self.iova = iova
        self.length = length


class MockAccess:
    """The driver behind an access descriptor: pins what it is told, lets go when it is asked."""

    name: Final = "mock access"

    def __init__(self, pins: bool) -> None:
        self.pins = pins
        self.access: Access | None = None
        self._items: list[Item] = []
        self._next = 0

    async def unmap(self, iova: int, length: int) -> None:
        self.let_go(iova, min(iova + length - 1, U64_MAX))

    def let_go(self, iova: int, last: int) -> None:
        """Unpin every item that touches iova..last."""
        for item in [i for i in self._items if i.iova <= last and iova <= i.iova + i.length - 1]:
            self._unpin(item)

    def pin(self, iova: int, length: int, *, write: bool) -> list[tuple[Pages, int]]:
        """Errors as Access.pin_pages. The caller checks the pages, then calls `keep` or `undo`."""
        assert self.access is not None
        return self.access.pin_pages(iova, length, write=write)

    def undo(self, iova: int, length: int) -> None:
        assert self.access is not None
        self.access.unpin_pages(iova, length)

    def keep(self, iova: int, length: int) -> Item:
        item = Item(self._next, iova, length)
        self._next = (self._next + 1) & 0xFFFFFFFF
        self._items.append(item)
        return item

    def forget(self, item: Item) -> None:
        """The client could not be told of it: it is unpinned."""
        self._unpin(item)

    def unpin(self, number: int) -> None:
        """ENOENT: no such item."""
        for item in self._items:
            if item.number == number:
                self._unpin(item)
                return
        raise IoctlError(ENOENT, f"the access has no pinned pages {number}")

    def _unpin(self, item: Item) -> None:
        assert self.access is not None
        self._items.remove(item)
        self.access.unpin_pages(item.iova, item.length)

    def release(self) -> None:
        """The last descriptor was closed."""
        if self.access is not None:
            self.let_go(0, U64_MAX)
            self.access.release()
            self.access = None


def check_pages(pinned: list[tuple[Pages, int]], wanted: Iterable[Identity]) -> None:
    """EBADE: a pinned page is not the page that the client sees at its own address."""
    for at, ((pages, index), identity) in enumerate(zip(pinned, wanted, strict=True)):
        if pages.identity(index) != identity:
            raise IoctlError(EBADE, f"pinned page {at} is {pages.identity(index)}, the client sees {identity}")


def check_map(hwpt: HwptPaging, iova: int, identity: Identity, offset: int) -> None:
    """EINVAL: the page table shows something else at `iova` than byte `offset` of the page of this identity."""
    found = hwpt.ioas.iopt.translate(iova)
    if found != (identity, offset):
        raise IoctlError(EINVAL, f"{hwpt} shows {found} at {iova:#x}, the client sees {identity} + {offset:#x}")


def check_refs(host: Host, identity: Identity, refs: int) -> None:
    """EIO: the page is not pinned so often."""
    found = host.pins(identity)
    if found != refs:
        raise IoctlError(EIO, f"page {identity} is pinned {found} times, expected {refs}")
