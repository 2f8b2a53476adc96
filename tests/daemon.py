"""An `iommud serve` for tests: the one way to start it, hear it, and take it away.

What else a test needs of it is in the test's folder: clients/daemon.py, broker/served.py,
hostile/server.py, serve/test_serve.py.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from cuse_glue.system import libc
from tests.family import Process, family, look
from tests.support import IOMMUD, PATIENCE, mounts_at, mounts_below, wait_for_input

SERVING = "iommud: serving "


class Daemon:
    """The process of the command, in a session of its own, and those that it makes."""

    def __init__(
        self,
        *arguments: str,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        stderr: int | IO[bytes] = subprocess.PIPE,
    ) -> None:
        """`iommud serve` with these arguments, started by way of `prefix`."""
        command = [*prefix, IOMMUD, "serve", *arguments]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stderr=stderr,
            env=os.environ | (environment or {}),
            start_new_session=True,
        )

    def first_line(self) -> str:
        """What it says first: that it serves, or why it does not."""
        assert self.process.stderr is not None
        wait_for_input(self.process.stderr.fileno(), "the daemon's first line")
        return self.process.stderr.readline().decode()

    def wait_serving(self) -> None:
        line = self.first_line()
        assert line.startswith(SERVING), line

    def family(self, name: str | None = None) -> list[Process]:
        """All of its processes, the one that was started first; or those of one name."""
        return [process for process in family(self.process.pid) if name in (None, process.name)]

    def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Ask it to end; its status, and what it said that was not read yet."""
        self.process.send_signal(number)
        said = self.process.communicate(timeout=PATIENCE)[1]
        return self.process.returncode, (said or b"").decode()

    def kill_all(self) -> None:
        """Kill all of its processes. AssertionError: it cannot be ended."""
        for process in self.family():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon cannot be ended: {look(self.process.pid)}") from None
        if self.process.stderr is not None:
            self.process.stderr.close()


def take_away(path: str | Path) -> None:
    """Remove what a killed daemon has left at `path`."""
    while mounts_at(str(path)):
        libc.umount(str(path), libc.MNT_DETACH)
    if not Path(path).is_dir():
        Path(path).unlink(missing_ok=True)


def take_away_below(directory: Path) -> None:
    """The same, of all that killed daemons have left mounted in a directory."""
    for point in mounts_below(directory):
        take_away(point)
