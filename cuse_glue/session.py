"""One FUSE or CUSE session: requests come in, each gets exactly one reply.

The session reads until the kernel has nothing more (EAGAIN) before it waits, because a wake-up costs more than a request.
A request is handled where it is read (`inline.py`); only a handler that waits gets a task of its own, with a cancel scope that an INTERRUPT
or the end of the session cancels, if it waits for something that depends on the client (`inline.interruptible`).
Whatever a handler does, `_settle` turns it into one reply: a result, -errno, or
EIO with a traceback in the log for a bug of ours.

The kernel's side of a device file is here as protocols (`Opener`, `OpenFile`); what the file *means* is up to them.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable, Coroutine
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, Protocol

import trio

from . import inline, wire
from .caller import Caller
from .mapped import Mapped

log: Final = logging.getLogger("cuse_glue.session")

MAX_WRITE: Final = 128 * 1024  # bytes in one READ or WRITE; the kernel wants a read buffer 4096 larger
# RELEASEs that the kernel may have outstanding. Those beyond are held back, and overtaken by what their process does after its close.
MAX_BACKGROUND: Final = 0xFFFF
ROOT_INODE: Final = 1
# ERESTARTNOINTR: the client's kernel handles the signal and makes the ioctl again; the client never sees that it was interrupted.
RESTART: Final = -513
DRAIN_LIMIT: Final = 64  # requests handled in a row while other tasks are waiting for their turn

ReplyTaker = Callable[[], Callable[[Any], None] | None]

reply_taker: Final[ContextVar[ReplyTaker]] = ContextVar("reply_taker")
"""In the task of a handler that left: takes the request's reply over, and gives what sends it, once, with the value (0 for an ioctl).

From then on an INTERRUPT does not cancel the handler, and what it returns or raises is not sent. None: it was answered already.
Both may be called in any thread.
"""


class OpenFile(Protocol):
    """What one open(2) made. Methods may raise OSError with the errno that the client is to get."""

    @property
    def seekable(self) -> bool:
        """Whether the file has a position (the kernel keeps it); if not, lseek(2) gives ESPIPE."""

    async def ioctl(self, caller: Caller, cmd: int, arg: int, compat: bool) -> int:
        """The result of ioctl(2): any int of 32 bits, or -errno."""

    async def read(self, caller: Caller, size: int, nonblocking: bool) -> bytes: ...

    async def write(self, caller: Caller, data: bytes, nonblocking: bool) -> int: ...

    def poll(self, wake: Callable[[], None] | None) -> int:
        """The events that are ready now; `wake` is to be called once when that changes, if given."""

    def release(self) -> None:
        """The last descriptor was closed. Must not fail."""


class Opener(Protocol):
    def open(self, caller: Caller, flags: int) -> OpenFile: ...


@dataclass(slots=True)
class Attributes:
    """What stat(2) shows of a FUSE file: permission bits (kept true by the kernel) and owner."""

    mode: int = 0o660
    uid: int = 0
    gid: int = 0


class Session:
    """Serves one device file on an open /dev/fuse (mounted on a regular file) or /dev/cuse."""

    def __init__(
        self, fd: int, opener: Opener, attributes: Attributes | None = None, *, cuse_name: str | None = None, mapped: Mapped | None = None
    ) -> None:
        """`fd` is the session's from now on; `cuse_name` (under /dev, may hold slashes) is for CUSE_INIT, `mapped` for FUSE (since 6.6)."""
        os.set_blocking(fd, False)
        self._fd = fd
        self._opener = opener
        self._attributes = attributes or Attributes()
        self._cuse_name = cuse_name
        self._mapped = mapped
        self._size = 0  # bytes, as stat shows it; grows with what can be mapped
        self._buffer = bytearray(MAX_WRITE + 4096)
        self._files: dict[int, OpenFile] = {}
        self._next_handle = 1
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
            files, self._files = self._files, {}
            for file in files.values():
                self._release(file)
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
            file = self._files.get(handle)
            if file is None:
                self._reply(unique, -errno.EBADF)
                return
            coro = file.ioctl(Caller(pid, uid, gid), cmd, arg, bool(flags & wire.IOCTL_COMPAT))
            self._start(unique, coro, wire.ioctl_reply)
            return
        handler = _HANDLERS.get(opcode)
        body = message[wire.REQUEST_HEADER_SIZE :]
        if opcode in _WITHOUT_REPLY:
            self.replies += 1
            if handler is not None:
                handler(self, unique, Caller(pid, uid, gid), body)
            return
        try:
            if handler is None:
                raise OSError(errno.ENOSYS, "not part of a device file")
            answer = handler(self, unique, Caller(pid, uid, gid), body)
        except Exception as failure:
            self._reply(unique, self._errno(failure))
        else:
            if answer is not None:
                self._reply(unique, 0, answer)

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

    # --- the opcodes ---

    def _init(self, _unique: int, _caller: Caller, body: memoryview) -> bytes:
        major, minor, readahead, flags = wire.INIT_IN.unpack_from(body)
        if major < wire.PROTOCOL_MAJOR:
            raise OSError(errno.EPROTO, f"FUSE protocol {major}.{minor} is too old")
        flags2 = 0
        if self._mapped is not None and flags & wire.INIT_EXT:
            flags2 = wire.INIT_FLAGS2.unpack_from(body, wire.INIT_IN.size)[0] & wire.DIRECT_IO_ALLOW_MMAP
            if flags2:
                self._mapped.begin(self._show)
                readahead = 0  # beyond a range there may be nothing
        flags &= wire.ATOMIC_O_TRUNC | wire.BIG_WRITES | (wire.INIT_EXT if flags2 else 0)
        answer = wire.INIT_OUT.pack(
            wire.PROTOCOL_MAJOR, min(minor, wire.PROTOCOL_MINOR), readahead, flags, MAX_BACKGROUND, MAX_BACKGROUND, MAX_WRITE, 1, 32,
            0, flags2, 0, 0,
        )
        self._nursery.start_soon(self._announce)
        return answer

    def _show(self, offset: int, data: bytes) -> None:
        self._size = max(self._size, offset + len(data))
        self._send(wire.notify_store(ROOT_INODE, offset, data))

    def _cuse_init(self, _unique: int, _caller: Caller, body: memoryview) -> bytes:
        if self._cuse_name is None:
            raise OSError(errno.EPROTO, "CUSE_INIT on a session without a name")
        wire.CUSE_INIT_IN.unpack_from(body)
        self._nursery.start_soon(self._announce)
        return (
            wire.CUSE_INIT_OUT.pack(wire.PROTOCOL_MAJOR, wire.CUSE_MINOR, 0, 0, MAX_WRITE, MAX_WRITE, 0, 0)
            + f"DEVNAME={self._cuse_name}".encode()
            + b"\0"
        )

    async def _announce(self) -> None:
        # Runs after the reply was written: the reader goes on only when this task's turn is over.
        if self._ready is not None:
            ready, self._ready = self._ready, None
            ready()

    def _getattr(self, _unique: int, _caller: Caller, _body: memoryview) -> bytes:
        a = self._attributes
        return wire.attr_out(inode=ROOT_INODE, mode=stat.S_IFREG | a.mode, uid=a.uid, gid=a.gid, seconds_valid=3600, size=self._size)

    def _setattr(self, unique: int, caller: Caller, body: memoryview) -> bytes:
        fields = wire.SETATTR_IN.unpack_from(body)
        valid, mode, uid, gid = fields[0], fields[11], fields[13], fields[14]
        if valid & wire.FATTR_SIZE:
            raise OSError(errno.EINVAL, "a device file has no size to set")
        a = self._attributes
        if valid & wire.FATTR_MODE:
            a.mode = stat.S_IMODE(mode)
        if valid & wire.FATTR_UID:
            a.uid = uid
        if valid & wire.FATTR_GID:
            a.gid = gid
        return self._getattr(unique, caller, body)

    def _open(self, _unique: int, caller: Caller, body: memoryview) -> bytes:
        flags, _ = wire.OPEN_IN.unpack_from(body)
        file = self._opener.open(caller, flags)
        handle = self._next_handle
        self._next_handle += 1
        self._files[handle] = file
        kept = wire.FOPEN_DIRECT_IO | wire.FOPEN_NOFLUSH
        return wire.OPEN_OUT.pack(handle, kept if file.seekable else kept | wire.FOPEN_NONSEEKABLE | wire.FOPEN_STREAM, 0)

    def _release_request(self, _unique: int, _caller: Caller, body: memoryview) -> bytes:
        handle = wire.RELEASE_IN.unpack_from(body)[0]
        file = self._files.pop(handle, None)
        if file is not None:
            self._release(file)
        return b""

    @staticmethod
    def _release(file: OpenFile) -> None:
        try:
            file.release()
        except Exception:
            log.exception("bug: a release failed")

    def _read(self, unique: int, caller: Caller, body: memoryview) -> bytes | None:
        handle, offset, size, _, _, flags, _ = wire.READ_IN.unpack_from(body)
        if offset and self._size and self._mapped is not None:
            return self._mapped.page_in(self._file(handle), offset, size)
        coro = self._file(handle).read(caller, size, bool(flags & os.O_NONBLOCK))
        self._start(unique, coro, lambda unique, data: wire.reply(unique, 0, data))
        return None

    def _write_request(self, unique: int, caller: Caller, body: memoryview) -> bytes | None:
        handle, offset, size, write_flags, _, flags, _ = wire.WRITE_IN.unpack_from(body)
        data = bytes(body[wire.WRITE_IN.size : wire.WRITE_IN.size + size])
        if write_flags & wire.WRITE_CACHE and self._mapped is not None:
            self._mapped.page_out(offset, data)
            return wire.WRITE_OUT.pack(size, 0)
        coro = self._file(handle).write(caller, data, bool(flags & os.O_NONBLOCK))
        self._start(unique, coro, lambda unique, count: wire.reply(unique, 0, wire.WRITE_OUT.pack(count, 0)))
        return None

    def _poll(self, _unique: int, _caller: Caller, body: memoryview) -> bytes:
        handle, kernel_handle, flags, _ = wire.POLL_IN.unpack_from(body)

        def wake() -> None:
            self._send(wire.notify_poll(kernel_handle))

        scheduled = flags & wire.POLL_SCHEDULE_NOTIFY
        return wire.POLL_OUT.pack(self._file(handle).poll(wake if scheduled else None), 0)

    def _interrupt(self, _unique: int, _caller: Caller, body: memoryview) -> None:
        (target,) = wire.INTERRUPT_IN.unpack_from(body)
        scope = self._running.get(target)
        if scope is not None:
            scope.cancel()

    def _statfs(self, _unique: int, _caller: Caller, _body: memoryview) -> bytes:
        return wire.STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, 255, 4096)

    def _fsync(self, _unique: int, _caller: Caller, _body: memoryview) -> bytes:
        raise OSError(errno.EINVAL, "a device file has nothing to sync")

    def _fallocate(self, _unique: int, _caller: Caller, _body: memoryview) -> bytes:
        raise OSError(errno.ENODEV, "a device file has no blocks")

    def _destroy(self, _unique: int, _caller: Caller, _body: memoryview) -> bytes:
        return b""

    def _file(self, handle: int) -> OpenFile:
        if handle not in self._files:
            raise OSError(errno.EBADF, "no such open file")
        return self._files[handle]


_GONE: Final = (errno.ENOENT, errno.ENODEV, errno.EPERM)  # the client, or the mount
_WITHOUT_REPLY: Final = frozenset((wire.FORGET, wire.BATCH_FORGET, wire.INTERRUPT))
_HANDLERS: Final[dict[int, Callable[[Session, int, Caller, memoryview], bytes | None]]] = {
    wire.INIT: Session._init,
    wire.CUSE_INIT: Session._cuse_init,
    wire.GETATTR: Session._getattr,
    wire.SETATTR: Session._setattr,
    wire.OPEN: Session._open,
    wire.RELEASE: Session._release_request,
    wire.READ: Session._read,
    wire.WRITE: Session._write_request,
    wire.POLL: Session._poll,
    wire.INTERRUPT: Session._interrupt,
    wire.STATFS: Session._statfs,
    wire.FSYNC: Session._fsync,
    wire.FALLOCATE: Session._fallocate,
    wire.DESTROY: Session._destroy,
}
