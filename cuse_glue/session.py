"""One FUSE or CUSE session: requests come in, each gets exactly one reply.

The session reads until the kernel has nothing more (EAGAIN) before it waits, because a wake-up costs more than a request.
A request is handled where it is read (`inline.py`); only a handler that waits gets a task of its own, with a cancel scope that an INTERRUPT
or the end of the session cancels, if it waits for something that depends on the client (`inline.interruptible`).
Whatever a handler does, `_settle` turns it into one reply: a result, -errno, or
EIO with a traceback in the log for a bug of ours.

What is answered is the file's (`node.py`).
"""

import errno
import logging
import os
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from typing import Any, Final

import trio

from . import inline, wire
from .caller import Caller
from .mapped import Mapped
from .node import MAX_WRITE, Attributes, Node, Opener, OpenFile, Work
from .watch import MESSAGE, Watched, read_question

log: Final = logging.getLogger("cuse_glue.session")

# ERESTARTNOINTR: the client's kernel handles the signal and makes the ioctl again; the client never sees that it was interrupted.
RESTART: Final = -513
DRAIN_LIMIT: Final = 64  # requests handled in a row while other tasks are waiting for their turn

ReplyTaker = Callable[[], Callable[[Any], None] | None]

reply_taker: Final[ContextVar[ReplyTaker]] = ContextVar("reply_taker")
"""In the task of a handler that left: takes the request's reply over, and gives what sends it, once, with the value (0 for an ioctl).

From then on an INTERRUPT does not cancel the handler, and what it returns or raises is not sent. None: it was answered already.
Both may be called in any thread.
"""


class Session:
    """Serves one device file on an open /dev/fuse (mounted on a regular file) or /dev/cuse."""

    def __init__(
        self,
        fd: int,
        opener: Opener,
        attributes: Attributes | None = None,
        *,
        cuse_name: str | None = None,
        mapped: Mapped | None = None,
        watched: Watched | None = None,
    ) -> None:
        """`fd` is the session's from now on; `cuse_name` (under /dev, may hold slashes) is for CUSE_INIT, `mapped` for FUSE (since 6.6).

        `watched`: a process that asks about its clients' system calls (`watch.py`).
        """
        os.set_blocking(fd, False)
        self._fd = fd
        self._node = Node(opener, attributes or Attributes(), self._send, cuse_name=cuse_name, mapped=mapped)
        self._watched = watched
        self._buffer = bytearray(MAX_WRITE + 4096)
        self._running: dict[int, trio.CancelScope] = {}
        self._scope = trio.CancelScope()
        self._ready: Callable[[], None] | None = None
        self._nursery: trio.Nursery
        self.requests = 0
        self.replies = 0

    async def serve(self, ready: Callable[[], None] | None = None) -> None:
        """Serve until the mount or device is gone, or `close` was called; then every open file has been released.

        `ready` is called when the first INIT has been answered: from then on open(2) succeeds.
        """
        self._ready = ready
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                with self._scope:
                    await self._read_requests()
                self._disconnect()
                nursery.cancel_scope.cancel()
        finally:
            self._node.release_all()
            os.close(self._fd)

    def close(self) -> None:
        """Make `serve` return. The caller unmounts; clients then get ENOTCONN."""
        self._scope.cancel()

    def _disconnect(self) -> None:
        """End the connection, so that every client that waits goes on (ECONNABORTED). Replies that come later go nowhere."""
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, self._fd, inheritable=False)
        os.close(null)

    async def _read_requests(self) -> None:
        fd, buffer = self._fd, self._buffer
        view = memoryview(buffer)
        readv, buffers = os.readv, [buffer]
        in_a_row = 0
        while True:
            try:
                size = readv(fd, buffers)
            except BlockingIOError:
                in_a_row = 0
                await trio.lowlevel.wait_readable(fd)
                continue
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # that one request was taken back before we read it
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    return
                raise
            if size == 0:
                return  # CUSE: the device is gone
            self._request(view[:size])
            in_a_row += 1
            if in_a_row >= DRAIN_LIMIT or self._running:
                in_a_row = 0
                await trio.lowlevel.checkpoint()

    def _request(self, message: memoryview) -> None:
        _, opcode, unique, _, uid, gid, pid, _, _ = wire.IN_HEADER.unpack_from(message)
        self.requests += 1
        if opcode == wire.IOCTL:
            handle, flags, cmd, arg, _, _ = wire.IOCTL_IN.unpack_from(message, wire.REQUEST_HEADER_SIZE)
            file = self._node.files.get(handle)
            if file is None:
                self._reply(unique, -errno.EBADF)
                return
            if self._watched is not None and self._watched.watcher == pid:
                self._write(wire.ioctl_reply(unique, self._judge(self._watched, file, Caller(pid, uid, gid), arg)))
                return
            self._start(unique, file.ioctl(Caller(pid, uid, gid), cmd, arg, bool(flags & wire.IOCTL_COMPAT)), wire.ioctl_reply)
            return
        body = message[wire.REQUEST_HEADER_SIZE :]
        if opcode in _WITHOUT_REPLY:
            self.replies += 1
            if opcode == wire.INTERRUPT:
                self._interrupt(body)
            return
        try:
            answer = self._node.answer(opcode, Caller(pid, uid, gid), body)
        except Exception as failure:
            self._reply(unique, self._errno(failure))
            return
        if isinstance(answer, Work):
            self._start(unique, *answer)
            return
        self._reply(unique, 0, answer)
        if opcode in _INITIAL and self._ready is not None:
            ready, self._ready = self._ready, None
            ready()

    @staticmethod
    def _judge(watched: Watched, file: OpenFile, watcher: Caller, address: int) -> int:
        try:
            return watched.refusal(file, read_question(watcher.memory.read(address, MESSAGE.size)))
        except Exception:
            log.exception("bug: what a system call becomes")
            return 0

    def _interrupt(self, body: memoryview) -> None:
        (target,) = wire.INTERRUPT_IN.unpack_from(body)
        scope = self._running.get(target)
        if scope is not None:
            scope.cancel()

    # --- one reply each ---

    def _start(self, unique: int, coro: Coroutine[Any, Any, Any], form: Callable[[int, Any], bytes]) -> None:
        try:
            finished, value = inline.start(coro)
        except Exception as failure:
            self._reply(unique, self._errno(failure))
            return
        if finished:
            self._write(form(unique, value))
        else:
            scope = trio.CancelScope()
            self._running[unique] = scope
            self._nursery.start_soon(self._settle, unique, coro, form, scope)

    async def _settle(
        self, unique: int, coro: Coroutine[Any, Any, Any], form: Callable[[int, Any], bytes], scope: trio.CancelScope
    ) -> None:
        message: bytes | None = None
        error = -errno.EINTR
        reply_taker.set(lambda: self._take(unique, form))
        try:
            with scope, inline.guarded():
                message = form(unique, await inline.finish(coro))
            if scope.cancelled_caught and form is wire.ioctl_reply:
                message = wire.ioctl_reply(unique, RESTART)
        except Exception as failure:
            error = self._errno(failure)
        finally:
            if self._running.pop(unique, None) is not None:
                self._write(message or wire.reply(unique, error))
            else:
                self.replies += 1  # whoever took the reply has sent it

    def _take(self, unique: int, form: Callable[[int, Any], bytes]) -> Callable[[Any], None] | None:
        if self._running.pop(unique, None) is None:
            return None
        return lambda value: self._send(form(unique, value))

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

_GONE: Final = (errno.ENOENT, errno.ENODEV, errno.EPERM)  # the client, or the mount
_WITHOUT_REPLY: Final = frozenset((wire.FORGET, wire.BATCH_FORGET, wire.INTERRUPT))
_INITIAL: Final = (wire.INIT, wire.CUSE_INIT)


async def serve_together(sessions: Sequence[Session], ready: Callable[[], None]) -> None:
    """Serve until one of them ends, which ends all. `ready` is called once, when each can be opened."""
    waiting = len(sessions)

    def one_is_ready() -> None:
        nonlocal waiting
        waiting -= 1
        if not waiting:
            ready()

    async def serve(session: Session) -> None:
        await session.serve(one_is_ready)
        for other in sessions:
            other.close()

    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(serve, session)
