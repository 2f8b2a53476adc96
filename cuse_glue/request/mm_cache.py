"""The address spaces that clients called from lately, by thread. Soon after a thread has ended, it
is forgotten.
"""

import errno
import os
from collections import OrderedDict
from typing import Final

import trio

from ..process import raw_memory
from ..system import status
from ..system.means import spare, with_means
from .address_space import Mm, layout_at, read_at
from .caller import Caller, forget_ended_threads

CACHED: Final = 256  # threads whose address space is kept although nobody needs it
SWEEP: Final = 1.0  # seconds between looks whether the threads that we know are still there


class _Thread:
    __slots__ = ("directory", "mm")

    def __init__(self, directory: int, mm: Mm) -> None:
        self.directory = directory
        self.mm = mm

    def is_here(self) -> bool:
        """Whether the thread still lives in that address space. Also False if we lack a descriptor
        to look.
        """
        try:
            return self.mm.is_of(self.directory)
        except OSError:
            return False

    def has_ended(self) -> bool:
        """Whether the thread has ended, or its address space is gone."""
        try:
            os.stat("stat", dir_fd=self.directory)
            return not self.mm.alive()
        except ProcessLookupError:
            return True
        except OSError as error:
            return error.errno == errno.ENOENT

    def close(self) -> None:
        os.close(self.directory)
        self.mm.put()


class MmCache:
    """The address spaces of the threads that called lately."""

    def __init__(self) -> None:
        self._threads: OrderedDict[int, _Thread] = OrderedDict()
        self._mms: dict[int, Mm] = {}  # by process, its newest one that somebody refers to
        self._sweeping = False
        spare(self.close)

    def of(self, caller: Caller) -> Mm:
        """The address space of `caller` now. The asker gets no reference.

        OSError: the process is gone, or we may not look into it (another user's, or not dumpable).
        """
        thread = self._threads.get(caller.tid)
        if thread is not None:
            mm = thread.mm
            if thread.is_here():
                self._threads.move_to_end(caller.tid)
                mm.caller = caller
                return mm
            del self._threads[caller.tid]
            thread.close()
        mm = with_means(lambda: self._add(caller))
        mm.caller = caller
        return mm

    def _add(self, caller: Caller) -> Mm:
        directory = os.open(f"/proc/{caller.tid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            layout = layout_at(directory, "")
            try:
                auxv = read_at(directory, "auxv")
            except PermissionError:
                if caller.uid != os.geteuid():
                    raise
                auxv = b""
            pid = _owner(caller.process())
            mm = self._mms.get(pid)
            if mm is not None and mm.is_of(directory):
                mm.get()
            else:
                mm = self._mms[pid] = Mm(directory, caller.tid, pid, auxv, layout, self._forget)
        except OSError:
            os.close(directory)
            raise
        self._threads[caller.tid] = _Thread(directory, mm)
        if len(self._threads) > CACHED:
            self._threads.popitem(last=False)[1].close()
        self._sweep_soon()
        return mm

    def _forget(self, mm: Mm) -> None:
        if self._mms.get(mm.pid) is mm:
            del self._mms[mm.pid]

    def sweep(self) -> None:
        """Forget the threads that have ended."""
        for tid, thread in list(self._threads.items()):
            if thread.has_ended():
                del self._threads[tid]
                thread.close()
        forget_ended_threads()

    def _sweep_soon(self) -> None:
        if self._sweeping:
            return
        try:
            trio.lowlevel.spawn_system_task(self._sweep_now_and_then)
        except RuntimeError:
            return  # no loop runs, as in some tests
        self._sweeping = True

    async def _sweep_now_and_then(self) -> None:
        try:
            while self._threads:
                await trio.sleep(SWEEP)
                self.sweep()
        finally:
            self._sweeping = False

    def close(self) -> None:
        """Forget all threads. Address spaces that somebody else refers to stay."""
        while self._threads:
            self._threads.popitem()[1].close()


def _owner(pid: int) -> int:
    """If `pid` is a vfork()ed child: the process that it has its address space from, which is still
    there when the child has gone. Else `pid` itself.
    """
    while True:
        try:
            parent = status.read(pid).number("PPid")
        except OSError:
            return pid
        if not parent or not raw_memory.same_memory(pid, parent):
            return pid
        pid = parent
