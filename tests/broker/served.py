"""An `iommud serve` in a test, its processes, and a client that does what it is told."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests import daemon
from tests.support import PATIENCE, wait_for_input

CLIENT: Final = str(Path(__file__).with_name("client.py"))


def until(what: Callable[[], bool]) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        os.sched_yield()


class Served(daemon.Daemon):
    """`iommud serve --fuse PATH`."""

    def __init__(self, path: str, *flags: str) -> None:
        self.path = path
        super().__init__("--fuse", path, *flags)
        self.wait_serving()

    def spares(self) -> list[int]:
        """Workers that wait for an open(2)."""
        return [process.pid for process in self.family("iommud-spare")]

    def busy_workers(self) -> set[int]:
        """Workers that have an open file."""
        return {process.pid for process in self.family("iommud-worker")}

    def close(self) -> None:
        self.kill_all()
        daemon.take_away(self.path)


class Client:
    """client.py: one line in, one line out."""

    def __init__(self, path: str, *prefix: str) -> None:
        command = [*prefix, sys.executable, CLIENT, path]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        wait_for_input(self.process.stdout.fileno(), "the client's answer")
        return self.process.stdout.readline().rstrip("\n")

    def ask(self, line: str) -> str:
        self.tell(line)
        return self.hear()

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
