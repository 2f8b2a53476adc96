"""A device's side of page faults: to which queue they go, and which of them belong together. Ref:
v7.3 drivers/iommu/io-pgfault.c
"""

from errno import EINVAL

from ...errors import IoctlError
from .fault import INVALID, NO_PASID, FaultGroup, FaultQueue, PageFault, Respond
from .group import Attachment, Member


class FaultReporter:
    """A device's side: the faults of groups that it has not ended yet, and under which attachment
    they were reported. When that ends, they are dropped.
    """

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial: list[tuple[Attachment, PageFault]] = []

    def report(self, device: Member, fault: PageFault, respond: Respond) -> FaultQueue | None:
        """The queue that got a group. None: the group is not ended yet. Errors:
        Device.report_fault.

        Ref: v7.3 io-pgfault.c iommu_report_device_fault
        """
        attachment = _attachment(device, fault.pasid)
        if attachment is None or attachment.hwpt.fault is None or not device.iommu.walks:
            respond(INVALID)
            raise IoctlError(EINVAL, f"nobody takes the faults of {device} with PASID {fault.pasid}")
        if not fault.last:
            self._partial.append((attachment, fault))
            return None
        members = [before for under, before in self._partial if before.group == fault.group and under is attachment]
        self._partial = [
            (under, before) for under, before in self._partial if before.group != fault.group and under.devices
        ]
        queue = attachment.hwpt.fault
        queue.deliver(FaultGroup([*members, fault], attachment, respond))
        return queue


def _attachment(device: Member, pasid: int) -> Attachment | None:
    """What handles faults with this PASID. Ref: v7.3 io-pgfault.c find_fault_handler"""
    found = device.group.attachments.get(pasid)
    if found is None and pasid != NO_PASID:
        # A guest that has its own table of PASIDs, below a nested page table: that one gets all of
        # them.
        own = device.group.attachments.get(NO_PASID)
        if own is not None and own.hwpt.paging is not own.hwpt:
            return own
    return found
