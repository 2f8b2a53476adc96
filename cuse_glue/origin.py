"""Whose memory it is: the address spaces that clients called from.

An area remembers *whose* memory it is, and a process may exec (another address space under the same pid) or exit (and the pid be given
to another). An `Mm` is one address space. It holds three files of /proc open, each of which keeps pointing at the address space it
was opened on: `mem` (its bytes), `maps` (what is mapped) and `pagemap` (which pages are there). They say so when nobody lives in it
any more, and never show another one. It also holds the directory of its process, which keeps naming the same process when the number is
given to another.

All threads of a process share one Mm. Whether a thread is still in the address space we know is asked on every lookup: its auxiliary
vector is random for each exec (AT_RANDOM, the vdso's place), and the open directory /proc/TID keeps naming the same thread, so
that a thread that got the number later is not mistaken for it. A child that shares its parent's (vfork, CLONE_VM)
is taken for the parent.

Two ways lead to the bytes. `mem` is exact: it cannot hit another address space, and like a device it does not ask for the page
protection of now (what was right when the memory was pinned stays right); but it goes page by page through a buffer, at a quarter of
memcpy's speed. process_vm_* is twice as fast, but names a thread, and that thread could exec between our look at it and the call. For
reading we look again afterwards and throw away what we read. What is written cannot be taken back: a client could have our rights
write into a set-user-ID program that it just became. So only clients that would gain nothing by it (root's, our own user's) are
written to that way, and only large pieces, for which it is worth while.
"""

import errno
import os
import re
import resource
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, Final

from . import raw_memory
from .caller import Caller
from .vma import Maps

CACHED: Final = 256  # threads whose address space is kept although nobody needs it
LARGE: Final = 256 * 1024  # bytes from which process_vm_* is worth its checks
SEARCHED: Final = 256  # descriptors among which a mapped file is looked for
FEW_PAGES: Final = 16  # up to which the entries are read at once
PAGE_SIZE: Final = resource.getpagesize()

# A thread that has ended, or (PermissionError) runs a program that we may not look into.
_NOT_THERE: Final = (FileNotFoundError, ProcessLookupError, PermissionError)
_THERE: Final = 0xC0  # of a pagemap entry's highest byte: present, swapped
_FILE_PAGE: Final = 1 << 61  # of a pagemap entry: a page of a file, or shared
_ABSENT: Final = bytes(not byte & _THERE for byte in range(256))


class Mm:
    """One client address space. Held by whoever remembers memory in it: `hold` and `drop` in pairs; they and all that opens a file
    are for the task that serves requests, `read` and `write` and what they need for worker threads as well."""

    __slots__ = (
        "_closed",
        "_directory",
        "_holders",
        "_limit",
        "_mem",
        "_pagemap",
        "_tid",
        "account",
        "auxv",
        "maps",
        "pid",
        "sources",
    )

    def __init__(self, thread: int, tid: int, pid: int, auxv: bytes, closed: Callable[["Mm"], None]) -> None:
        """Of the thread whose /proc directory is open as `thread`. OSError: it is gone, or may not be looked into."""
        fds: list[int] = []
        try:
            fds.append(os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            fds.append(os.open("mem", os.O_RDWR | os.O_CLOEXEC, dir_fd=thread))
            fds.append(os.open("pagemap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=thread))
            fds.append(os.open("maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=thread))
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        self._directory, self._mem, self._pagemap, maps = fds
        self.maps = Maps(maps, self._open_maps)
        self.pid = pid
        self.auxv = auxv
        self.sources: dict[int, Any] = {}  # what `source.Sources` keeps with it, by uid
        self.account: Any = None  # what `true_pin` keeps with it; closed with it
        self._tid = tid
        self._limit: int | None = None
        self._holders = 1
        self._closed = closed
        self.memlock_limit()

    def __repr__(self) -> str:
        return f"<Mm of process {self.pid}>"

    def hold(self) -> None:
        self._holders += 1

    def drop(self) -> None:
        """The last drop closes it."""
        self._holders -= 1
        if self._holders == 0:
            self._closed(self)
            self.sources.clear()
            if self.account is not None:
                self.account.close()
            self.maps.close()
            for fd in (self._directory, self._mem, self._pagemap):
                os.close(fd)

    def alive(self) -> bool:
        """Whether somebody still lives in this address space."""
        # Of a living one it gives the entry of page 0, mapped or not. No page is faulted in, so no client can make us wait.
        return bool(os.pread(self._pagemap, 8, 0))

    def fate(self) -> str:
        """For people: why it is gone."""
        try:
            if any(self._auxv(tid) for tid in self._threads()):
                return f"process {self.pid} has executed another program"
        except OSError:
            return f"process {self.pid} is gone"
        return f"process {self.pid} has exited"

    def read(self, address: int, buffer: memoryview) -> int:
        """Fill `buffer` from `address` (bytes, which must be mapped); bytes read before one could not be."""
        done = self._read_by_number(address, buffer) if len(buffer) >= LARGE else 0
        while done < len(buffer):
            try:
                count = os.preadv(self._mem, [buffer[done:]], address + done)
            except OSError:
                break
            if count == 0:
                break
            done += count
        return done

    def write(self, address: int, data: memoryview, *, trusted: bool) -> int:
        """Write `data` to `address` (bytes, mapped and writable); bytes written before one could not be.

        `trusted`: the client would gain nothing if we wrote into a program that it executes this very moment.
        """
        done = self._write_by_number(address, data) if trusted and len(data) >= LARGE else 0
        while done < len(data):
            try:
                count = os.pwritev(self._mem, [data[done:]], address + done)
            except OSError:
                break
            if count == 0:
                break
            done += count
        return done

    def _read_by_number(self, address: int, buffer: memoryview) -> int:
        try:
            tid = self._thread()
            if tid is not None:
                done = raw_memory.read_process(tid, address, buffer)
                if self._is_here(tid):
                    return done
        except OSError:
            pass
        return 0

    def _write_by_number(self, address: int, data: memoryview) -> int:
        try:
            tid = self._thread()
        except OSError:
            return 0
        return raw_memory.write_process(tid, address, data) if tid is not None else 0

    def absent(self, address: int, pages: int) -> bytes:
        """For each of `pages` pages from `address`: 1 if nothing is there (not in memory, nor swapped out), else 0. Empty: it is gone."""
        if pages > FEW_PAGES and raw_memory.any_absent(self._pagemap, address, address + pages * PAGE_SIZE) is False:
            return bytes(pages)
        entries = os.pread(self._pagemap, pages * 8, address // PAGE_SIZE * 8)
        return entries[7::8].translate(_ABSENT)

    def of_file(self, address: int) -> bool:
        """Whether the page at `address`, of a file's private mapping, is still the file's own."""
        entry = int.from_bytes(os.pread(self._pagemap, 8, address // PAGE_SIZE * 8), "little")
        return not entry >> 56 & _THERE or bool(entry & _FILE_PAGE)

    def thread_file(self, name: str) -> bytes:
        """The text of /proc/TID/`name` of a thread that lives here. OSError(ESRCH): there is none."""
        tid = self._thread()
        if tid is None:
            raise OSError(errno.ESRCH, self.fate())
        return _read_at(self._directory, f"task/{tid}/{name}")

    def map_file(self, start: int, end: int) -> int:
        """An O_PATH descriptor of the file that is mapped from `start` to `end` (exactly one mapping); close it.

        Nothing of the file system is asked yet. The answer is only as good as the thread's number: compare the file with what
        `maps` says. OSError(EPERM): we lack CAP_SYS_ADMIN.
        """
        tid = self._thread()
        if tid is None:
            raise OSError(errno.ESRCH, self.fate())
        return os.open(f"/proc/{tid}/map_files/{start:x}-{end:x}", os.O_PATH | os.O_CLOEXEC)

    def threads(self) -> list[int]:
        """The threads that live here now."""
        return [tid for tid in self._threads() if self._is_here(tid)]

    def lives_in(self, tid: int) -> bool:
        """Whether thread `tid` lives here now."""
        return self._is_here(tid)

    def descriptors(self) -> Iterator[int]:
        """An O_PATH descriptor for each of the first SEARCHED descriptors of the process; each is closed when the next is asked for.

        As with `map_file`, the answer is only as good as the thread's number, and nothing of a file system is asked.
        """
        tid = self._thread()
        try:
            names = os.listdir(f"/proc/{tid}/fd") if tid is not None else []
        except _NOT_THERE:
            return
        for name in names[:SEARCHED]:
            try:
                fd = os.open(f"/proc/{tid}/fd/{name}", os.O_PATH | os.O_CLOEXEC)
            except _NOT_THERE:
                continue  # closed since
            try:
                yield fd
            finally:
                os.close(fd)

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK (soft, bytes) of the process now, or when it was last asked for if it has exited; None: unlimited."""
        try:
            soft = self._soft_limit()
            os.stat("stat", dir_fd=self._directory)  # else the number may be another's by now
        except OSError:
            return self._limit
        self._limit = None if soft == resource.RLIM_INFINITY else soft
        return self._limit

    def _soft_limit(self) -> int:
        try:
            return resource.prlimit(self.pid, resource.RLIMIT_MEMLOCK)[0]
        except PermissionError:
            # Another user's, and we lack CAP_SYS_RESOURCE. The text takes longer, and is for everybody.
            found = re.search(
                rb"^Max locked memory +(\d+|unlimited) ", _read_at(self._directory, "limits"), re.MULTILINE
            )
            return int(found[1]) if found is not None and found[1] != b"unlimited" else resource.RLIM_INFINITY

    def locked_pages(self) -> int:
        """Pages that the process has locked itself (mlock); 0 when it is gone."""
        ours = self.account.locked_shown if self.account is not None else 0
        try:
            found = re.search(rb"^VmLck:\s*(\d+) kB$", self.thread_file("status"), re.MULTILINE)
        except OSError:
            return 0
        return max(int(found[1]) * 1024 // PAGE_SIZE - ours, 0) if found is not None else 0

    def _open_maps(self) -> int:
        tid = self._thread()
        if tid is None:
            raise ProcessLookupError(errno.ESRCH, self.fate())
        fd = os.open(f"task/{tid}/maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        if not self._is_here(tid):  # it has executed another program, before the open perhaps
            os.close(fd)
            raise ProcessLookupError(errno.ESRCH, self.fate())
        return fd

    def _thread(self) -> int | None:
        """A living thread of this address space, the one that was good last time if it still is. OSError: we are short of descriptors."""
        if self._is_here(self._tid):
            return self._tid
        for tid in self._threads():
            if self._is_here(tid):
                self._tid = tid
                return tid
        return None

    def _is_here(self, tid: int) -> bool:
        return self._auxv(tid) == self.auxv and self.alive()

    def _auxv(self, tid: int) -> bytes:
        try:
            return _read_at(self._directory, f"task/{tid}/auxv")
        except _NOT_THERE:
            return b""

    def _threads(self) -> Iterator[int]:
        try:
            tasks = os.open("task", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self._directory)
        except _NOT_THERE:
            return
        try:
            yield from map(int, os.listdir(tasks))
        except _NOT_THERE:
            return
        finally:
            os.close(tasks)


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
        self._mms: dict[int, Mm] = {}  # all that somebody holds, by process; the newest of each

    def of(self, caller: Caller, readable: int = 0) -> Mm:
        """The address space of `caller` now; not held for the asker.

        OSError when the process is gone or may not be looked into (another user's, or not dumpable).
        """
        thread = self._threads.get(caller.tid)
        if thread is not None:
            try:
                auxv = _read_at(thread.directory, "auxv")
            except OSError:
                auxv = b""
            if auxv == thread.mm.auxv and thread.mm.alive():
                self._threads.move_to_end(caller.tid)
                return thread.mm
            del self._threads[caller.tid]
            thread.close()
        return self._add(caller)

    def _add(self, caller: Caller) -> Mm:
        directory = os.open(f"/proc/{caller.tid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            auxv = _read_at(directory, "auxv")
            pid = _owner(caller.process())
            mm = self._mms.get(pid)
            if mm is not None and mm.auxv == auxv and mm.alive():
                mm.hold()
            else:
                mm = self._mms[pid] = Mm(directory, caller.tid, pid, auxv, self._forget)
        except OSError:
            os.close(directory)
            raise
        self._threads[caller.tid] = _Thread(directory, mm)
        if len(self._threads) > CACHED:
            self._threads.popitem(last=False)[1].close()
        return mm

    def _forget(self, mm: Mm) -> None:
        if self._mms.get(mm.pid) is mm:
            del self._mms[mm.pid]

    def close(self) -> None:
        """Forget all threads; address spaces that somebody holds stay."""
        while self._threads:
            self._threads.popitem()[1].close()


def _owner(pid: int) -> int:
    """The process that a vfork()ed child has its address space from, which is there when the child has gone; else `pid` itself."""
    while True:
        try:
            with open(f"/proc/{pid}/status", "rb") as status:
                found = re.search(rb"^PPid:\t(\d+)$", status.read(), re.MULTILINE)
        except OSError:
            return pid
        parent = int(found[1]) if found is not None else 0
        if not parent or not raw_memory.same_memory(pid, parent):
            return pid
        pid = parent


def _read_at(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)
