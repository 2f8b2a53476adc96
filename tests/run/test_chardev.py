"""`iommud run --chardev`: who asks about an open file of ours is told of a character device; of all
other files, and by a path, what there is.
"""

import os
import subprocess
import sys

import pytest

from tests.support import AS_NOBODY, IOMMUD, PATIENCE

PRELUDE = """
import ctypes, errno, os, stat, struct
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open("/dev/iommu", os.O_RDWR)
def look(s): return stat.S_IFMT(s.st_mode), stat.S_IMODE(s.st_mode), os.major(s.st_rdev), os.minor(s.st_rdev), s.st_size
def statx(fd, path, flags, mask=0xFFF, place=None):
    room = ctypes.create_string_buffer(256)
    if libc.statx(fd, path, flags, mask, place if place is not None else room):
        return errno.errorcode[ctypes.get_errno()]
    (mode,), (size,) = struct.unpack_from("=H", room, 28), struct.unpack_from("=Q", room, 40)
    return stat.S_IFMT(mode), stat.S_IMODE(mode), *struct.unpack_from("=II", room, 128), size
def refused(call, *arguments):
    try: return call(*arguments)
    except OSError as e: return errno.errorcode[e.errno]
"""
DEVICE = (0o20000, 0o660, 10, 256, 0)
FILE = (0o100000, 0o660, 0, 0, 4096)


@pytest.fixture(params=["root", "nobody"])
def run(request: pytest.FixtureRequest) -> list[str]:
    if request.param == "nobody" and os.geteuid() != 0:
        pytest.skip("the other one is this already")
    return [*(AS_NOBODY if request.param == "nobody" else []), IOMMUD, "run"]


def said(run: list[str], program: str, *options: str) -> list[str]:
    command = [*run, *options, "--", sys.executable, "-c", PRELUDE + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.splitlines()


def test_each_call_tells_of_a_device(run: list[str]) -> None:
    program = """
print(look(os.fstat(fd)))
print(look(os.stat(fd)))
print(statx(fd, b"", 0x1000))
print(statx(fd, b"", 0x1000 | 0x4000, 0))
"""
    fstat, by_stat, statx, unsynced = said(run, program, "--chardev")
    assert fstat == by_stat == statx == str(DEVICE)
    assert unsynced.startswith("(8192, ")


def test_without_it_it_is_a_file(run: list[str]) -> None:
    assert said(run, "print(look(os.fstat(fd)))") == [str(FILE)]


def test_a_path_leads_to_a_file(run: list[str]) -> None:
    program = """
print(look(os.stat("/dev/iommu")))
print(statx(-100, b"/dev/iommu", 0))
print(statx(-100, b"/dev/iommu", 0x1000))
print(statx(fd, b"/dev/null", 0x1000)[:4])
"""
    assert said(run, program, "--chardev") == [*[str(FILE)] * 3, str((0o20000, 0o666, 1, 3))]


def test_each_door_has_its_number(run: list[str]) -> None:
    program = 'print(look(os.fstat(os.open("/dev/vfio/vfio", os.O_RDWR))))'
    assert said(run, program, "--chardev", "--vfio") == [str((0o20000, 0o666, 10, 196, 0))]


def test_other_files_are_what_they_are(run: list[str]) -> None:
    program = f"""
for path in "/dev/null", "/", {__file__!r}, "/proc/self/status":
    o = os.open(path, os.O_RDONLY)
    print(look(os.fstat(o)) == look(os.stat(path)) == statx(o, b"", 0x1000))
print(stat.S_ISFIFO(os.fstat(os.pipe()[0]).st_mode))
print(refused(os.fstat, 999), refused(os.fstat, -1), statx(999, b"", 0x1000))
"""
    assert said(run, program, "--chardev") == [*["True"] * 5, "EBADF EBADF EBADF"]


def test_errors_are_the_kernels(run: list[str]) -> None:
    """No room for the answer; flags that there are not."""
    program = """
print(statx(fd, b"", 0x1000, 0xFFF, ctypes.c_void_p(8)))
print(statx(fd, b"", 0x1000 | 0x6000))
print(statx(fd, b"", 0x1000, 0x80000000))
"""
    assert said(run, program, "--chardev") == ["EFAULT", "EINVAL", "EINVAL"]


def test_a_place_that_is_not_opened(run: list[str]) -> None:
    """By O_PATH; and the current directory (AT_FDCWD), which is none of ours."""
    program = """
print(look(os.fstat(os.open("/dev/iommu", os.O_PATH))))
print(statx(-100, b"", 0x1000)[0] == stat.S_IFMT(os.stat(".").st_mode))
"""
    assert said(run, program, "--chardev") == [str(DEVICE), "True"]


def test_it_needs_the_filter() -> None:
    done = subprocess.run(
        [IOMMUD, "run", "--no-watch", "--chardev", "true"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 125
    assert "--no-watch" in done.stderr
    within = [IOMMUD, "run", "--", IOMMUD, "run", "--chardev", "true"]
    done = subprocess.run(within, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 125
    assert done.stderr.startswith("iommud: --chardev takes a seccomp filter with a listener, and ")
