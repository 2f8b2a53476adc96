"""VEVENTQ_ALLOC, and the file that it gives: read and poll of an event queue. Ref: v7.3 eventq.c"""

import os
import select
from collections.abc import Callable
from errno import EINVAL, EOPNOTSUPP
from struct import Struct
from typing import Final

from cuse_glue.request.caller import Caller

from ..engine.device.context import Context
from ..engine.device.veventq import DEEPEST, Veventq, alloc_veventq
from ..engine.device.viommu import Viommu
from ..errors import IoctlError
from ..uapi.header import const, fields, struct_size
from .locking import locked
from .queue_file import QueueFile, give_queue
from .request import Request

_HEADER: Final = Struct("<II")  # struct iommufd_vevent_header
assert _HEADER.size == struct_size("iommufd_vevent_header")
_LOST: Final = const("IOMMU_VEVENTQ_FLAG_LOST_EVENTS")
_OUT_ID: Final = fields("iommu_veventq_alloc")["out_veventq_id"].offset


class VeventqFile(QueueFile):
    """The open file behind an event queue's descriptor."""

    def __init__(self, context: Context, events: Veventq) -> None:
        super().__init__(context, events)
        self.events = events

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        """As many headers with their events as fit; nothing, if there are none. EINVAL: too short
        for a header, or for the first event.
        """
        if size < _HEADER.size:
            raise OSError(EINVAL, os.strerror(EINVAL))
        out = bytearray()
        while True:
            try:
                found = self.events.next(size - len(out), _HEADER.size)
            except IoctlError as refusal:
                if out:
                    break
                raise OSError(refusal.errno, refusal.why) from None
            if found is None:
                break
            number, event = found
            out += _HEADER.pack(_LOST if event is None else 0, number) + (event or b"")
        return bytes(out)

    def poll(self, wake: Callable[[], None] | None) -> int:
        if self.events.pending:
            return select.POLLIN | select.POLLRDNORM
        if wake is not None:
            self.events.wake = wake  # of the same open file each time
        return 0

    def release(self) -> None:
        self.events.wake = None
        super().release()


async def veventq_alloc(request: Request) -> None:
    """EOPNOTSUPP: no type. EINVAL: a depth of 0 or more than 2^19. ENOENT: no such vIOMMU. EEXIST:
    it has a queue of this type. Errors of giving a descriptor: EMFILE, EFAULT, and those of
    Injector.give."""
    cmd = request.cmd
    if cmd.type == const("IOMMU_VEVENTQ_TYPE_DEFAULT"):
        raise IoctlError(EOPNOTSUPP, f"type {cmd.type:#x} is no type of events")
    if not 0 < cmd.veventq_depth <= DEEPEST:
        raise IoctlError(EINVAL, f"a depth of {cmd.veventq_depth}, wanted: 1 to {DEEPEST}")
    viommu = request.context.objects.get(cmd.viommu_id, Viommu)

    def reserve() -> VeventqFile:
        return VeventqFile(request.context, alloc_veventq(request.context.objects, viommu, cmd.type, cmd.veventq_depth))

    lock = locked(viommu)
    async with lock:
        await give_queue(request, reserve, _OUT_ID, lock.answered)
