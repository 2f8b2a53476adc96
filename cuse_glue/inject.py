"""Descriptors for clients: a thread that waits in its ioctl is made to open a file of ours, and the ioctl returns the descriptor.

A FUSE reply carries no descriptor, and nobody can put one into another process; but a thread can be made to open one itself (`ptrace.py`).
What it opens is /proc/thread-self/fd/N, N being the descriptor that it called ioctl on: a fresh OPEN of the same device, which needs
no path that the client could see. While that one call runs, an OPEN from that thread is answered with the file that was to be given.

    loop      handler: give ─┐                                       ┌─ OPEN: claim ─┐                     ┌─▶ settled
    worker                   └▶ seize, interrupt, reply, stop, openat ───────────────┴ patch, let go ──────┘
    client    ioctl ·························· leaves the kernel, stops, opens ······················· returns

The reply has to go out before the thread can open anything, so what the ioctl returns is decided when it is let go: 0, or -errno in the
register of the result. ptrace is bound to a thread, so the whole way is one plain function in a worker thread. There is one for each
client thread that is being served, and not one for all: a client can make its own last (by userfaultfd, or a strange /proc), and
must delay nobody else by it. The handler may be cancelled at any time; the worker goes its way to the end without it.
"""

import errno
import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Final

import trio

from . import ptrace
from .caller import Caller
from .inline import interruptible, leave
from .node import OpenFile
from .seize import NotOurs, is_killed, seize
from .session import reply_taker
from .source import Refused

__all__ = ["Injector", "Refused"]

log: Final = logging.getLogger("cuse_glue.inject")

PATH: Final = "/proc/thread-self/fd/{}"
AT_FDCWD: Final = -100
LOOK: Final = 0.1  # seconds between looks whether a client is being killed that we wait for
CLOSING: Final = 2.0  # seconds in which clients that are being served when the device goes are let go of with care


class Injector:
    """Gives out the files of one device. Belongs to the loop's thread."""

    def __init__(self, machine: ptrace.Machine | None = None, *, harmless_filters: int | None = None) -> None:
        """`machine`: the one we run on, unless given. `harmless_filters`: each client descends from the process that we come from, and has
        this many seccomp filters more, which let the calls through that it is made to make. None: clients are anybody's."""
        self._harmless_filters = harmless_filters
        self._machine = machine or ptrace.machine()
        self._jobs: set[_Job] = set()

    async def give(
        self,
        caller: Caller,
        file: OpenFile,
        *,
        flags: int,
        address: int | None,
        fill: Callable[[int], bytes],
        no_room: int = errno.EMFILE,
    ) -> int:
        """End the caller's ioctl with a new descriptor of its own for `file`; returns its number, the lowest that was free.

        `flags`: as open(2) takes them, access mode and O_CLOEXEC. When the descriptor is there, `fill(number)` makes the bytes that are
        written to `address` in the caller's memory (it is called in another thread). The ioctl returns 0; with `address` None nothing is
        written, and it returns the number.

        `file` is given away with this call: its `release` is called once, when the client has closed the last descriptor, or by us if it
        never got one. A handler awaits this last, and holds no lock: a hostile client can make it last.

        Refused: the ioctl returns -errno, nothing is left in the client. `no_room`: it has no descriptor free. EFAULT: `address` cannot be
        written. EPERM: it is traced by another, or its seccomp filter or the system does not let us. EBADF: another of its
        threads closed the device meanwhile. EOPNOTSUPP: a 32-bit program, or a machine we do not know. Others: what openat(2) gave (ENOENT:
        it sees no /proc; EACCES: it was handed the device and may not open it itself).
        """
        token = trio.lowlevel.current_trio_token()
        job = _Job(self._machine, caller.tid, file, flags, address, fill, no_room, token, self._harmless_filters)
        self._jobs.add(job)
        try:
            await leave()
            job.reply = reply_taker.get()()
        except BaseException:
            self._settle(job)
            raise

        def deliver(outcome: Any) -> None:
            job.outcome = outcome
            job.ended.set()
            try:
                token.run_sync_soon(self._settle, job)
            except trio.RunFinishedError:
                pass  # `close` sees to it

        trio.lowlevel.start_thread_soon(job.run, deliver, "inject")
        try:
            with interruptible():
                await job.watch()
        except trio.Cancelled:
            # The session is closing, or had an INTERRUPT just before we took the reply. The kernel's ioctl would not be interrupted here.
            with trio.move_on_after(CLOSING, shield=True):
                await job.watch()
            job.answer(-errno.EINTR)  # if nobody has: from here on the session may be closed
            if not job.settled.is_set():
                log.warning("thread %d holds up its own new descriptor, and is not waited for", job.tid)
                raise
        descriptor: int = job.outcome.unwrap()
        return descriptor

    def claim(self, caller: Caller) -> OpenFile | None:
        """The file that this OPEN is for, if the caller was made to open it by us. To be asked first in `Opener.open`."""
        for job in self._jobs:
            if job.opening and job.tid == caller.tid:
                job.opening = False
                job.opened = True
                return job.file
        return None

    def close(self) -> None:
        """The device is gone (its session has ended): see every client off, and release what was not given."""
        for job in list(self._jobs):
            job.closing = True
            job.ended.wait(CLOSING)
            self._settle(job)

    def _settle(self, job: "_Job") -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            job.settled.set()
            job.take_back()


class _Job:
    """One descriptor on its way. `run` is the worker's; the rest is read and set by whom the comment says."""

    def __init__(
        self,
        machine: ptrace.Machine | None,
        tid: int,
        file: OpenFile,
        flags: int,
        address: int | None,
        fill: Callable[[int], bytes],
        no_room: int,
        token: trio.lowlevel.TrioToken,
        harmless_filters: int | None,
    ) -> None:
        self.harmless_filters = harmless_filters
        self.machine = machine
        self.tid = tid
        self.file = file
        self.flags = flags
        self.address = address
        self.fill = fill
        self.no_room = no_room
        self.reply: Callable[[int], None] | None  # give, before the worker begins; None when used up
        self.outcome: Any  # worker, before `ended`
        self.ended = threading.Event()
        self.settled = trio.Event()
        self.opening = False  # worker sets it around its openat, `claim` clears it: one OPEN is ours, no other
        self.opened = False  # claim
        self.closing = False  # Injector.close: the loop does nothing for us any more
        self._taken_back = False  # loop
        self._token = token
        self._lock = threading.Lock()

    def answer(self, result: int) -> bool:
        """Send the reply. False: somebody has. Any thread."""
        with self._lock:
            reply, self.reply = self.reply, None
            if reply is not None:
                reply(result)
            return reply is not None

    def take_back(self) -> None:
        """Release the file that the client did not open. In the loop's thread."""
        if not self.opened and not self._taken_back:
            self._taken_back = True
            self.file.release()

    def _undo(self) -> None:
        """Take back from the worker, and wait for it: when the client learns of the failure, nothing is left that it could find."""
        done = threading.Event()

        def take_back() -> None:
            self.take_back()
            done.set()

        try:
            self._token.run_sync_soon(take_back)
        except trio.RunFinishedError:
            return
        while not done.wait(LOOK) and not self.closing:
            pass

    async def watch(self) -> None:
        """Wait for the end; see to it that a client that is being killed gets its reply, without which it cannot die.

        To seize a thread waits while another thread of its process is in exec; which waits, after the kill, for this one to die.
        """
        while self.reply is not None and not self.settled.is_set():
            with trio.move_on_after(LOOK) as look:
                await self.settled.wait()
            if look.cancelled_caught and is_killed(self.tid):
                self.answer(-errno.EINTR)
        await self.settled.wait()

    def run(self) -> int:
        """The worker's whole way. Returns the descriptor, or raises Refused."""
        try:
            if self.machine is None:
                raise Refused(errno.EOPNOTSUPP, "iommud does not know how to give descriptors on this machine")
            return self._serve(self._seize(self.machine))
        except Refused as refusal:
            self._undo()
            self.answer(-refusal.errno)
            raise
        except ptrace.Gone:
            self.answer(-errno.ESRCH)
            raise Refused(errno.ESRCH, "the client ended while it was given a descriptor") from None
        except BaseException:
            self._undo()
            self.answer(-errno.EIO)
            raise

    def _seize(self, machine: ptrace.Machine) -> ptrace.Tracee:
        if self.tid == 0:
            raise Refused(errno.ESRCH, "the client is in a pid namespace that we cannot see into")
        try:
            return seize(self.tid, machine, "be given a descriptor", lambda: self.reply is None, self.harmless_filters)
        except NotOurs as why:
            raise Refused(errno.EPERM, str(why)) from None

    def _serve(self, tracee: ptrace.Tracee) -> int:
        descriptor = self._ask_descriptor() if tracee.machine.first_argument is None else None
        tracee.interrupt()
        answered = self.answer(0)
        tracee.wait_stop()
        if not answered:  # it is being killed, or the session closes
            tracee.detach()
            raise Refused(errno.EINTR, "the ioctl was interrupted")
        result = -errno.EIO
        try:
            number = self._place(tracee, descriptor)
            result = 0 if self.address is not None else number
            return number
        except Refused as refusal:
            result = -refusal.errno
            raise
        except ptrace.Foreign as foreign:
            result = -errno.EOPNOTSUPP
            raise Refused(errno.EOPNOTSUPP, f"the client cannot be given a descriptor: {foreign}") from None
        finally:
            if result < 0:
                self._undo()
            tracee.detach(result)

    def _place(self, tracee: ptrace.Tracee, descriptor: int | None) -> int:
        registers = tracee.hold()
        if tracee.machine.first_argument is not None:
            descriptor = registers[tracee.machine.first_argument] & 0xFFFF_FFFF
        if descriptor is None:
            raise Refused(errno.EBADF, "the descriptor that the client called ioctl on cannot be found out")
        number = self._open(tracee, registers[tracee.machine.stack_pointer], PATH.format(descriptor))
        try:
            if not self.opened:
                raise Refused(errno.EBADF, f"descriptor {descriptor} of the client is another file now")
            data = self.fill(number)
            if self.address is not None and not ptrace.write_memory(self.tid, self.address, data):
                raise Refused(errno.EFAULT, f"the new descriptor cannot be written to {self.address:#x}")
        except BaseException:
            tracee.call(tracee.machine.close, number)
            raise
        return number

    def _ask_descriptor(self) -> int | None:
        try:
            call = ptrace.blocked_call(self.tid)
        except OSError:
            return None
        return call[1] & 0xFFFF_FFFF if call is not None else None

    def _open(self, tracee: ptrace.Tracee, stack_pointer: int, path: str) -> int:
        name = path.encode() + b"\0"
        place = (stack_pointer - tracee.machine.red_zone - len(name)) & ~15
        before = ptrace.read_memory(self.tid, place, len(name))
        if len(before) < len(name):
            # The stack ends here. It grows only when its own thread touches it, in or out of the kernel.
            tracee.call(tracee.machine.sigprocmask, 0, 0, place, 8)
            before = ptrace.read_memory(self.tid, place, len(name))
        if not ptrace.write_memory(self.tid, place, name) or len(before) < len(name):
            raise Refused(
                errno.EFAULT, f"the client has no stack at {place:#x}, where the path of its new file was to be"
            )
        self.opening = True
        try:
            result = tracee.call(tracee.machine.openat, AT_FDCWD, place, self.flags)
        finally:
            self.opening = False
        ptrace.write_memory(self.tid, place, before)
        if result >= 0:
            return result
        if result == -errno.EMFILE:
            raise Refused(self.no_room, "the client has no descriptor free (RLIMIT_NOFILE)")
        raise Refused(-result, f"the client cannot open {path}: {os.strerror(-result)}")
