"""A function's message signalled interrupts, as its hardware has them: the MSI registers, and
MSI-X's table and pending bits.

A vector is signalled by writing a message to memory. If the function is no bus master, the message
is lost. If the vector is masked, its message is pending, and is sent when the mask goes. Bits of
the configuration space say which of the two mechanisms is on.

Ref: PCI Local Bus 3.0 6.8
"""

from collections.abc import Callable, Mapping
from typing import Final

from . import registers as r
from .space import ConfigSpace


class Messages:
    """`send(vector)` is called for each message that leaves the function. `at`: where its
    capabilities are, by ID.
    """

    def __init__(self, space: ConfigSpace, at: Mapping[int, int], send: Callable[[int], None]) -> None:
        self._space: Final = space
        self._send: Final = send
        self.msi: Final = at.get(r.PCI_CAP_ID_MSI, 0)
        self.msix: Final = at.get(r.PCI_CAP_ID_MSIX, 0)
        self.vectors = 0  # of MSI-X
        self.table = self.pba = (-1, range(0))  # the BAR, and which bytes of it
        if self.msix:
            self.vectors = (space.read(self.msix + r.PCI_MSIX_FLAGS, 2) & r.PCI_MSIX_FLAGS_QSIZE) + 1
            self.table = self._place(r.PCI_MSIX_TABLE, r.PCI_MSIX_ENTRY_SIZE * self.vectors)
            self.pba = self._place(r.PCI_MSIX_PBA, -(-self.vectors // 64) * 8)
        self.bars: Final = {self.table[0], self.pba[0]} - {-1}  # where they are
        self._entries = bytearray()
        self._pending = 0
        self.reset()

    def _place(self, register: int, length: int) -> tuple[int, range]:
        value = self._space.read(self.msix + register, 4)
        start = value & ~r.PCI_MSIX_BIR
        return value & r.PCI_MSIX_BIR, range(start, start + length)

    def reset(self) -> None:
        """As after a reset: every entry is empty and masked, nothing is pending."""
        empty = bytes(r.PCI_MSIX_ENTRY_VECTOR_CTRL) + r.PCI_MSIX_ENTRY_CTRL_MASKBIT.to_bytes(4, "little")
        self._entries[:] = empty * self.vectors
        self._pending = 0

    @property
    def msi_on(self) -> bool:
        return bool(self.msi and self._space.read(self.msi + r.PCI_MSI_FLAGS, 2) & r.PCI_MSI_FLAGS_ENABLE)

    @property
    def msix_on(self) -> bool:
        return bool(self.msix and self._space.read(self.msix + r.PCI_MSIX_FLAGS, 2) & r.PCI_MSIX_FLAGS_ENABLE)

    def signal(self, vector: int) -> None:
        """The function wants this vector's message sent. The host may have allowed fewer vectors of
        MSI; then a higher one is sent as itself modulo that number.
        """
        if self.msix_on:
            if not 0 <= vector < self.vectors:
                return
            if self._masked(vector):
                self._pending |= 1 << vector
            else:
                self._send(vector)
        elif self.msi_on:
            flags = self._space.read(self.msi + r.PCI_MSI_FLAGS, 2)
            vector %= 1 << ((flags & r.PCI_MSI_FLAGS_QSIZE) >> 4)
            mask = self._mask_register(flags)
            if mask and self._space.read(mask, 4) >> vector & 1:
                self._space.change(mask + 4, 4, 1 << vector, 1 << vector)
            else:
                self._send(vector)

    def written(self, offset: int, size: int) -> None:
        """Something in the configuration space was written: masks may have gone."""
        if self.msi and self.msi <= offset < self.msi + 24 and self.msi_on:
            mask = self._mask_register(self._space.read(self.msi + r.PCI_MSI_FLAGS, 2))
            if mask:
                due = self._space.read(mask + 4, 4) & ~self._space.read(mask, 4)
                self._space.change(mask + 4, 4, due, 0)
                self._send_all(due)
        if self.msix and self.msix <= offset < self.msix + 12:
            self._unmasked()

    def load(self, bar: int, offset: int, size: int) -> int | None:
        """A load from the table or the pending bits; None: it is from neither."""
        if bar == self.table[0] and offset in self.table[1]:
            start = offset - self.table[1].start
            return int.from_bytes(self._entries[start : start + size], "little")
        if bar == self.pba[0] and offset in self.pba[1]:
            return self._pending >> 8 * (offset - self.pba[1].start) & (1 << 8 * size) - 1
        return None

    def store(self, bar: int, offset: int, size: int, value: int) -> bool:
        """True: it was to the table, or to the pending bits, which nobody can write."""
        if bar == self.table[0] and offset in self.table[1]:
            start = offset - self.table[1].start
            whole = min(size, len(self._entries) - start)
            self._entries[start : start + whole] = (value & (1 << 8 * whole) - 1).to_bytes(whole, "little")
            self._unmasked()
            return True
        return bar == self.pba[0] and offset in self.pba[1]

    def mask_entry(self, vector: int, masked: bool) -> None:
        """The host's own store to an entry's mask bit."""
        at = self.table[1].start + r.PCI_MSIX_ENTRY_SIZE * vector + r.PCI_MSIX_ENTRY_VECTOR_CTRL
        self.store(self.table[0], at, 4, r.PCI_MSIX_ENTRY_CTRL_MASKBIT if masked else 0)

    def write_entry(self, vector: int, address: int, data: int) -> None:
        """The host's own stores of an entry's message."""
        at = self.table[1].start + r.PCI_MSIX_ENTRY_SIZE * vector
        self.store(self.table[0], at, 8, address)
        self.store(self.table[0], at + 8, 4, data)

    def _masked(self, vector: int) -> bool:
        if self._space.read(self.msix + r.PCI_MSIX_FLAGS, 2) & r.PCI_MSIX_FLAGS_MASKALL:
            return True
        control = self._entries[r.PCI_MSIX_ENTRY_SIZE * vector + r.PCI_MSIX_ENTRY_VECTOR_CTRL]
        return bool(control & r.PCI_MSIX_ENTRY_CTRL_MASKBIT)

    def _unmasked(self) -> None:
        if self._pending and self.msix_on:
            due = sum(
                1 << vector
                for vector in range(self.vectors)
                if self._pending >> vector & 1 and not self._masked(vector)
            )
            self._pending &= ~due
            self._send_all(due)

    def _send_all(self, due: int) -> None:
        for vector in range(due.bit_length()):
            if due >> vector & 1:
                self._send(vector)

    def _mask_register(self, flags: int) -> int:
        if not flags & r.PCI_MSI_FLAGS_MASKBIT:
            return 0
        return self.msi + (r.PCI_MSI_MASK_64 if flags & r.PCI_MSI_FLAGS_64BIT else r.PCI_MSI_MASK_32)
