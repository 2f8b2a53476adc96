"""What outlives a request: the address space a client mapped from, and the file it mapped.

An area remembers *whose* memory it is, and a process may exec (another address space under the same pid) or exit (and the pid be given
to another). An `Mm` holds /proc/TID/mem open: that file keeps pointing at the address space it was opened on, and gives 0 bytes once
nobody lives in it any more. Whether a thread is still in the address space we know is asked on every lookup: its auxiliary vector is
random for each exec (AT_RANDOM, the vdso's place), and the open directory /proc/TID keeps naming the same thread, so that
a thread that got the number later is not mistaken for it.

A file is fetched from the client (the same open file, not a path) and kept once for all mappings of it.
"""

import errno
import fcntl
import os
from collections import OrderedDict
from typing import Final

from .caller import Caller

CACHED: Final = 256  # threads whose address space is kept although no area needs it


class Mm:
    """One client address space. Held by whoever remembers memory in it: `hold` and `drop` in pairs."""

    __slots__ = ("_holders", "auxv", "fd", "tid")
    is_file: Final = False

    def __init__(self, fd: int, tid: int, auxv: bytes) -> None:
        self.fd = fd
        self.tid = tid
        self.auxv = auxv
        self._holders = 1

    def hold(self) -> None:
        self._holders += 1

    def drop(self) -> None:
        """The last drop closes it."""
        self._holders -= 1
        if self._holders == 0:
            os.close(self.fd)

    def alive(self, address: int) -> bool:
        """Whether somebody still lives in this address space; `address` (bytes) must have been readable in it."""
        try:
            return bool(os.pread(self.fd, 1, address))
        except OSError:
            return False


class _Thread:
    __slots__ = ("directory", "mm")

    def __init__(self, directory: int, mm: Mm) -> None:
        self.directory = directory
        self.mm = mm

    def close(self) -> None:
        os.close(self.directory)
        self.mm.drop()


class MmCache:
    """The address spaces of the threads that called lately."""

    def __init__(self) -> None:
        self._threads: OrderedDict[int, _Thread] = OrderedDict()

    def of(self, caller: Caller, readable: int) -> Mm:
        """The address space of `caller` now; not held for the asker.

        `readable` is an address that the caller could be read at in this request (its argument). OSError when the process is gone or
        may not be looked into (another user's, or not dumpable).
        """
        thread = self._threads.get(caller.tid)
        if thread is not None:
            try:
                auxv = _read_at(thread.directory, "auxv")
            except OSError:
                auxv = b""
            if auxv == thread.mm.auxv and thread.mm.alive(readable):
                self._threads.move_to_end(caller.tid)
                return thread.mm
            del self._threads[caller.tid]
            thread.close()
        return self._add(caller.tid).mm

    def _add(self, tid: int) -> _Thread:
        directory = os.open(f"/proc/{tid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            auxv = _read_at(directory, "auxv")
            fd = os.open("mem", os.O_RDWR | os.O_CLOEXEC, dir_fd=directory)
        except OSError:
            os.close(directory)
            raise
        thread = self._threads[tid] = _Thread(directory, Mm(fd, tid, auxv))
        if len(self._threads) > CACHED:
            self._threads.popitem(last=False)[1].close()
        return thread

    def close(self) -> None:
        """Forget all threads; address spaces that areas hold stay."""
        while self._threads:
            self._threads.popitem()[1].close()


class ClientFile:
    """An open file of a client, as a descriptor of ours. Closed by the last `drop`."""

    __slots__ = ("_cache", "_holders", "_key", "fd")
    is_file: Final = True

    def __init__(self, fd: int, key: tuple[int, int, int], cache: "FileCache") -> None:
        self.fd = fd
        self._key = key
        self._cache = cache
        self._holders = 0

    def hold(self) -> None:
        self._holders += 1

    def drop(self) -> None:
        self._holders -= 1
        if self._holders <= 0:
            self._cache.forget(self._key)
            os.close(self.fd)


class FileCache:
    """The files that are mapped now, each once: a client may map one memfd a million times."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int, int], ClientFile] = {}

    def of(self, caller: Caller, number: int) -> ClientFile:
        """The open file behind the caller's descriptor; `hold` it before anything else and `drop` it when not needed.

        OSError(EBADF): no such descriptor, or one opened with O_PATH. Other OSErrors: we may not fetch it.
        """
        fd = caller.descriptor(number)
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            if flags & os.O_PATH:
                raise OSError(errno.EBADF, "a descriptor opened with O_PATH")
            status = os.fstat(fd)
        except OSError:
            os.close(fd)
            raise
        key = status.st_dev, status.st_ino, flags & os.O_ACCMODE
        found = self._files.get(key)
        if found is not None:
            os.close(fd)
            return found
        found = self._files[key] = ClientFile(fd, key, self)
        return found

    def forget(self, key: tuple[int, int, int]) -> None:
        del self._files[key]


def _read_at(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return os.read(fd, 4096)
    finally:
        os.close(fd)
