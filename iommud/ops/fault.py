"""FAULT_QUEUE_ALLOC, and the file that it gives: read, write and poll of a fault queue. Ref: v7.3
eventq.c
"""

import os
import select
from collections.abc import Callable
from errno import ESPIPE
from struct import Struct
from typing import Final

from cuse_glue.request.caller import Caller

from ..engine.device.context import Context
from ..engine.device.fault import NO_PASID, FaultQueue
from ..engine.memory.origin import PAGE_SIZE
from ..errors import IoctlError
from ..uapi.header import const, fields, struct_size
from .queue_file import QueueFile, give_queue
from .request import Request

_RECORD: Final = Struct("<IIIIIIQII")  # struct iommu_hwpt_pgfault
_ANSWER: Final = Struct("<II")  # struct iommu_hwpt_page_response
assert _RECORD.size == struct_size("iommu_hwpt_pgfault")
assert _ANSWER.size == struct_size("iommu_hwpt_page_response")
_PASID_VALID: Final = const("IOMMU_PGFAULT_FLAGS_PASID_VALID")
_LAST_PAGE: Final = const("IOMMU_PGFAULT_FLAGS_LAST_PAGE")
_OUT_ID: Final = fields("iommu_fault_alloc")["out_fault_id"].offset
# Longer transfers may come to us in parts that end where the kernel's pages do.
_IN_PARTS: Final = 31 * PAGE_SIZE


class FaultFile(QueueFile):
    """The open file behind a fault queue's descriptor."""

    def __init__(self, context: Context, fault: FaultQueue) -> None:
        super().__init__(context, fault)
        self.fault = fault

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        """As many whole groups of faults as fit; nothing, if there are none. ESPIPE: the size is no
        multiple of a record. EINVAL: it is too short for the next group.
        """
        _check_size(size, _RECORD)
        try:
            groups = self.fault.read(size // _RECORD.size)
        except IoctlError as refusal:
            raise OSError(refusal.errno, refusal.why) from None
        out = bytearray()
        for group in groups:
            device = group.attachment.device.id
            for fault in group.faults:
                flags = (_PASID_VALID if fault.pasid != NO_PASID else 0) | (_LAST_PAGE if fault.last else 0)
                out += _RECORD.pack(
                    flags, device, fault.pasid, fault.group, fault.perm, 0, fault.address, 0, group.cookie
                )
        return bytes(out)

    async def write(self, caller: Caller, offset: int, data: bytes, nonblocking: bool) -> int:
        """Take answers. Returns how many bytes were taken before the first wrong answer. ESPIPE:
        the size is no multiple of an answer. EINVAL: the first answer is wrong.
        """
        _check_size(len(data), _ANSWER)
        done = 0
        for cookie, code in _ANSWER.iter_unpack(data[: len(data) // _ANSWER.size * _ANSWER.size]):
            try:
                self.fault.respond(cookie, code)
            except IoctlError as refusal:
                if done:
                    break
                raise OSError(refusal.errno, refusal.why) from None
            done += _ANSWER.size
        return done

    def poll(self, wake: Callable[[], None] | None) -> int:
        if self.fault.pending:
            return select.POLLIN | select.POLLRDNORM | select.POLLOUT
        if wake is not None:
            self.fault.wake = wake  # of the same open file each time
        return select.POLLOUT

    def release(self) -> None:
        self.fault.close()
        super().release()


def _check_size(size: int, record: Struct) -> None:
    if size % record.size and size < _IN_PARTS:
        raise OSError(ESPIPE, os.strerror(ESPIPE))


async def fault_queue_alloc(request: Request) -> None:
    """Errors of giving a descriptor: EMFILE, EFAULT, and those of Injector.give."""
    fault = FaultQueue()

    def reserve() -> FaultFile:
        request.context.objects.reserve(fault)
        return FaultFile(request.context, fault)

    await give_queue(request, reserve, _OUT_ID)
