"""The one file that a session serves: its attributes, its open files, and the answer to each opcode
except ioctls.

A handler returns the reply's body, or `Work` if an open file decides when the answer is there.
Errors are OSErrors. The session sends the replies (session.py).
"""

import errno
import logging
import os
import select
import stat
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, Final, NamedTuple

from ..request import recognise
from ..request.caller import Caller
from ..request.mapped import Mapped, Toucher
from ..request.open_file import Opener, OpenFile
from . import wire

log: Final = logging.getLogger("cuse_glue.fuse.session")

# bytes in one READ or WRITE; the kernel wants a read buffer 4096 larger
MAX_WRITE: Final = 128 * 1024
# RELEASEs that the kernel may have outstanding. Those beyond are held back, and overtaken by what
# their process does after its close.
MAX_BACKGROUND: Final = 0xFFFF
ROOT_INODE: Final = 1
# The size that stat shows; Linux's device shows 0. The kernel itself answers asynchronous reads
# (io_uring, libaio) at or beyond the size, with 0 bytes. Such reads are at 0, so the size must be
# larger. It is as small as possible, because programs allocate room for a file by its size.
SIZE: Final = 4096
# what io_uring polls for, between reads
TO_GO_ON: Final = select.POLLIN | select.POLLPRI | select.POLLERR


class Work(NamedTuple):
    """An answer that is still to be made: `form(unique, result of the coroutine)` is the
    message.
    """

    coro: Coroutine[Any, Any, Any]
    form: Callable[[int, Any], bytes]


@dataclass(slots=True)
class Attributes:
    """What stat(2) shows of a FUSE file: permission bits (kept true by the kernel) and owner."""

    mode: int = 0o660
    uid: int = 0
    gid: int = 0
    size: int = SIZE  # bytes, as stat shows it; grows with what can be mapped
    has_positions: bool = False  # pread and lseek work; each read and write has its offset


class Node:
    """The file, and its open files by their handle."""

    def __init__(
        self,
        opener: Opener,
        attributes: Attributes,
        send: Callable[[bytes], None],
        *,
        cuse_name: str | None,
        mapped: Mapped | None,
    ) -> None:
        """`send`: sends a message to the kernel that is no reply. For the others see Session."""
        self._opener = opener
        self._attributes = attributes
        self._send = send
        self._cuse_name = cuse_name
        self._mapped = mapped
        self._handles: Iterator[int] = count(1)
        self.files: dict[int, OpenFile] = {}
        # Files that io_uring reads. It polls before it reads. To the kernel our file is a regular
        # one. From such a file io_uring wants as much as it has room for: after a read that gave
        # less, it polls again. Then it must be told that there is something to read. The next read
        # finds nothing, and that completes the whole.
        self._asked_by_ring: set[int] = set()
        self._short: set[int] = set()

    def number_handles(self, handles: Iterator[int]) -> None:
        """Give open files these handles."""
        self._handles = handles

    def begin_mapped(self, mapped: Mapped, shown: Callable[[int, int], None]) -> None:
        """Another session has found out that the kernel lets the file be mapped.

        `shown`: told of each range (offset, length in bytes) before anybody can map it.
        """
        self._mapped = mapped

        def show(offset: int, data: bytes) -> None:
            shown(offset, len(data))
            self._show(offset, data)

        mapped.begin(show)

    def answer(self, opcode: int, _inode: int, caller: Caller, body: memoryview) -> bytes | Work:
        """The answer to one request. ENOSYS: a device file does not have this. EBADF: no such open
        file. Others: those of the open file.
        """
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
        flags &= wire.BIG_WRITES | (wire.INIT_EXT if flags2 else 0)
        return wire.INIT_OUT.pack(
            wire.PROTOCOL_MAJOR,
            min(minor, wire.PROTOCOL_MINOR),
            readahead,
            flags,
            MAX_BACKGROUND,
            MAX_BACKGROUND,
            MAX_WRITE,
            1,
            32,
            0,
            flags2,
            0,
            0,
        )

    def _show(self, offset: int, data: bytes) -> None:
        self._attributes.size = max(self._attributes.size, offset + len(data))
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
        return wire.attr_out(
            inode=ROOT_INODE, mode=stat.S_IFREG | a.mode, uid=a.uid, gid=a.gid, seconds_valid=3600, size=a.size
        )

    def _setattr(self, caller: Caller, body: memoryview) -> bytes:
        fields = wire.SETATTR_IN.unpack_from(body)
        valid, mode, uid, gid = fields[0], fields[11], fields[13], fields[14]
        if valid & wire.FATTR_SIZE and (fields[3] or valid & wire.FATTR_FH):
            # O_TRUNC (size 0, and no open file) is not refused, and does nothing
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
        handle = next(self._handles)
        self.files[handle] = file
        kept = wire.FOPEN_DIRECT_IO | wire.FOPEN_NOFLUSH  # CUSE ignores them
        if not self._attributes.has_positions:
            kept |= wire.FOPEN_NONSEEKABLE | wire.FOPEN_STREAM
        return wire.OPEN_OUT.pack(handle, kept, 0)

    def _release(self, _caller: Caller, body: memoryview) -> bytes:
        handle = wire.RELEASE_IN.unpack_from(body)[0]
        file = self.files.pop(handle, None)
        self._asked_by_ring.discard(handle)
        self._short.discard(handle)
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
        handle, offset, size, read_flags, _, flags, _ = wire.READ_IN.unpack_from(body)
        if not read_flags & wire.READ_LOCKOWNER:  # a page of a mapping, not a read by a process
            if self._mapped is None:
                raise OSError(errno.EINVAL, "there is nothing to map")
            assert isinstance(caller, Toucher)
            return self._mapped.page_in(self._file(handle), caller, offset, size)
        # io_uring reads a non-blocking file without a poll before
        by_ring = handle in self._asked_by_ring or bool(flags & os.O_NONBLOCK)
        self._asked_by_ring.discard(handle)
        self._short.discard(handle)

        def form(unique: int, data: bytes) -> bytes:
            if by_ring and 0 < len(data) < size:
                self._short.add(handle)
            return wire.reply(unique, 0, data)

        return Work(self._file(handle).read(caller, offset, size, bool(flags & os.O_NONBLOCK)), form)

    def _write(self, caller: Caller, body: memoryview) -> bytes | Work:
        handle, offset, size, write_flags, _, flags, _ = wire.WRITE_IN.unpack_from(body)
        data = bytes(body[wire.WRITE_IN.size : wire.WRITE_IN.size + size])
        if write_flags & wire.WRITE_CACHE and self._mapped is not None:
            self._mapped.page_out(offset, data)
            return wire.WRITE_OUT.pack(size, 0)
        coro = self._file(handle).write(caller, offset, data, bool(flags & os.O_NONBLOCK))
        return Work(coro, lambda unique, count: wire.reply(unique, 0, wire.WRITE_OUT.pack(count, 0)))

    def _poll(self, caller: Caller, body: memoryview) -> bytes:
        handle, kernel_handle, flags, wanted = wire.POLL_IN.unpack_from(body)
        file = self._file(handle)
        recognise.polled(caller.tid, file)

        def wake() -> None:
            self._send(wire.notify_poll(kernel_handle))

        scheduled = flags & wire.POLL_SCHEDULE_NOTIFY
        events = file.poll(wake if scheduled else None)
        if (
            wanted & select.POLLIN and not wanted & select.POLLHUP
        ):  # poll(2), select(2) and epoll(7) always want POLLHUP as well
            self._asked_by_ring.add(handle)
            if handle in self._short and wanted & TO_GO_ON == TO_GO_ON:
                events |= select.POLLIN
        return wire.POLL_OUT.pack(events, 0)

    def _statfs(self, _caller: Caller, _body: memoryview) -> bytes:
        return wire.STATFS_OUT.pack(0, 0, 0, 0, 0, 4096, 255, 4096, 0)

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
