"""Clients' threads that cannot be stopped: they hold nobody up, and are set right when they
can be.
"""

import os
import re
import time
from pathlib import Path

import pytest
import trio

from cuse_glue.pins.true_pin import CLOSING, SHORT
from cuse_glue.tracing import ptrace

from .conftest import Client
from .test_true_pin import PAGES, World, status, world

pytestmark = [
    pytest.mark.usefixtures("root"),
    pytest.mark.skipif(ptrace.machine() is not ptrace.X86_64, reason="x86-64 only"),
]

HOPELESS = 6


class Stuck:
    """A client that waits in vfork, and whose child, which opens a FIFO before it executes a
    program, is traced by us.
    """

    def __init__(self, directory: Path) -> None:
        self.client = Client()
        self.fifo = directory / f"fifo-{self.client.pid}"
        os.mkfifo(self.fifo)

    async def begin(self) -> None:
        action = f"(os.POSIX_SPAWN_OPEN, 0, {str(self.fifo)!r}, os.O_RDONLY, 0)"
        self.client.do("exec('import os', globals())")
        self.client.tell(f"os.waitpid(os.posix_spawn('/bin/true', ['true'], {{}}, file_actions=[{action}]), 0)[1]")
        with trio.fail_after(20):
            found = None
            while found is None:
                await trio.lowlevel.checkpoint()
                found = self._child()
        self.tracee = ptrace.Tracee(found, ptrace.X86_64, self.client.caller().memory)

    def _child(self) -> int | None:
        path = Path(f"/proc/{self.client.pid}/task/{self.client.pid}/children")
        for pid in path.read_text().split():
            if re.search(r"\) S ", Path(f"/proc/{pid}/stat").read_text()) and ptrace.waiting_in(int(pid)) is not None:
                return int(pid)
        return None

    def go_on(self) -> None:
        """Let it go; return when it has."""
        self.tracee.interrupt()
        self.tracee.wait_stop()
        self.tracee.detach()
        os.close(os.open(self.fifo, os.O_WRONLY))
        assert self.client.answer() == 0


async def make(directory: Path, here: World, count: int) -> list[Stuck]:
    made = []
    for _ in range(count):
        stuck = Stuck(directory)
        here.source(stuck.client).pinned(PAGES, True)
        await here.settle()
        assert status(stuck.client.pid, "VmLck") == PAGES
        await stuck.begin()
        made.append(stuck)
    return made


async def test_it_is_right_before_the_client_can_look(tmp_path: Path) -> None:
    async with world() as here:
        (stuck,) = await make(tmp_path, here, 1)
        here.held[0].pinned(-PAGES, True)
        here.true_pins.settle_soon()
        await trio.sleep(2 * SHORT)  # nothing to wait for: that it does not happen
        assert (status(stuck.client.pid, "VmPin"), status(stuck.client.pid, "VmLck")) == (0, PAGES)
        with trio.fail_after(20):
            stuck.go_on()
            await here.true_pins.wait_until_idle()
        assert status(stuck.client.pid, "VmLck") == 0
        stuck.client.end()


async def test_a_device_that_goes_waits_for_all_of_them_together(tmp_path: Path) -> None:
    async with world() as here:
        several = await make(tmp_path, here, HOPELESS)
        well = Client()
        here.source(well).pinned(PAGES, True)
        await here.settle()
        for source in here.held:
            source.pinned(-PAGES, True)
        began = time.monotonic()
        here.true_pins.close()
        assert time.monotonic() - began < 2 * CLOSING
        assert status(well.pid, "VmLck") == 0
        for stuck in several:
            stuck.go_on()
            stuck.client.end()
        well.end()
