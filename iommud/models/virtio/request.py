"""A request to a block device, as a chain: a header to be read, data to be read or written, and a
last byte to be written, for the status.

Ref: VIRTIO 1.2 5.2.6
"""

from typing import Final

from ...pci.function import DmaFault, PciFunction
from .chain import Broken, Chain, Part, cut, read, total
from .wire import (
    BLK_DISCARD,
    BLK_FLUSH,
    BLK_RANGE,
    BLK_REQUEST,
    BLK_WRITE_ZEROES,
    ID_BYTES,
    S_IOERR,
    S_OK,
    S_UNSUPP,
    SECTOR,
    T_DISCARD,
    T_FLUSH,
    T_GET_ID,
    T_IN,
    T_OUT,
    T_WRITE_ZEROES,
    UNMAP,
)

SEGMENTS: Final = 254  # of data, at most
RANGES: Final = 16  # of a DISCARD or WRITE_ZEROES, at most
DISCARD_SECTORS: Final = 1 << 21  # of one range, at most: 1 GiB
ZEROES_SECTORS: Final = 1 << 16  # 32 MiB, as a disk may have to write them
_NEEDS: Final = {T_FLUSH: BLK_FLUSH, T_DISCARD: BLK_DISCARD, T_WRITE_ZEROES: BLK_WRITE_ZEROES}  # features


class Request:
    """`parts`: where in memory its data is. `position`, `length`: where on the disk that goes to or
    comes from, and how much it is; `done`: how much of it is done (all in bytes). `ranges`: of a
    DISCARD or WRITE_ZEROES: position, length, whether room may be given back.
    """

    __slots__ = (
        "_room",
        "_status_at",
        "chain",
        "done",
        "kind",
        "length",
        "parts",
        "position",
        "ranges",
        "status",
        "written",
    )

    def __init__(self, chain: Chain) -> None:
        """Broken: it has no byte for the status."""
        end = total(chain.writable)
        if not end:
            raise Broken("a request has no byte for its status")
        self.chain = chain
        self._room = end - 1  # bytes that can be written before the status
        self._status_at = cut(chain.writable, self._room, end)[0][0]
        self.kind = self.position = self.length = self.done = 0
        self.parts: list[Part] = []
        self.ranges: list[tuple[int, int, bool]] = []
        self.status: int | None = None  # when it is finished
        self.written = 0  # bytes, in its chain, from the first on

    @property
    def header(self) -> list[Part]:
        return cut(self.chain.readable, 0, BLK_REQUEST.size)

    def understand(
        self, header: bytes | DmaFault, function: PciFunction, *, features: int, size: int, readonly: bool
    ) -> int | None:
        """What is asked for. `features`: those that were agreed on; `size`: of the disk. Returns
        its status, if nothing is left to be done; otherwise None.
        """
        if isinstance(header, DmaFault) or len(header) < BLK_REQUEST.size:
            return S_IOERR
        self.kind, sector = BLK_REQUEST.unpack(header)
        if _NEEDS.get(self.kind, 0) & ~features:
            return S_UNSUPP
        if self.kind in (T_IN, T_OUT):
            return self._understand_move(sector * SECTOR, size, readonly)
        if self.kind in (T_DISCARD, T_WRITE_ZEROES):
            return S_IOERR if readonly else self._understand_ranges(function, size)
        if self.kind == T_GET_ID:
            self.length = min(self._room, ID_BYTES)
            self.parts = cut(self.chain.writable, 0, self.length)
        return None if self.kind in (T_FLUSH, T_GET_ID) else S_UNSUPP

    def _understand_move(self, position: int, size: int, readonly: bool) -> int | None:
        if self.kind == T_IN:
            self.parts = cut(self.chain.writable, 0, self._room)
        else:
            self.parts = cut(self.chain.readable, BLK_REQUEST.size, total(self.chain.readable))
        self.position, self.length = position, total(self.parts)
        fits = position + self.length <= size and not self.length % SECTOR and len(self.parts) <= SEGMENTS
        return None if fits and not (readonly and self.kind == T_OUT) else S_IOERR

    def _understand_ranges(self, function: PciFunction, size: int) -> int | None:
        parts = cut(self.chain.readable, BLK_REQUEST.size, total(self.chain.readable))
        length = total(parts)
        if not length or length % BLK_RANGE.size or length > BLK_RANGE.size * RANGES:
            return S_IOERR
        try:
            data = read(function, parts)
        except DmaFault:
            return S_IOERR
        most, known = (DISCARD_SECTORS, 0) if self.kind == T_DISCARD else (ZEROES_SECTORS, UNMAP)
        for sector, sectors, flags in BLK_RANGE.iter_unpack(data):
            if flags & ~known:
                return S_UNSUPP
            if sectors > most or (sector + sectors) * SECTOR > size:
                return S_IOERR
            if sectors:
                self.ranges.append((sector * SECTOR, sectors * SECTOR, bool(flags & UNMAP)))
        self.length = sum(length for _, length, _ in self.ranges)
        return None

    def next(self, most: int) -> tuple[int, int, list[Part]]:
        """The next of its data: position on the disk, bytes, and where in memory they are."""
        length = min(most, self.length - self.done)
        return self.position + self.done, length, cut(self.parts, self.done, self.done + length)

    def finish(self, status: int) -> None:
        """It is done. What is told of what was written are only bytes before which all were."""
        self.status = status
        given = self.length if status == S_OK and self.kind in (T_IN, T_GET_ID) else 0
        self.written = given + 1 if given == self._room else given

    @property
    def status_move(self) -> tuple[int, int, int, bytes]:
        """What is to be written for the status."""
        assert self.status is not None
        return self._status_at, 0, 1, bytes([self.status])
