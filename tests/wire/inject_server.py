"""A device whose ioctl gives descriptors: the other side of inject_client.c. Prints a line when it
serves, and what it saw at its end.

    python -m tests.wire.inject_server PATH [--mode MODE] [--uid UID] [--arm64-way]
    [--fill-waits-for FILE]

SIGTERM ends it. `--uid` gives up root after mounting. `--arm64-way`: as if the first argument of a
call could not be read at the stop. `--fill-waits-for`: a client that is in hand is kept there until
this FIFO ends.
"""

import argparse
import dataclasses
import errno
import json
import logging
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import trio

from cuse_glue.errors import IoctlError
from cuse_glue.fuse.node import Attributes
from cuse_glue.fuse.session import Session
from cuse_glue.mounts import mount
from cuse_glue.request.caller import Caller
from cuse_glue.request.open_file import OpenFile
from cuse_glue.tracing import ptrace
from cuse_glue.tracing.inject import Injector

# struct { u32 size, flags; s32 out_fd; u32 out_id; }: a new object, and a descriptor for it
CREATE = 0xAAAA
LIVE = 0xAAAB  # returns how many objects there are
IDENTITY = 0xAAAC  # on an object: its id


class Device:
    def __init__(self, machine: ptrace.Machine | None, fill_waits_for: str | None) -> None:
        self.fill_waits_for = fill_waits_for
        self.injector = Injector(machine)
        self.created = 0
        self.live = 0
        self.released_twice = 0

    def open(self, caller: Caller, flags: int) -> OpenFile:
        return self.injector.claim(caller) or Main(self)


class File:
    """What all files have in common: they do nothing."""

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        return -errno.ENOTTY

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        raise OSError(errno.EINVAL, "nothing to read")

    async def write(self, caller: Caller, offset: int, data: bytes, nonblocking: bool) -> int:
        raise OSError(errno.EINVAL, "nowhere to write to")

    def poll(self, wake: Callable[[], None] | None) -> int:
        return select.POLLERR

    def release(self) -> None:
        pass


class Main(File):
    def __init__(self, device: Device) -> None:
        self._device = device

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        if cmd == CREATE:
            return await self._create(caller, arg)
        if cmd == LIVE:
            return self._device.live
        return -errno.ENOTTY

    async def _create(self, caller: Caller, arg: int) -> int:
        head = caller.memory.read(arg, 8)
        if len(head) < 8:
            return -errno.EFAULT
        flags = int.from_bytes(head[4:], "little")
        thing = Object(self._device)

        def fill(number: int) -> bytes:
            if self._device.fill_waits_for is not None:
                Path(self._device.fill_waits_for).read_bytes()
            return number.to_bytes(4, "little") + thing.identity.to_bytes(4, "little")

        try:
            await self._device.injector.give(
                caller, thing, flags=flags, address=arg + 8, fill=fill, no_room=errno.ENOMEM
            )
        except IoctlError as refusal:
            print(f"why: {errno.errorcode[refusal.errno]}: {refusal.why}", flush=True)
            return -refusal.errno
        return 0


class Object(File):
    """Reads give back what was written last; readable when there is something."""

    def __init__(self, device: Device) -> None:
        device.created += 1
        device.live += 1
        self.identity = device.created
        self._device = device
        self._data = b""
        self._released = False

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        return self.identity if cmd == IDENTITY else -errno.ENOTTY

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        data, self._data = self._data[:size], self._data[size:]
        return data

    async def write(self, caller: Caller, offset: int, data: bytes, nonblocking: bool) -> int:
        self._data = data
        return len(data)

    def poll(self, wake: Callable[[], None] | None) -> int:
        return select.POLLOUT | (select.POLLIN if self._data else 0)

    def release(self) -> None:
        self._device.released_twice += self._released
        self._released = True
        self._device.live -= 1


async def serve(session: Session) -> None:
    async def stop() -> None:
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                session.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop)
        await session.serve(lambda: print("ready", flush=True))
        nursery.cancel_scope.cancel()


def main() -> None:
    logging.basicConfig()
    import faulthandler

    faulthandler.register(signal.SIGUSR1, all_threads=True)
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--uid", type=int)
    parser.add_argument("--mode", type=lambda text: int(text, 8), default=0o666)
    parser.add_argument("--arm64-way", action="store_true")
    parser.add_argument("--fill-waits-for")
    wish = parser.parse_args()
    machine = ptrace.machine()
    assert machine is not None
    if wish.arm64_way:
        machine = dataclasses.replace(machine, first_argument=None)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    fuse = mount.open_fuse()
    mount.mount_fuse(fuse, wish.path, name="inject", mode=wish.mode)
    if wish.uid is not None:
        os.setresuid(wish.uid, wish.uid, wish.uid)
    before = len(os.listdir("/proc/self/fd"))
    device = Device(machine, wish.fill_waits_for)
    session = Session(fuse, device, Attributes(mode=wish.mode))
    trio.run(serve, session)
    device.injector.close()
    json.dump(
        {
            "created": device.created,
            "live": device.live,
            "released_twice": device.released_twice,
            "unanswered": session.requests - session.replies,
            "kept": len(os.listdir("/proc/self/fd")) - before + 1,  # the session has closed its own
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main()
