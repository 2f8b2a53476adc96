"""An `iommud serve` that is attacked: how it starts, what it says, and how it ends."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

from tests.daemon import SERVING, Daemon, take_away, take_away_below
from tests.family import descriptors, wait_gone
from tests.support import mounts_below

KILLED_IN = 1.0  # seconds
STOPPED_IN = STARTED_IN = 2.0
MARGIN = 2.0  # times what a daemon takes that nobody attacks
HANGS = 8.0  # seconds after which one does not wait any longer
SMALL_PIPE = 4096
ATTACKER = 4242  # a user that need not be there
# how long a daemon that nobody attacks takes to end, at this moment; seconds
Usual = Callable[[signal.Signals], float]


def clear(path: Path) -> None:
    """Remove what a daemon that has ended left at `path`, and of devices and groups beside it."""
    take_away(path)
    take_away_below(path.parent / "vfio")


class Server(Daemon):
    """One that everybody may use. `unread`: nobody reads its stderr, which is a small pipe, once it
    serves.
    """

    def __init__(self, path: Path, *flags: str, unread: bool = False) -> None:
        self.path = path
        read, write = os.pipe2(os.O_CLOEXEC)
        if unread:
            fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, SMALL_PIPE)
        self._began = time.monotonic()
        super().__init__(*flags, "--fuse", str(path), "--mode", "0666", stderr=write)
        os.close(write)
        self._stderr = os.fdopen(read, "rb")
        self._unread = unread
        self.said: list[bytes] = []
        self._reader = threading.Thread(target=self._drain, daemon=True)

    def wait_until_serving(self, seconds: float = 60.0) -> float | None:
        """Wait until it serves. Returns how many seconds that took from its start; None: it does
        not serve in so many.
        """
        poll = select.poll()
        poll.register(self._stderr, select.POLLIN)
        if not poll.poll(max(0.0, self._began + seconds - time.monotonic()) * 1000):
            return None
        line = self._stderr.readline()
        took = time.monotonic() - self._began
        if not line.startswith(SERVING.encode()):
            self.said.append(line)
            return None
        if not self._unread:
            self._reader.start()
        for file in mounts_below(self.path.parent / "vfio"):
            os.chown(file, ATTACKER, -1)
        return took

    def _drain(self) -> None:
        for line in self._stderr:
            self.said.append(line)

    def kill(self, usual: Usual) -> list[str]:
        """SIGKILL to the first process alone; what is wrong a second later."""
        return self._end(signal.SIGKILL, KILLED_IN, usual)

    def terminate(self, usual: Usual) -> list[str]:
        """SIGTERM, as `systemctl stop` sends it; what is wrong two seconds later."""
        wrong = self._end(signal.SIGTERM, STOPPED_IN, usual)
        status = self.process.poll()
        if status not in (None, 0):
            wrong.append(f"the daemon's exit status after SIGTERM was {status}")
        return wrong

    def _end(self, number: signal.Signals, seconds: float, usual: Usual) -> list[str]:
        began = time.monotonic()
        before = self.family()
        self.process.send_signal(number)
        after = {process.pid: process for process in [*before, *self.family()]}
        left = wait_gone(list(after.values()), seconds)
        if left:  # on a machine that is too busy, a daemon that nobody attacks may be as late
            left = wait_gone(left, MARGIN * usual(number) - (time.monotonic() - began))
        self.process.poll()
        wrong = []
        took = time.monotonic() - began
        for process in left:
            held = [name for name in descriptors(process) if name.endswith(("/fuse", "/cuse"))]
            what = "the daemon" if process.pid == self.process.pid else process.name
            if process.pid == self.process.pid or process.state != "D":
                wrong.append(f"{took:.1f} s after {number.name} {what} is there, in state {process.state}")
            elif held:
                wrong.append(f"{took:.1f} s after {number.name} {what}, in state D, holds {held[0]}")
        return wrong

    def remove(self) -> None:
        """End it by force, once the attackers have ended."""
        self.kill_all()
        if self._reader.ident:
            self._reader.join(HANGS)
        self._stderr.close()
