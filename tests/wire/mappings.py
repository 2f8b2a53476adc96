"""One table of memory and files that a client may map, and what the kernel answers when they are
pinned.

Each case makes its memory in the process that calls it. `main` asks a real /dev/iommu that has the
kernel's mock device (a kernel with IOMMUFD_TEST) whether the answers in the table are its own:
`python mappings.py [a directory of a file system that writes back]`. The tests ask ours the same.
Only the standard library is used, so that a small client process can import it.
"""

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct
import sys
import tempfile
from collections.abc import Callable
from typing import NamedTuple

PAGE = 4096
HUGE = 2 << 20
NONE, R, W, X = 0, 1, 2, 4
PRIVATE, SHARED = mmap.MAP_PRIVATE, mmap.MAP_SHARED
ANONYMOUS = mmap.MAP_ANONYMOUS
HUGETLB = 0x40000
MFD_HUGETLB = 4
F_ADD_SEALS, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE = 1033, 8, 16
SYS_MEMFD_SECRET = 447

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]

IOVA = 1 << 25  # the mock device translates 1 << 24 to 1 << 31

scratch_directory = "/tmp"


class Skip(Exception):
    """This machine cannot make the case."""


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def map_(length: int, prot: int, flags: int, fd: int = -1, offset: int = 0, address: int | None = None) -> int:
    got: int | None = _libc.mmap(address, length, prot, flags, fd, offset)
    if got is None or got == ctypes.c_size_t(-1).value:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return got


def unmap(address: int, length: int) -> None:
    _check(_libc.munmap(address, length))


def protect(address: int, length: int, prot: int) -> None:
    _check(_libc.mprotect(address, length, prot))


def advise(address: int, length: int, advice: int) -> None:
    _check(_libc.madvise(address, length, advice))


def peek(address: int, length: int) -> bytes:
    return ctypes.string_at(address, length)


def poke(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


def memfd(size: int, flags: int = os.MFD_CLOEXEC) -> int:
    fd = os.memfd_create("case", flags)
    os.ftruncate(fd, size)
    return fd


def file(size: int, directory: str | None = None) -> int:
    """An unlinked file of the scratch file system (one that writes back)."""
    fd, path = tempfile.mkstemp(dir=directory or scratch_directory)
    os.ftruncate(fd, size)
    os.unlink(path)
    return fd


def secret(size: int) -> int:
    fd: int = _libc.syscall(SYS_MEMFD_SECRET, 0)
    if fd < 0:
        raise Skip("no memfd_secret")
    os.ftruncate(fd, size)
    return fd


def named(name: str) -> int:
    """Where a special mapping of this process lies."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            if line.rstrip().endswith(name):
                return int(line.split("-", 1)[0], 16)
    raise Skip(f"no {name}")


def anonymous(prot: int, flags: int = PRIVATE, length: int = 4 * PAGE) -> int:
    return map_(length, prot, flags | ANONYMOUS)


def partly_unmapped() -> int:
    address = anonymous(R | W)
    unmap(address + 2 * PAGE, PAGE)
    return address


def part_read_only() -> int:
    address = anonymous(R | W)
    protect(address + 3 * PAGE, PAGE, R)
    return address


def touched(address: int) -> int:
    poke(address, b"\1" * (4 * PAGE))
    return address


class Case(NamedTuple):
    """`make()` gives an address (or a descriptor, if `is_file`); pinning `length` bytes there for
    writing or reading gives `expected`.
    """

    make: Callable[[], int]
    writable: bool
    expected: int
    length: int = 4 * PAGE
    is_file: bool = False
    start: int = 0


def _over(size: int, prot: int, flags: int, make: Callable[[int], int] = memfd) -> Callable[[], int]:
    return lambda: map_(4 * PAGE, prot, flags, make(size))


def _huge(flags: int) -> Callable[[], int]:
    return lambda: anonymous(R | W, flags | HUGETLB, HUGE)


def _with_seals(seals: int, size: int = 4 * PAGE) -> int:
    fd = memfd(size, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(fd, F_ADD_SEALS, seals)
    return fd


def _then_sealed() -> int:
    fd = memfd(4 * PAGE, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    address = map_(4 * PAGE, R | W, SHARED, fd)
    fcntl.fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE)
    return address


def _reopened(flags: int) -> int:
    return os.open(f"/proc/self/fd/{memfd(4 * PAGE)}", flags | os.O_CLOEXEC)


def _device(path: str, prot: int, flags: int, length: int = 4 * PAGE) -> int:
    try:
        return map_(length, prot, flags, os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise Skip(str(error)) from None


def _without_pages() -> int:
    """The ring of a software counter: mapped like a device's registers, by page numbers only
    (VM_PFNMAP).
    """
    software, dummy = 1, 9
    attributes = struct.pack("<IIQ", software, 64, dummy).ljust(64, b"\0")
    number = {"x86_64": 298, "aarch64": 241}[os.uname().machine]
    fd = _libc.syscall(number, ctypes.c_char_p(attributes), 0, -1, -1, 8)
    if fd < 0:
        raise Skip("no perf_event_open")
    return map_(2 * PAGE, R, SHARED, fd)


OK, EFAULT, EINVAL = 0, errno.EFAULT, errno.EINVAL
MFD = os.MFD_CLOEXEC

CASES: dict[str, Case] = {
    "private rw, write": Case(lambda: anonymous(R | W), True, OK),
    "private rw, read": Case(lambda: anonymous(R | W), False, OK),
    "private r, read": Case(lambda: anonymous(R), False, OK),
    "private r, write": Case(lambda: anonymous(R), True, EFAULT),
    "private none, read": Case(lambda: anonymous(NONE), False, EFAULT),
    "private none, write": Case(lambda: anonymous(NONE), True, EFAULT),
    "private w, write": Case(lambda: anonymous(W), True, OK),
    "private w, read": Case(lambda: anonymous(W), False, EFAULT),
    "private x, read": Case(lambda: anonymous(X), False, EFAULT),
    "private, partly unmapped": Case(partly_unmapped, True, EFAULT),
    "private, partly unmapped, read": Case(partly_unmapped, False, EFAULT),
    "private, last page r, write": Case(part_read_only, True, EFAULT),
    "private, last page r, read": Case(part_read_only, False, OK),
    "nothing there": Case(lambda: 0x10000, False, EFAULT),
    "shared anonymous, write": Case(lambda: anonymous(R | W, SHARED), True, OK),
    "shared anonymous r, write": Case(lambda: anonymous(R, SHARED), True, EFAULT),
    "shared anonymous r, read": Case(lambda: anonymous(R, SHARED), False, OK),
    "shared anonymous none, read": Case(lambda: anonymous(NONE, SHARED), False, EFAULT),
    "memfd, write": Case(_over(4 * PAGE, R | W, SHARED), True, OK),
    "memfd mapped r, write": Case(_over(4 * PAGE, R, SHARED), True, EFAULT),
    "memfd mapped r, read": Case(_over(4 * PAGE, R, SHARED), False, OK),
    "memfd, its last page partial": Case(_over(3 * PAGE + 1, R | W, SHARED), True, OK),
    "memfd, beyond its end": Case(_over(3 * PAGE, R | W, SHARED), True, EFAULT),
    "memfd, beyond its end, read": Case(_over(3 * PAGE, R, SHARED), False, EFAULT),
    "memfd private, write": Case(_over(4 * PAGE, R | W, PRIVATE), True, OK),
    "memfd private, beyond its end": Case(_over(3 * PAGE, R | W, PRIVATE), True, EFAULT),
    "memfd, sealed against later writing": Case(_then_sealed, True, OK),
    "file, write": Case(_over(4 * PAGE, R | W, SHARED, file), True, EFAULT),
    "file, read": Case(_over(4 * PAGE, R | W, SHARED, file), False, OK),
    "file mapped r, read": Case(_over(4 * PAGE, R, SHARED, file), False, OK),
    "file private, write": Case(_over(4 * PAGE, R | W, PRIVATE, file), True, OK),
    "file private, read": Case(_over(4 * PAGE, R, PRIVATE, file), False, OK),
    "file private, beyond its end": Case(_over(3 * PAGE, R | W, PRIVATE, file), True, EFAULT),
    "file, beyond its end, read": Case(_over(3 * PAGE, R, SHARED, file), False, EFAULT),
    "tmpfs file, write": Case(_over(4 * PAGE, R | W, SHARED, lambda n: file(n, "/dev/shm")), True, OK),
    "huge private, write": Case(_huge(PRIVATE), True, OK, HUGE),
    "huge shared, write": Case(_huge(SHARED), True, OK, HUGE),
    "huge memfd, write": Case(lambda: map_(HUGE, R | W, SHARED, memfd(HUGE, MFD | MFD_HUGETLB)), True, OK, HUGE),
    "/dev/zero private, write": Case(lambda: _device("/dev/zero", R | W, PRIVATE), True, OK),
    "/dev/zero shared, write": Case(lambda: _device("/dev/zero", R | W, SHARED), True, OK),
    "memory without pages, read": Case(_without_pages, False, EFAULT, PAGE),
    "secret memory, write": Case(_over(4 * PAGE, R | W, SHARED, secret), True, EFAULT),
    "secret memory, read": Case(_over(4 * PAGE, R | W, SHARED, secret), False, EFAULT),
    "vdso, read": Case(lambda: named("[vdso]"), False, OK, PAGE),
    "vdso, write": Case(lambda: named("[vdso]"), True, EFAULT, PAGE),
    "stack, write": Case(lambda: named("[stack]"), True, OK, PAGE),
    "FILE memfd": Case(lambda: memfd(4 * PAGE), True, OK, is_file=True),
    "FILE memfd, its second half": Case(lambda: memfd(4 * PAGE), True, OK, 2 * PAGE, True, 2 * PAGE),
    "FILE memfd, last page partial": Case(lambda: memfd(3 * PAGE + 1), True, EINVAL, is_file=True),
    "FILE memfd, beyond its end": Case(lambda: memfd(PAGE), True, EINVAL, is_file=True),
    "FILE memfd, start beyond its end": Case(lambda: memfd(PAGE), False, EINVAL, PAGE, True, 4 * PAGE),
    "FILE memfd, start beyond 2^63": Case(lambda: memfd(PAGE), False, EINVAL, PAGE, True, 1 << 63),
    "FILE memfd, opened to read, write": Case(lambda: _reopened(os.O_RDONLY), True, OK, is_file=True),
    "FILE memfd, opened to write, read": Case(lambda: _reopened(os.O_WRONLY), False, OK, is_file=True),
    "FILE memfd, sealed, write": Case(lambda: _with_seals(F_SEAL_WRITE), True, OK, is_file=True),
    "FILE memfd, sealed later, write": Case(lambda: _with_seals(F_SEAL_FUTURE_WRITE), True, OK, is_file=True),
    "FILE tmpfs": Case(lambda: file(4 * PAGE, "/dev/shm"), True, OK, is_file=True),
    "FILE huge": Case(lambda: memfd(2 * HUGE, MFD | MFD_HUGETLB), True, OK, HUGE, True, HUGE),
    "FILE huge, beyond its end": Case(lambda: memfd(HUGE, MFD | MFD_HUGETLB), True, EINVAL, PAGE, True, HUGE),
    "FILE of another file system": Case(lambda: file(4 * PAGE), True, EINVAL, is_file=True),
    "FILE pipe": Case(lambda: os.pipe()[0], False, EINVAL, is_file=True),
    "FILE secret memory": Case(lambda: secret(4 * PAGE), True, EINVAL, is_file=True),
    "FILE device": Case(lambda: os.open("/dev/zero", os.O_RDWR | os.O_CLOEXEC), True, EINVAL, is_file=True),
}


def main() -> int:
    """Ask the kernel: IOAS_MAP (or MAP_FILE) with the kernel's mock device attached pins at
    once.
    """
    fd = os.open("/dev/iommu", os.O_RDWR)

    def call(nr: int, data: bytes) -> tuple[int, bytes]:
        buffer = bytearray(data)
        try:
            fcntl.ioctl(fd, 0x3B00 | nr, buffer, True)
        except OSError as error:
            return error.errno or -1, bytes(buffer)
        return 0, bytes(buffer)

    _, answer = call(0x81, struct.pack("<III", 12, 0, 0))
    ioas = struct.unpack("<III", answer)[2]
    failed, _ = call(0xA0, struct.pack("<IIII", 72, 2, ioas, 0).ljust(72, b"\0"))
    if failed:
        raise SystemExit(f"no mock device: {os.strerror(failed)}")
    wrong = 0
    for name, case in CASES.items():
        try:
            where = case.make()
        except Skip as why:
            print(f"{name:45} skipped: {why}")
            continue
        flags = 1 | 4 | (2 if case.writable else 0)
        if case.is_file:
            number, data = 0x8F, struct.pack("<IIIiQQQ", 40, flags, ioas, where, case.start, case.length, IOVA)
        else:
            number, data = 0x85, struct.pack("<IIIIQQQ", 40, flags, ioas, 0, where, case.length, IOVA)
        got, _ = call(number, data)
        if got == 0:
            call(0x86, struct.pack("<IIQQ", 24, ioas, IOVA, case.length))
        same = got == case.expected
        wrong += not same
        print(f"{name:45} {errno.errorcode.get(got, got)} {'' if same else 'BUT THE TABLE SAYS ' + str(case.expected)}")
    return wrong != 0


if __name__ == "__main__":
    with contextlib.suppress(IndexError):
        scratch_directory = sys.argv[1]
    sys.exit(main())
