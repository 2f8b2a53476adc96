"""One descriptor on its way to a client: the worker's part. inject.py explains the whole, ways.py
how the descriptor gets there.
"""

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import trio

from ..errors import ControlError, IoctlError, ThreadGone
from ..process.client_memory import ClientMemory, open_memory
from ..request import recognise
from ..request.gift import Gift
from . import ptrace, ways
from .seize import has_filters_of_its_own, is_killed, seize

log: Final = logging.getLogger("cuse_glue.tracing.inject")

LOOK: Final = 0.1  # seconds between looks whether a client is being killed that we wait for


class Means(NamedTuple):
    """What an injector works with; inject.py explains it."""

    machine: ptrace.Machine | None
    harmless_filters: int | None
    announce: Callable[[int], None] | None
    withdraw: Callable[[int], None] | None


class Job:
    """One descriptor on its way. The worker calls `run`; comments say who reads and sets the
    rest.
    """

    def __init__(self, means: Means, tid: int, uid: int, gift: Gift, token: trio.lowlevel.TrioToken) -> None:
        self.means = means
        self.tid = tid
        self.uid = uid
        self.gift = gift
        # give, before the worker begins; None when used up
        self.reply: Callable[[int], None] | None
        self.outcome: Any  # worker, before `ended`
        self.ended = threading.Event()
        self.settled = trio.Event()
        # the thread that makes an open: the worker sets it before; `claim` clears it, because only
        # one OPEN is ours
        self.opening = 0
        self.opened = False  # claim
        self.closing = False  # Injector.close: the loop does nothing for us any more
        self._taken_back = False  # loop
        self._token = token
        self._lock = threading.Lock()

    def answer(self, result: int) -> bool:
        """Send the reply. False: it was sent before. Any thread."""
        with self._lock:
            reply, self.reply = self.reply, None
            if reply is not None:
                reply(result)
            return reply is not None

    def take_back(self) -> None:
        """Release the file that the client did not open. In the loop's thread."""
        if not self.opened and not self._taken_back:
            self._taken_back = True
            self.gift.file.release()

    def _undo(self) -> None:
        """Have the loop take back the file, and wait for that: when the client learns of the
        failure, nothing is left that it could find.
        """
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
        """Wait for the end. A client that is being killed cannot die without its reply, so see to
        it that it gets one.

        Seizing a thread can wait for an exec of another thread of its process. That exec, after the
        kill, waits for the thread to die.
        """
        while self.reply is not None and not self.settled.is_set():
            with trio.move_on_after(LOOK) as look:
                await self.settled.wait()
            if look.cancelled_caught and is_killed(self.tid):
                self.answer(-errno.EINTR)
        await self.settled.wait()

    def run(self) -> int:
        """All that the worker does. Returns the descriptor. Raises IoctlError."""
        try:
            machine = self.means.machine
            if machine is None:
                raise IoctlError(errno.EOPNOTSUPP, "iommud does not know how to give descriptors on this machine")
            memory = self._open_memory()
            try:
                return self._serve(self._seize(machine, memory))
            finally:
                memory.close()
        except IoctlError as refusal:
            self._undo()
            self.answer(-refusal.errno)
            raise
        except ThreadGone:
            self.answer(-errno.ESRCH)
            raise IoctlError(errno.ESRCH, "the client ended while it was given a descriptor") from None
        except BaseException:
            self._undo()
            self.answer(-errno.EIO)
            raise

    def _open_memory(self) -> ClientMemory:
        """Open the client's memory before the reply, while the thread's number is certainly its
        own. If somebody has replied meanwhile, the memory is not used.
        """
        if self.tid == 0:
            raise IoctlError(errno.ESRCH, "the client is in a pid namespace that we cannot see into")
        try:
            return open_memory(self.tid, self.uid)
        except OSError as error:
            if self.reply is None:
                raise ThreadGone from None
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise IoctlError(errno.ENOMEM, f"the daemon has no descriptor free: {error.strerror}") from None
            raise IoctlError(errno.EPERM, f"the client's memory may not be looked into: {error.strerror}") from None

    def _seize(self, machine: ptrace.Machine, memory: ClientMemory) -> ptrace.Tracee:
        try:
            return seize(
                self.tid,
                machine,
                memory,
                "be given a descriptor",
                lambda: self.reply is None,
                self.means.harmless_filters,
            )
        except ControlError as why:
            raise IoctlError(errno.EPERM, str(why)) from None

    def _serve(self, tracee: ptrace.Tracee) -> int:
        descriptor = self._ask_descriptor() if tracee.machine.first_argument is None else None
        tracee.interrupt()
        answered = self.answer(0)
        tracee.wait_stop()
        if not answered:  # it is being killed, or the session closes
            tracee.detach()
            raise IoctlError(errno.EINTR, "the ioctl was interrupted")
        result = -errno.EIO
        try:
            number = self._place(tracee, descriptor)
            result = 0 if self.gift.address is not None else number
            return number
        except IoctlError as refusal:
            result = -refusal.errno
            raise
        except ControlError as why:
            result = -errno.EOPNOTSUPP
            raise IoctlError(errno.EOPNOTSUPP, f"the client cannot be given a descriptor: {why}") from None
        finally:
            if result < 0:
                self._undo()
            tracee.detach(result)

    def _place(self, tracee: ptrace.Tracee, descriptor: int | None) -> int:
        registers = tracee.make_ready()
        if tracee.machine.first_argument is not None:
            descriptor = registers[tracee.machine.first_argument] & 0xFFFF_FFFF
        if descriptor is None:
            raise IoctlError(errno.EBADF, "the descriptor that the client called ioctl on cannot be found out")
        gift = self.gift
        number = self._give(tracee, descriptor)
        try:
            data = gift.fill(number)
            if gift.address is not None and tracee.memory.write(gift.address, data) != len(data):
                raise IoctlError(errno.EFAULT, f"the new descriptor cannot be written to {gift.address:#x}")
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

    def _give(self, tracee: ptrace.Tracee, descriptor: int) -> int:
        gift = self.gift
        try:
            with self._opens(self.tid):
                result = ways.reopen(tracee, descriptor, gift.flags)
        except ways.CallFailed as failed:
            raise gift.refusal(failed.errno, failed.what) from None
        if result < 0:
            if -result in ways.BARRED and not self.opened:
                return self._hand_over(tracee, descriptor)
            raise gift.refusal(-result, "open the device again")
        try:
            if not self.opened:
                raise IoctlError(errno.EBADF, f"descriptor {descriptor} of the client is another file now")
            self._mark(tracee, result)
        except BaseException:
            tracee.call(tracee.machine.close, result)
            raise
        return result

    def _mark(self, tracee: ptrace.Tracee, number: int) -> None:
        if self.gift.mark is None:
            return
        try:
            fd = ways.fetch(tracee, number)
        except OSError as error:
            raise IoctlError(
                error.errno or errno.EBADF, f"its new descriptor cannot be fetched: {error.strerror}"
            ) from None
        try:
            self.gift.put_mark(fd)
        finally:
            os.close(fd)

    def _hand_over(self, tracee: ptrace.Tracee, descriptor: int) -> int:
        """We open the device, and the client gets our descriptor."""
        gift = self.gift
        with self._opened_here(tracee, descriptor) as fd:
            gift.put_mark(fd)
            try:
                return ways.send(tracee, fd, close_on_exec=gift.close_on_exec)
            except ways.CallFailed as failed:
                first = failed
            if has_filters_of_its_own(self.tid, self.means.harmless_filters):
                raise gift.refusal(first.errno, first.what)
            try:
                return ways.add(tracee, fd, close_on_exec=gift.close_on_exec)
            except ways.CallFailed as failed:
                log.info("thread %d cannot %s", self.tid, failed)
                raise gift.refusal(first.errno, first.what) from None

    @contextmanager
    def _opened_here(self, tracee: ptrace.Tracee, descriptor: int) -> Iterator[int]:
        """Our descriptor of a new open file, of the same device as the client's descriptor."""
        try:
            theirs = ways.fetch(tracee, descriptor)
        except OSError as error:
            raise IoctlError(
                errno.EBADF, f"descriptor {descriptor} of the client cannot be fetched: {error.strerror}"
            ) from None
        try:
            # checked before it is opened, because to open another device might do anything
            if not recognise.is_ours(theirs):
                raise IoctlError(errno.EBADF, f"descriptor {descriptor} of the client is another file now")
            try:
                with self._opens(threading.get_native_id()):
                    fd = os.open(f"/proc/self/fd/{theirs}", self.gift.flags | os.O_CLOEXEC)
            except OSError as error:
                raise IoctlError(
                    error.errno or errno.EIO, f"the device cannot be opened for the client: {error.strerror}"
                ) from None
        finally:
            os.close(theirs)
        try:
            if not self.opened:
                raise IoctlError(errno.EBADF, f"descriptor {descriptor} of the client is of another device")
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _opens(self, thread: int) -> Iterator[None]:
        """For use around an open by `thread`."""
        if self.means.announce is not None:
            self.means.announce(thread)
        self.opening = thread
        try:
            yield
        finally:
            self.opening = 0
            if not self.opened and self.means.withdraw is not None:
                self.means.withdraw(thread)
