"""One FUSE or CUSE session: requests come in, and each gets exactly one reply.

The session reads until the kernel has nothing more (EAGAIN) before it waits, because a wake-up
costs more than a request. A request is handled where it is read (inline.py). Only a handler that
has to wait gets a task of its own. An INTERRUPT, or the end of the session, cancels that task while
it waits for something that depends on the client (`inline.interruptible`). Whatever a handler does,
`_settle` makes one reply of it: a result, -errno, or, for a bug of ours, EIO and a traceback in the
log.

The answers are those of one file (node.py), or of a small file system (tree_node.py).
"""

import errno
import logging
import os
import select
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, Protocol

import trio

from ..process.raw_memory import by_number
from ..request import inline
from ..request.caller import Caller
from ..request.mapped import Mapped, Toucher
from ..request.open_file import Opener, OpenFile
from ..request.reply import PassedOn, reply_taker
from ..watch.order import FINISH, PERFORM, QUESTION, Orders
from ..watch.questions import MESSAGE, Watched, read_question
from . import wire
from .closes import Ended, handle_in_order
from .node import MAX_WRITE, ROOT_INODE, Attributes, Node, Work
from .spin import Spin
from .tree_node import TreeNode

log: Final = logging.getLogger("cuse_glue.fuse.session")

# ERESTARTNOINTR: the client's kernel handles the signal and makes the ioctl again; the client never
# sees that it was interrupted.
RESTART: Final = -513
DRAIN_LIMIT: Final = 64  # requests handled in a row while other tasks are waiting for their turn


class Served(Protocol):
    """What gives a session its answers."""

    @property
    def files(self) -> dict[int, OpenFile]:
        """The open files by their handle."""

    def answer(self, opcode: int, inode: int, caller: Caller, body: memoryview) -> bytes | Work:
        """As Node."""

    def release_all(self) -> None:
        """The session is over."""


class Session:
    """Serves one device file on an open /dev/fuse (mounted on a regular file) or /dev/cuse; or a
    small file system on an open /dev/fuse.
    """

    def __init__(
        self,
        fd: int,
        opener: Opener | TreeNode,
        attributes: Attributes | None = None,
        *,
        cuse_name: str | None = None,
        mapped: Mapped | None = None,
        watched: Watched | None = None,
    ) -> None:
        """`fd` is the session's from now on. `cuse_name` (below /dev, may hold slashes) is for
        CUSE_INIT, `mapped` for FUSE (since 6.6).

        `watched`: a process that asks about its clients' system calls (watcher.py).
        """
        self._fd = fd
        self._node: Served = (
            opener
            if isinstance(opener, TreeNode)
            else Node(opener, attributes or Attributes(), self._send, cuse_name=cuse_name, mapped=mapped)
        )
        self._watched = watched
        self._orders = Orders(watched.watcher) if watched is not None else None
        self._buffer = bytearray(MAX_WRITE + 4096)
        self._running: dict[int, tuple[trio.CancelScope, Caller]] = {}
        # opened now, because at the end there may be no descriptor left for it
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._scope = trio.CancelScope()
        self._ready: Callable[[], None] | None = None
        self._answered_init = False  # INIT is answered, and nothing was read since
        self.is_ready = False  # and has not ended
        self._peers: tuple[Session, ...] = ()
        self._peers_poll = select.poll()
        self._nursery: trio.Nursery
        self.requests = 0
        self.replies = 0

    async def serve(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until the mount or device is gone, or `close` was called. When this returns every
        open file has been released.

        `ready` is called when INIT has been answered and the kernel has taken the answer: from then
        on open(2) succeeds. `ready` may call `close`. It is never called if the kernel refuses,
        which it does by ending the connection (CUSE: there is a device of that name).
        """
        self._ready = ready
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                with self._scope:
                    await self._read_requests()
                self.is_ready = False
                self._disconnect()
                nursery.cancel_scope.cancel()
        finally:
            self._end()

    def _end(self) -> None:
        self._node.release_all()
        if self._orders is not None:
            self._orders.close()
        os.close(self._fd)
        os.close(self._null)

    def close(self) -> None:
        """Make `serve` return. The caller unmounts; clients then get ENOTCONN."""
        self._scope.cancel()

    def _disconnect(self) -> None:
        """End the connection, so that every client that waits goes on (ECONNABORTED). Replies that
        come later go nowhere.

        Some handlers are still at work. They must not reach another program by the numbers of their
        clients' threads, so these numbers are taken away first.
        """
        for _, caller in self._running.values():
            caller.end()
        by_number.wait()
        os.dup2(self._null, self._fd, inheritable=False)

    def follow(self, peers: Sequence["Session"]) -> None:
        """Before this session handles a request, it has `peers` handle the closes that came before
        (closes.py).
        """
        self._peers = tuple(peer for peer in peers if peer is not self)
        for peer in self._peers:
            self._peers_poll.register(peer._fd, select.POLLIN)

    def receive(self) -> memoryview | None:
        """As closes.Door."""
        while True:
            try:
                size = os.readv(self._fd, [self._buffer])
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                raise Ended from None
            if size == 0:
                raise Ended
            return memoryview(self._buffer)[:size]

    def is_close(self, request: memoryview) -> bool:
        """As closes.Door."""
        return wire.opcode_of(request) == wire.RELEASE

    async def _read_requests(self) -> None:
        fd, buffer = self._fd, self._buffer
        os.set_blocking(fd, False)
        view = memoryview(buffer)
        readv, buffers = os.readv, [buffer]
        in_a_row = 0
        spin, others = Spin(fd), self._peers_poll.poll
        while True:
            try:
                size = readv(fd, buffers)
            except BlockingIOError:
                if self._answered_init:
                    self._begin()
                spin.handled(in_a_row)
                in_a_row = 0
                if spin.on and not self._running and spin.look():
                    if spin.found % DRAIN_LIMIT == 0:
                        await trio.lowlevel.checkpoint()
                    continue
                began = time.monotonic()
                await trio.lowlevel.wait_readable(fd)
                spin.waited(time.monotonic() - began)
                continue
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # that one request was taken back before we read it
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    return
                raise
            if size == 0:
                return  # CUSE: the device is gone
            if self._answered_init:
                self._begin()
            if self._peers and wire.opcode_of(buffer) != wire.RELEASE and others(0):
                handle_in_order(self, view[:size], self._peers)
            else:
                self.handle(view[:size])
            in_a_row += 1
            if in_a_row >= DRAIN_LIMIT or self._running:
                spin.handled(in_a_row)
                in_a_row = 0
                await trio.lowlevel.checkpoint()

    def handle(self, message: memoryview) -> None:
        """Answer a request, or begin what will."""
        _, opcode, unique, inode, uid, gid, pid, _, _ = wire.IN_HEADER.unpack_from(message)
        self.requests += 1
        if opcode == wire.IOCTL:
            handle, _, cmd, arg, _, _ = wire.IOCTL_IN.unpack_from(message, wire.REQUEST_HEADER_SIZE)
            file = self._node.files.get(handle)
            if file is None:
                self._reply(unique, -errno.EBADF)
                return
            if QUESTION <= cmd <= FINISH and self._orders is not None and self._orders.know(pid):
                self._obey(unique, file, Caller(pid, uid, gid), cmd, arg)
                return
            caller = Caller(pid, uid, gid, True)
            self._start(unique, file.ioctl(caller, cmd, arg), wire.ioctl_reply, caller)
            return
        body = message[wire.REQUEST_HEADER_SIZE :]
        if opcode in _WITHOUT_REPLY:
            self.replies += 1
            if opcode == wire.INTERRUPT:
                self._interrupt(body)
            return
        caller = self._toucher(unique, pid, uid, gid) if opcode == wire.READ else Caller(pid, uid, gid)
        try:
            answer = self._node.answer(opcode, inode, caller, body)
        except Exception as failure:
            if not isinstance(caller, Toucher) or caller.take():
                self._reply(unique, self._errno(failure))
            return
        if isinstance(caller, Toucher) and not caller.take():
            return
        if isinstance(answer, Work):
            self._start(unique, *answer, caller)
            return
        self._reply(unique, 0, answer)
        if opcode in _INITIAL:
            self._answered_init = True

    def _toucher(self, unique: int, tid: int, uid: int, gid: int) -> Toucher:
        return Toucher(tid, uid, gid, lambda: self._reply(unique, -errno.EIO), self._take_back)

    def _take_back(self, offset: int, length: int) -> None:
        self._send(wire.notify_inval_inode(ROOT_INODE, offset, length))

    def _begin(self) -> None:
        self._answered_init = False
        self.is_ready = True
        ready, self._ready = self._ready, None
        if ready is not None:
            ready()

    def _obey(self, unique: int, file: OpenFile, watcher: Caller, cmd: int, arg: int) -> None:
        """A thread of the watcher has something to ask or tell."""
        assert self._watched is not None
        assert self._orders is not None
        if cmd == PERFORM:
            self._start(unique, self._orders.perform(file, watcher.tid, arg), _order_reply, watcher)
            return
        try:
            if cmd == QUESTION:
                result = self._watched.refusal(file, read_question(watcher.memory.read(arg, MESSAGE.size)))
            else:
                result = self._orders.finish(watcher.tid, arg)
        except Exception:
            log.exception("bug: what a system call becomes")
            result = 0 if cmd == QUESTION else -errno.EIO
        self._write(wire.ioctl_reply(unique, result))

    def _interrupt(self, body: memoryview) -> None:
        (target,) = wire.INTERRUPT_IN.unpack_from(body)
        running = self._running.get(target)
        if running is not None:
            running[0].cancel()

    # --- one reply each ---

    def _start(
        self, unique: int, coro: Coroutine[Any, Any, Any], form: Callable[[int, Any], bytes], caller: Caller
    ) -> None:
        try:
            finished, value = inline.start(coro)
        except Exception as failure:
            caller.end()
            self._reply(unique, self._errno(failure))
            return
        if finished:
            caller.waits = False  # its Mm may still refer to it
            self._write(form(unique, value))
        else:
            scope = trio.CancelScope()
            self._running[unique] = scope, caller
            self._nursery.start_soon(self._settle, unique, coro, form, scope, caller)

    async def _settle(
        self,
        unique: int,
        coro: Coroutine[Any, Any, Any],
        form: Callable[[int, Any], bytes],
        scope: trio.CancelScope,
        caller: Caller,
    ) -> None:
        message: bytes | None = None
        error = -errno.EINTR
        reply_taker.set(lambda: self._take(unique, form))
        try:
            with scope, inline.guarded():
                message = form(unique, await inline.finish(coro))
            if scope.cancelled_caught and form is wire.ioctl_reply:
                message = wire.ioctl_reply(unique, RESTART)
        except PassedOn:
            pass
        except Exception as failure:
            error = self._errno(failure)
        finally:
            if self._running.pop(unique, None) is not None:
                caller.end()
                self._write(message or wire.reply(unique, error))
            else:
                self.replies += 1  # whoever took the reply has sent it

    def _take(self, unique: int, form: Callable[[int, Any], bytes]) -> Callable[[Any], None] | None:
        running = self._running.pop(unique, None)
        if running is None:
            return None
        _, caller = running

        def send(value: Any) -> None:
            caller.waits = False
            caller.memory.tid = 0  # whoever took the reply still needs `caller.tid`
            self._send(form(unique, value))

        return send

    @staticmethod
    def _errno(failure: Exception) -> int:
        if isinstance(failure, OSError) and failure.errno:
            return -failure.errno
        log.error("bug in a handler", exc_info=failure)
        return -errno.EIO

    def _reply(self, unique: int, error: int, body: bytes = b"") -> None:
        self._write(wire.reply(unique, error, body))

    def _write(self, message: bytes) -> None:
        self.replies += 1
        self._send(message)

    def _send(self, message: bytes) -> None:
        try:
            os.write(self._fd, message)
        except OSError as error:
            if error.errno not in _GONE:
                log.error("a reply was refused: %s", error)


def _order_reply(unique: int, value: int) -> bytes:
    """The reply to an order. An order that is interrupted is not made again, because its client is
    gone.
    """
    return wire.ioctl_reply(unique, value)


_GONE: Final = (errno.ENOENT, errno.ENODEV, errno.EPERM)  # the client, or the mount
_WITHOUT_REPLY: Final = frozenset((wire.FORGET, wire.BATCH_FORGET, wire.INTERRUPT))
_INITIAL: Final = (wire.INIT, wire.CUSE_INIT)


async def serve_together(sessions: Sequence[Session], ready: Callable[[], None], *, to_the_last: bool = False) -> None:
    """Serve until one session ends, which ends all; `to_the_last`: until each has ended. `ready` is
    called once, when each can be opened.
    """
    waiting = len(sessions)

    def one_is_ready() -> None:
        nonlocal waiting
        waiting -= 1
        if not waiting:
            ready()

    async def serve(session: Session) -> None:
        await session.serve(one_is_ready)
        if not to_the_last:
            for other in sessions:
                other.close()

    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(serve, session)
