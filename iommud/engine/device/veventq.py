"""Event queues: what a vIOMMU's hardware reports to a guest, and a client reads.

Every event has a sequence number. An event that finds the queue full is lost, but its number is
used up. As long as nothing came after it, the queue ends with a *mark*: a header without an event,
with the number of the last event that was lost. The next event takes the mark's place; then the gap
in the numbers tells of the loss.

Ref: v7.3 eventq.c, driver.c iommufd_viommu_report_event, iommufd_private.h iommufd_vevent_handler
"""

from collections import deque
from collections.abc import Callable
from errno import EEXIST, EINVAL
from typing import Final

from ...errors import IoctlError
from ..mapping.objects import Object, ObjectTable
from .viommu import Viommu

SEQUENCE_LAST: Final = (1 << 31) - 1
DEEPEST: Final = 1 << 19  # events


class Veventq(Object):
    """Users: the open file by which a client reads it. `depth`: how many events it holds."""

    kind = "event queue"
    __slots__ = ("_events", "_lost", "_sequence", "depth", "type", "viommu", "wake")

    def __init__(self, viommu: Viommu, event_type: int, depth: int) -> None:
        super().__init__()
        self.viommu = viommu
        self.type = event_type
        self.depth = depth
        self.wake: Callable[[], None] | None = None  # called, once, when there is something to read
        self._events: deque[tuple[int, bytes]] = deque()  # sequence number, event
        self._lost: int | None = None  # the number of the mark at the end
        self._sequence = 0
        viommu.veventqs[event_type] = self
        viommu.users.append(self)

    @property
    def pending(self) -> bool:
        """Whether there is something to read."""
        return bool(self._events) or self._lost is not None

    def report(self, data: bytes) -> None:
        """An event. It will be read later, or, if there is no room, it is marked as lost."""
        number, self._sequence = self._sequence, (self._sequence + 1) & SEQUENCE_LAST
        if len(self._events) == self.depth:
            self._lost = number
        else:
            self._lost = None
            self._events.append((number, data))
        wake, self.wake = self.wake, None
        if wake is not None:
            wake()

    def next(self, room: int, header: int) -> tuple[int, bytes | None] | None:
        """Take what is to be read next: its number, and the event (None for the mark). None:
        nothing fits into `room` bytes.

        EINVAL: the event does not fit, but a header (`header` bytes) would. Ref: v7.3 eventq.c
        iommufd_veventq_fops_read
        """
        if not self.pending or room < header:
            return None
        if not self._events:
            number, self._lost = self._lost, None
            assert number is not None
            return number, None
        if header + len(self._events[0][1]) > room:
            raise IoctlError(
                EINVAL, f"the next event has {len(self._events[0][1])} bytes and a header, there is room for {room}"
            )
        return self._events.popleft()

    def destroy(self) -> None:
        self._events.clear()
        del self.viommu.veventqs[self.type]
        self.viommu.users.remove(self)


def alloc_veventq(objects: ObjectTable, viommu: Viommu, event_type: int, depth: int) -> Veventq:
    """A new queue. It is not published: publish it, or `abort_and_destroy`. EEXIST: the vIOMMU has
    one of this type.
    """
    if event_type in viommu.veventqs:
        raise IoctlError(EEXIST, f"{viommu} has {viommu.veventqs[event_type]} for events of type {event_type:#x}")
    queue = Veventq(viommu, event_type, depth)
    try:
        objects.reserve(queue)
    except IoctlError:
        queue.destroy()
        raise
    return queue
