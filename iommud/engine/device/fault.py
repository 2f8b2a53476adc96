"""Fault queues: page faults of devices, which a client reads and answers.

If a page table shows nothing where a device wants to be, the device cannot go on: it reports a
fault, and waits. Faults come in groups; the device marks the last fault of a group. The group goes
to the queue of the page table that the device is attached to. There it is *delivered*, until a
client reads it. From then on it has a cookie, and waits for the client's answer.

Each group is answered exactly once, whatever happens. Either the client answers it. Or it is
answered INVALID, when the attachment under which it was reported ends (detach, replace), or when
nobody can read the queue any more. So nobody waits for ever for a client that is gone.

Ref: v7.3 eventq.c; drivers/iommu/io-pgfault.c
"""

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from errno import EINVAL
from typing import Final, Protocol

from ...errors import IoctlError
from ..mapping.objects import Object

# What a device is told, by the uAPI's numbers (enum iommufd_page_response_code).
SUCCESS: Final = 0  # try again
INVALID: Final = 1  # give up

NO_PASID: Final = 0
Respond = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class PageFault:
    """What a device wants: `address` (IOVA), `perm` (IOMMU_PGFAULT_PERM_*), with which PASID (0:
    its own DMA). `group`: the device's own number for faults that are answered together; `last`:
    this one ends them.
    """

    address: int
    perm: int
    pasid: int = NO_PASID
    group: int = 0
    last: bool = True


class Named(Protocol):
    """What clients name by an ID: a Device."""

    id: int


class Reported(Protocol):
    """Under which attachment a fault was reported: a group.Attachment. `device`: the one that
    clients are told.
    """

    @property
    def device(self) -> Named: ...


class FaultGroup:
    """Faults that are answered together, in the order in which they were reported. `cookie`: its
    name for the client; 0: not read yet.
    """

    __slots__ = ("_respond", "attachment", "cookie", "faults")

    def __init__(self, faults: list[PageFault], attachment: Reported, respond: Respond) -> None:
        self.faults: Final = faults
        self.attachment: Final = attachment
        self.cookie = 0
        self._respond: Respond | None = respond

    def answer(self, code: int) -> None:
        """Call it once, when the group is in no list any more."""
        respond, self._respond = self._respond, None
        assert respond is not None, "a group is answered once"
        respond(code)


class FaultQueue(Object):
    """A queue. Users: the page tables whose faults it gets, and the open file by which a client
    reads it.
    """

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
        """The groups that were delivered first, only whole ones, at most `room` faults. From now on
        they can be answered.

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
            raise IoctlError(
                EINVAL, f"the next group has {len(self._delivered[0].faults)} faults, there is room for {room}"
            )
        return taken

    def respond(self, cookie: int, code: int) -> None:
        """A client's answer. EINVAL: no such code, or no group with this cookie waits for an
        answer.

        Ref: v7.3 eventq.c iommufd_fault_fops_write
        """
        if code not in (SUCCESS, INVALID):
            raise IoctlError(EINVAL, f"{code} is no answer to a fault")
        if cookie not in self._answerable:
            raise IoctlError(EINVAL, f"no group of faults with the cookie {cookie} waits for an answer")
        self._take(cookie).answer(code)

    def answer_all(self, attachment: Reported) -> None:
        """The attachment ends, or goes to another page table: answer every fault under it that
        still waits.

        Ref: v7.3 eventq.c iommufd_auto_response_faults
        """
        self._give_up(lambda group: group.attachment is attachment)

    def close(self) -> None:
        """The client's file is closed: nobody can read or answer any more.

        The kernel lets the devices wait until they are detached. No client can tell the difference.
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
