"""QEMU's educational device: a register to read, one to write, a factorial, an interrupt, and DMA
of up to 4 KiB.

Its specification is QEMU's docs/specs/edu.rst. What it leaves open is as in QEMU's device. There is
no reset. Registers below 0x80 take accesses of 4 bytes, the others of 4 or 8. A misaligned or
smaller access reads as zero; one of 8 bytes where 4 are allowed reads as ones.
"""

from typing import ClassVar, Final

from ..pci.bars import Bar
from ..pci.capabilities import Msi
from ..pci.function import DmaFault, Identity, PciFunction, Slot
from .keys import Key, Keys, milliseconds, number

ID, LIVENESS, FACTORIAL, STATUS, WHY, RAISE, ACKNOWLEDGE = 0x00, 0x04, 0x08, 0x20, 0x24, 0x60, 0x64
SOURCE, DESTINATION, COUNT, COMMAND = LONG = 0x80, 0x88, 0x90, 0x98
IDENTIFICATION: Final = 0x010000ED
COMPUTING, INTERRUPT_WHEN_DONE = 0x01, 0x80  # of the status register
FACTORIAL_DONE, DMA_DONE = 0x001, 0x100  # why there was an interrupt
START, TO_MEMORY, INTERRUPT = 0x1, 0x2, 0x4  # of the DMA command register
BUFFER: Final = 0x40000  # where the device's own memory begins, in its own addresses
BUFFER_SIZE: Final = 4096
PACKET: Final = 4096  # bytes: an access on the bus does not cross a multiple of this
U32: Final = (1 << 32) - 1
ALL_ONES: Final = (1 << 64) - 1


class Edu(PciFunction):
    """`dma_mask`: the bits of an IOVA that the device uses. `dma_time`: seconds from a DMA command
    to its end.
    """

    name = "edu"
    identity = Identity(0x1234, 0x11E8, 0x00FF00, revision=0x10, subsystem_vendor=0x1AF4, subsystem_device=0x1100)
    bars = (Bar(0, 1 << 20),)
    interrupt_pin = 1
    capabilities = (Msi(),)
    scratch = True
    resettable = False
    quiet_loads = True
    keys: ClassVar[Keys] = {
        "dma_mask": Key(number(0, ALL_ONES), "MASK", "the bits of an IOVA that it has (default: 0xfffffff, 28 bits)"),
        "dma_time": Key(milliseconds(60_000), "MS", "how long a DMA takes (default: 100, as QEMU's)"),
    }

    def __init__(self, slot: Slot, *, dma_mask: int = (1 << 28) - 1, dma_time: float = 0.1) -> None:
        super().__init__(slot)
        self._dma_mask: Final = dma_mask
        self._dma_time: Final = dma_time
        self._registers = {ID: IDENTIFICATION, **dict.fromkeys((LIVENESS, FACTORIAL, STATUS, WHY, *LONG), 0)}
        self._buffer = bytearray(BUFFER_SIZE)

    def load(self, bar: int, offset: int, size: int) -> int:
        if size < 4 or offset % size:
            return 0
        if offset < SOURCE and size != 4:
            return ALL_ONES
        return self._registers.get(offset, ALL_ONES)

    def store(self, bar: int, offset: int, size: int, value: int) -> None:
        registers = self._registers
        if size < 4 or offset % size or (offset < SOURCE and size != 4):
            return
        if offset == LIVENESS:
            registers[LIVENESS] = ~value & U32
        elif offset == FACTORIAL and not registers[STATUS] & COMPUTING:
            registers[FACTORIAL] = value
            registers[STATUS] |= COMPUTING
            self.after(0, self._compute)
        elif offset == STATUS:
            registers[STATUS] = (registers[STATUS] & ~INTERRUPT_WHEN_DONE) | (value & INTERRUPT_WHEN_DONE)
        elif offset == RAISE:
            self._raise(value)
        elif offset == ACKNOWLEDGE:
            registers[WHY] &= ~value
            if not registers[WHY] and not self.sends_messages:
                self.intx(False)
        elif offset in LONG and not registers[COMMAND] & START and (offset != COMMAND or value & START):
            registers[offset] = value
            if offset == COMMAND:
                self.after(self._dma_time, self._transfer)

    def _compute(self) -> None:
        product = 1
        for factor in range(2, min(self._registers[FACTORIAL], 34) + 1):
            product = product * factor & U32  # 34! has 32 factors of 2: 0 from there on
        self._registers[FACTORIAL] = product
        self._registers[STATUS] &= ~COMPUTING
        if self._registers[STATUS] & INTERRUPT_WHEN_DONE:
            self._raise(FACTORIAL_DONE)

    def _raise(self, why: int) -> None:
        self._registers[WHY] |= why
        if not self._registers[WHY]:
            return
        if self.sends_messages:
            self.interrupt(0)
        else:
            self.intx(True)

    def _transfer(self) -> None:
        source, destination, count, command = (self._registers[register] for register in LONG)
        own = (source if command & TO_MEMORY else destination) - BUFFER
        iova = (destination if command & TO_MEMORY else source) & self._dma_mask
        done = 0
        while own >= 0 and own + count <= BUFFER_SIZE and done < count:  # in packets, each by itself
            size = min(count - done, PACKET - (iova + done) % PACKET)
            part = slice(own + done, own + done + size)
            try:
                if command & TO_MEMORY:
                    self.dma_write(iova + done, self._buffer[part])
                else:
                    self._buffer[part] = self.dma_read(iova + done, size)
            except DmaFault:  # the device does not notice, and takes zeros for what it did not get
                if not command & TO_MEMORY:
                    self._buffer[part] = bytes(size)
            done += size
        self._registers[COMMAND] &= ~START
        if command & INTERRUPT:
            self._raise(DMA_DONE)
