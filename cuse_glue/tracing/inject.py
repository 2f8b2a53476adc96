"""Descriptors for clients: a thread that waits in its ioctl is made to open a file of ours, and the
ioctl returns the descriptor.

A FUSE reply carries no descriptor, and nobody can put one into another process. But a thread can be
made to open a file itself (ptrace.py). It opens, once more, the descriptor that it called ioctl on.
That is a new OPEN of the same device, which needs no path that the client could see. While that one
call runs, an OPEN by that thread is answered with the file that is to be given. A client that may
not open the device itself (it has given up its rights) is sent a descriptor that our worker has
opened (ways.py).

    loop     handler: give ─┐                                  ┌─ OPEN: claim ┐         ┌▶ settled
    worker                  └▶ seize, interrupt, reply, stop, openat ─────────┴ let go ─┘
    client   ioctl ······················· leaves the kernel, stops, opens ············ returns

The reply has to go out before the thread can open anything. So what the ioctl returns is decided
when the thread is let go: 0, or -errno in the register of the result. ptrace is bound to a thread,
so all of this is one plain function in a worker thread. Each client thread that is being served has
a worker thread of its own: a client can make its worker slow (by userfaultfd, or a strange /proc),
and must delay nobody else by that. The handler may be cancelled at any time; the worker goes on to
its end without the handler.

From the reply on, the thread's number may name another program. So the thread's memory is opened
before the reply. And what is found out by its number later is used only if the thread is still
under our control afterwards.

If `iommud run` watches a program's system calls, ioctls that give descriptors do not come this way,
but through the watcher (order.py).
"""

import errno
import logging
from collections.abc import Callable
from typing import Any, Final

import trio

from ..request.caller import Caller
from ..request.gift import Gift
from ..request.inline import interruptible, leave
from ..request.mark import Mark
from ..request.open_file import OpenFile
from ..request.reply import reply_taker
from ..watch.order import Order, OrderedCaller
from . import ptrace
from .job import Job, Means

log: Final = logging.getLogger("cuse_glue.tracing.inject")

# seconds that we wait, when the device goes, for a client that is being served
CLOSING: Final = 2.0


class Injector:
    """Gives out the files of one device. Belongs to the loop's thread."""

    def __init__(
        self,
        machine: ptrace.Machine | None = None,
        *,
        harmless_filters: int | None = None,
        announce: Callable[[int], None] | None = None,
        withdraw: Callable[[int], None] | None = None,
    ) -> None:
        """`machine`: unless given, the one that we run on. `harmless_filters`: each client descends
        from the process that we come from, and has this many more seccomp filters, which permit the
        calls that the client is made to make. None: a client can be anybody's.

        `announce(tid)` is called, in any thread, before thread `tid` opens a file that is ours. It
        may block until whoever routes requests knows it. `withdraw(tid)` is called afterwards, if
        no OPEN came.
        """
        self._means = Means(machine or ptrace.machine(), harmless_filters, announce, withdraw)
        self._jobs: set[Job] = set()
        self._orders: dict[int, Order] = {}  # by the watcher's thread that carries it out

    async def give(
        self,
        caller: Caller,
        file: OpenFile,
        *,
        flags: int,
        address: int | None,
        fill: Callable[[int], bytes],
        no_room: int = errno.EMFILE,
        mark: Mark | None = None,
    ) -> int:
        """End the caller's ioctl with a new descriptor for `file`. Returns its number, the lowest
        that was free.

        `flags`: as open(2) takes them, access mode and O_CLOEXEC. When the descriptor is there,
        `fill(number)` makes the bytes that are written to `address` in the caller's memory (it is
        called in any thread), and the ioctl returns 0. If `address` is None nothing is written, and
        the ioctl returns the number. `mark`: put on the file before anybody else has it.

        `file` is given away with this call. Its `release` is called once: when the client has
        closed the last descriptor, or by us if the client never got one. A handler awaits this
        last, and holds no lock meanwhile, as a hostile client can make it last.

        IoctlError: the ioctl returns -errno, and nothing is left in the client. `no_room`: it has
        no free descriptor. EFAULT: `address` cannot be written. EPERM: another traces it, or its
        seccomp filter or the system does not let us. EBADF: another of its threads closed the
        device meanwhile. EOPNOTSUPP: a machine that we do not know. ENOMEM: the client, or iommud,
        can have no more. EINTR: it is killed. Others: what the system said.
        """
        gift = Gift(file, flags, address, fill, no_room, mark)
        if isinstance(caller, OrderedCaller):
            return await self._give_by_watcher(caller.order, gift)
        token = trio.lowlevel.current_trio_token()
        job = Job(self._means, caller.tid, caller.uid, gift, token)
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
            # The session is closing, or had an INTERRUPT just before we took the reply. The
            # kernel's ioctl would not be interrupted here.
            with trio.move_on_after(CLOSING, shield=True):
                await job.watch()
            job.answer(-errno.EINTR)  # if nobody has: from here on the session may be closed
            if not job.settled.is_set():
                log.warning("thread %d holds up its own new descriptor, and is not waited for", job.tid)
                raise
        descriptor: int = job.outcome.unwrap()
        return descriptor

    async def _give_by_watcher(self, order: Order, gift: Gift) -> int:
        self._orders[order.thread] = order
        try:
            return await order.give(gift)
        finally:
            if self._orders.get(order.thread) is order:
                del self._orders[order.thread]

    def claim(self, caller: Caller) -> OpenFile | None:
        """The file that this OPEN is for, if we made the caller open it. `Opener.open` must ask
        this first.
        """
        order = self._orders.get(caller.tid)
        if order is not None:
            return order.claim()
        for job in self._jobs:
            if job.opening and job.opening == caller.tid:
                job.opening = 0
                job.opened = True
                return job.gift.file
        return None

    def close(self) -> None:
        """The device is gone (its session has ended): let all clients go, and release what was not
        given.
        """
        for job in list(self._jobs):
            job.closing = True
            job.ended.wait(CLOSING)
            self._settle(job)

    def _settle(self, job: "Job") -> None:
        if job in self._jobs:
            self._jobs.remove(job)
            job.settled.set()
            job.take_back()
