"""Intel's I/O DMA engine (I/OAT, QuickData): one channel, which works off a chain of descriptors in
memory, each of which copies or fills a stretch.

A descriptor is 64 bytes: length (4 bytes), control (4), source, destination, next (8 each); the
rest is for operations that are not emulated. The driver writes where the chain begins (CHAINADDR),
and how many descriptors are to be done since then (DMACOUNT, which counts on and wraps at 16 bits).
The channel's status (CHANSTS) has its state, and the address of the descriptor that was completed
last. The status is also written to memory (where CHANCMP says) after a descriptor that asks for it.
An error halts the channel, and CHANERR tells why; a reset makes the channel usable again.

Descriptors are done while the driver's store to DMACOUNT waits, unless they are very many: the rest
is done beside all else, some at a time. Were they done after the store, a driver would find them
late wherever iommud has to wait for a processor (0.2 s were seen beside two busy loops), or is
stopped for a while: DPDK's tests wait a second for a burst, and no longer. The first ones after an
error come late all the same: DPDK's driver miscounts if they are done before it looks.

Ref: v7.3 drivers/dma/ioat/{registers.h,hw.h}; DPDK 24.11 drivers/dma/ioat
"""

from dataclasses import replace
from typing import ClassVar, Final

from ..pci.bars import Bar
from ..pci.capabilities import Express, Msix, Pm, errors
from ..pci.function import DmaFault, Identity, PciFunction, Slot
from ..pci.scheduler import Cancel
from .ioat_descriptors import ACTIVE, ARMED, CONTROL, HALTED, IDLE, SIZE, SUSPENDED, Run
from .keys import Key, Keys, number, one_of

CHANCNT, XFERCAP, GENCTRL, INTRCTRL, CBVER, INTRDELAY, DMACAP = 0x00, 0x01, 0x02, 0x03, 0x08, 0x0C, 0x10
CHANCTRL, DMA_COMP, CHANCMD, DMACOUNT, CHANSTS = 0x80, 0x82, 0x84, 0x86, 0x88
CHAINADDR, CHANCMP, CDAR, CHANERR, CHANERRMASK = 0x90, 0x98, 0xA0, 0xA8, 0xAC
# Registers that can be written, and their bytes. An access must lie within one.
WIDTHS: Final = {
    GENCTRL: 1,
    INTRCTRL: 1,
    INTRDELAY: 2,
    CHANCTRL: 2,
    CHANCMD: 1,
    DMACOUNT: 2,
    CHAINADDR: 8,
    CHANCMP: 8,
    CHANERR: 4,
    CHANERRMASK: 4,
}
# Versions, and what has them. From 3.4 on DPDK's driver handles errors; the kernel's selftest wants
# 3.2 or 3.3.
SKYLAKE, ICE_LAKE = 0x33, 0x34
DEVICE_IDS: Final = {SKYLAKE: 0x2021, ICE_LAKE: 0x0B00}
RECOVERY: Final = 0.01  # seconds from the first doorbell after an error to its descriptor
FILL_BLOCK: Final = 0x40  # of DMACAP
V2: Final = 2  # of DMA_COMP: registers lie where version 2 put them
INTERRUPTS_ON: Final = 0x09  # of INTRCTRL: master enable, or a vector for each channel
# of CHANCTRL. An interrupt sets the first; no other comes until a one is written to it.
INTERRUPT_OFF, ERROR_COMPLETION, ERROR_INTERRUPT = 0x01, 0x04, 0x10
SUSPEND, RESUME, RESET = 0x04, 0x10, 0x20  # commands
# of CHANERR
SOURCE, DESTINATION, NEXT_ALIGNMENT, CHAIN_ADDRESS = 0x0001, 0x0002, 0x0008, 0x0010
DESCRIPTOR, COMPLETION = 0x0100, 0x1000
_PAGE: Final = 4096
_TURN: Final = 4 << 20  # bytes after which others have a turn: about 2 ms
_SINGLE: Final = 64 << 10  # bytes that a move counts for which has to be done by itself


class _Error(Exception):
    """The channel halts; `bits` of CHANERR."""

    def __init__(self, bits: int) -> None:
        super().__init__(hex(bits))
        self.bits = bits


class Ioat(PciFunction):
    """`xfercap`: the binary logarithm of the longest transfer (bytes) that drivers are told of.
    Longer ones work too, up to MOST, because some drivers do not ask. `version`: one
    of DEVICE_IDS.
    """

    name = "ioat"
    identity = Identity(0x8086, DEVICE_IDS[SKYLAKE], 0x088000, revision=0x04, subsystem_vendor=0x8086)
    bars = (Bar(0, 0x4000, wide=True),)
    capabilities = (Msix(vectors=1, table=(0, 0x2000), pba=(0, 0x3000)), Pm(), Express(integrated=True))
    extended = (errors(),)
    keys: ClassVar[Keys] = {
        "xfercap": Key(
            number(12, 20), "BITS", "the longest transfer that it tells of, as a power of two (default: 12, 4 KiB)"
        ),
        "version": Key(
            one_of({"3.3": SKYLAKE, "3.4": ICE_LAKE}),
            "VERSION",
            "3.3, a Skylake's (8086:2021), or 3.4, an Ice Lake's (8086:0b00) (default: 3.3)",
        ),
    }

    def __init__(self, slot: Slot, *, xfercap: int = 12, version: int = SKYLAKE) -> None:
        self._xfercap: Final = xfercap
        self._version: Final = version
        self.identity = replace(self.identity, device=DEVICE_IDS[version])
        self._had_error = False
        self._work: Cancel | None = None
        super().__init__(slot)
        self.reset()

    def load(self, bar: int, offset: int, size: int) -> int:
        return int.from_bytes(self._registers[offset : offset + size], "little")

    def store(self, bar: int, offset: int, size: int, value: int) -> None:
        for register, width in WIDTHS.items():
            if register <= offset and offset + size <= register + width:
                self._write(register, offset, size, value)

    def reset(self) -> None:
        self._registers = bytearray(self.bars[0].size)
        for register, value in (
            (CHANCNT, 1),
            (XFERCAP, self._xfercap),
            (CBVER, self._version),
            (DMACAP, FILL_BLOCK),
            (DMA_COMP, V2),
        ):
            self._registers[register] = value
        self._reset_channel()

    # --- registers ---

    def _get(self, register: int, width: int) -> int:
        return int.from_bytes(self._registers[register : register + width], "little")

    def _put(self, register: int, width: int, value: int) -> None:
        self._registers[register : register + width] = value.to_bytes(width, "little")

    def _write(self, register: int, offset: int, size: int, value: int) -> None:
        if register == CHANERR:
            value = self._get(offset, size) & ~value
        elif register == CHANCTRL and offset == CHANCTRL:
            still_off = self._get(CHANCTRL, 1) & ~value & INTERRUPT_OFF
            value = value & ~INTERRUPT_OFF | still_off
        if register == CHANCMD:
            self._command(value)
            return
        self._put(offset, size, value)
        if register == CHAINADDR:
            self._arm()
        elif register == DMACOUNT and self._state in (ARMED, IDLE):
            self._go()

    @property
    def _state(self) -> int:
        return self._registers[CHANSTS] & 7

    def _set_status(self, state: int) -> None:
        self._put(CHANSTS, 8, self._last | state)

    # --- the channel ---

    def _command(self, command: int) -> None:
        if command & RESET:
            self._reset_channel()
        elif command & SUSPEND and self._state != HALTED:
            self._stop()
            self._set_status(SUSPENDED)
        elif command & RESUME and self._state == SUSPENDED:
            self._set_status(IDLE)
            self._go()

    def _reset_channel(self) -> None:
        self._stop()
        self._last = self._next = self._done = 0
        self._put(DMACOUNT, 2, 0)
        self._set_status(HALTED)

    def _arm(self) -> None:
        """A new chain, whatever was before it."""
        self._stop()
        self._last = self._done = 0
        self._next = self._get(CHAINADDR, 8)
        self._set_status(ARMED)

    def _stop(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work.cancel()

    def _go(self) -> None:
        if not self._left:
            return
        self._set_status(ACTIVE)
        if self._had_error or self._turn():
            self._work = self.start(self._run)

    @property
    def _left(self) -> int:
        """Descriptors that are still to be done."""
        return self._get(DMACOUNT, 2) - self._done & 0xFFFF

    async def _run(self) -> None:
        if self._had_error:
            self._had_error = False
            await self.scheduler.sleep(RECOVERY)
        while self._turn():
            await self.scheduler.sleep(0)
        self._work = None

    def _turn(self) -> bool:
        """Work for as long as others may wait. Returns whether anything is left to be done."""
        spent = 0
        try:
            while self._left and spent < _TURN:
                run = self._read(_TURN - spent)
                self._do(run)
                spent += run.cost
        except _Error as error:
            self._halt(error.bits)
            return False
        return bool(self._left)

    def _read(self, most: int) -> Run:
        """The next descriptors, as far as they lie in one page, one behind the other, and cost no
        more than `most` (bytes).
        """
        first, left = self._next, self._left
        if first % SIZE:
            raise _Error(NEXT_ALIGNMENT if self._done else CHAIN_ADDRESS)
        try:
            data = self.dma_read(first, SIZE * min(left, (_PAGE - first % _PAGE) // SIZE))
        except DmaFault:
            raise _Error(DESCRIPTOR) from None
        run = Run(data, first, left, self._get(CHANCMP, 8) & -8, most)
        if not run:
            if run.error == CONTROL:
                self._put(CDAR, 8, first)
            raise _Error(run.error)
        return run

    def _do(self, run: Run) -> None:
        moves, done = run.moves, 0
        while done < len(moves):
            done += self.dma_moves(moves, done)
            if done == len(moves):
                break
            try:
                self._move(*moves[done])
            except _Error:
                if run.is_status(done):
                    self._is_done(run, run.done(done) + 1)
                    raise _Error(COMPLETION) from None
                self._is_done(run, run.done(done))
                self._put(CDAR, 8, self._next)
                raise
            done += 1
            run.cost += _SINGLE
        self._is_done(run, len(run))
        if run.interrupts:
            self._interrupt()

    def _is_done(self, run: Run, count: int) -> None:
        """The first `count` descriptors are."""
        if not count:
            return
        self._last = run.first + (count - 1) * SIZE
        self._next = run.following if count == len(run) else run.first + count * SIZE
        self._done = self._done + count & 0xFFFF
        if current := run.last_that_moves(count):
            self._put(CDAR, 8, current)
        self._set_status(ACTIVE if self._left else IDLE)

    def _move(self, destination: int, source: int, size: int, data: bytes | None) -> None:
        """One of a run's, by itself."""
        try:
            data = self.dma_read(source, size) if data is None else data[source : source + size]
        except DmaFault:
            raise _Error(SOURCE) from None
        try:
            self.dma_write(destination, data)
        except DmaFault:
            raise _Error(DESTINATION) from None

    def _write_back(self) -> None:
        try:
            self.dma_write(self._get(CHANCMP, 8) & -8, self._registers[CHANSTS : CHANSTS + 8])
        except DmaFault:
            raise _Error(COMPLETION) from None

    def _interrupt(self) -> None:
        if self._get(INTRCTRL, 1) & INTERRUPTS_ON and not self._get(CHANCTRL, 1) & INTERRUPT_OFF:
            self._registers[CHANCTRL] |= INTERRUPT_OFF
            self.interrupt(0)

    def _halt(self, bits: int) -> None:
        self._work = None
        self._had_error = True
        self._put(CHANERR, 4, self._get(CHANERR, 4) | bits)
        self._set_status(HALTED)
        if self._get(CHANCTRL, 2) & ERROR_COMPLETION and not bits & COMPLETION:
            try:
                self._write_back()
            except _Error as error:
                self._put(CHANERR, 4, self._get(CHANERR, 4) | error.bits)
        if self._get(CHANCTRL, 2) & ERROR_INTERRUPT:
            self._interrupt()
