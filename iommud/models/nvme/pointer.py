"""A command's data pointer: which stretches of memory its data is in.

PRPs name pages: the first one from anywhere in it (dwords), the others from their beginning. The
second of two is a page, or, if there are more than two, a list of pages, whose last entry leads to
more of the list where a page ends. SGLs name stretches of any length: a descriptor for each, in
segments that lead to each other.

Neighbours are joined, because each DMA has its price.

Ref: NVM Express Base Specification 1.4 sections 4.3, 4.4
"""

from collections.abc import Callable, Sequence
from struct import Struct, unpack
from typing import Final

from .command import Command
from .wire import (
    INVALID_FIELD,
    PRP_OFFSET_INVALID,
    READ,
    SGL_LENGTH_INVALID,
    SGL_NUMBER_INVALID,
    SGL_SEGMENT_INVALID,
    SGL_TYPE_INVALID,
    Failed,
)

Stretches = list[tuple[int | None, int]]  # IOVA (None: a bit bucket, whose bytes go nowhere), bytes
Read = Callable[[int, int], bytes]  # DMA, by IOVA and bytes

_ENTRY: Final = 8  # bytes of a PRP
_DESCRIPTOR: Final = Struct("<QI3xB")
DATA_BLOCK, BIT_BUCKET, SEGMENT, LAST_SEGMENT = 0x00, 0x10, 0x20, 0x30
MOST_DESCRIPTORS: Final = 4096  # of one command
MOST_SEGMENT: Final = 4096  # bytes


def stretches(command: Command, length: int, page: int, read: Read) -> Stretches:
    """Where the `length` bytes (1 or more) of a command's data lie. `page`: the host's page size.

    Failed: the pointer is wrong. DmaFault: a list could not be read.
    """
    if not command.psdt:
        return prps(command.prp1, command.prp2, length, page, read)
    if command.psdt == 3:
        raise Failed(INVALID_FIELD)
    return _sgl(command, length, read)


def prps(prp1: int, prp2: int, length: int, page: int, read: Read) -> Stretches:
    """As `stretches`, for PRPs."""
    offset = prp1 & page - 1
    if offset & 3:
        raise Failed(PRP_OFFSET_INVALID)
    first = min(length, page - offset)
    if length == first:
        return [(prp1, length)]
    left = length - first
    if left <= page:
        if prp2 & page - 1:
            raise Failed(PRP_OFFSET_INVALID)
        return [(prp1, length)] if prp1 + first == prp2 else [(prp1, first), (prp2, left)]
    return _listed(prp1, first, prp2, left, page, read)


def _listed(prp1: int, first: int, place: int, left: int, page: int, read: Read) -> Stretches:
    found: Stretches = []
    within = page - 1
    start, end = prp1, prp1 + first
    if place & _ENTRY - 1:
        raise Failed(PRP_OFFSET_INVALID)
    while left > 0:
        room = (page - (place & within)) // _ENTRY
        wanted = -(-left // page)
        entries: Sequence[int] = unpack(f"<{min(room, wanted)}Q", read(place, _ENTRY * min(room, wanted)))
        if wanted > room:
            *entries, place = entries
            if place & within:
                raise Failed(PRP_OFFSET_INVALID)  # only the first list may begin within a page
        for entry in entries:
            if entry != end:
                if entry & within:
                    raise Failed(PRP_OFFSET_INVALID)
                found.append((start, end - start))
                start = entry
            end = entry + page
        left -= page * len(entries)
    found.append((start, end - start + left))  # the last page may be used in part
    return found


def _sgl(command: Command, length: int, read: Read) -> Stretches:
    found = _Found(length, buckets=command.opcode == READ)
    descriptor = command.prp1.to_bytes(8, "little") + command.prp2.to_bytes(8, "little")
    address, size, kind = _DESCRIPTOR.unpack(descriptor)
    seen = 0
    while kind in (SEGMENT, LAST_SEGMENT):
        seen += size // _DESCRIPTOR.size
        if not size or size % _DESCRIPTOR.size:
            raise Failed(SGL_SEGMENT_INVALID)
        if size > MOST_SEGMENT or seen > MOST_DESCRIPTORS:
            raise Failed(SGL_NUMBER_INVALID)
        *descriptors, final = _DESCRIPTOR.iter_unpack(read(address, size))
        for each in descriptors:
            found.add(*each)
        leads_on = final[2] in (SEGMENT, LAST_SEGMENT)
        if leads_on != (kind == SEGMENT):
            raise Failed(SGL_SEGMENT_INVALID)
        address, size, kind = final
    found.add(address, size, kind)
    return found.all()


class _Found:
    """The stretches of an SGL. `buckets`: bit buckets take bytes; otherwise they are ignored."""

    def __init__(self, length: int, *, buckets: bool) -> None:
        self._left = length
        self._buckets = buckets
        self._stretches: Stretches = []

    def add(self, address: int, size: int, kind: int) -> None:
        if kind in (SEGMENT, LAST_SEGMENT):
            raise Failed(SGL_SEGMENT_INVALID)
        if kind not in (DATA_BLOCK, BIT_BUCKET):
            raise Failed(SGL_TYPE_INVALID)
        if not size or (kind == BIT_BUCKET and not self._buckets):
            return
        if size > self._left:
            raise Failed(SGL_LENGTH_INVALID)
        self._left -= size
        before = self._stretches[-1] if self._stretches else (None, 0)
        if kind == DATA_BLOCK and before[0] is not None and before[0] + before[1] == address:
            self._stretches[-1] = before[0], before[1] + size
        else:
            self._stretches.append((address if kind == DATA_BLOCK else None, size))

    def all(self) -> Stretches:
        if self._left:
            raise Failed(SGL_LENGTH_INVALID)
        return self._stretches
