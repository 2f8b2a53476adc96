"""An NVM Express controller: its registers and doorbells, and the order in which it works.

A doorbell says that a queue has commands. As many as lie together are fetched by one DMA, each is
begun, and the completions of all that are done are written by one DMA, with one interrupt. That
happens while the driver's store to the doorbell waits, which is quickest for both, up to a budget;
the rest is done beside all else, some at a time. After that a doorbell in memory is looked at once
more (shadows.py), so that one store to the BAR may be enough for many commands.

When a queue cannot be read or written the controller has failed (CSTS.CFS), and does nothing until
it is reset.

Ref: NVM Express Base Specification 1.4 sections 3.1, 7
"""

from contextlib import suppress
from typing import ClassVar, Final

from ...pci.bars import Bar
from ...pci.capabilities import Express, Msix, Pm, errors
from ...pci.function import DmaFault, Identity, PciFunction, Slot
from ...pci.scheduler import Cancel
from ..disk import KEYS
from ..disk_work import DiskWork, Job
from ..keys import Key, Keys, number, switch, text
from . import events as e
from . import wire as w
from .admin import Admin, Parts
from .command import Command
from .events import Events
from .features import Features
from .identify import Names
from .io import Io
from .logs import Logs
from .namespace import divide
from .pairs import MOST_ENTRIES, Pairs
from .pointer import stretches
from .queues import CompletionQueue, SubmissionQueue
from .shadows import Shadows
from .wire import SQE, Failed

MOST_QUEUES: Final = 128
MOST_NAMESPACES: Final = 256
MOST_STRIDE: Final = 4
MPSMAX: Final = 4  # pages of 64 KiB
FIRMWARE: Final = "1.0"
_TIMEOUT: Final = 20  # units of 0.5 s
_BUDGET: Final = 4 << 20  # bytes after which others have a turn: about 2 ms
_COST: Final = 16 << 10  # bytes that a command counts for, beside its data
_PAGE: Final = 4096


class Nvme(PciFunction):
    """`queues`: pairs of I/O queues. `ns`: namespaces, of equal size. `dstrd`: the doorbell stride,
    as a power of two of 4 bytes. `dbbuf`: doorbells can be in memory. `poll`: microseconds for
    which these are looked at again and again after the last command.
    """

    name = "nvme"
    identity = Identity(0x1234, 0x4E56, 0x010802, revision=0x01, subsystem_vendor=0x1234, subsystem_device=0x4E56)
    interrupt_pin = 1
    keys: ClassVar[Keys] = {
        **KEYS,
        "ns": Key(number(1, MOST_NAMESPACES), "COUNT", "namespaces, each an equal part of the bytes (default: 1)"),
        "serial": Key(text(20), "TEXT", "its serial number (default: made of its address)"),
        "queues": Key(number(1, MOST_QUEUES), "COUNT", "pairs of I/O queues (default: 16)"),
        "dstrd": Key(number(0, MOST_STRIDE), "N", "doorbell stride: doorbells are 4 << N bytes apart (default: 0)"),
        "dbbuf": Key(switch, "on|off", "whether doorbells can be in memory (default: on)"),
        "poll": Key(number(0, 1_000_000), "US", "how long it looks for more commands by itself (default: 0)"),
    }

    def __init__(
        self,
        slot: Slot,
        *,
        file: str | None = None,
        size: int | None = None,
        readonly: bool = False,
        lba: int = 512,
        ns: int = 1,
        serial: str | None = None,
        queues: int = 16,
        dstrd: int = 0,
        dbbuf: bool = True,
        poll: int = 0,
    ) -> None:
        """ValueError: Disk, divide."""
        vectors = queues + 1
        self._stride: Final = 4 << dstrd
        table = _aligned(w.DOORBELLS + 2 * (queues + 1) * self._stride)
        pba = _aligned(table + 16 * vectors)
        self.bars = (Bar(0, 1 << (pba + _PAGE - 1).bit_length(), wide=True),)
        self.capabilities = (Msix(vectors, table=(0, table), pba=(0, pba)), Pm(), Express())
        self.extended = (errors(),)
        self._doorbells_end: Final = table
        self._dstrd: Final = dstrd
        self._poll: Final = poll / 1_000_000
        super().__init__(slot)
        self._disk: Final = slot.storage.open(file, size, readonly=readonly)
        names = Names(
            self.identity.vendor,
            self.identity.subsystem_vendor,
            serial or f"IOMMUD-{str(slot.address).replace(':', '').replace('.', '')}",
            "iommud NVMe Controller",
            FIRMWARE,
        )
        try:
            self._namespaces: Final = divide(self._disk, ns, lba, names.serial)
        except ValueError:
            self._disk.close()
            raise
        self._pairs: Final = Pairs(queues, vectors)
        self._features: Final = Features(queues, vectors, ns, self.scheduler.now)
        self._logs: Final = Logs(self._features, FIRMWARE, self.scheduler.now, readonly=readonly)
        self._events: Final = Events(self._complete_event)
        self._shadows: Final = Shadows(self.dma_read, self.dma_write, self._stride)
        self._io: Final = Io(self, self._disk, self._namespaces, self._features, self._logs, self.finish, self.say)
        self._work: Final = DiskWork(self.scheduler, self._go)
        parts = Parts(
            names,
            self._namespaces,
            self._pairs,
            self._features,
            self._logs,
            self._events,
            self._shadows if dbbuf else None,
        )
        self._admin: Final = Admin(self, parts)
        self.page = _PAGE
        self._under_way: Final[dict[tuple[int, int], Command]] = {}  # by queue and command ID
        self._rung: Final[dict[int, SubmissionQueue]] = {}  # to be looked at, in this order
        self._posted: Final[dict[int, CompletionQueue]] = {}  # with completions to be written
        self._rest: Cancel | None = None
        self._poller: Cancel | None = None
        self._masked = 0  # interrupts, by INTMS
        self.reset()

    def load(self, bar: int, offset: int, size: int) -> int:
        return int.from_bytes(self._registers[offset : offset + size], "little")

    def store(self, bar: int, offset: int, size: int, value: int) -> None:
        if w.DOORBELLS <= offset < self._doorbells_end:
            self._doorbell(offset - w.DOORBELLS, value & 0xFFFF)
        elif size == 8 and offset in (w.ASQ, w.ACQ):
            self._put(offset, 8, value & -w.PAGE)
        elif size == 4 and not offset % 4:
            self._write(offset, value)

    def reset(self) -> None:
        self._registers = bytearray(_PAGE)
        self._put(w.CAP, 8, self._capabilities)
        self._put(w.VS, 4, w.VERSION)
        self._forget()

    # --- registers ---

    @property
    def _capabilities(self) -> int:
        return (
            MOST_ENTRIES - 1
            | w.CAP_CQR
            | _TIMEOUT << w.CAP_TO
            | self._dstrd << w.CAP_DSTRD
            | w.CAP_NVM
            | MPSMAX << w.CAP_MPSMAX
        )

    def _get(self, register: int, width: int = 4) -> int:
        return int.from_bytes(self._registers[register : register + width], "little")

    def _put(self, register: int, width: int, value: int) -> None:
        self._registers[register : register + width] = value.to_bytes(width, "little")

    def _write(self, register: int, value: int) -> None:
        if register in (w.INTMS, w.INTMC):
            self._masked = self._masked | value if register == w.INTMS else self._masked & ~value
            self._put(w.INTMS, 4, self._masked)
            self._put(w.INTMC, 4, self._masked)
            self._set_line()
        elif register == w.CC:
            self._configure(value & w.CC_WRITABLE)
        elif register == w.AQA:
            self._put(register, 4, value & 0x0FFF_0FFF)
        elif register in (w.ASQ, w.ACQ):
            self._put(register, 4, value & 0xFFFF_F000)
        elif register in (w.ASQ + 4, w.ACQ + 4):
            self._put(register, 4, value)

    def _configure(self, value: int) -> None:
        was = self._get(w.CC)
        self._put(w.CC, 4, value)
        if value & ~was & w.CC_EN:
            self._enable(value)
        elif was & ~value & w.CC_EN:
            self._forget()
            self._put(w.CSTS, 4, 0)
        shuts, shut = value >> w.CC_SHN & 3, was >> w.CC_SHN & 3
        if shuts and not shut:
            self._set_status(w.CSTS_SHST, w.CSTS_SHUTTING_DOWN)
            self._work.add(Job(self._flush_disk, lambda: self._set_status(w.CSTS_SHST, w.CSTS_SHUT_DOWN)))
            self._work.go()
        elif shut and not shuts:
            self._set_status(w.CSTS_SHST, 0)

    def _set_status(self, mask: int, bits: int) -> None:
        self._put(w.CSTS, 4, self._get(w.CSTS) & ~mask | bits)

    def _flush_disk(self) -> None:
        with suppress(OSError):
            self._disk.flush()

    def _enable(self, cc: int) -> None:
        mps, aqa, asq, acq = cc >> w.CC_MPS & 0xF, self._get(w.AQA), self._get(w.ASQ, 8), self._get(w.ACQ, 8)
        sizes = (aqa & 0xFFF) + 1, (aqa >> 16) + 1
        wrong = (
            (mps > MPSMAX, f"CC.MPS is {mps}"),
            (cc >> w.CC_CSS & 7 or cc >> w.CC_AMS & 7, "CC has another command set or arbitration"),
            (cc >> w.CC_IOSQES & 0xF not in (0, 6), "CC.IOSQES is not 6"),
            (cc >> w.CC_IOCQES & 0xF not in (0, 4), "CC.IOCQES is not 4"),
            (min(sizes) < 2, "AQA has a queue of one entry"),
            ((asq | acq) & (_PAGE << mps) - 1, "ASQ or ACQ is not at a page's beginning"),
        )
        for is_wrong, why in wrong:
            if is_wrong:
                self._fail(f"it is enabled, but {why}")
                return
        self.page = self._io.page = _PAGE << mps
        self._pairs.open(asq, sizes[0], acq, sizes[1])
        self._set_status(w.CSTS_RDY | w.CSTS_CFS, w.CSTS_RDY)

    def _forget(self) -> None:
        """Everything but the registers of the admin queues, and what is on the disk."""
        for work in (self._rest, self._poller):
            if work is not None:
                work.cancel()
        self._rest = self._poller = None
        self._work.reset()
        for of in (self._under_way, self._rung, self._posted):
            of.clear()
        for part in (self._pairs, self._features, self._events, self._shadows):
            part.reset()
        for namespace in self._namespaces:
            namespace.formatting = False
        self.page = self._io.page = _PAGE
        self._masked = 0
        self._put(w.INTMS, 8, 0)
        self.intx(False)

    def _fail(self, why: str) -> None:
        self._forget()
        self._set_status(w.CSTS_CFS, w.CSTS_CFS)
        self.say(f"the controller has failed: {why}")

    def say(self, sentence: str) -> None:
        """Tell people."""
        if self.why is not None:
            self.why(f"{self.name} at {self.address}: {sentence}")

    # --- doorbells ---

    @property
    def _runs(self) -> bool:
        return self._get(w.CSTS) & (w.CSTS_RDY | w.CSTS_CFS) == w.CSTS_RDY

    def _doorbell(self, offset: int, value: int) -> None:
        if not self._runs:
            return
        try:
            self._ring(offset, value)
        except DmaFault:  # which has been told
            self._fail("it cannot reach a queue")
        self._go()

    def _ring(self, offset: int, value: int) -> None:
        index, rest = divmod(offset, self._stride)
        is_head, qid = index & 1, index >> 1
        queue = None if rest else (self._pairs.cq if is_head else self._pairs.sq).get(qid)
        if queue is None:
            self._events.happen(e.ERROR, e.NO_SUCH_DOORBELL)
        elif isinstance(queue, CompletionQueue):
            self._moved(queue, right=self._shadows.seen(queue) if qid and self._shadows.on else queue.seen(value))
        elif (qid and self._shadows.on) or queue.submitted(value):
            self._rung[qid] = queue
        else:
            self._events.happen(e.ERROR, e.WRONG_DOORBELL_VALUE)

    def _moved(self, cq: CompletionQueue, *, right: bool) -> None:
        """The driver has seen completions, if it is right about them."""
        if not right:
            self._events.happen(e.ERROR, e.WRONG_DOORBELL_VALUE)
            return
        if not cq.id and self._shadows.on:
            self._shadows.ring_at(cq, cq.head)
        self._posted[cq.id] = cq
        for sq in self._pairs.sq.values():
            if sq.cq is cq and sq.head != sq.tail:
                self._rung[sq.id] = sq
        self._set_line()

    def _set_line(self) -> None:
        self.intx(
            not self.sends_messages
            and any(
                cq.vector is not None and cq.used and not self._masked >> cq.vector & 1
                for cq in self._pairs.cq.values()
            )
        )

    # --- work ---

    def _go(self) -> None:
        if self._rest is None and self._turn():
            self._rest = self.start(self._go_on)

    async def _go_on(self) -> None:
        while self._turn():
            await self.scheduler.sleep(0)
        self._rest = None

    def _turn(self) -> bool:
        """Work for as long as others may wait. Returns whether anything is left to be done."""
        spent = 0
        try:
            while self._rung and spent < _BUDGET:
                qid, sq = next(iter(self._rung.items()))
                del self._rung[qid]
                spent += self._serve(sq)
                self._write_completions()
            self._write_completions()
        except DmaFault:  # which has been told
            self._fail("it cannot reach a queue")
        self._work.go()
        return bool(self._rung)

    def _serve(self, sq: SubmissionQueue) -> int:
        """Take what has been submitted; what that costs. DmaFault: the queue cannot be read."""
        shadowed = bool(sq.id) and self._shadows.on
        if shadowed:
            self._look(self._shadows.submitted(sq))
            if sq.head != sq.tail and not sq.cq.room:
                self._shadows.ring_at(sq.cq, sq.cq.head)
                self._look(self._shadows.seen(sq.cq))
        count = sq.next
        if not count:
            if shadowed and sq.head == sq.tail:
                self._rest_until_rung(sq)
            return _COST
        data = self.dma_read(sq.base + SQE * sq.head, SQE * count)
        sq.take(count)
        before = self._logs.read_bytes + self._logs.written_bytes
        for at in range(0, SQE * count, SQE):
            self._begin(sq, Command(sq.id, data, at))
        if sq.next or shadowed:
            self._rung[sq.id] = sq
        if not sq.id:
            self._shadows.ring_at(sq, sq.tail)
        return _COST * count + self._logs.read_bytes + self._logs.written_bytes - before

    def _rest_until_rung(self, sq: SubmissionQueue) -> None:
        """All commands of a queue with a doorbell in memory were taken."""
        if not self._poll:
            self._ask_to_ring(sq)
        elif self._poller is None:
            self._poller = self.start(self._look_again)

    def _ask_to_ring(self, sq: SubmissionQueue) -> None:
        self._shadows.ring_at(sq, sq.tail)
        self._look(self._shadows.submitted(sq))
        if sq.head != sq.tail:
            self._rung[sq.id] = sq

    async def _look_again(self) -> None:
        """Look at the doorbells in memory until nothing has come for a while."""
        end = self.scheduler.now() + self._poll
        try:
            while self.scheduler.now() < end:
                await self.scheduler.sleep(0)
                for sq in self._pairs.sq.values():
                    if sq.id and self._shadows.submitted(sq) and sq.head != sq.tail and sq.cq.room:
                        self._rung[sq.id] = sq
                        end = self.scheduler.now() + self._poll
                self._go()
            self._poller = None
            for sq in self._pairs.sq.values():
                if sq.id:
                    self._ask_to_ring(sq)
        except DmaFault:  # which has been told
            self._fail("it cannot reach a queue")
        self._go()

    def _look(self, right: bool) -> None:
        if not right:
            self._events.happen(e.ERROR, e.WRONG_DOORBELL_VALUE)

    def _begin(self, sq: SubmissionQueue, command: Command) -> None:
        result: int | None = 0
        try:
            if (sq.id, command.cid) in self._under_way:
                raise Failed(w.COMMAND_ID_CONFLICT)
            if sq.id:
                job = self._io.begin(command)
                if job is not None:
                    self.later(command, job)
                    return
            else:
                result = self._admin.run(command)
        except Failed as failed:
            self._complete(sq, command, failed.status, retry=failed.retry)
            return
        except DmaFault:
            self._complete(sq, command, w.DATA_TRANSFER_ERROR)
            return
        if result is not None:
            self._complete(sq, command, w.SUCCESS, result)
        elif command.opcode == w.ASYNC_EVENT_REQUEST:
            sq.cq.reserved -= 1  # nobody knows when it ends

    def _complete(
        self, sq: SubmissionQueue, command: Command, status: int, dword0: int = 0, *, retry: bool = False
    ) -> None:
        if status:
            status |= w.MORE | (0 if retry else w.DO_NOT_RETRY)
            self._logs.failed(command, status)
        sq.cq.reserved -= 1
        sq.cq.post(sq.id, sq.head, command.cid, status, dword0)
        self._posted[sq.cq.id] = sq.cq

    def _complete_event(self, cid: int, dword0: int) -> None:
        sq = self._pairs.sq[0]
        sq.cq.post(0, sq.head, cid, w.SUCCESS, dword0)
        self._posted[0] = sq.cq

    def _write_completions(self) -> None:
        """DmaFault: a queue cannot be written."""
        while self._posted:
            _, cq = self._posted.popitem()
            if not cq.flush(self.dma_write) or cq.vector is None:
                continue
            if self.sends_messages:
                self.interrupt(cq.vector)
            else:
                if self._shadows.on:
                    self._shadows.ring_at(cq, cq.head)  # the line stays up until it says what it has seen
                self._set_line()

    # --- for the commands ---

    def get(self, command: Command, length: int) -> bytes:
        where = stretches(command, length, self.page, self.dma_read)
        return b"".join(self.dma_read(iova, size) for iova, size in where if iova is not None)

    def put(self, command: Command, data: bytes) -> None:
        view = memoryview(data)
        for iova, size in stretches(command, len(data), self.page, self.dma_read):
            if iova is not None:
                self.dma_write(iova, view[:size])
            view = view[size:]

    def later(self, command: Command, job: Job) -> None:
        self._under_way[command.sqid, command.cid] = command
        self._work.add(job)

    def finish(self, command: Command, status: int) -> None:
        if self._under_way.get((command.sqid, command.cid)) is command:
            del self._under_way[command.sqid, command.cid]
            self._complete(self._pairs.sq[command.sqid], command, status)

    def abort(self, sqid: int, cid: int) -> bool:
        if not sqid and self._events.abort(cid):
            self._pairs.cq[0].post(0, self._pairs.sq[0].head, cid, w.ABORT_REQUESTED, 0)
            return True
        command = self._under_way.pop((sqid, cid), None)
        if command is None:
            return False
        self._complete(self._pairs.sq[sqid], command, w.ABORT_REQUESTED)
        return True

    def forget(self, sq: SubmissionQueue) -> None:
        self._rung.pop(sq.id, None)
        for sqid, cid in list(self._under_way):
            if sqid == sq.id:
                self._complete(sq, self._under_way.pop((sqid, cid)), w.SQ_DELETED)


def _aligned(offset: int) -> int:
    return -(-offset // _PAGE) * _PAGE
