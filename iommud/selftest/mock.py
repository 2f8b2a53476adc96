"""The mock device and its IOMMU: the kernel's selftest driver, answered by iommud (only with
`--mock`).

A mock device is alone in its group, has pages of 2 KiB, and reaches IOVAs from 16 MiB to 2 GiB. So
alignment, apertures and reserved ranges have an effect. Its DMA goes nowhere: the tests look at
what its page table shows.

It uses only the engine's device and access API, as any device does. selftest/command.py has how its
operations look on the wire.

Ref: v7.3 selftest.c
"""

import struct
from errno import EINVAL, ENOENT, ENOMEM, EOPNOTSUPP
from typing import ClassVar, Final

from ..engine.device.iommu import Iommu, Port
from ..engine.device.model import Model
from ..engine.device.viommu import Viommu, ViommuDriver
from ..engine.mapping.domain import AnyDomain, Domain, NestedDomain
from ..engine.mapping.user_data import UserData
from ..errors import IoctlError
from .mock_domains import MockNested, paging_domain
from .mock_viommu import VEVENTQ_SELFTEST, VIOMMU_SELFTEST, Cached, MockViommu

MAX_PASIDS: Final = 1 << 20
# its attachments fail every other time, so that tests reach the way back, too
FAILING_PASID: Final = 1024

HW_INFO_DEFAULT: Final = 0
HW_INFO_SELFTEST: Final = 0xFEEDBEEF
HW_INFO: Final = struct.pack("<II", 0, 0xDEADBEEF)  # flags; a register

_NUMBER: Final = struct.Struct("<I")


class MockDevice(Model):
    """`tracked`: its DMA writes can be tracked. Its number is the lowest free one."""

    _numbers: ClassVar[set[int]] = set()

    def __init__(self, *, tracked: bool = True, pasids: bool = False) -> None:
        self.tracked: Final = tracked
        # A device without PASIDs still counts one, 0: the kernel computes 2^0 from a width of 0
        # bits.
        self.max_pasids = MAX_PASIDS if pasids else 1
        self._number = next(n for n in range(len(self._numbers) + 1) if n not in self._numbers)
        self._numbers.add(self._number)
        self.name = self.group = f"iommufd_mock{self._number}"

    def free(self) -> None:
        """From now on its number may be another's."""
        self._numbers.discard(self._number)


class MockPort(Cached, Port):
    """A device's place behind the mock's IOMMU."""

    def __init__(self, model: Model) -> None:
        Port.__init__(self, model, dirty_tracking=not isinstance(model, MockDevice) or model.tracked)
        Cached.__init__(self)
        self._fail_next = False
        self._viommu: Viommu | None = None  # what its page table is nested in
        self._virt_id = 0  # its number there, when it was attached

    def attach(self, domain: AnyDomain) -> None:
        if domain.dirty is not None and not self.dirty_tracking:
            raise IoctlError(EINVAL, f"{self.model.name} was made without dirty tracking, the page table has it")
        viommu = domain.viommu if isinstance(domain, MockNested) else None
        virt_id = viommu.virt_id_of(self) if viommu is not None else 0
        if virt_id is None:
            raise IoctlError(ENOENT, f"{self.model.name} has no vDEVICE in {viommu}, which the page table is nested in")
        if viommu is not self._viommu:
            self._viommu, self._virt_id = viommu, virt_id

    def detach(self) -> None:
        self._viommu = None
        self._virt_id = 0

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

    def trigger_event(self) -> None:
        """Report an event of the device to the vIOMMU that its page table is nested in. ENOENT:
        there is none, or the guest's number of the device is 0. EOPNOTSUPP: nobody reads events.
        """
        if self._viommu is None or not self._virt_id:
            raise IoctlError(
                ENOENT, f"{self.model.name} is attached to no page table of a vIOMMU that knows it by a number"
            )
        self._viommu.report_event(VEVENTQ_SELFTEST, _NUMBER.pack(self._virt_id & 0xFFFFFFFF))


class MockIommu(Iommu):
    """One IOMMU for all mock devices."""

    kind = "mock"
    nesting = True
    viommu_types = frozenset({VIOMMU_SELFTEST})

    def port(self, model: Model) -> Port:
        return MockPort(model)

    def domain(self, flags: int, data: UserData | None) -> Domain:
        return paging_domain(flags, data)

    def nested_domain(self, parent: Domain, flags: int, data: UserData) -> NestedDomain:
        return MockNested(flags, data)

    def new_viommu(self, viommu: Viommu, viommu_type: int, data: UserData | None) -> ViommuDriver:
        return MockViommu(viommu, data)

    def hw_info(self, data_type: int) -> tuple[int, bytes]:
        if data_type not in (HW_INFO_DEFAULT, HW_INFO_SELFTEST):
            raise IoctlError(EOPNOTSUPP, f"the mock has nothing to tell of type {data_type:#x}")
        return HW_INFO_SELFTEST, HW_INFO
