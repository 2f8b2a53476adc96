"""`rig.py MANNER PROGRAM [ARGUMENT...]`: runs a program beside a device of ours, whose registers it
can map, and says afterwards what became of both, in JSON.

The program is given the path of the device's file as its first argument. Works for every user: file
and mount are in a namespace of their own.

MANNER is `plain`; `late`: no thread's stop is waited for, each is found by the task that looks now
and then; `hasty`: whatever the tracer waits for the kernel for, is taken for too long.
"""

import errno
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import mkstemp
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import trio

from cuse_glue.fuse.node import Attributes
from cuse_glue.fuse.session import Session
from cuse_glue.mmio import impatience, tracer
from cuse_glue.mounts import mount, namespace
from cuse_glue.request.caller import Caller
from cuse_glue.request.mapped import Show, Toucher
from cuse_glue.request.open_file import OpenFile
from cuse_glue.system import libc

SIZE = 0x1_0000  # bytes of the file
COUNTERS = 0x8000  # what is stored here or beyond is added up, what is loaded counts loads
NOTHING = 0xF000  # here and beyond there is nothing
LOGGED = 4000  # accesses that are told one by one


class Registers:
    """The device (cuse_glue.mmio.device.Device)."""

    def __init__(self) -> None:
        self.memory = bytearray(SIZE)
        self.log: list[tuple[str, int, int, int]] = []
        self.counts: Counter[str] = Counter()
        self.sums: Counter[int] = Counter()

    def load(self, offset: int, size: int) -> int:
        self._check(offset, size)
        self.counts["load"] += 1
        if offset < COUNTERS:
            value = int.from_bytes(self.memory[offset : offset + size], "little")
        else:
            self.counts[f"load {offset:#x}"] += 1
            value = self.counts[f"load {offset:#x}"]
        self._tell("load", offset, size, value)
        return value

    def store(self, offset: int, size: int, value: int) -> None:
        self._check(offset, size)
        self.counts["store"] += 1
        self.memory[offset : offset + size] = value.to_bytes(size, "little")
        if offset >= COUNTERS:
            self.sums[offset] += value
            self.counts[f"store {offset:#x}"] += 1
        self._tell("store", offset, size, value)

    def peek(self, offset: int, size: int) -> bytes | None:
        self.counts["peek"] += 1
        return bytes(self.memory[offset : offset + size]) if offset + size <= COUNTERS else None

    def _check(self, offset: int, size: int) -> None:
        if offset + size > NOTHING:
            raise OSError(errno.ENXIO, "there is nothing")

    def _tell(self, kind: str, offset: int, size: int, value: int) -> None:
        if len(self.log) < LOGGED:
            self.log.append((kind, offset, size, value))


class File:
    """One open of it. What is read is the device's memory."""

    def __init__(self, device: Registers) -> None:
        self._device = device

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        return -errno.ENOTTY

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        return bytes(self._device.memory[offset : offset + size])

    async def write(self, caller: Caller, offset: int, data: bytes, nonblocking: bool) -> int:
        return len(data)

    def poll(self, wake: Callable[[], None] | None) -> int:
        return 0

    def release(self) -> None:
        pass


class Door:
    """Who opens it, and what is mapped of it."""

    def __init__(self, device: Registers, own: tracer.Tracer) -> None:
        self._device, self._tracer = device, own

    def open(self, caller: Caller, flags: int) -> OpenFile:
        return File(self._device)

    def begin(self, show: Show) -> None:
        pass

    def page_in(self, file: OpenFile, toucher: Toucher, offset: int, size: int) -> bytes:
        return self._tracer.trap(toucher, offset, size, self._device)

    def page_out(self, offset: int, data: bytes) -> None:
        self._device.counts["page out"] += 1
        self._tracer.page_out(None, offset, data)


def descriptor(number: str) -> str:
    """What an open descriptor is of."""
    try:
        return os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        return ""  # the listing's own


def serve(fd: int, say: int) -> None:
    """Until the mount is gone."""
    device, why = Registers(), list[str]()
    own = tracer.Tracer(why.append)
    door = Door(device, own)
    attributes = Attributes(0o600, os.geteuid(), os.getegid(), size=SIZE, has_positions=True)
    session = Session(fd, door, attributes, mapped=door)

    def ready() -> None:
        os.write(say, b"\n")

    trio.run(session.serve, ready)
    own.close()
    told: dict[str, Any] = {"log": device.log, "counts": device.counts, "sums": device.sums, "why": why}
    told["memory"] = device.memory[:COUNTERS].hex()
    told["accesses"] = own.accesses
    told["unanswered"] = session.requests - session.replies
    told["left"] = [name for name in map(descriptor, os.listdir("/proc/self/fd")) if name.startswith("/proc/")]
    told["left"] += Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    with os.fdopen(say, "w", encoding="utf-8") as out:
        json.dump(told, out)


def main() -> None:
    manner, program, *arguments = sys.argv[1:]
    if manner == "late":
        tracer.LOOKS, tracer.AT_ONCE = -1, -1.0  # type: ignore[misc]
    elif manner == "hasty":
        impatience.LONG = 0.0  # type: ignore[misc]
    namespace.enter()
    handle, path = mkstemp(prefix="iommud-test-")
    os.close(handle)
    fd = mount.open_fuse()
    mount.mount_fuse(fd, path, name="iommud", mode=0o600)
    hear, say = os.pipe()
    child = os.fork()
    if not child:
        os.close(hear)
        serve(fd, say)
        os._exit(0)
    os.close(fd)
    os.close(say)
    assert os.read(hear, 1) == b"\n", "the device did not come"
    assert os.stat(path).st_size == SIZE
    done = subprocess.run([program, path, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    libc.umount(path, libc.MNT_DETACH)
    os.unlink(path)
    with os.fdopen(hear, encoding="utf-8") as told:
        device = json.load(told)
    os.waitpid(child, 0)
    print(json.dumps({"output": done.stdout, "code": done.returncode, "device": device}))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    main()
