"""The memory of one address space, and of no other. For every access that is made when the client's
thread may have left its call.

A thread's number names whatever program runs under it *now*. Until its request is answered, that is
the program that asked. Afterwards the thread may execute a set-user-ID program, or end and leave
its number to another. The files of /proc that are opened here, before the answer, keep naming the
address space that they were opened on. When nobody lives there any more, nothing is read or
written.

`mem` ignores the protection of a page, so `maps` is asked first. A client that changes the
protection in between gets its own private page written, which harms nobody else. A shared mapping
that is not writable is refused by the kernel even then.

One thing it cannot do: it does not wait for a page that somebody brings (userfaultfd), but treats
the page as missing. aside.py waits for such pages.

Ref: v7.3 fs/proc/base.c mem_rw, mm/gup.c check_vma_flags
"""

import errno
import os
from typing import Final

from .vma import AddressSpaceGone, Maps

# what a file position can say; beyond are the kernel's own addresses
_HIGHEST: Final = (1 << 63) - 1


class BoundMemory:
    """`caller.Memory` of an address space. Any thread; `close` it once nobody uses it."""

    __slots__ = ("_maps", "_mem")

    def __init__(self, tid: int) -> None:
        """The memory of thread `tid`, which must be in a call that only the opener can answer.
        OSError: it is gone, or we may not look into it.
        """
        self._mem = os.open(f"/proc/{tid}/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            self._maps = Maps(os.open(f"/proc/{tid}/maps", os.O_RDONLY | os.O_CLOEXEC), _nobody_else)
        except OSError:
            os.close(self._mem)
            raise

    @classmethod
    def adopt(cls, mem: int, maps: int) -> "BoundMemory":
        """The memory behind descriptors of the two files, which become its own."""
        made = object.__new__(cls)
        made._mem = mem
        made._maps = Maps(maps, _nobody_else)
        return made

    def close(self) -> None:
        self._maps.close()
        os.close(self._mem)

    def read(self, address: int, length: int) -> bytes:
        """At most `length` bytes from `address`; shorter when a byte cannot be read, empty when the
        first cannot.
        """
        length = self._permitted(address, length, write=False)
        parts = []
        while length:
            try:
                part = os.pread(self._mem, length, address)
            except OSError:
                break
            if not part:
                break
            parts.append(part)
            address += len(part)
            length -= len(part)
        return b"".join(parts)

    def write(self, address: int, data: bytes) -> int:
        """How many bytes of `data` were written before one could not be."""
        rest = memoryview(data)[: self._permitted(address, len(data), write=True)]
        done = 0
        while done < len(rest):
            try:
                count = os.pwrite(self._mem, rest[done:], address + done)
            except OSError:
                break
            if not count:
                break
            done += count
        return done

    def _permitted(self, address: int, length: int, *, write: bool) -> int:
        """How many of these bytes the client itself could read or write."""
        position = address
        end = min(address + length, _HIGHEST)
        try:
            for vma in self._maps.covering(address, end):
                if vma.start > position or not (vma.writable if write else vma.readable):
                    break
                position = min(vma.end, end)
        except (AddressSpaceGone, OSError):
            return 0
        return max(position - address, 0)


def _nobody_else() -> int:
    raise ProcessLookupError(errno.ESRCH, "that thread has ended")
