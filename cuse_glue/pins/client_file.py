"""A client's file, open here: fetched from its descriptors, or through one of its mappings. A
`Window` maps it into our memory.

While the file is open here, shared memory stays when the client unmaps it or exits. So whoever pins
shared memory has a reference to the file, and one to a `Window` on it. While there is a window,
F_SEAL_WRITE is refused, as it is while pages are pinned. A window shows the whole file: a client
may pin one memfd in a million pieces, and the kernel allows a process 65530 mappings.

A file is open once for all who need it. While it is open, its (device, inode) is not given to
another file.

Opening a file, or even asking its size, can wait for ever if a client itself serves the file system
(FUSE), or a network does. So a mapped file is opened only on the file systems of `LOCAL`. A file of
another one stays in the process, as private memory does.
"""

import errno
import fcntl
import mmap
import os
import re
import stat
from collections.abc import Callable, Sequence
from typing import Final

from ..process import raw_memory
from ..request.caller import Caller
from ..system import libc
from .closing import Closer

LOCAL: Final = frozenset(
    b"tmpfs devtmpfs hugetlbfs ramfs ext2 ext3 ext4 xfs btrfs f2fs zfs bcachefs overlay squashfs erofs iso9660 vfat exfat".split()
)
_F_GET_SEALS: Final = 1034
_MFD_HUGETLB: Final = 4
_MOUNT: Final = rb"^\d+ \d+ %d:%d .*? - (\S+) "
SHORT_OF_MEANS: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM))


class Window:
    """A stretch of a file, `start` to `end` (exclusive, bytes), mapped shared at `address` in our
    memory. The last `put` unmaps it.
    """

    __slots__ = ("_file", "_refs", "address", "end", "start", "writable")

    def __init__(self, file: "ClientFile", start: int, end: int, writable: bool) -> None:
        self.address = raw_memory.map_shared(file.fd, start, end - start, writable=writable)
        self.start = start
        self.end = end
        self.writable = writable
        self._file = file
        self._refs = 0

    @property
    def file(self) -> tuple[int, int]:
        """Which file it shows, however that was opened."""
        return self._file.dev, self._file.inode

    def read(self, address: int, buffer: memoryview) -> int:
        """As raw_memory.read_mapping."""
        return raw_memory.read_mapping(address, buffer)

    def write(self, address: int, data: memoryview) -> int:
        """As raw_memory.write_mapping."""
        return raw_memory.write_mapping(address, data)

    def copy(self, to: Sequence[int], of: Sequence[int]) -> int:
        """As raw_memory.copy_mappings."""
        return raw_memory.copy_mappings(to, of)

    def gather(self, of: Sequence[int], buffer: memoryview) -> int:
        """As raw_memory.gather_mappings."""
        return raw_memory.gather_mappings(of, buffer)

    def read_file(self, fd: int, offset: int, places: Sequence[int], flags: int) -> int:
        """As raw_memory.read_file_into."""
        return raw_memory.read_file_into(fd, offset, places, flags)

    def write_file(self, fd: int, offset: int, places: Sequence[int], flags: int) -> int:
        """As raw_memory.write_file_from."""
        return raw_memory.write_file_from(fd, offset, places, flags)

    def locate(self, data: bytes) -> int:
        """As raw_memory.locate."""
        return raw_memory.locate(data)

    def get(self) -> None:
        self._refs += 1

    def put(self) -> None:
        self._refs -= 1
        if self._refs == 0:
            self._file.windows.remove(self)
            raw_memory.unmap(self.address, self.end - self.start)


class ClientFile:
    """An open file, as a descriptor of ours. Closed by the last `put`."""

    __slots__ = ("_cache", "_key", "_page_size", "_refs", "fd", "sources", "windows")

    def __init__(self, fd: int, key: tuple[int, int, int], cache: "FileCache") -> None:
        self.fd = fd
        self.windows: list[Window] = []
        self._key = key
        self._cache = cache
        self._refs = 0
        self._page_size = 0

    @property
    def dev(self) -> int:
        return self._key[0]

    @property
    def inode(self) -> int:
        return self._key[1]

    @property
    def size(self) -> int:
        """The size of the file now (bytes)."""
        return os.fstat(self.fd).st_size

    @property
    def in_memory(self) -> bool:
        """Whether it is a file of tmpfs (memfd included) or hugetlbfs. MAP_FILE takes only these,
        and only these may be written for long.
        """
        return _in_memory(self.fd)

    @property
    def page_size(self) -> int:
        """The size of its pages (bytes); of hugetlbfs, huge ones."""
        if not self._page_size:
            self._page_size = os.fstat(self.fd).st_blksize if self.in_memory else mmap.PAGESIZE
        return self._page_size

    def get(self) -> None:
        self._refs += 1

    def put(self) -> None:
        self._refs -= 1
        if self._refs <= 0:
            self._cache.forget(self._key)
            os.close(self.fd)

    def window(self, start: int, end: int, writable: bool) -> Window:
        """A window that shows `start` to `end` (bytes; within the file, but the last page may be
        partial). `get` it.

        If the file is sealed or was not opened for writing, the window is not writable, although
        that was asked for. OSError: it cannot be mapped.
        """
        failure: OSError | None = None
        for how in (True, False) if writable else (False,):
            for window in self.windows:
                if window.start <= start and end <= window.end and window.writable >= how:
                    return window
            unit = self.page_size
            for at, upto in (0, max(end, self.size)), (start, end):
                try:
                    window = Window(self, at // unit * unit, -(-upto // unit) * unit, how)
                except OSError as error:
                    failure = error
                else:
                    self.windows.append(window)
                    return window
        assert failure is not None
        raise failure


# in place of an access mode: a file that cannot be pinned, of which only the identity is kept
NOT_IN_MEMORY: Final = -1
ZERO: Final = os.makedev(1, 5)  # /dev/zero, whose private mappings are plain memory
UNKNOWN: Final = (0, 0)  # the identity of a file that does not let us ask for its own


def is_plain(status: os.stat_result) -> bool:
    """Whether this file's pages are memory like any other: a regular file, or /dev/zero."""
    return stat.S_ISREG(status.st_mode) or (stat.S_ISCHR(status.st_mode) and status.st_rdev == ZERO)


def _in_memory(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, _F_GET_SEALS)
    except OSError:
        return False
    return True


class FileCache:
    """The clients' files that are open now."""

    def __init__(self) -> None:
        self._files: dict[tuple[int, int, int], ClientFile] = {}
        self._internal: dict[int, bytes] = {}
        self._closer = Closer()
        self.plain: tuple[int, int] | None = (
            None  # the file last asked for in `mapped`, if mapping it gives plain memory
        )

    def of(self, caller: Caller, number: int) -> ClientFile:
        """The open file behind the caller's descriptor. `get` it before anything else, and `put`
        it when it is not needed.

        OSError(EBADF): no such descriptor, or one opened with O_PATH. Other OSErrors: we may not
        fetch it.
        """
        fd = caller.descriptor(number)
        try:
            flags = fcntl.fcntl(fd, fcntl.F_GETFL)
            if flags & os.O_PATH:
                raise OSError(errno.EBADF, "a descriptor opened with O_PATH")
            in_memory = _in_memory(fd)
            try:
                dev, inode = libc.identity(fd)
            except (
                PermissionError
                # a file of a FUSE that was mounted in a user namespace (even one of ours): it lets
                # in only processes of that namespace
            ):
                if in_memory:
                    raise
                dev, inode = UNKNOWN
            if not in_memory:
                # It can never be pinned, so it need not stay open. And it must not: if it is an
                # open file of our own device, that would never be released.
                kept = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                self._closer.close(fd)
                return self._keep(kept, (dev, inode, NOT_IN_MEMORY))
        except OSError:
            self._closer.close(fd)
            raise
        return self._keep(fd, (dev, inode, flags & os.O_ACCMODE))

    def mapped(self, dev: int, inode: int, writable: bool, open_path: Callable[[], int]) -> ClientFile | None:
        """The file `inode` of `dev` (of a LOCAL kind) that a client has mapped. `get` it.

        `open_path()` returns an O_PATH descriptor of the file that may be this one. None: it is
        another file, no regular file, or one that we may not open. OSError: we have too few
        descriptors or too little memory (EMFILE, ENFILE, ENOMEM).
        """
        self.plain = None
        for mode in (os.O_RDWR,) if writable else (os.O_RDWR, os.O_RDONLY):
            found = self._files.get((dev, inode, mode))
            if found is not None:
                return found
        try:
            path = open_path()
            try:
                status = os.fstat(path)
                if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) != (dev, inode):
                    if is_plain(status) and (status.st_dev, status.st_ino) == (dev, inode):
                        self.plain = dev, inode
                    return None
                fd = os.open(f"/proc/self/fd/{path}", mode | os.O_CLOEXEC | os.O_NOCTTY)
            finally:
                os.close(path)
        except OSError as error:
            if error.errno in SHORT_OF_MEANS:
                raise
            return None
        return self._keep(fd, (dev, inode, mode))

    def kind(self, dev: int, mounts: Callable[[], bytes]) -> bytes:
        """The type of the file system that has the device number `dev`; b"" when it is not mounted
        where the client is.
        """
        if not self._internal:
            self._internal = _internal_mounts()
        known = self._internal.get(dev)
        if known is not None:
            return known
        found = re.search(_MOUNT % (os.major(dev), os.minor(dev)), mounts(), re.MULTILINE)
        return found[1] if found is not None else b""

    def _keep(self, fd: int, key: tuple[int, int, int]) -> ClientFile:
        found = self._files.get(key)
        if found is not None:
            os.close(fd)
            return found
        found = self._files[key] = ClientFile(fd, key, self)
        return found

    def forget(self, key: tuple[int, int, int]) -> None:
        del self._files[key]


def _internal_mounts() -> dict[int, bytes]:
    """The kernel's own mounts, which no list shows: memfds, anonymous shared memory and secret
    memory live there.
    """
    found: dict[int, bytes] = {}
    flags = [(0, b"tmpfs")]
    try:
        sizes = os.listdir("/sys/kernel/mm/hugepages")  # hugepages-2048kB
    except OSError:
        sizes = []
    for size in sizes:
        kilobytes = int(size[len("hugepages-") : -len("kB")])
        flags.append((_MFD_HUGETLB | (kilobytes * 1024).bit_length() - 1 << 26, b"hugetlbfs"))
    for flag, kind in flags:
        try:
            fd = os.memfd_create("iommud", flag | os.MFD_CLOEXEC)
        except OSError:
            continue
        found[os.fstat(fd).st_dev] = kind
        os.close(fd)
    secret = raw_memory.memfd_secret()
    if secret is not None:
        found[os.fstat(secret).st_dev] = b"secretmem"
        os.close(secret)
    return found
