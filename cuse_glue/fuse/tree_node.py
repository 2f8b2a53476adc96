"""A small file system of ours, as a session serves it: the answer to each opcode.

It behaves as sysfs does. The kernel knows an entry by a number, which stands for the entry's path.
So numbers need not be given back (FORGET): there are never more than there were paths. Each request
looks whether the path still leads anywhere. The kernel may remember only entries that last.

Ref: v7.3 fs/kernfs/file.c, fs/sysfs/file.c
"""

import errno
import inspect
import os
import stat
import time
from collections.abc import Callable
from typing import Final

from ..request.caller import Caller
from ..request.open_file import OpenFile
from ..tree.entries import PAGE, Bytes, Directory, Entry, Link, Place, Text, find
from . import wire
from .node import MAX_BACKGROUND, MAX_WRITE, Work

ROOT: Final = 1  # its number
FOREVER: Final = 1 << 30  # seconds that the kernel need not ask again
NAME_MAX: Final = 255
_HEADER: Final = (".", "..")
_NO_CHANGE: Final = {  # what nobody can do in such a directory, whatever their rights
    wire.CREATE: errno.EACCES,
    wire.MKNOD: errno.EPERM,
    wire.MKDIR: errno.EPERM,
    wire.SYMLINK: errno.EPERM,
    wire.LINK: errno.EPERM,
    wire.UNLINK: errno.EPERM,
    wire.RMDIR: errno.EPERM,
    wire.RENAME: errno.EPERM,
    wire.RENAME2: errno.EPERM,
    wire.FALLOCATE: errno.EOPNOTSUPP,
}


class TreeNode:
    """The file system with this root, and its open files and directories by their handle."""

    def __init__(self, root: Directory, uid: int, gid: int) -> None:
        """All in it belongs to this user and group, until somebody changes that."""
        self._root = root
        self._owner = uid, gid
        self._numbers: dict[tuple[str, ...], int] = {(): ROOT}
        self._paths: dict[int, tuple[str, ...]] = {ROOT: ()}
        self._dressed: dict[int, tuple[int, int, int]] = {}  # by number: mode, owner, group
        self._now = int(time.time())
        self._next_handle = 1
        self.files: dict[int, OpenFile] = {}
        self._listings: dict[int, list[tuple[str, int, int]]] = {}  # name, number, kind

    def answer(self, opcode: int, inode: int, caller: Caller, body: memoryview) -> bytes | Work:
        """The answer to one request. ENOSYS: a file system like this does not have that request;
        ENOENT, ENODEV: the entry has gone meanwhile; others: those of the entry.
        """
        handler = _HANDLERS.get(opcode)
        if handler is None:
            number = _NO_CHANGE.get(opcode, errno.ENOSYS)
            raise OSError(number, os.strerror(number))
        return handler(self, inode, caller, body)

    def release_all(self) -> None:
        """The session is over."""
        self.files.clear()
        self._listings.clear()

    # --- names ---

    def _lookup(self, inode: int, _caller: Caller, body: memoryview) -> bytes:
        name = os.fsdecode(bytes(body).rstrip(b"\0"))
        entry = self._directory(inode).look().get(name)
        if entry is None:
            raise _error(errno.ENOENT)
        number = self._number((*self._paths[inode], name))
        valid = _validity(entry)
        return wire.ENTRY_OUT.pack(number, 0, valid, valid, 0, 0) + self._attributes(number, entry)

    def _readlink(self, inode: int, _caller: Caller, _body: memoryview) -> bytes:
        entry = self._entry(inode)
        if not isinstance(entry, Link):
            raise _error(errno.EINVAL)
        return os.fsencode(entry.target)

    def _opendir(self, inode: int, _caller: Caller, _body: memoryview) -> bytes:
        self._directory(inode)
        handle = self._handle()
        self._listings[handle] = []
        return wire.OPEN_OUT.pack(handle, 0, 0)

    def _readdir(self, inode: int, _caller: Caller, body: memoryview) -> bytes:
        handle, offset, size, *_ = wire.READ_IN.unpack_from(body)
        if not offset:
            self._listings[handle] = self._list(inode)
        found = bytearray()
        listing = self._listings.get(handle, [])
        for place in range(offset, len(listing)):
            name, number, kind = listing[place]
            record = wire.dirent(number, place + 1, kind, os.fsencode(name))
            if len(found) + len(record) > size:
                break
            found += record
        return bytes(found)

    def _releasedir(self, _inode: int, _caller: Caller, body: memoryview) -> bytes:
        self._listings.pop(wire.RELEASE_IN.unpack_from(body)[0], None)
        return b""

    def _list(self, inode: int) -> list[tuple[str, int, int]]:
        path = self._paths[inode]
        above = self._number(path[:-1])
        listing = [(name, number, stat.S_IFDIR) for name, number in zip(_HEADER, (inode, above), strict=True)]
        for name, entry in self._directory(inode).look().items():
            listing.append((name, self._number((*path, name)), _kind(entry)))
        return listing

    # --- attributes ---

    def _getattr(self, inode: int, _caller: Caller, _body: memoryview) -> bytes:
        entry = self._entry(inode)
        return wire.ATTR_HEAD.pack(_validity(entry), 0, 0) + self._attributes(inode, entry)

    def _setattr(self, inode: int, caller: Caller, body: memoryview) -> bytes:
        fields = wire.SETATTR_IN.unpack_from(body)
        valid, mode, uid, gid = fields[0], fields[11], fields[13], fields[14]
        old_mode, old_uid, old_gid = self._dress(inode, self._entry(inode))
        self._dressed[inode] = (
            stat.S_IMODE(mode) if valid & wire.FATTR_MODE else old_mode,
            uid if valid & wire.FATTR_UID else old_uid,
            gid if valid & wire.FATTR_GID else old_gid,
        )
        return self._getattr(inode, caller, body)  # a size and times are accepted and ignored

    def _attributes(self, inode: int, entry: Entry) -> bytes:
        mode, uid, gid = self._dress(inode, entry)
        links, size = 1, 0
        if isinstance(entry, Directory):
            links = 2 + sum(isinstance(each, Directory) for each in entry.look().values())
        elif isinstance(entry, Link):
            size = len(os.fsencode(entry.target))
        elif isinstance(entry, Text):
            size = PAGE
        elif isinstance(entry, Bytes):
            size = entry.size
        now = self._now
        return wire.ATTR.pack(inode, size, 0, now, now, now, 0, 0, 0, _kind(entry) | mode, links, uid, gid, 0, PAGE, 0)

    def _dress(self, inode: int, entry: Entry) -> tuple[int, int, int]:
        mode = 0o777 if isinstance(entry, Link) else entry.mode
        return self._dressed.get(inode) or (mode, *self._owner)

    # --- files ---

    def _open(self, inode: int, _caller: Caller, body: memoryview) -> bytes:
        flags, _ = wire.OPEN_IN.unpack_from(body)
        entry = self._entry(inode)
        if not isinstance(entry, Text | Bytes):
            raise _error(errno.EACCES)
        mode, _, _ = self._dress(inode, entry)
        access = flags & os.O_ACCMODE
        is_text = isinstance(entry, Text)
        if access != os.O_WRONLY and not (mode & 0o444 and (entry.read or not is_text)):
            raise _error(errno.EACCES)
        if access != os.O_RDONLY and not (mode & 0o222 and (entry.write or not is_text)):
            raise _error(errno.EACCES)
        handle = self._handle()
        self.files[handle] = _OpenEntry(self, inode)
        kept = wire.FOPEN_DIRECT_IO | wire.FOPEN_NOFLUSH | wire.FOPEN_PARALLEL_DIRECT_WRITES
        return wire.OPEN_OUT.pack(handle, kept, 0)

    def _read(self, _inode: int, caller: Caller, body: memoryview) -> Work:
        handle, offset, size, *_ = wire.READ_IN.unpack_from(body)
        return Work(self._file(handle).read(caller, offset, size, False), _read_reply)

    def _write(self, _inode: int, caller: Caller, body: memoryview) -> Work:
        handle, offset, size, *_ = wire.WRITE_IN.unpack_from(body)
        data = bytes(body[wire.WRITE_IN.size : wire.WRITE_IN.size + size])
        return Work(self._file(handle).write(caller, offset, data, False), _write_reply)

    def _release(self, _inode: int, _caller: Caller, body: memoryview) -> bytes:
        self.files.pop(wire.RELEASE_IN.unpack_from(body)[0], None)
        return b""

    def _fsync(self, _inode: int, _caller: Caller, _body: memoryview) -> bytes:
        return b""

    # --- the whole ---

    def _init(self, _inode: int, _caller: Caller, body: memoryview) -> bytes:
        major, minor, _, flags = wire.INIT_IN.unpack_from(body)
        if major < wire.PROTOCOL_MAJOR:
            raise OSError(errno.EPROTO, f"FUSE protocol {major}.{minor} is too old")
        flags &= wire.BIG_WRITES | wire.ATOMIC_O_TRUNC
        minor = min(minor, wire.PROTOCOL_MINOR)
        return wire.INIT_OUT.pack(
            wire.PROTOCOL_MAJOR, minor, 0, flags, MAX_BACKGROUND, MAX_BACKGROUND, MAX_WRITE, 1, 32, 0, 0, 0, 0
        )  # fmt: skip

    def _statfs(self, _inode: int, _caller: Caller, _body: memoryview) -> bytes:
        return wire.STATFS_OUT.pack(0, 0, 0, 0, 0, PAGE, NAME_MAX, PAGE, 0)

    def _destroy(self, _inode: int, _caller: Caller, _body: memoryview) -> bytes:
        return b""

    # --- what is where ---

    def entry(self, inode: int) -> Entry | None:
        """What the path with this number leads to now; None: nothing any more."""
        path = self._paths.get(inode)
        return None if path is None else find(self._root, path)

    def _entry(self, inode: int) -> Entry:
        entry = self.entry(inode)
        if entry is None:
            raise _error(errno.ENOENT)
        return entry

    def _directory(self, inode: int) -> Directory:
        entry = self._entry(inode)
        if not isinstance(entry, Directory):
            raise _error(errno.ENOTDIR)
        return entry

    def _number(self, path: tuple[str, ...]) -> int:
        number = self._numbers.setdefault(path, len(self._numbers) + 1)
        self._paths[number] = path
        return number

    def _handle(self) -> int:
        handle, self._next_handle = self._next_handle, self._next_handle + 1
        return handle

    def _file(self, handle: int) -> OpenFile:
        if handle not in self.files:
            raise _error(errno.EBADF)
        return self.files[handle]


class _OpenEntry:
    """One open of a Text or of Bytes."""

    def __init__(self, node: TreeNode, inode: int) -> None:
        self._node = node
        self._inode = inode
        self._text: bytes | None = None  # as it was when it was last read from the beginning

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        return -errno.ENOTTY

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        entry = self._here()
        if isinstance(entry, Bytes):
            size = min(size, entry.size - offset if entry.size else PAGE, PAGE)
            if size <= 0:
                return b""
            if entry.read is None:
                raise _error(errno.EIO)
            return entry.read(offset, size)
        if not offset or self._text is None:
            assert entry.read is not None
            self._text = entry.read()
        return self._text[offset : offset + size]

    async def write(self, caller: Caller, offset: int, data: bytes, nonblocking: bool) -> int:
        entry = self._here()
        data = data[:PAGE]
        if isinstance(entry, Bytes):
            if entry.size and offset >= entry.size:
                raise _error(errno.EFBIG)
            if entry.size:
                data = data[: entry.size - offset]
            if entry.write is None:
                raise _error(errno.EIO)
            done = entry.write(offset, data)
        else:
            assert entry.write is not None
            done = entry.write(data)
        if inspect.isawaitable(done):
            done = await done
        return len(data) if done is None else done

    def poll(self, wake: Callable[[], None] | None) -> int:
        raise _error(errno.ENOSYS)

    def release(self) -> None:
        pass

    def _here(self) -> Text | Bytes:
        entry = self._node.entry(self._inode)
        if not isinstance(entry, Text | Bytes):
            raise _error(errno.ENODEV)
        return entry


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def _read_reply(unique: int, data: bytes) -> bytes:
    return wire.reply(unique, 0, data)


def _write_reply(unique: int, count: int) -> bytes:
    return wire.reply(unique, 0, wire.WRITE_OUT.pack(count, 0))


def _validity(entry: Entry) -> int:
    return FOREVER if isinstance(entry, Place) or (isinstance(entry, Directory) and entry.lasting) else 0


def _kind(entry: Entry) -> int:
    return stat.S_IFDIR if isinstance(entry, Directory) else stat.S_IFLNK if isinstance(entry, Link) else stat.S_IFREG


_HANDLERS: Final[dict[int, Callable[[TreeNode, int, Caller, memoryview], bytes | Work]]] = {
    wire.INIT: TreeNode._init,
    wire.LOOKUP: TreeNode._lookup,
    wire.READLINK: TreeNode._readlink,
    wire.OPENDIR: TreeNode._opendir,
    wire.READDIR: TreeNode._readdir,
    wire.RELEASEDIR: TreeNode._releasedir,
    wire.GETATTR: TreeNode._getattr,
    wire.SETATTR: TreeNode._setattr,
    wire.OPEN: TreeNode._open,
    wire.READ: TreeNode._read,
    wire.WRITE: TreeNode._write,
    wire.RELEASE: TreeNode._release,
    wire.FSYNC: TreeNode._fsync,
    wire.FSYNCDIR: TreeNode._fsync,
    wire.STATFS: TreeNode._statfs,
    wire.DESTROY: TreeNode._destroy,
}
