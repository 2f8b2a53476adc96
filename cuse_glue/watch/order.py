"""Ioctls that a thread of the watcher carries out for a client: the session's side. carry.py has
the watcher's, questions.py the words between the two.

The client waits for the watcher, not for us. We must be able to give it a descriptor, so the ioctl
comes in two parts:

    watcher  PERFORM ──────┐     ┌▶ opens a file ┐         ┌▶ puts it in, FINISH ┐       ┌▶ the end
    session  └ handler: give ─ GIFT ┘    └ claim ─ the file ┘      └ fill, write ─┴ result ┘

A client that waits for a watcher can be killed at any moment, also by an exec of another of its
threads, and its number may then name another program. So we do not reach its memory by that number,
but by the files that the watcher opened while the client certainly waited.
"""

import errno
import os
import select
from collections.abc import Sequence
from typing import Final

import trio

from ..errors import IoctlError
from ..process import thread
from ..process.bound import BoundMemory
from ..process.client_memory import ClientMemory, by_number
from ..request.caller import Caller, ProcessMemory
from ..request.gift import Gift
from ..request.inline import interruptible, leave
from ..request.open_file import OpenFile
from ..request.reply import reply_taker
from ..system import libc
from .questions import FINISH, GIFT, NOT_MARKED, ORDER, PERFORM, QUESTION

__all__ = ["FINISH", "PERFORM", "QUESTION", "Order", "OrderedCaller", "Orders"]

_NUMBER: Final = 4  # bytes of a descriptor's number, at least
_SLICE: Final = 1 << 20  # bytes that are looked at in one go
LOOK: Final = 0.1  # seconds between looks whether the watcher is still there


class Orders:
    """The ioctls that the threads of one watcher have us carry out. Belongs to the loop's
    thread.
    """

    def __init__(self, watcher: int) -> None:
        """`watcher`: its process id, as questions.Watched."""
        self._watcher = watcher
        self._pidfd: int | None = None
        self._poll = select.poll()
        self._threads: set[int] = set()  # known ones of the watcher; they end with it
        self._waiting: dict[int, Order] = {}  # for a FINISH, by thread

    def close(self) -> None:
        """The session is over."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def know(self, tid: int) -> bool:
        """Whether this thread, which waits for our answer, belongs to the watcher."""
        if tid not in self._threads:
            try:
                if thread.process(tid) != self._watcher:
                    return False
            except OSError:
                return False
        if self.is_gone():  # then the number may be another's
            return False
        self._threads.add(tid)
        return True

    def is_gone(self) -> bool:
        """Whether the watcher has ended."""
        if self._pidfd is None:
            self._pidfd = os.pidfd_open(self._watcher)
            self._poll.register(self._pidfd, select.POLLIN)
        return bool(self._poll.poll(0))

    async def perform(self, file: OpenFile, tid: int, address: int) -> int:
        """PERFORM by thread `tid`, with a form at `address`, on an open file of ours. Returns the
        ioctl's result, or -errno.
        """
        form = ProcessMemory(tid).read(address, ORDER.size)
        if len(form) != ORDER.size:
            return -errno.EFAULT
        arg, client, cmd, uid, gid, mem, maps = ORDER.unpack(form)
        memory = self._memory(client, uid, mem, maps)
        try:
            caller = OrderedCaller(client, uid, gid, Order(self, tid, address, memory), memory)
            return await file.ioctl(caller, cmd, arg)
        finally:
            memory.close()

    def _memory(self, client: int, uid: int, mem: int, maps: int) -> ClientMemory:
        if mem < 0:
            return by_number(client, uid)
        assert self._pidfd is not None
        bytes_ = libc.pidfd_getfd(self._pidfd, mem)
        try:
            return BoundMemory.adopt(bytes_, libc.pidfd_getfd(self._pidfd, maps))
        except OSError:
            os.close(bytes_)
            raise

    def expect(self, order: "Order") -> None:
        """The order's thread will FINISH it."""
        self._waiting[order.thread] = order

    def forget(self, order: "Order") -> None:
        if self._waiting.get(order.thread) is order:
            del self._waiting[order.thread]

    def finish(self, tid: int, outcome: int) -> int:
        """FINISH by thread `tid`. Returns the ioctl's result, or -errno."""
        # done now, because the thread's next order may come before the handler wakes up
        order = self._waiting.pop(tid, None)
        if order is None:
            return -errno.EIO
        outcome &= 0xFFFF_FFFF  # the watcher sent 32 bits, which may have been extended on the way
        return order.finish(outcome - (1 << 32) if outcome >> 31 else outcome)


class OrderedCaller(Caller):
    """A client whose ioctl the watcher carries out. Its struct is in memory already."""

    __slots__ = ("order",)

    def __init__(self, tid: int, uid: int, gid: int, order: "Order", memory: ClientMemory) -> None:
        super().__init__(tid, uid, gid)
        self.order = order
        self.memory = _Places(memory)

    def resident(self, address: int, length: int) -> bool:
        """As Caller.resident. An ioctl that must wait for memory does not come as an order."""
        return True

    async def zeros(self, address: int, length: int) -> tuple[int, bool]:
        """As Caller.zeros."""
        await leave()
        with interruptible():
            return await trio.to_thread.run_sync(_zeros, self.memory, address, length, abandon_on_cancel=True)


class _Places(ProcessMemory):
    """The client's memory, on top of a memory that reads and writes one place at a time."""

    __slots__ = ("_memory",)

    def __init__(self, memory: ClientMemory) -> None:
        super().__init__(0)
        self._memory = memory

    def read(self, address: int, length: int) -> bytes:
        return self._memory.read(address, length)

    def write(self, address: int, data: bytes) -> int:
        return self._memory.write(address, data)

    def read_many(self, places: Sequence[tuple[int, int]]) -> bytes:
        found = bytearray()
        for address, length in places:
            found += (part := self.read(address, length))
            if len(part) < length:
                break
        return bytes(found)

    def write_many(self, places: Sequence[tuple[int, int]], data: bytes) -> int:
        done = 0
        for address, length in places:
            count = self.write(address, data[done : done + length])
            done += count
            if count < length:
                break
        return done


def _zeros(memory: ProcessMemory, address: int, length: int) -> tuple[int, bool]:
    done = 0
    while done < length:
        wanted = min(_SLICE, length - done)
        data = memory.read(address + done, wanted)
        zeros = len(data) - len(data.lstrip(b"\0"))
        done += zeros
        if zeros < wanted:
            return done, zeros < len(data)
    return done, False


class Order:
    """One ioctl, carried out by a thread of the watcher."""

    def __init__(self, orders: Orders, tid: int, form: int, memory: ClientMemory) -> None:
        self.thread: Final = tid
        self._orders = orders
        self._form = form
        self._memory = memory  # the client's
        self._gift: Gift
        self._claimed = False
        self._ended = trio.Event()
        self._number = -1
        self._refusal: IoctlError | None = None

    async def give(self, gift: Gift) -> int:
        """As `Injector.give`, to the client of this order."""
        self._gift = gift
        try:
            await leave()
            self._try_place(gift.address)
            place, kind = gift.mark or (0, 0)
            if not ProcessMemory(self.thread).write(self._form + ORDER.size, GIFT.pack(place, kind, 1, gift.flags)):
                raise IoctlError(errno.EIO, "the watcher cannot be told what to give")
            reply = reply_taker.get()()
            if reply is None:
                raise IoctlError(errno.EINTR, "the client is being killed")
            self._orders.expect(self)
            reply(0)
            with interruptible():  # only by the end of the session
                await self._wait()
        finally:
            self._orders.forget(self)
            if not self._claimed:
                gift.file.release()
        if self._refusal is not None:
            raise self._refusal
        return self._number

    def _try_place(self, address: int | None) -> None:
        """Try to write the place of the number before the client has a descriptor, as the
        descriptor cannot be taken back.
        """
        if address is None:
            return
        as_it_is = self._memory.read(address, _NUMBER)
        if len(as_it_is) < _NUMBER or self._memory.write(address, as_it_is) < _NUMBER:
            raise IoctlError(errno.EFAULT, f"the new descriptor cannot be written to {address:#x}")

    async def _wait(self) -> None:
        while not self._ended.is_set():
            with trio.move_on_after(LOOK) as look:
                await self._ended.wait()
            if look.cancelled_caught and self._orders.is_gone():
                self._refusal = IoctlError(errno.EIO, "the watcher is gone")
                return

    def claim(self) -> OpenFile | None:
        """The file that the watcher's thread opens."""
        if self._claimed:
            return None
        self._claimed = True
        return self._gift.file

    def finish(self, number: int) -> int:
        """The client has the descriptor, under `number`; -errno: it could not get one. Returns the
        ioctl's result.
        """
        try:
            self._fill(number)
        except IoctlError as refusal:
            self._refusal = refusal
            return -refusal.errno
        except BaseException:
            self._refusal = IoctlError(errno.EIO, "a bug of iommud")
            raise
        finally:
            self._ended.set()
        self._number = number
        return 0 if self._gift.address is not None else number

    def _fill(self, number: int) -> None:
        gift = self._gift
        if number == NOT_MARKED:
            raise gift.not_marked(os.strerror(errno.EAGAIN))
        if number < 0:
            raise gift.refusal(-number, "be given a descriptor")
        if not self._claimed:
            raise IoctlError(errno.EIO, "the watcher has given it another file")
        data = gift.fill(number)
        if gift.address is not None and self._memory.write(gift.address, data) != len(data):
            raise IoctlError(errno.EFAULT, f"the new descriptor cannot be written to {gift.address:#x}")
