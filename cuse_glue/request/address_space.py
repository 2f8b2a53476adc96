"""Whose memory it is: the address spaces that clients called from.

An area remembers *whose* memory it shows. But a process may exec, which gives the same pid another
address space, or exit, and its pid may be given to another. So an `Mm` stands for one address
space. It keeps three files of /proc open, each of which keeps pointing at the address space that it
was opened on: `mem` (its bytes), `maps` (what is mapped) and `pagemap` (which pages are there).
When nobody lives in it any more they say so; they never show another one. It also keeps the
directory of its process open, which keeps naming the same process when the pid is given to another.

All threads of a process share one Mm. Every lookup checks that the thread is still in the address
space that we know: by its auxiliary vector, which is random for each exec (AT_RANDOM, the place of
the vdso). The open directory /proc/TID keeps naming the same thread, so that a later thread with
the same number is not mistaken for it. A child that shares its parent's memory (vfork, CLONE_VM) is
taken for the parent.

The bytes are reached through `mem`. It is exact: it cannot hit another address space. Like a
device, it ignores the present page protection (what was right when the memory was pinned stays
right). But it goes page by page through a buffer, at a quarter of memcpy's speed. process_vm_* is
twice as fast, but names a thread, and a thread can execute another program. It cannot do that as
long as it waits for an answer of ours. So large pieces go by process_vm_* while a thread that is
known to live here waits, and only then.

A program that its user may run but not look into (not dumpable: by prctl, or because he may not
read its file) has neither `mem` nor `pagemap` nor `auxv` for that user. If the program belongs to
our own user, we know it by what else was random in its exec (where its stack and its strings lie).
We reach it by its number, right after we have checked that. The only other program that we could
hit belongs to the same user, to whom our daemon belongs as well.
"""

import errno
import os
import re
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from ..process import raw_memory
from ..process.vma import Maps
from ..system.page import PAGE_SIZE
from ..system.status import Status
from .caller import Caller

LARGE: Final = 256 * 1024  # bytes from which process_vm_* is worth its checks
SEARCHED: Final = 256  # descriptors among which a mapped file is looked for
FEW_PAGES: Final = 16  # of up to so many, the entries are read without a scan before

# A thread that has ended, or (PermissionError) runs a program that we may not look into.
_GONE: Final = (FileNotFoundError, ProcessLookupError)
_NOT_THERE: Final = (FileNotFoundError, ProcessLookupError, PermissionError)
_THERE: Final = 0xC0  # of a pagemap entry's highest byte: present, swapped
_FILE_PAGE: Final = 1 << 61  # of a pagemap entry: a page of a file, or shared
_ABSENT: Final = bytes(not byte & _THERE for byte in range(256))


class Account(Protocol):
    """What true pins keep of an address space (cuse_glue.pins.account)."""

    @property
    def locked_shown(self) -> int:
        """Pages that we locked in it, so that VmLck shows them; it has not locked them itself."""

    def close(self) -> None: ...


class Mm:
    """One client address space. Whoever remembers memory in it has a reference (`get`, `put`).
    These two, and whatever opens a file, are for the task that serves requests; `read`, `write` and
    what they need are for worker threads as well.
    """

    __slots__ = (
        "_closed",
        "_directory",
        "_layout",
        "_limit",
        "_mem",
        "_pagemap",
        "_refs",
        "_tid",
        "account",
        "at_close",
        "auxv",
        "caller",
        "maps",
        "pid",
    )

    def __init__(
        self, thread: int, tid: int, pid: int, auxv: bytes, layout: bytes, closed: Callable[["Mm"], None]
    ) -> None:
        """The address space of the thread whose /proc directory is open as `thread`. OSError: it is
        gone, or we may not look into it.

        `auxv`: empty if we may not read it. Then we may not open `mem` and `pagemap` either, and
        know the address space by `layout`.
        """
        fds: list[int] = []
        try:
            fds.append(os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
            fds.append(os.open("maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=thread))
            if auxv:
                fds.append(os.open("mem", os.O_RDWR | os.O_CLOEXEC, dir_fd=thread))
                fds.append(os.open("pagemap", os.O_RDONLY | os.O_CLOEXEC, dir_fd=thread))
        except OSError:
            for fd in fds:
                os.close(fd)
            raise
        self._directory, maps = fds[:2]
        self._mem: int | None
        self._pagemap: int | None
        self._mem, self._pagemap = fds[2:] if auxv else (None, None)
        self.maps = Maps(maps, self._open_maps)
        self.pid = pid
        self.auxv = auxv
        self._layout = layout
        self.caller: Caller | None = None  # who called last from here
        self.at_close: list[Callable[[], object]] = []  # called when it is closed
        self.account: Account | None = None  # of true pins; closed with it
        self._tid = tid
        self._limit: int | None = None
        self._refs = 1
        self._closed = closed
        self.memlock_limit()

    @property
    def identity(self) -> tuple[int, bytes]:
        """The same in every process of ours that knows this address space, and in no other one."""
        return self.pid, self.auxv

    def __repr__(self) -> str:
        return f"<Mm of process {self.pid}>"

    def get(self) -> None:
        self._refs += 1

    def put(self) -> None:
        """The last put closes it."""
        self._refs -= 1
        if self._refs == 0:
            self._closed(self)
            while self.at_close:
                self.at_close.pop()()
            if self.account is not None:
                self.account.close()
            self.maps.close()
            for fd in (self._directory, self._mem, self._pagemap):
                if fd is not None:
                    os.close(fd)

    def alive(self) -> bool:
        """Whether some process still lives in this address space."""
        if self._pagemap is None:
            return self.maps.alive()
        # In a living one this reads the entry of page 0, even if nothing is mapped there. It faults
        # no page in, so no client can make us wait.
        return bool(os.pread(self._pagemap, 8, 0))

    def is_of(self, thread: int, path: str = "") -> bool:
        """Whether the thread whose /proc directory is `path` under the open `thread` lives here."""
        try:
            auxv = read_at(thread, f"{path}auxv")
        except PermissionError:
            try:
                return layout_at(thread, path) == self._layout and self.alive()
            except _NOT_THERE:
                return False
        except _GONE:
            return False
        return auxv == self.auxv and self.alive()

    def why_gone(self) -> str:
        """A sentence for people: why it is gone."""
        try:
            if any(map(self._runs, self._threads())):
                return f"process {self.pid} has executed another program"
        except OSError:
            return f"process {self.pid} is gone"
        return f"process {self.pid} has exited"

    def read(self, address: int, buffer: memoryview) -> int:
        """Fill `buffer` from `address` (bytes, which must be mapped). Returns how many bytes were
        read before one could not be.
        """
        done = 0
        if len(buffer) >= LARGE or self._mem is None:
            done = raw_memory.read_process(self._number, address, buffer)
        if done < len(buffer) and self._mem is not None:
            done += raw_memory.read_file(self._mem, address + done, buffer[done:])
        return done

    def write(self, address: int, data: memoryview) -> int:
        """Write `data` to `address` (bytes, mapped and writable). Returns how many bytes were
        written before one could not be.
        """
        done = 0
        if len(data) >= LARGE or self._mem is None:
            done = raw_memory.write_process(self._number, address, data)
        if done < len(data) and self._mem is not None:
            done += raw_memory.write_file(self._mem, address + done, data[done:])
        return done

    def _number(self) -> int:
        """A thread that may be reached by its number, because it lives here and cannot leave. 0:
        there is none.
        """
        if self._mem is None:
            try:
                return self._thread() or 0
            except OSError:
                return 0
        return self.caller.tid if self.caller is not None and self.caller.waits else 0

    def first_guard(self, start: int, end: int) -> int | None:
        """The first page of `start` to `end` that is a guard (MADV_GUARD_INSTALL). None: there is
        none, or it cannot be told.
        """
        return raw_memory.first_guard(self._pagemap, start, end) if self._pagemap is not None else None

    def first_away(self, start: int, end: int, *, its_own: bool = False) -> int | None:
        """As raw_memory.first_away. Also None if it cannot be told."""
        return raw_memory.first_away(self._pagemap, start, end, its_own=its_own) if self._pagemap is not None else None

    def absent(self, address: int, pages: int) -> bytes:
        """One byte for each of `pages` pages from `address`: 1 if nothing is there (neither in
        memory nor swapped out), else 0. Empty: the address space is gone.
        """
        if self._pagemap is None:
            return bytes(pages)
        if pages > FEW_PAGES and raw_memory.any_absent(self._pagemap, address, address + pages * PAGE_SIZE) is False:
            return bytes(pages)
        entries = os.pread(self._pagemap, pages * 8, address // PAGE_SIZE * 8)
        return entries[7::8].translate(_ABSENT)

    def of_file(self, address: int) -> bool:
        """Whether the page at `address`, in a private mapping of a file, is still the file's
        own.
        """
        if self._pagemap is None:
            return True
        entry = int.from_bytes(os.pread(self._pagemap, 8, address // PAGE_SIZE * 8), "little")
        return not entry >> 56 & _THERE or bool(entry & _FILE_PAGE)

    @contextmanager
    def opened(self, name: str) -> Iterator[int]:
        """A descriptor of /proc/TID/`name` of a thread that lives here. OSError(ESRCH): there is
        none.
        """
        tid = self._thread()
        if tid is None:
            raise OSError(errno.ESRCH, self.why_gone())
        fd = os.open(f"task/{tid}/{name}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        try:
            if not self._is_here(tid):  # it has executed another program, perhaps before the open
                raise OSError(errno.ESRCH, self.why_gone())
            yield fd
        finally:
            os.close(fd)

    def thread_file(self, name: str) -> bytes:
        """The text of /proc/TID/`name` of a thread that lives here. OSError: as `opened`."""
        with self.opened(name) as fd:
            return _read(fd)

    def map_file(self, start: int, end: int) -> int:
        """An O_PATH descriptor of the file that is mapped from `start` to `end` (exactly one
        mapping); close it.

        The file system is not asked anything yet. The thread's number may have become another
        thread's: compare the file with what `maps` says. OSError(EPERM): we lack CAP_SYS_ADMIN.
        """
        tid = self._thread()
        if tid is None:
            raise OSError(errno.ESRCH, self.why_gone())
        return os.open(f"/proc/{tid}/map_files/{start:x}-{end:x}", os.O_PATH | os.O_CLOEXEC)

    def threads(self) -> list[int]:
        """The threads that live here now."""
        return [tid for tid in self._threads() if self._is_here(tid)]

    def lives_in(self, tid: int) -> bool:
        """Whether thread `tid` lives here now."""
        return self._is_here(tid)

    def descriptors(self) -> Iterator[int]:
        """An O_PATH descriptor for each of the first SEARCHED descriptors of the process. Each is
        closed when the next is asked for.

        As with `map_file`, the thread's number may have become another thread's, and no file system
        is asked anything.
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
        """RLIMIT_MEMLOCK of the process (soft, bytes) now; if it has exited, as it was when last
        asked for. None: unlimited.
        """
        try:
            soft = self._soft_limit()
            os.stat("stat", dir_fd=self._directory)  # fails if the number may be another's by now
        except OSError:
            return self._limit
        self._limit = None if soft == resource.RLIM_INFINITY else soft
        return self._limit

    def _soft_limit(self) -> int:
        try:
            return resource.prlimit(self.pid, resource.RLIMIT_MEMLOCK)[0]
        except PermissionError:
            # It is another user's, and we lack CAP_SYS_RESOURCE. Everybody may read the text, which
            # takes longer.
            found = re.search(
                rb"^Max locked memory +(\d+|unlimited) ", read_at(self._directory, "limits"), re.MULTILINE
            )
            return int(found[1]) if found is not None and found[1] != b"unlimited" else resource.RLIM_INFINITY

    def locked_pages(self) -> int:
        """Pages that the process has locked itself (mlock); 0 when it is gone."""
        ours = self.account.locked_shown if self.account is not None else 0
        try:
            locked = Status(self.thread_file("status")).size("VmLck")
        except OSError:
            return 0
        return max(locked // PAGE_SIZE - ours, 0)

    def _open_maps(self) -> int:
        tid = self._thread()
        if tid is None:
            raise ProcessLookupError(errno.ESRCH, self.why_gone())
        fd = os.open(f"task/{tid}/maps", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._directory)
        if not self._is_here(tid):  # it has executed another program, perhaps before the open
            os.close(fd)
            raise ProcessLookupError(errno.ESRCH, self.why_gone())
        return fd

    def _thread(self) -> int | None:
        """A living thread of this address space; the one of last time, if it still lives. OSError:
        we have too few descriptors.
        """
        if self._is_here(self._tid):
            return self._tid
        for tid in self._threads():
            if self._is_here(tid):
                self._tid = tid
                return tid
        return None

    def _is_here(self, tid: int) -> bool:
        return self.is_of(self._directory, f"task/{tid}/")

    def _runs(self, tid: int) -> bool:
        """Whether the process runs a program at all."""
        try:
            return bool(read_at(self._directory, f"task/{tid}/auxv"))
        except PermissionError:
            return True
        except _GONE:
            return False

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


# Of /proc/TID/stat, counted from the third field: startcode, endcode, startstack, and start_data to
# env_end.
_LAYOUT: Final = (23, 24, 25, *range(42, 49))


def layout_at(directory: int, path: str) -> bytes:
    """Where those parts of a thread's address space lie that an exec puts at random places."""
    fields = read_at(directory, f"{path}stat").rpartition(b") ")[2].split()
    return b" ".join(fields[at] for at in _LAYOUT)


def read_at(directory: int, name: str) -> bytes:
    fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    try:
        return _read(fd)
    finally:
        os.close(fd)


def _read(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 16):
        parts.append(part)
    return b"".join(parts)
