"""Structs that only a driver understands, on their way from a client: one struct, or an array.

Nothing is read before the driver asks, because the driver decides the order of errors. The driver
may know a longer struct than the client supplied (an older client: the rest reads as zero), but
never a shorter one.

Ref: v7.3 include/linux/iommu.h iommu_copy_struct_from_user, iommu_copy_struct_from_user_array
"""

from collections.abc import Callable, Generator, Iterator
from errno import E2BIG, EFAULT, EINVAL
from typing import Final

from ...errors import IoctlError

CHUNK: Final = 64 << 10  # bytes of an array read in one go

# From an offset (bytes) into the data, so many bytes; fewer when not all can be reached.
Read = Callable[[int, int], bytes]
# All of these bytes, in place of the struct. EFAULT: not all can be written.
Write = Callable[[bytes], None]


class UserData:
    """One struct. `type`: which one; `length`: how much of it there is (bytes). `write`: writes an
    answer to it.
    """

    __slots__ = ("_read", "_write", "length", "type")

    def __init__(self, data_type: int, length: int, read: Read, write: Write | None = None) -> None:
        self.type: Final = data_type
        self.length: Final = length
        self._read = read
        self._write = write

    def struct(self, data_type: int, size: int, least: int) -> bytes:
        """The struct, `size` bytes, of which at least `least` must be there.

        EINVAL: another type, too short or too long. EFAULT: it cannot be read.
        """
        _check(self.type, self.length, data_type, size, least)
        data = self._read(0, self.length)
        if len(data) != self.length:
            raise IoctlError(EFAULT, f"the data cannot be read beyond its first {len(data)} bytes")
        return data.ljust(size, b"\0")

    def answer(self, data: bytes) -> None:
        """Write the struct back, as much of it as the client knows. EFAULT: it cannot be written.
        After `struct`.
        """
        assert self._write is not None, "an answer to what is only read"
        self._write(data[: self.length])


class UserArray:
    """`count` structs of `type`, `length` bytes each. `done`: how many were dealt with. The client
    is told it on every path.
    """

    __slots__ = ("_read", "count", "done", "length", "position", "type")

    def __init__(self, data_type: int, length: int, count: int, read: Read) -> None:
        self.type: Final = data_type
        self.length: Final = length
        self.count: Final = count
        self.done = 0
        self.position = 0  # bytes that `chunks` has read
        self._read = read

    def expect(self, data_type: int) -> None:
        """EINVAL: it is an array of something else."""
        if self.type != data_type:
            raise IoctlError(EINVAL, f"data of type {self.type:#x}, wanted: {data_type:#x}")

    def chunks(self, data_type: int, size: int, least: int) -> Iterator[bytes]:
        """All structs, in order, `size` bytes each, some at a time.

        EINVAL: as UserData.struct. EFAULT: the next one cannot be read; those before it were given
        out.
        """
        if not self.count:
            return
        _check(self.type, self.length, data_type, size, least)
        total = self.count * self.length
        at_once = CHUNK // self.length * self.length
        while self.position < total:
            wanted = min(at_once, total - self.position)
            data = self._read(self.position, wanted)
            whole = len(data) // self.length * self.length
            self.position += whole
            if whole:
                yield self._padded(data[:whole], size)
            if whole != wanted:
                raise IoctlError(EFAULT, f"entry {self.position // self.length} of the array cannot be read")

    def entries(self, data_type: int, size: int) -> Generator[None, None, bytes]:
        """All structs, `size` bytes each. None is dealt with before all were read. Longer ones must
        end in zeros. May pause.

        EINVAL: another type, or there are none. EFAULT: one cannot be read. E2BIG: one says
        something that nobody here knows.

        Ref: v7.3 include/linux/iommu.h iommu_copy_struct_from_full_user_array
        """
        self.expect(data_type)
        if not self.count:
            raise IoctlError(EINVAL, "the array is empty")
        known = bytearray()
        while self.position < self.count * self.length:
            wanted = min(CHUNK // self.length * self.length, self.count * self.length - self.position)
            data = self._read(self.position, wanted)
            for at in range(0, len(data) // self.length * self.length, self.length):
                if data.count(0, at + size, at + self.length) != max(self.length - size, 0):
                    raise IoctlError(
                        E2BIG, f"entry {(self.position + at) // self.length} is not zero beyond its {size} bytes"
                    )
                known += data[at : at + min(size, self.length)].ljust(size, b"\0")
            self.position += wanted
            if len(data) != wanted:
                raise IoctlError(
                    EFAULT, f"the array cannot be read beyond its first {self.position - wanted + len(data)} bytes"
                )
            yield
        return bytes(known)

    def _padded(self, data: bytes, size: int) -> bytes:
        if self.length == size:
            return data
        entries = (data[at : at + self.length] for at in range(0, len(data), self.length))
        return b"".join(entry.ljust(size, b"\0") for entry in entries)

    @property
    def ahead(self) -> tuple[int, int]:
        """What `chunks` will read next: offset and length (bytes)."""
        return self.position, min(CHUNK, self.count * self.length - self.position)


def _check(found: int, length: int, data_type: int, size: int, least: int) -> None:
    if found != data_type:
        raise IoctlError(EINVAL, f"data of type {found:#x}, wanted: {data_type:#x}")
    if not least <= length <= size:
        raise IoctlError(EINVAL, f"{length} bytes of data, wanted: {least} to {size}")
