"""What a model of a disk is given for its bytes. iommud gives it files; a test may give others."""

from typing import Protocol


class Disk(Protocol):
    """`size` bytes. All positions and lengths are in bytes, and whole sectors of 512.

    `is_memory`: nothing of it waits. `fd`, `at_once`: for PciFunction.dma_file, a descriptor, and
    the flags with which it reads what is in memory already, and waits for nothing.

    What waits for a disk may be called in any thread. str() is what people know it by.
    """

    size: int
    readonly: bool
    is_memory: bool
    fd: int
    at_once: int

    def read(self, position: int, length: int) -> bytes:
        """OSError: the disk has an error."""
        ...

    def read_now(self, position: int, length: int) -> bytes | None:
        """As `read`, without waiting; None: it would have to be waited for, or has an error."""
        ...

    def write(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """OSError: the disk has an error, or is full."""

    def flush(self) -> None:
        """All that was written stays, even if the machine loses its power. OSError."""

    def zero(self, position: int, length: int, *, free: bool) -> None:
        """Make it zeros. `free`: its room may be given back. OSError."""

    def discard(self, position: int, length: int) -> None:
        """Its bytes are not needed any more: they are zeros from now on, if that is done without
        writing them.
        """

    def close(self) -> None: ...


class Storage(Protocol):
    def open(self, file: str | None, size: int | None, *, readonly: bool) -> Disk:
        """The bytes of a file, or, for None, of memory. ValueError, with a sentence: there is no
        such file, it is in use, too large or too small, or there is neither a file nor a size.
        """
        ...


class NoStorage:
    """That of a function that was given none."""

    def open(self, file: str | None, size: int | None, *, readonly: bool) -> Disk:
        raise ValueError("there is no storage here")
