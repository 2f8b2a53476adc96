"""A driver of an NVMe controller, as small as can be: it waits for each command, or for a batch."""

import struct
from typing import NamedTuple

from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.models.nvme import wire as w
from iommud.models.nvme.controller import Nvme
from iommud.pci import vfio_names as v
from tests.engine.fakes import P, map_
from tests.pci.kit import Rig

ENTRIES: int = 16  # of each queue
PAGES: int = 200
MEMORY: int = 0x100000  # the IOVA of all of it
NOWHERE: int = 0x9000000
ADMIN_SQ, ADMIN_CQ, IO_SQ, IO_CQ, SHADOWS, EVENTS, LIST = (MEMORY + page * P for page in range(7))
DATA: int = MEMORY + 8 * P
ALL: int = w.ALL_NAMESPACES


class Answer(NamedTuple):
    status: int
    dword0: int
    sqid: int
    cid: int


class Queue:
    def __init__(self, number: int, sq: int, cq: int, entries: int = ENTRIES) -> None:
        self.id, self.sq, self.cq, self.entries = number, sq, cq, entries
        self.tail = self.head = 0
        self.phase = 1


class Driver:
    """`options`: of the model."""

    def __init__(self, *, mapped: bool = True, enable: bool = True, **options: object) -> None:
        options.setdefault("size", 1 << 20)
        self.stride = 4 << int(str(options.get("dstrd", 0)))
        self.rig = Rig(Nvme, storage=None, **options)
        self.ioas, self.origin = self.rig.attach()
        self.origin.mapped = mapped
        map_(self.ioas, self.origin, 0, PAGES * P, MEMORY, prot=PROT_READ | PROT_WRITE)
        self.rig.master()
        self.rig.eventfds(v.VFIO_PCI_MSIX_IRQ_INDEX, 0, *range(10, 14))
        self.shadowed = False
        self.cid = 0
        self.admin_queue = Queue(0, ADMIN_SQ, ADMIN_CQ)
        if enable:
            self.enable()

    # --- registers ---

    def load(self, register: int, size: int = 4) -> int:
        return self.rig.load(0, register, size)

    def store(self, register: int, value: int, size: int = 4) -> None:
        self.rig.store(0, register, size, value)

    def enable(self, cc: int = w.CC_EN | 6 << w.CC_IOSQES | 4 << w.CC_IOCQES) -> None:
        self.admin_queue = Queue(0, ADMIN_SQ, ADMIN_CQ)
        self.shadowed = False
        for queue in (ADMIN_SQ, ADMIN_CQ):
            self.fill(queue, bytes(P))
        self.store(w.AQA, (ENTRIES - 1) * 0x1_0001)
        self.store(w.ASQ, ADMIN_SQ, 8)
        self.store(w.ACQ, ADMIN_CQ, 8)
        self.store(w.CC, cc)

    @property
    def status(self) -> int:
        return self.load(w.CSTS)

    def doorbell(self, index: int, value: int) -> None:
        self.store(w.DOORBELLS + index * self.stride, value)

    # --- memory ---

    def fill(self, iova: int, data: bytes) -> None:
        self.origin.fill(iova - MEMORY, data)

    def memory(self, iova: int, length: int) -> bytes:
        return self.rig.function.dma_read(iova, length)

    # --- commands ---

    def put(
        self, queue: Queue, opcode: int, nsid: int = 0, prp1: int = 0, prp2: int = 0, *dwords: int, flags: int = 0
    ) -> int:
        """Put a command into a queue without ringing; its ID."""
        self.cid = self.cid + 1 & 0xFFFF
        more = [*dwords, 0, 0, 0, 0, 0, 0][:6]
        data = struct.pack("<BBHI16xQQ6I", opcode, flags, self.cid, nsid, prp1, prp2, *more)
        self.fill(queue.sq + w.SQE * queue.tail, data)
        queue.tail = (queue.tail + 1) % queue.entries
        return self.cid

    def ring(self, queue: Queue) -> None:
        if self.shadowed and queue.id:
            self.fill(SHADOWS + self.stride * 2 * queue.id, struct.pack("<I", queue.tail))
        self.doorbell(2 * queue.id, queue.tail)

    def answers(self, queue: Queue) -> list[Answer]:
        """The completions that are there."""
        found = []
        while True:
            entry = self.memory(queue.cq + w.CQE * queue.head, w.CQE)
            dword0, _, _, sqid, cid, status = w.COMPLETION.unpack(entry)
            if status & 1 != queue.phase:
                break
            found.append(Answer(status >> 1 & 0x7FF, dword0, sqid, cid))
            queue.head += 1
            if queue.head == queue.entries:
                queue.head, queue.phase = 0, queue.phase ^ 1
        if found:
            if self.shadowed and queue.id:
                self.fill(SHADOWS + self.stride * (2 * queue.id + 1), struct.pack("<I", queue.head))
            self.doorbell(2 * queue.id + 1, queue.head)
        return found

    def do(
        self, queue: Queue, opcode: int, nsid: int = 0, prp1: int = 0, prp2: int = 0, *dwords: int, flags: int = 0
    ) -> Answer:
        """One command, until it is complete."""
        cid = self.put(queue, opcode, nsid, prp1, prp2, *dwords, flags=flags)
        self.ring(queue)
        answers = self.answers(queue)
        if not answers:
            self.rig.clock.pass_()
            answers = self.answers(queue)
        (answer,) = answers
        assert (answer.cid, answer.sqid) == (cid, queue.id)
        return answer

    def admin(self, opcode: int, nsid: int = 0, prp1: int = DATA, prp2: int = 0, *dwords: int) -> Answer:
        return self.do(self.admin_queue, opcode, nsid, prp1, prp2, *dwords)

    def make_queue(
        self, number: int = 1, sq: int = IO_SQ, cq: int = IO_CQ, *, vector: int = 1, entries: int = ENTRIES
    ) -> Queue:
        self.fill(sq, bytes(P))
        self.fill(cq, bytes(P))
        size = number | entries - 1 << 16
        assert self.admin(w.CREATE_CQ, 0, cq, 0, size, 3 | vector << 16).status == w.SUCCESS
        assert self.admin(w.CREATE_SQ, 0, sq, 0, size, 1 | number << 16).status == w.SUCCESS
        return Queue(number, sq, cq, entries)

    def use_shadows(self) -> None:
        self.fill(SHADOWS, bytes(2 * P))
        assert self.admin(w.DOORBELL_BUFFER_CONFIG, 0, SHADOWS, EVENTS).status == w.SUCCESS
        self.shadowed = True

    def read(
        self, queue: Queue, slba: int, blocks: int, prp1: int = DATA, prp2: int = 0, nsid: int = 1, *, flags: int = 0
    ) -> Answer:
        return self.do(queue, w.READ, nsid, prp1, prp2, slba & 0xFFFFFFFF, slba >> 32, blocks - 1, flags=flags)

    def write(
        self, queue: Queue, slba: int, blocks: int, prp1: int = DATA, prp2: int = 0, nsid: int = 1, *, flags: int = 0
    ) -> Answer:
        return self.do(queue, w.WRITE, nsid, prp1, prp2, slba & 0xFFFFFFFF, slba >> 32, blocks - 1, flags=flags)
