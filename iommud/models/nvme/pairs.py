"""The queues that a controller has, made and taken away by its driver.

Ref: NVM Express Base Specification 1.4 sections 5.3 to 5.6
"""

from typing import Final

from . import wire as w
from .command import Command
from .queues import CompletionQueue, SubmissionQueue
from .wire import Failed

MOST_ENTRIES: Final = 1024  # of a queue
_CONTIGUOUS, _INTERRUPTS = 1, 2  # of dword 11


class Pairs:
    """`most`: I/O queues of each direction; `vectors`: interrupts."""

    def __init__(self, most: int, vectors: int) -> None:
        self.most: Final = most
        self._vectors: Final = vectors
        self.sq: Final[dict[int, SubmissionQueue]] = {}
        self.cq: Final[dict[int, CompletionQueue]] = {}

    def open(self, asq: int, asq_size: int, acq: int, acq_size: int) -> None:
        """The admin queues."""
        self.cq[0] = CompletionQueue(0, acq, acq_size, 0)
        self.sq[0] = SubmissionQueue(0, asq, asq_size, self.cq[0])

    def reset(self) -> None:
        self.sq.clear()
        self.cq.clear()

    @property
    def has_io(self) -> bool:
        return len(self.cq) > 1

    def create_cq(self, command: Command, page: int) -> None:
        """Failed: something of it is wrong. `page`: bytes of the host's."""
        number, size = self._checked(command, self.cq, page)
        if command.cdw11 >> 16 >= self._vectors:
            raise Failed(w.INTERRUPT_VECTOR_INVALID)
        if not command.cdw11 & _CONTIGUOUS:
            raise Failed(w.INVALID_FIELD)
        vector = command.cdw11 >> 16 if command.cdw11 & _INTERRUPTS else None
        self.cq[number] = CompletionQueue(number, command.prp1, size, vector)

    def create_sq(self, command: Command, page: int) -> None:
        """As `create_cq`."""
        cqid = command.cdw11 >> 16
        if not 1 <= cqid <= self.most:
            raise Failed(w.QUEUE_ID_INVALID)
        if cqid not in self.cq:
            raise Failed(w.CQ_INVALID)
        number, size = self._checked(command, self.sq, page)
        if not command.cdw11 & _CONTIGUOUS:
            raise Failed(w.INVALID_FIELD)
        self.sq[number] = SubmissionQueue(number, command.prp1, size, self.cq[cqid])

    def delete_cq(self, command: Command) -> None:
        """Failed: there is none, or a submission queue uses it."""
        cq = self.cq.get(command.cdw10 & 0xFFFF)
        if cq is None or not cq.id:
            raise Failed(w.QUEUE_ID_INVALID)
        if cq.users:
            raise Failed(w.QUEUE_DELETION_INVALID)
        del self.cq[cq.id]

    def delete_sq(self, command: Command) -> SubmissionQueue:
        """The queue that is gone. Failed: there is none."""
        sq = self.sq.get(command.cdw10 & 0xFFFF)
        if sq is None or not sq.id:
            raise Failed(w.QUEUE_ID_INVALID)
        del self.sq[sq.id]
        sq.cq.users -= 1
        return sq

    def _checked(
        self, command: Command, having: dict[int, SubmissionQueue] | dict[int, CompletionQueue], page: int
    ) -> tuple[int, int]:
        """The number and size of a new queue."""
        number, size = command.cdw10 & 0xFFFF, (command.cdw10 >> 16) + 1
        if not 1 <= number <= self.most or number in having:
            raise Failed(w.QUEUE_ID_INVALID)
        if not 2 <= size <= MOST_ENTRIES:
            raise Failed(w.QUEUE_SIZE_INVALID)
        if command.prp1 & page - 1:
            raise Failed(w.PRP_OFFSET_INVALID)
        return number, size
