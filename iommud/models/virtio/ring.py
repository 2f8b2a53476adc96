"""A queue's ring in the driver's memory: what split and packed rings have in common.

The driver makes buffers available, the device uses them. Each tells the other when it wants to be
told of more. To be told of none while one is busy, and of the next one once one is not, takes a
last look after saying so: what came in between was not told. The same look finds what the driver
wants. So a device that has given buffers back takes again, then asks `wants_interrupt`, and stops
only when nothing was there while the ring was `armed`.

Ref: VIRTIO 1.2 2.6, 2.7.7, 2.7.10, 2.8.10
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ...engine.device.device import Move
from ...pci.function import DmaFault, PciFunction
from .chain import Broken, Chain, read_each
from .wire import EVENT_IDX, INDIRECT_DESC


@dataclass(frozen=True, slots=True)
class Place:
    """Where a ring is: IOVAs of its three parts, and how many descriptors it has."""

    size: int
    descriptors: int
    driver: int
    device: int


class Ring:
    """Each method raises Broken when the ring makes no sense, or cannot be reached."""

    armed: bool  # the driver tells of the next buffer that it makes available
    alignments: tuple[int, int, int]  # of its descriptors, the driver's part and the device's (bytes)

    def __init__(self, function: PciFunction, place: Place, features: int) -> None:
        """Broken: it is not aligned."""
        parts = ("descriptors", "driver", "device")
        for name, alignment in zip(parts, self.alignments, strict=True):
            iova = getattr(place, name)
            if iova % alignment:
                raise Broken(f"its part {name} at {iova:#x} is not aligned to {alignment} bytes")
        self._function = function
        self._place = place
        self._has_events = bool(features & EVENT_IDX)
        self._has_tables = bool(features & INDIRECT_DESC)
        self._late: Broken | None = None  # is told when the buffers before it have been taken
        self.given = 0  # since the driver's wishes were last asked for

    def take(self, most: int) -> list[Chain]:
        """Buffers that the driver has made available, `most` of them at most (1 or more)."""
        raise NotImplementedError

    def give(self, done: Sequence[tuple[Chain, int]], before: Sequence[Move] = ()) -> None:
        """Buffers are used, with so many bytes written to each. `before`: what is to be written
        before that is told.
        """
        raise NotImplementedError

    def wants_interrupt(self) -> bool:
        """Whether what was given since the last question is worth an interrupt, as the driver
        wished when `take` last looked.
        """
        raise NotImplementedError

    def arm(self) -> None:
        """Let the driver tell of the next buffer. One that is there already may go untold."""
        raise NotImplementedError

    def mute(self) -> None:
        """Let it tell of none."""
        raise NotImplementedError

    # --- for the two kinds ---

    def _read(self, iova: int, length: int) -> bytes:
        try:
            return self._function.dma_read(iova, length)
        except DmaFault:  # which has been told
            raise _out_of_reach(iova, length) from None

    def _move(self, moves: Sequence[Move]) -> None:
        """Write bytes, in order."""
        done = 0
        while True:
            done += self._function.dma_moves(moves, done)
            if done == len(moves):
                return
            to, of, length, data = moves[done]
            assert data is not None
            try:
                self._function.dma_write(to, data[of : of + length])
            except DmaFault:
                raise _out_of_reach(to, length) from None
            done += 1

    def _tables(self, chains: Sequence[Chain]) -> None:
        """Fill in what the chains have in tables. From one on that is broken, they are none."""
        wanted = [chain for chain in chains if chain.table is not None]
        tables = read_each(self._function, [[chain.table] for chain in wanted if chain.table is not None])
        for chain, table in zip(wanted, tables, strict=True):
            if isinstance(table, DmaFault):
                assert chain.table is not None
                raise BrokenChain(chain, str(_out_of_reach(*chain.table)))
            try:
                self._fill(chain, table)
            except Broken as broken:
                raise BrokenChain(chain, str(broken)) from None

    def _fill(self, chain: Chain, table: bytes) -> None:
        raise NotImplementedError

    def _sound(self, chains: list[Chain]) -> list[Chain]:
        """The chains up to one whose table is broken, which is told at the next `take`."""
        try:
            self._tables(chains)
        except BrokenChain as broken:
            self._late = Broken(str(broken))
            chains = chains[: chains.index(broken.chain)]
        return chains

    def _tell_late(self) -> None:
        if self._late is not None:
            raise self._late


class BrokenChain(Broken):
    """`chain` is."""

    def __init__(self, chain: Chain, why: str) -> None:
        super().__init__(why)
        self.chain = chain


def _out_of_reach(iova: int, length: int) -> Broken:
    return Broken(f"{length} bytes at {iova:#x} cannot be reached")
