"""Packed rings: one ring of descriptors, in which the driver makes buffers available and the device
says that they are used, each by two bits that change their meaning with each round.

A descriptor's flags come last, and so does a copy of them: they may be new where the rest is old.
So what is available is looked up first, and read then. A used descriptor's second half, with its
length, ID and flags, is written in one piece.

Ref: VIRTIO 1.2 2.8
"""

import struct
from collections.abc import Sequence
from typing import Final

from ...engine.device.device import Move
from ...pci.function import PciFunction
from .chain import Broken, Chain
from .ring import Place, Ring
from .wire import AVAIL, DESCRIPTOR, EVENTS, EVENTS_AT, EVENTS_OFF, EVENTS_ON, INDIRECT, NEXT, USED, WRAP, WRITE

_USED: Final = struct.Struct("<IHH")  # the second half of a descriptor: bytes, ID, flags
_HALF: Final = 8
_FLAGS: Final = struct.Struct("<H")


class _Position:
    """A place in the ring, and in which round it is reached."""

    __slots__ = ("_size", "at", "wrap")

    def __init__(self, size: int) -> None:
        self._size = size
        self.at = 0
        self.wrap = True

    def advance(self, slots: int) -> None:
        self.at += slots
        if self.at >= self._size:
            self.at -= self._size
            self.wrap = not self.wrap

    def as_event(self) -> int:
        return self.at | (WRAP if self.wrap else 0)


class PackedRing(Ring):
    alignments = (16, 4, 4)

    def __init__(self, function: PciFunction, place: Place, features: int) -> None:
        super().__init__(function, place, features)
        self._next, self._used = _Position(place.size), _Position(place.size)
        self._in_use = 0  # descriptors
        self._muted = False
        self._armed_at: int | None = None  # where the driver tells of; None: of any, as it was at first

    @property
    def armed(self) -> bool:  # type: ignore[override]
        return not self._muted and self._armed_at in (None, self._next.as_event())

    def take(self, most: int) -> list[Chain]:
        self._tell_late()
        at, length = self._place.descriptors, DESCRIPTOR.size * self._place.size
        ahead = self._read(at, length)
        if not _is_available(ahead, self._next):
            return []
        table = self._read(at, length)
        chains: list[Chain] = []
        while len(chains) < most and _is_available(ahead, self._next):
            try:
                chain = self._chain(table, self._next.at)
            except Broken as broken:
                self._late = broken
                break
            chains.append(chain)
            self._next.advance(chain.slots)
            self._in_use += chain.slots
        chains = self._sound(chains)
        if not chains:
            self._tell_late()
        return chains

    def _chain(self, table: bytes, at: int) -> Chain:
        chain, size = Chain(), self._place.size
        while True:
            place = DESCRIPTOR.size * ((at + chain.slots) % size)
            iova, length, chain.id, flags = DESCRIPTOR.unpack_from(table, place)
            chain.slots += 1
            if self._in_use + chain.slots > size:
                raise Broken(f"more than the ring's {size} descriptors are in use")
            if not flags & INDIRECT:
                chain.add(iova, length, flags)
            elif not self._has_tables:
                raise Broken("a descriptor is indirect, which was not negotiated")
            elif flags & NEXT:
                raise Broken("a descriptor is indirect and has a next one")
            else:
                chain.refer(iova, length)
            if not flags & NEXT:
                return chain

    def _fill(self, chain: Chain, table: bytes) -> None:
        for iova, length, _, flags in DESCRIPTOR.iter_unpack(table):
            if flags & INDIRECT:
                raise Broken("a descriptor within an indirect table is indirect")
            chain.add(iova, length, flags)

    def give(self, done: Sequence[tuple[Chain, int]], before: Sequence[Move] = ()) -> None:
        halves = bytearray()
        places = []
        for chain, length in done:
            flags = (AVAIL | USED if self._used.wrap else 0) | (WRITE if length else 0)
            halves += _USED.pack(length, chain.id, flags)
            places.append(self._place.descriptors + DESCRIPTOR.size * self._used.at + _HALF)
            self._used.advance(chain.slots)
            self._in_use -= chain.slots
            self.given += chain.slots
        data = bytes(halves)
        moves: list[Move] = [*before]
        moves += [(place, _HALF * n, _HALF, data) for n, place in enumerate(places)]
        if self._has_events and not self._muted:
            moves += self._event_moves()
        self._move(moves)

    def wants_interrupt(self) -> bool:
        given, self.given = self.given, 0
        if not given:
            return False
        event, flags = EVENTS.unpack(self._read(self._place.driver, EVENTS.size))
        if self._has_events and flags == EVENTS_AT:
            at = event & ~WRAP
            if bool(event & WRAP) != self._used.wrap:
                at -= self._place.size
            return bool(self._used.at - at - 1 & 0xFFFF < given)
        return int(flags) != EVENTS_OFF

    def _event_moves(self) -> list[Move]:
        first, self._armed_at = self._armed_at is None, self._next.as_event()
        data = EVENTS.pack(self._armed_at, EVENTS_AT)
        moves: list[Move] = [(self._place.device, 0, 2, data)]
        if first:
            moves.append((self._place.device + 2, 2, 2, data))
        return moves

    def arm(self) -> None:
        changed, self._muted = self._muted, False
        if self._has_events:
            self._move(self._event_moves())
        elif changed:
            self._tell(EVENTS_ON)

    def mute(self) -> None:
        changed, self._muted = not self._muted, True
        if changed and self._armed_at is None:  # else the driver tells of none until the next is said
            self._tell(EVENTS_OFF)

    def _tell(self, flags: int) -> None:
        self._move([(self._place.device + 2, 0, 2, flags.to_bytes(2, "little"))])


def _is_available(descriptors: bytes, position: _Position) -> bool:
    """Whether the descriptor was made available in this round, and not used since."""
    (flags,) = _FLAGS.unpack_from(descriptors, DESCRIPTOR.size * (position.at + 1) - _FLAGS.size)
    return bool(flags & AVAIL) == position.wrap != bool(flags & USED)
