"""Fault queues: page faults of devices, which a client reads and answers.

A device that cannot go on because its page table shows nothing where it wants to be reports a fault, and waits. Faults come in groups,
which the device ends with one that is marked the last; the group goes to the queue of the page table that the device is attached to. There
it is *delivered*, until a client reads it: from then on it has a cookie, and waits for the client's answer.

Each group is answered exactly once, whatever happens: by the client; or with INVALID when the attachment under which it was reported ends
(detach, replace), or nobody can read the queue any more. So nobody waits for ever for a client that is gone.

Ref: v7.3 eventq.c; drivers/iommu/io-pgfault.c
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL
from typing import TYPE_CHECKING, Final

from ..errors import IoctlError
from .objects import Object

if TYPE_CHECKING:
    from .device import Device
    from .group import Attachment

# What a device is told, by the uAPI's numbers (enum iommufd_page_response_code).
SUCCESS: Final = 0  # try again
INVALID: Final = 1  # give up

NO_PASID: Final = 0
Respond = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class PageFault:
    """What a device wants: `address` (IOVA), `perm` (IOMMU_PGFAULT_PERM_*), with which PASID (0: its own DMA). `group` is the device's own
    number for the faults that are answered together; `last` ends them.
    """

    address: int
    perm: int
    pasid: int = NO_PASID
    group: int = 0
    last: bool = True


class FaultGroup:
    """Faults that are answered together, in the order in which they were reported. `cookie`: its name at the client, 0: not read yet."""

    __slots__ = ("_respond", "attachment", "cookie", "faults")

    def __init__(self, faults: list[PageFault], attachment: "Attachment", respond: Respond) -> None:
        self.faults: Final = faults
        self.attachment: Final = attachment
        self.cookie = 0
        self._respond: Respond | None = respond

    def answer(self, code: int) -> None:
        """To be called once, when the group is in no list any more."""
        respond, self._respond = self._respond, None
        assert respond is not None, "a group is answered once"
        respond(code)


class Fault(Object):
    """A queue. Users: the page tables whose faults it gets, and the open file by which a client reads it."""

    kind = "fault queue"
    __slots__ = ("_answerable", "_delivered", "_free", "_next", "readable", "wake")

    def __init__(self) -> None:
        super().__init__()
        self.readable = True  # a client has it open
        self.wake: Callable[[], None] | None = None  # called, once, when there is something to read
        self._delivered: deque[FaultGroup] = deque()
        self._answerable: dict[int, FaultGroup] = {}  # by cookie
        self._free: list[int] = []
        self._next = 1

    @property
    def waiting(self) -> int:
        """Groups that wait for an answer, read or not."""
        return len(self._delivered) + len(self._answerable)

    @property
    def pending(self) -> bool:
        """Whether there is something to read."""
        return bool(self._delivered)

    def deliver(self, group: FaultGroup) -> None:
        """Ref: v7.3 eventq.c iommufd_fault_iopf_handler"""
        if not self.readable:
            group.answer(INVALID)
            return
        self._delivered.append(group)
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()

    def read(self, room: int) -> list[FaultGroup]:
        """The groups delivered first, whole ones only, `room` faults at most; they can be answered from now on.

        EINVAL: not even the first one fits. Ref: v7.3 eventq.c iommufd_fault_fops_read
        """
        taken: list[FaultGroup] = []
        while self._delivered and len(self._delivered[0].faults) <= room:
            group = self._delivered.popleft()
            room -= len(group.faults)
            if self._free:
                group.cookie = heapq.heappop(self._free)
            else:
                group.cookie = self._next
                self._next += 1
            self._answerable[group.cookie] = group
            taken.append(group)
        if self._delivered and not taken:
            raise IoctlError(EINVAL, f"the next group has {len(self._delivered[0].faults)} faults, there is room for {room}")
        return taken

    def respond(self, cookie: int, code: int) -> None:
        """A client's answer. EINVAL: no such code, or no group with this cookie waits for an answer.

        Ref: v7.3 eventq.c iommufd_fault_fops_write
        """
        if code not in (SUCCESS, INVALID):
            raise IoctlError(EINVAL, f"{code} is no answer to a fault")
        if cookie not in self._answerable:
            raise IoctlError(EINVAL, f"no group of faults with the cookie {cookie} waits for an answer")
        self._take(cookie).answer(code)

    def answer_all(self, attachment: "Attachment") -> None:
        """Whoever waits for an answer to a fault under this attachment gets one: it ends, or goes to another page table.

        Ref: v7.3 eventq.c iommufd_auto_response_faults
        """
        self._give_up(lambda group: group.attachment is attachment)

    def close(self) -> None:
        """The client's file is closed: nobody can read or answer any more.

        The kernel lets the devices wait until they are detached; which of the two it is, no client can tell.
        """
        self.readable = False
        self.wake = None
        self._give_up(lambda group: True)

    def destroy(self) -> None:
        # Ref: v7.3 eventq.c iommufd_fault_destroy
        self._give_up(lambda group: True)

    def _give_up(self, concerned: Callable[[FaultGroup], bool]) -> None:
        given_up = [group for group in self._delivered if concerned(group)]
        if given_up:
            self._delivered = deque(group for group in self._delivered if not concerned(group))
        given_up += [self._take(cookie) for cookie, group in sorted(self._answerable.items()) if concerned(group)]
        for group in given_up:
            group.answer(INVALID)

    def _take(self, cookie: int) -> FaultGroup:
        heapq.heappush(self._free, cookie)
        return self._answerable.pop(cookie)


class FaultReporter:
    """A device's side: faults of groups that it has not ended yet, and under which attachment. With that they are dropped."""

    __slots__ = ("_partial",)

    def __init__(self) -> None:
        self._partial: list[tuple[Attachment, PageFault]] = []

    def report(self, device: "Device", fault: PageFault, respond: Respond) -> None:
        """Errors: Device.report_fault. Ref: v7.3 io-pgfault.c iommu_report_device_fault"""
        attachment = _attachment(device, fault.pasid)
        if attachment is None or attachment.hwpt.fault is None or device.driver.iommu is None:
            respond(INVALID)
            raise IoctlError(EINVAL, f"nobody takes the faults of {device} with PASID {fault.pasid}")
        if not fault.last:
            self._partial.append((attachment, fault))
            return
        members = [before for under, before in self._partial if before.group == fault.group and under is attachment]
        self._partial = [
            (under, before) for under, before in self._partial if before.group != fault.group and under.devices
        ]
        attachment.hwpt.fault.deliver(FaultGroup([*members, fault], attachment, respond))


def _attachment(device: "Device", pasid: int) -> "Attachment | None":
    """What handles faults with this PASID. Ref: v7.3 io-pgfault.c find_fault_handler"""
    found = device.group.attachments.get(pasid)
    if found is None and pasid != NO_PASID:
        # A guest that has its own table of PASIDs, below a nested page table: that one gets all of them.
        own = device.group.attachments.get(NO_PASID)
        if own is not None and own.hwpt.paging is not own.hwpt:
            return own
    return found
