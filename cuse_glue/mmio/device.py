"""What a trapped load or store reaches, and what is known of who makes it."""

from collections.abc import Callable
from typing import Protocol


class Device(Protocol):
    """One device. Offsets are the file's, in bytes; an access is within one mapping of it, need not
    be aligned, and may reach from one page into the next.

    `size` is what the instruction says: 1, 2, 4 or 8, and 16, 32 or 64 of a vector. An instruction
    with another size makes several accesses, of aligned powers of two. Values are little-endian.

    An OSError says that there is nothing: the thread gets SIGBUS. Nothing here may wait, nor reach
    into a client: its thread is stopped until this returns.
    """

    def load(self, offset: int, size: int) -> int: ...

    def store(self, offset: int, size: int, value: int) -> None: ...

    def peek(self, offset: int, size: int) -> bytes | None:
        """What loads would give, of whole pages, but without any effect; None: that cannot be had.

        Called only for threads that cannot be traced.
        """


class Fault(Protocol):
    """A thread that waits for a page of the device's file (cuse_glue.request.mapped.Toucher)."""

    tid: int
    take_back: Callable[[int, int], None]
    """(offset, length): take from the kernel the pages there that it was given. Waits until what
    was written there has come; any thread but the session's.
    """

    def refuse(self) -> None:
        """Answer it with EIO: once however often it is called, in any thread."""


class AccessRefused(Exception):
    """The access is not carried out, and nothing has been changed; the text says why."""
