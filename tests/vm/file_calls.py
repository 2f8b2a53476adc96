"""`file_calls.py PATH`: what the calls on the device as a file give, one a line: name, and the
result or the errno's name.
"""

import ctypes
import errno
import os
import select
import stat
import sys
from collections.abc import Callable
from functools import partial

FIONREAD = 0x541B
MAP_SHARED = 1
PROT_READ = 1


def main() -> None:
    """Make each call."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_ssize_t
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CLOEXEC)
    pipe = os.pipe()[1]
    number = ctypes.c_int()

    def call(function: Callable[..., int], *arguments: object) -> int:
        result = function(*arguments)
        if result == -1:
            raise OSError(ctypes.get_errno(), "")
        return result

    calls: dict[str, Callable[[], object]] = {
        "is a character device": lambda: stat.S_ISCHR(os.fstat(fd).st_mode),
        "FIONREAD": lambda: call(libc.ioctl, fd, FIONREAD, ctypes.byref(number)),
        "mmap": lambda: call(libc.mmap, None, 4096, PROT_READ, MAP_SHARED, fd, 0),
        "lseek": lambda: os.lseek(fd, 5, os.SEEK_SET),
        "read": lambda: os.read(fd, 8),
        "read of nothing": lambda: len(os.read(fd, 0)),
        "pread": lambda: os.pread(fd, 8, 5),
        "write": lambda: os.write(fd, b"text"),
        "splice": lambda: os.splice(fd, pipe, 8),
        "epoll_ctl": partial(select.epoll().register, fd),
        "ftruncate": partial(os.ftruncate, fd, 0),
        "fsync": partial(os.fsync, fd),
    }
    for name, made in calls.items():
        try:
            result = made()
            print(f"{name}: {0 if result is None else result}")
        except OSError as error:
            print(f"{name}: {errno.errorcode[error.errno or 0]}")


if __name__ == "__main__":
    main()
