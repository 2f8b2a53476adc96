"""iommud in this process, with a device plugged into a client's context: what a test of an emulated
device stands on.

async with serving(directory) as served:
    async with client(served.path) as tell:      # a process that knows /dev/iommu only
        ioas_id = await tell("ioas_alloc()") device = NullDevice(served.contexts[0], PlainIommu())
        # plugged into the context behind the client's descriptor await attach(device.device,
        ioas_id)
"""

import ast
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from cuse_glue.fuse.session import Session
from cuse_glue.mounts.mount import mount_fuse, open_fuse, unmount
from cuse_glue.request.caller import Caller
from cuse_glue.request.open_file import OpenFile
from iommud.engine.device.context import Context
from iommud.engine.device.device import Device
from iommud.file.device_file import IommuDevice, IommuFile
from iommud.ops.locking import in_steps, locked

Tell = Callable[[str], Awaitable[Any]]


class Served(IommuDevice):
    """The device file at `path`, and the context of each open of it, in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.contexts: list[Context] = []

    def open(self, caller: Caller, flags: int) -> OpenFile:
        file = super().open(caller, flags)
        assert isinstance(file, IommuFile)
        self.contexts.append(file.context)
        return file


@asynccontextmanager
async def serving(directory: Path) -> AsyncIterator[Served]:
    """Serve a file in `directory`, as root. Afterwards nothing may be pinned, charged or owned."""
    path = directory / "iommu"
    path.touch()
    served = Served(path)
    fd = open_fuse()
    mount_fuse(fd, str(path), name="iommud-test", mode=0o600)
    session, ready = Session(fd, served), trio.Event()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.serve, ready.set)
            await ready.wait()
            yield served
            session.close()
    finally:
        unmount(str(path))
        served.shutdown()
    assert served.host.empty()


@asynccontextmanager
async def client(path: Path) -> AsyncIterator[Tell]:
    """A process that has the device open: `await tell(line)` has it evaluate a line of Python
    (client.py); its value.
    """
    process = subprocess.Popen(  # noqa: ASYNC220  # a millisecond, and pipes that a thread can wait on
        [sys.executable, Path(__file__).with_name("client.py"), path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(line: str) -> Any:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer.startswith("= "), f"{line}: {answer}"
        return ast.literal_eval(answer[2:])

    try:
        # its ioctls are served by this thread
        yield lambda line: trio.to_thread.run_sync(ask, line)
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(process.communicate)


async def attach(device: Device, ioas_id: int) -> int:
    """Attach a device while clients are served: the IOAS is locked, and others get their turn. The
    page table's ID.
    """
    async with locked(device.context.ioas(ioas_id)):
        return await in_steps(device.attach(ioas_id))
