"""Split rings: a table of descriptors; a ring in which the driver makes chains available, by their
first descriptors; and one in which the device says that they are used.

The available ring is read whole, in one DMA: its index stands before its entries, and a copy goes
up, so that the entries are no older than the index. Used entries are written before their index.
The index is 2 bytes, and a copy of 2 bytes may be seen half done. So it is written within 8 bytes,
together with what the device has written on both sides of it, where these are aligned.

Ref: VIRTIO 1.2 2.7
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from ...engine.device.device import Move
from ...pci.function import PciFunction
from .chain import Broken, Chain
from .ring import Place, Ring
from .wire import (
    DESCRIPTOR,
    INDIRECT,
    NEXT,
    NO_INTERRUPT,
    NO_NOTIFY,
    RING_HEAD,
    USED_ELEMENT,
)

_ENTRY: Final = struct.Struct("<H")
_U16: Final = 0xFFFF


class SplitRing(Ring):
    alignments = (16, 2, 4)

    def __init__(self, function: PciFunction, place: Place, features: int) -> None:
        super().__init__(function, place, features)
        self._next = 0  # the next entry of the available ring
        self._muted = False
        self._armed_at = 0  # with events: the entry that the driver tells of
        self._heads: set[int] = set()  # of buffers that were taken and not given
        self._used = 0  # the index of the used ring
        self._first = 0  # the ID in its first entry
        self._flags = self._event = 0  # what the driver wished when it was last looked

    @property
    def armed(self) -> bool:  # type: ignore[override]
        return not self._muted and (not self._has_events or self._armed_at == self._next)

    def take(self, most: int) -> list[Chain]:
        self._tell_late()
        size = self._place.size
        behind = 2 if self._has_events else 0  # the driver's event
        data = self._read(self._place.driver, RING_HEAD.size + 2 * size + behind)
        self._flags, index = RING_HEAD.unpack_from(data)
        if behind:
            (self._event,) = _ENTRY.unpack_from(data, RING_HEAD.size + 2 * size)
        count = index - self._next & _U16
        if count + len(self._heads) > size:
            raise Broken(
                f"the available ring of {size} entries went from {self._next} to {index}, with {len(self._heads)} in use"
            )
        if not count:
            return []
        table = self._read(self._place.descriptors, DESCRIPTOR.size * size)
        chains: list[Chain] = []
        for entry in range(self._next, self._next + min(count, most)):
            try:
                (head,) = _ENTRY.unpack_from(data, RING_HEAD.size + 2 * (entry % size))
                chains.append(self._chain(table, head))
            except Broken as broken:
                self._late = broken
                break
        chains = self._sound(chains)
        self._next = self._next + len(chains) & _U16
        if not chains:
            self._tell_late()
        return chains

    def _chain(self, table: bytes, head: int) -> Chain:
        chain = Chain()
        chain.id = head
        if head in self._heads:
            raise Broken(f"descriptor {head} is made available while it is in use")
        self._heads.add(head)
        for iova, length, flags in _walk(table, head):
            if not flags & INDIRECT:
                chain.add(iova, length, flags)
            elif not self._has_tables:
                raise Broken("a descriptor is indirect, which was not negotiated")
            elif flags & NEXT:
                raise Broken("a descriptor is indirect and has a next one")
            else:
                chain.refer(iova, length)
        return chain

    def _fill(self, chain: Chain, table: bytes) -> None:
        for iova, length, flags in _walk(table, 0):
            if flags & INDIRECT:
                raise Broken("a descriptor within an indirect table is indirect")
            chain.add(iova, length, flags)

    def give(self, done: Sequence[tuple[Chain, int]], before: Sequence[Move] = ()) -> None:
        ring, size = self._place.device + RING_HEAD.size, self._place.size
        at = self._used % size
        elements = b"".join(USED_ELEMENT.pack(chain.id, length) for chain, length in done)
        moves = [*before, (ring + USED_ELEMENT.size * at, 0, USED_ELEMENT.size * min(len(done), size - at), elements)]
        if at + len(done) > size:
            start = USED_ELEMENT.size * (size - at)
            moves.append((ring, start, len(elements) - start, elements))
        if (before_first := -at % size) < len(done):
            self._first = done[before_first][0].id
        self._used = self._used + len(done) & _U16
        self._heads.difference_update(chain.id for chain, _ in done)
        self.given += len(done)
        moves.append(self._head())
        if self._has_events and not self._muted:
            moves.append(self._event_move())
        self._move(moves)

    def _head(self) -> Move:
        """The used ring's flags and index."""
        flags = NO_NOTIFY if self._muted and not self._has_events else 0
        head = struct.pack("<HHI", flags, self._used, self._first)
        if self._place.device % 8:
            return self._place.device, 0, RING_HEAD.size, head
        return self._place.device, 0, 8, head

    def _event_move(self) -> Move:
        self._armed_at = self._next
        at = self._place.device + RING_HEAD.size + USED_ELEMENT.size * self._place.size
        return at, 0, 2, self._next.to_bytes(2, "little")

    def wants_interrupt(self) -> bool:
        given, self.given = self.given, 0
        if not given:
            return False
        if self._has_events:
            return self._used - self._event - 1 & _U16 < given
        return not self._flags & NO_INTERRUPT

    def arm(self) -> None:
        changed, self._muted = self._muted, False
        if self._has_events:
            self._move([self._event_move()])
        elif changed:
            self._move([self._head()])

    def mute(self) -> None:
        changed, self._muted = not self._muted, True
        if changed and not self._has_events:  # with events, the driver tells of none until the next is said
            self._move([self._head()])


def _walk(table: bytes, index: int) -> Iterator[tuple[int, int, int]]:
    """The descriptors of a chain from `index` on: IOVA, bytes, flags."""
    count = len(table) // DESCRIPTOR.size
    for _ in range(count):
        if index >= count:
            break
        iova, length, flags, index = DESCRIPTOR.unpack_from(table, DESCRIPTOR.size * index)
        yield iova, length, flags
        if not flags & NEXT:
            return
    if index >= count:
        raise Broken(f"descriptor {index} is beyond a table of {count}")
    raise Broken(f"a chain in a table of {count} descriptors has a loop")
