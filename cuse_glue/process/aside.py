"""Work on a client's memory that may last as long as the client likes, in a thread of its own:
bringing in slow pages, and looking through gigabytes.

Only process_vm_readv waits for a page that somebody brings (userfaultfd), so these threads reach
the client by its thread's number. That is safe as long as the client waits for our answer. If the
client does not want to wait any longer (a signal), the thread is told to make no further call
(`stop`). The answer is given once the thread is done, or sleeps inside a call. A call that sleeps
is safe, because the kernel looks up the process before it does anything that can sleep.

Ref: v7.3 mm/process_vm_access.c process_vm_rw_core
"""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from typing import Final

from ..system.page import PAGE_SIZE
from . import raw_memory
from .vma import AddressSpaceGone, Maps, Vma, flagged

_SLICE: Final = 1 << 20  # bytes that are looked at in one go
_FEW: Final = 4 << 20  # bytes: for so few we do not ask how their mapping treats faults
_HIGHEST: Final = (1 << 63) - 1
# process_vm_readv
_READV: Final = b"%d " % {"x86_64": 310, "aarch64": 270}.get(os.uname().machine, -1)


class Aside:
    """Work for a thread of ours on the memory of a client that waits. The thread does what is
    between `begin` and `over`; the rest is for the loop.
    """

    def __init__(self, number: Callable[[], int]) -> None:
        """`number`: returns that of the client's thread; 0: the client does not wait any more."""
        self._number = number
        self._lock = threading.Lock()
        self._stopped = False
        self._thread = 0  # ours
        self._over = False

    def begin(self) -> bool:
        """Begin. False: there is nothing to do any more."""
        with self._lock:
            if not self._stopped:
                self._thread = threading.get_native_id()
            return not self._stopped

    def over(self) -> None:
        self._over = True

    def stop(self) -> bool:
        """Let the thread begin no call from now on. One that was just about to begin may still
        come: `sleeps` tells. Returns whether the work had begun.
        """
        with self._lock:
            self._stopped = True
            return bool(self._thread)

    def sleeps(self) -> bool:
        """Whether the thread can reach no other process any more than the one that it has already
        reached.
        """
        if self._over or not self._thread:
            return True
        try:
            with open(f"/proc/self/task/{self._thread}/syscall", "rb", buffering=0) as call:
                return call.read(16).startswith(_READV)
        except OSError as error:
            return error.errno == errno.ENOENT

    def close(self) -> None:
        """Nothing of it is needed any more."""

    def _read(self, address: int, buffer: memoryview) -> int:
        """Fill the buffer. Returns how many bytes were read before one could not be."""
        if self._stopped or address + len(buffer) > _HIGHEST:
            return 0
        return raw_memory.read_process(lambda: 0 if self._stopped else self._number(), address, buffer)


class Touch(Aside):
    """Brings in pages, by reading one byte of each."""

    def __call__(self, pages: range) -> None:
        """Returns at the first page that cannot come."""
        byte = memoryview(bytearray(1))
        for page in pages:
            if not self._read(page, byte):
                return


class ZeroSearch(Aside):
    """Looks through memory of one address space for anything but zeros. It makes no pages where
    nobody has touched any.

    For a worker thread.
    """

    def __init__(self, number: Callable[[], int]) -> None:
        """OSError: it is gone, or may not be looked into."""
        super().__init__(number)
        tid = number()
        self._files: list[int] = []
        self._maps = Maps(os.open(f"/proc/{tid}/maps", os.O_RDONLY | os.O_CLOEXEC), _nobody_else)
        self._mem, self._smaps, self._pagemap = (self._try(tid, name) for name in ("mem", "smaps", "pagemap"))
        self._delayed: list[tuple[int, int]] | None = None
        self._zeros = raw_memory.Zeros(_SLICE)

    def _try(self, tid: int, name: str) -> int | None:
        try:
            self._files.append(os.open(f"/proc/{tid}/{name}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return None
        return self._files[-1]

    def close(self) -> None:
        for fd in self._files:
            os.close(fd)
        self._maps.close()

    def __call__(self, address: int, length: int) -> tuple[int, bool]:
        """Returns how many bytes from `address` are zero before one that is not zero or cannot be
        read, and whether that one is not zero.
        """
        position, end = address, min(address + length, _HIGHEST)
        try:
            for vma in self._maps.covering(position, end):
                if vma.start > position or not vma.readable:
                    break
                upto = min(vma.end, end)
                for start, stop in self._stretches(vma, position, upto):
                    count, other = self._look(start, stop)
                    if count < stop - start:
                        return start + count - address, other
                position = upto
        except (AddressSpaceGone, OSError):
            pass
        return position - address, False

    def _stretches(self, vma: Vma, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Where there may be anything but zeros."""
        if self._pagemap is None or vma.inode or vma.shared or end - start <= _FEW or self._is_delayed(vma):
            yield start, end
            return
        while start < end:
            found, looked = raw_memory.with_bytes(
                self._pagemap, start // PAGE_SIZE * PAGE_SIZE, -(-end // PAGE_SIZE) * PAGE_SIZE
            )
            for low, high in found:
                if low < end and start < high:
                    yield max(low, start), min(high, end)
            start = max(looked, found[-1][1] if found else 0)

    def _is_delayed(self, vma: Vma) -> bool:
        """Whether somebody brings the pages that are missing (userfaultfd), so that they need not
        be zero.
        """
        if self._delayed is None:
            if self._smaps is None:
                return True
            self._delayed = flagged(self._smaps, (b"um", b"ui"))
        return any(start < vma.end and vma.start < end for start, end in self._delayed)

    def _look(self, start: int, end: int) -> tuple[int, bool]:
        position = start
        while position < end:
            wanted = min(_SLICE, end - position)
            got = self._read(position, self._zeros.buffer[:wanted])
            # perhaps the mapping lacks PROT_READ
            if got < wanted and self._mem is not None and not self._stopped:
                got += raw_memory.read_file(self._mem, position + got, self._zeros.buffer[got:wanted])
            zeros = self._zeros.count(got)
            position += zeros
            if zeros < wanted:
                return position - start, zeros < got
        return position - start, False


def _nobody_else() -> int:
    raise ProcessLookupError(errno.ESRCH, "that thread has ended")
