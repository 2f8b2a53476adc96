"""The one file that a session serves: its attributes, who has it open, and the answer to each opcode but for ioctls.

A handler gives the reply's body, or `Work` where an open file decides when the answer is there. Errors are OSErrors. How replies reach the
kernel is the session's (`session.py`).

The kernel's side of a device file is here as protocols (`Opener`, `OpenFile`); what the file *means* is up to them.
"""

import errno
import logging
import os
import stat
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from . import wire
from .caller import Caller
from .mapped import Mapped

log: Final = logging.getLogger("cuse_glue.session")

MAX_WRITE: Final = 128 * 1024  # bytes in one READ or WRITE; the kernel wants a read buffer 4096 larger
# RELEASEs that the kernel may have outstanding. Those beyond are held back, and overtaken by what their process does after its close.
MAX_BACKGROUND: Final = 0xFFFF
ROOT_INODE: Final = 1


class Work(NamedTuple):
    """An answer that is still to be made: `form(unique, what the coroutine returns)` is the message."""

    coro: Coroutine[Any, Any, Any]
    form: Callable[[int, Any], bytes]


class OpenFile(Protocol):
    """What one open(2) made. Methods may raise OSError with the errno that the client is to get."""

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


class Node:
    """The file, and its open files by their handle."""

    def __init__(
        self, opener: Opener, attributes: Attributes, send: Callable[[bytes], None], *, cuse_name: str | None, mapped: Mapped | None
    ) -> None:
        """`send`: takes a message to the kernel that is no reply. The others: Session."""
        self._opener = opener
        self._attributes = attributes
        self._send = send
        self._cuse_name = cuse_name
        self._mapped = mapped
        self._size = 0  # bytes, as stat shows it; grows with what can be mapped
        self._next_handle = 1
        self.files: dict[int, OpenFile] = {}

    def answer(self, opcode: int, caller: Caller, body: memoryview) -> bytes | Work:
        """The answer to one request. ENOSYS: no device file has that; EBADF: no such open file; others: the open file's."""
        handler = _HANDLERS.get(opcode)
        if handler is None:
            raise OSError(errno.ENOSYS, "not part of a device file")
        return handler(self, caller, body)

    def release_all(self) -> None:
        """The session is over."""
        files, self.files = self.files, {}
        for file in files.values():
            self._let_go(file)

    def _init(self, _caller: Caller, body: memoryview) -> bytes:
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
        return wire.INIT_OUT.pack(
            wire.PROTOCOL_MAJOR, min(minor, wire.PROTOCOL_MINOR), readahead, flags, MAX_BACKGROUND, MAX_BACKGROUND, MAX_WRITE, 1, 32,
            0, flags2, 0, 0,
        )
    def _show(self, offset: int, data: bytes) -> None:
        self._size = max(self._size, offset + len(data))
        self._send(wire.notify_store(ROOT_INODE, offset, data))

    def _cuse_init(self, _caller: Caller, body: memoryview) -> bytes:
        if self._cuse_name is None:
            raise OSError(errno.EPROTO, "CUSE_INIT on a session without a name")
        wire.CUSE_INIT_IN.unpack_from(body)
        return (
            wire.CUSE_INIT_OUT.pack(wire.PROTOCOL_MAJOR, wire.CUSE_MINOR, 0, 0, MAX_WRITE, MAX_WRITE, 0, 0)
            + f"DEVNAME={self._cuse_name}".encode()
            + b"\0"
        )

    def _getattr(self, _caller: Caller, _body: memoryview) -> bytes:
        a = self._attributes
        return wire.attr_out(inode=ROOT_INODE, mode=stat.S_IFREG | a.mode, uid=a.uid, gid=a.gid, seconds_valid=3600, size=self._size)

    def _setattr(self, caller: Caller, body: memoryview) -> bytes:
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
        return self._getattr(caller, body)

    def _open(self, caller: Caller, body: memoryview) -> bytes:
        flags, _ = wire.OPEN_IN.unpack_from(body)
        file = self._opener.open(caller, flags)
        handle = self._next_handle
        self._next_handle += 1
        self.files[handle] = file
        kept = wire.FOPEN_DIRECT_IO | wire.FOPEN_NOFLUSH | wire.FOPEN_NONSEEKABLE | wire.FOPEN_STREAM  # CUSE looks at none
        return wire.OPEN_OUT.pack(handle, kept, 0)

    def _release(self, _caller: Caller, body: memoryview) -> bytes:
        handle = wire.RELEASE_IN.unpack_from(body)[0]
        file = self.files.pop(handle, None)
        if file is not None:
            self._let_go(file)
        return b""

    @staticmethod
    def _let_go(file: OpenFile) -> None:
        try:
            file.release()
        except Exception:
            log.exception("bug: a release failed")

    def _read(self, caller: Caller, body: memoryview) -> bytes | Work:
        handle, offset, size, _, _, flags, _ = wire.READ_IN.unpack_from(body)
        if offset and self._size and self._mapped is not None:
            return self._mapped.page_in(self._file(handle), offset, size)
        coro = self._file(handle).read(caller, size, bool(flags & os.O_NONBLOCK))
        return Work(coro, lambda unique, data: wire.reply(unique, 0, data))

    def _write(self, caller: Caller, body: memoryview) -> bytes | Work:
        handle, offset, size, write_flags, _, flags, _ = wire.WRITE_IN.unpack_from(body)
        data = bytes(body[wire.WRITE_IN.size : wire.WRITE_IN.size + size])
        if write_flags & wire.WRITE_CACHE and self._mapped is not None:
            self._mapped.page_out(offset, data)
            return wire.WRITE_OUT.pack(size, 0)
        coro = self._file(handle).write(caller, data, bool(flags & os.O_NONBLOCK))
        return Work(coro, lambda unique, count: wire.reply(unique, 0, wire.WRITE_OUT.pack(count, 0)))

    def _poll(self, _caller: Caller, body: memoryview) -> bytes:
        handle, kernel_handle, flags, _ = wire.POLL_IN.unpack_from(body)

        def wake() -> None:
            self._send(wire.notify_poll(kernel_handle))

        scheduled = flags & wire.POLL_SCHEDULE_NOTIFY
        return wire.POLL_OUT.pack(self._file(handle).poll(wake if scheduled else None), 0)

    def _statfs(self, _caller: Caller, _body: memoryview) -> bytes:
        return wire.STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, 255, 4096)

    def _fsync(self, _caller: Caller, _body: memoryview) -> bytes:
        raise OSError(errno.EINVAL, "a device file has nothing to sync")

    def _fallocate(self, _caller: Caller, _body: memoryview) -> bytes:
        raise OSError(errno.ENODEV, "a device file has no blocks")

    def _destroy(self, _caller: Caller, _body: memoryview) -> bytes:
        return b""

    def _file(self, handle: int) -> OpenFile:
        if handle not in self.files:
            raise OSError(errno.EBADF, "no such open file")
        return self.files[handle]


_HANDLERS: Final[dict[int, Callable[[Node, Caller, memoryview], bytes | Work]]] = {
    wire.INIT: Node._init,
    wire.CUSE_INIT: Node._cuse_init,
    wire.GETATTR: Node._getattr,
    wire.SETATTR: Node._setattr,
    wire.OPEN: Node._open,
    wire.RELEASE: Node._release,
    wire.READ: Node._read,
    wire.WRITE: Node._write,
    wire.POLL: Node._poll,
    wire.STATFS: Node._statfs,
    wire.FSYNC: Node._fsync,
    wire.FALLOCATE: Node._fallocate,
    wire.DESTROY: Node._destroy,
}
