"""The processes of a benchmark: servers that mount a file, clients that do as they are told, and
how none is left behind.
"""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType


class BenchError(Exception):
    """The figures cannot be had; the text says why, in a sentence."""


class Stop:
    """SIGINT and SIGTERM end the run through SystemExit, so that everything is cleaned up, and
    never twice.

    They wait while `held`: a process that was just made is not lost between its fork and its place
    in the ExitStack.
    """

    def __init__(self) -> None:
        self._held = False
        self._wanted = 0
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._on_signal)

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        self._wanted = self._wanted or signum
        if not self._held:
            self._held = True  # for good: cleaning up is not interrupted
            raise SystemExit(128 + self._wanted)

    @contextmanager
    def held(self) -> Iterator[None]:
        self._held = True
        yield
        self._held = False
        if self._wanted:
            self._on_signal(self._wanted, None)


class Server:
    """A process that serves `path` as a device, from its mount to its end."""

    def __init__(self, command: Sequence[str], path: Path) -> None:
        self.path = path
        # A process group of its own: ^C reaches this script only, which ends the client before the
        # server.
        self._command = [*command, str(path)]
        self._log = path.with_suffix(".log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def wait_mounted(self, timeout: float = 30.0) -> None:
        """Wait `timeout` seconds at most until the file is served; the kernel tells of each change
        of the mounts.
        """
        ended = os.pidfd_open(self._process.pid)
        try:
            with Path("/proc/self/mountinfo").open() as mounts:
                poll = select.poll()
                poll.register(ended, select.POLLIN)
                poll.register(mounts, select.POLLPRI)
                while not self._mounted(mounts.read()):
                    events = poll.poll(timeout * 1000)
                    if not events or ended in dict(events):
                        how = "ended" if events else f"did not mount it in {timeout} s"
                        raise BenchError(f"{shlex.join(self._command)} {how}")
                    mounts.seek(0)
        finally:
            os.close(ended)

    def _mounted(self, mountinfo: str) -> bool:
        return any(line.split()[4] == str(self.path) for line in mountinfo.splitlines())

    def processes(self) -> list[int]:
        """The server's process and its descendants."""
        found = [self._process.pid]
        for pid in found:  # grows meanwhile
            with suppress(FileNotFoundError, ProcessLookupError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += map(int, children.read_text().split())
        return found

    def stop(self) -> None:
        """End the server, and its mount even if it left that behind; show what it said if it did
        not end well.
        """
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            print(f"bench: {self.path.name} ignored SIGTERM for 30 s", file=sys.stderr)
            self._process.kill()
            self._process.wait()
        if self._process.returncode:
            print(f"bench: {self.path.name}, exit status {self._process.returncode}, said:", file=sys.stderr)
            print(self._log.read_text(), end="", file=sys.stderr)
        if self._mounted(Path("/proc/self/mountinfo").read_text()):
            print(f"bench: {self.path.name} left its mount behind", file=sys.stderr)
            unmount = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-u", "-z"]
            subprocess.run([*unmount, str(self.path)], check=False)


class Client:
    """client.c: one process that has each of `files` open, and does what it is asked. `prefix`:
    what its command begins with.
    """

    def __init__(self, program: Path, files: Sequence[Path], prefix: Sequence[str] = ()) -> None:
        self._mark = f"IOMMUD_BENCH={uuid.uuid4()}"
        command = [*prefix, str(program), *map(str, files)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            process_group=0,
            env=os.environ | dict([self._mark.split("=")]),
        )
        self.pid = self._process.pid

    def daemons(self) -> list[int]:
        """The processes of the `iommud run` that it was started by."""
        found = []
        for environ in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                if self._mark.encode() in environ.read_bytes().split(b"\0") and int(environ.parent.name) != self.pid:
                    found.append(int(environ.parent.name))
        return found

    def dirty(self) -> int:
        """Bytes of memory that they do not share and that were written to."""
        return dirty(self.daemons())

    def ask(self, *words: str | int) -> int:
        """One command of client.c; nanoseconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(" ".join(map(str, words)) + "\n")
        answer = self._process.stdout.readline()
        if not answer:
            raise BenchError(f"the client ended at {words}")
        return int(answer)

    def stop(self) -> None:
        daemons = self.daemons()
        self._process.kill()
        # held by a server that does not answer: ends with that server
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        for pid in daemons:  # they end by themselves
            with suppress(ProcessLookupError):
                ended = os.pidfd_open(pid)
                poll = select.poll()
                poll.register(ended, select.POLLIN)
                if not poll.poll(10_000):
                    print(f"bench: process {pid} of iommud run outlived its program by 10 s", file=sys.stderr)
                os.close(ended)


def dirty(pids: Sequence[int]) -> int:
    """Bytes of memory that none of the processes shares and that were written to."""
    rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids)
    lines = (line for rollup in rollups for line in rollup.splitlines())
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty:"))
