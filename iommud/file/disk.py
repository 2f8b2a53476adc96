"""The bytes behind an emulated disk: a raw file or a block device of ours, or memory
(iommud.pci.storage).

To read what the kernel has in its page cache takes no longer than to copy it. So a reader first
asks for that alone (`flags`), while the device's driver waits; what lies on the disk is fetched in
a thread. Writes are done in a thread, unless the bytes are memory in any case (tmpfs): most file
systems cannot promise that a write will not wait.

A file is locked as flock(2) does it: by one who writes, or by many who read. Nothing is ever
written beyond its end, and it is never cut.
"""

import errno
import fcntl
import os
import stat
from collections.abc import Hashable
from typing import Any, Final

import cffi

_SECTOR: Final = 512
_TMPFS: Final = frozenset((0x01021994, 0x858458F6))  # tmpfs, ramfs
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 0x01, 0x02, 0x10
_CHUNK: Final = 1 << 20

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    int fallocate(int fd, int mode, long offset, long length);
    int fstatfs(int fd, long *status);
    """
)
_libc: Final[Any] = _ffi.dlopen(None)


class Disk:
    """As iommud.pci.storage.Disk."""

    def __init__(self, file: str | None = None, *, size: int | None = None, readonly: bool = False) -> None:
        """ValueError, with a sentence: there is no such file, it is in use, too large or too small,
        or there is neither a file nor a size.
        """
        self.readonly = readonly
        if file is None:
            if size is None:
                raise ValueError("without file= it needs a size=")
            self.fd = os.memfd_create("iommud-disk")
            os.ftruncate(self.fd, size)
            self.size = size
            self._name = "memory"
        else:
            self._name = file
            self.fd = _open(file, size, readonly)
            try:
                self.size = _fit(self.fd, file, size, readonly)
            except BaseException:
                os.close(self.fd)
                raise
        self.is_memory = _is_memory(self.fd)
        # as flags of preadv2: reads what is in memory already, and waits for nothing
        self.at_once = 0 if self.is_memory else os.RWF_NOWAIT

    def __str__(self) -> str:
        return self._name

    def close(self) -> None:
        os.close(self.fd)

    def read(self, position: int, length: int) -> bytes:
        """OSError: the disk has an error."""
        data = bytearray(length)
        view = memoryview(data)
        while view:
            count = os.preadv(self.fd, [view], position)
            if not count:
                break  # the file was cut by somebody: zeros
            position, view = position + count, view[count:]
        return bytes(data)

    def read_now(self, position: int, length: int) -> bytes | None:
        """As `read`, without waiting; None: it would have to be waited for, or has an error."""
        data = bytearray(length)
        try:
            return bytes(data) if os.preadv(self.fd, [data], position, self.at_once) == length else None
        except OSError:
            return None

    def write(self, position: int, data: bytes | bytearray | memoryview) -> None:
        """OSError: the disk has an error, or is full."""
        view = memoryview(data)
        while view:
            count = os.pwrite(self.fd, view, position)
            position, view = position + count, view[count:]

    def flush(self) -> None:
        """All that was written stays, even if the machine loses its power. OSError."""
        if not self.is_memory and not self.readonly:
            os.fdatasync(self.fd)

    def zero(self, position: int, length: int, *, free: bool) -> None:
        """Make it zeros. `free`: its room may be given back. OSError."""
        modes = (_PUNCH_HOLE | _KEEP_SIZE, _ZERO_RANGE | _KEEP_SIZE)
        for mode in modes if free else reversed(modes):
            if not _libc.fallocate(self.fd, mode, position, length):
                return
            if _ffi.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV):
                raise OSError(_ffi.errno, os.strerror(_ffi.errno))
        zeros = bytes(min(length, _CHUNK))
        for at in range(position, position + length, _CHUNK):
            self.write(at, zeros[: min(_CHUNK, position + length - at)])

    def discard(self, position: int, length: int) -> None:
        """Its bytes are not needed any more: they are zeros from now on, if that is done without
        writing them.
        """
        _libc.fallocate(self.fd, _PUNCH_HOLE | _KEEP_SIZE, position, length)


class Disks:
    """The disks of a daemon's devices, opened once, whichever of its processes asks."""

    def __init__(self) -> None:
        self._opened: Final[dict[Hashable, Disk]] = {}

    def of(self, device: Hashable) -> "Storage":
        return Storage(self, device)

    def open(self, device: Hashable, file: str | None, size: int | None, *, readonly: bool) -> Disk:
        found = self._opened.get(device)
        if found is None:
            found = self._opened[device] = Disk(file, size=size, readonly=readonly)
        return found

    @property
    def descriptors(self) -> list[int]:
        """What a process that is forked must keep."""
        return [disk.fd for disk in self._opened.values()]


class Storage:
    """As iommud.pci.storage.Storage, for one device."""

    def __init__(self, disks: Disks, device: Hashable) -> None:
        self._disks: Final = disks
        self._device: Final = device

    def open(self, file: str | None, size: int | None, *, readonly: bool) -> Disk:
        return self._disks.open(self._device, file, size, readonly=readonly)


def _open(path: str, size: int | None, readonly: bool) -> int:
    grows = size is not None and not readonly
    flags = (os.O_RDONLY if readonly else os.O_RDWR) | (os.O_CREAT if grows else 0) | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        fd = os.open(path, flags, 0o666)
    except OSError as error:
        hint = "; size= makes it" if error.errno == errno.ENOENT and not readonly else ""
        raise ValueError(f"{path} cannot be opened: {error.strerror}{hint}") from None
    try:
        kind = os.fstat(fd).st_mode
        if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
            raise ValueError(f"{path} is neither a file nor a block device")
        os.set_blocking(fd, True)
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if readonly else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"{path} is in use by somebody else{'' if readonly else ' (readonly=on shares it)'}"
            ) from None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _fit(fd: int, path: str, size: int | None, readonly: bool) -> int:
    """Let the file grow, if it has to; how large it is."""
    is_file = stat.S_ISREG(os.fstat(fd).st_mode)
    found = os.lseek(fd, 0, os.SEEK_END)
    if size is None:
        size = found - found % _SECTOR
        if not size:
            raise ValueError(f"{path} has not one sector of {_SECTOR} bytes: say size=")
    elif found > size:
        raise ValueError(f"{path} has {found} bytes, more than size= says, and is never cut")
    elif found < size:
        if readonly or not is_file:
            raise ValueError(f"{path} has only {found} bytes, and cannot grow")
        try:
            os.ftruncate(fd, size)
        except OSError as error:
            raise ValueError(f"{path} cannot grow to {size} bytes: {error.strerror}") from None
    return size


def _is_memory(fd: int) -> bool:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        return False
    status = _ffi.new("long[32]")
    return bool(_libc.fstatfs(fd, status) == 0 and status[0] in _TMPFS)
