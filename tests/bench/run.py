#!/usr/bin/env python3
"""The benchmark: what an ioctl through iommud costs, beside a C server that only copies the struct both ways.

Two columns are always measured in the same run, in short batches that take turns, so that whatever the machine does
meanwhile hits both alike; a figure is the median of its batches, a ratio the ratio of the medians. One client in C
(client.c) does the work; this file starts the servers, tells the client what to do, and writes the table and
build/bench.json, a list of {"name", "unit", "iommud", "peer", "ratio"}. `peer` is the C server (peer.c), or, where the
number of standing areas grows, a second iommud that keeps the same number all the time; null where neither makes sense.

To add a row: a workload in client.c and a line in WORKLOADS, or a function that returns rows and a call of it in
`measure`. Speed is shown, not tested: the exit status is 0 whatever the figures, and 1 only when they could not be had.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import select
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "bench"

ALLOC_DESTROY = "IOAS_ALLOC+DESTROY"
WORKLOADS = {  # the name in the table: the name in client.c
    ALLOC_DESTROY: "alloc_destroy",
    "MAP+UNMAP 4 KiB, fixed IOVA": "map_fixed",
    "MAP+UNMAP 4 KiB, chosen IOVA": "map_chosen",
    "IOVA_RANGES": "iova_ranges",
}
ON_STANDING = {name: workload for name, workload in WORKLOADS.items() if workload.startswith("map_")}
# Unpinned, the scheduler keeps client and server together or apart for seconds at a time, as luck has it, which can put
# a factor of six between two servers that are the same. So both are measured on purpose as well.
UNPINNED, ONE_CORE, TWO_CORES = "unpinned", "one core", "two cores"
PLACEMENTS = [UNPINNED, ONE_CORE, TWO_CORES] if len(os.sched_getaffinity(0)) > 1 else [UNPINNED, ONE_CORE]
BYTES_PER_AREA = "memory of a standing area"


@dataclass(frozen=True)
class Effort:
    """How much to measure."""

    batches: int  # a column of a row
    repeat: int  # repetitions of the workload in a batch
    standing: tuple[int, ...]  # numbers of standing areas, ascending
    reference: int  # the one of them that the others are compared with


FULL = Effort(batches=60, repeat=200, standing=(1_000, 10_000, 100_000, 1_000_000), reference=10_000)
QUICK = Effort(batches=3, repeat=20, standing=(100, 200, 1_000, 2_000), reference=200)


class BenchError(Exception):
    """The figures cannot be had; the text says why, in a sentence."""


@dataclass(frozen=True)
class Row:
    """One line of the table; `unit` is that of `iommud` and `peer`."""

    name: str
    unit: str
    iommud: float
    peer: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.iommud / self.peer if self.peer else None

    def as_json(self) -> dict[str, str | float | None]:
        return {"name": self.name, "unit": self.unit, "iommud": self.iommud, "peer": self.peer, "ratio": self.ratio}


class Stop:
    """SIGINT and SIGTERM end the run through SystemExit, so that everything is cleaned up, and never twice.

    They wait while `held`: a process that was just made is not lost between its fork and its place in the ExitStack.
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
        # A process group of its own: ^C reaches this script only, which ends the client before the server.
        self._command = [*command, str(path)]
        self._log = path.with_suffix(".log")
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def wait_mounted(self, timeout: float = 30.0) -> None:
        """Wait `timeout` seconds at most until the file is served; the kernel tells of each change of the mounts."""
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

    def dirty(self) -> int:
        """Bytes of memory that nobody else shares and that were written to."""
        rollups = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.processes())
        lines = (line for rollup in rollups for line in rollup.splitlines())
        return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_Dirty:"))

    def stop(self) -> None:
        """End the server, and its mount even if it left that behind; show what it said if it did not end well."""
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
    """client.c: one process that has each server's file open, and does what it is asked."""

    def __init__(self, program: Path, servers: Sequence[Server]) -> None:
        command = [str(program), *(str(server.path) for server in servers)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, process_group=0
        )
        self.pid = self._process.pid

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
        self._process.kill()
        with suppress(subprocess.TimeoutExpired):  # held by a server that does not answer: ends with that server
            self._process.wait(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()


class Bench:
    """The servers and clients of one run, and what is measured with them."""

    def __init__(self, iommud: Sequence[str], effort: Effort, stop: Stop, stack: ExitStack) -> None:
        self.effort = effort
        self._stop = stop
        self._stack = stack
        places = stack.enter_context(tempfile.TemporaryDirectory(prefix="iommud-bench-"))
        self._places = Path(places).resolve()  # as in the table of mounts
        self._commands = {"iommud": [*iommud, "serve", "--fuse"], "peer": [str(build("peer", "fuse3"))]}
        self._client = build("client")

    def serve(self, kind: str, name: str) -> Server:
        with self._stop.held():
            place = self._places / name
            if kind == "peer":
                place.touch()  # iommud makes and removes its own
            server = Server(self._commands[kind], place)
            self._stack.callback(server.stop)
        server.wait_mounted()
        return server

    def client(self, *servers: Server) -> Client:
        with self._stop.held():
            client = Client(self._client, servers)
            self._stack.callback(client.stop)
        return client

    def place(self, placement: str, client: Client, *servers: Server) -> None:
        """Put the client and the servers where the `placement` of PLACEMENTS says."""
        cpus = sorted(os.sched_getaffinity(0))
        theirs = cpus if placement == UNPINNED else cpus[:1]
        ours = cpus[1:2] if placement == TWO_CORES else theirs
        pids = [(client.pid, ours), *((pid, theirs) for server in servers for pid in server.processes())]
        for pid, allowed in pids:
            for task in Path(f"/proc/{pid}/task").iterdir():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task.name), allowed)

    def compare(self, client: Client, workload: str) -> tuple[float, float]:
        """Median microseconds of one repetition on the client's targets 0 and 1, batches taking turns."""
        times: tuple[list[float], list[float]] = ([], [])
        for _ in range(self.effort.batches):
            for target in (0, 1):
                took = client.ask("batch", target, workload, self.effort.repeat)
                times[target].append(took / self.effort.repeat / 1000)
        return statistics.median(times[0]), statistics.median(times[1])

    def round_trips(self) -> Iterator[Row]:
        """Each workload on an empty IOAS beside the C server, in every placement."""
        iommud, peer = self.serve("iommud", "iommud"), self.serve("peer", "peer")
        client = self.client(iommud, peer)
        for placement in PLACEMENTS:
            self.place(placement, client, iommud, peer)
            for name, workload in WORKLOADS.items():
                yield Row(placed(name, placement), "us", *self.compare(client, workload))

    def standing(self) -> Iterator[Row]:
        """MAP+UNMAP while more and more areas stand, beside a second iommud where their number stays; on one core."""
        grows, stays = self.serve("iommud", "grows"), self.serve("iommud", "stays")
        client = self.client(grows, stays)
        self.place(ONE_CORE, client, grows, stays)
        client.ask("build", 1, self.effort.reference)
        client.ask("batch", 0, "map_fixed", self.effort.repeat)
        empty = grows.dirty()
        longest = 0
        for areas in self.effort.standing:
            longest = max(longest, client.ask("build", 0, areas))
            for name, workload in ON_STANDING.items():
                yield Row(with_standing(name, areas), "us", *self.compare(client, workload))
        areas = self.effort.standing[-1]
        yield Row(BYTES_PER_AREA, "bytes", (grows.dirty() - empty) / areas)
        yield Row(f"the longest MAP while {short(areas)} areas were built", "ms", longest / 1e6)


def build(program: str, *libraries: str) -> Path:
    """Compile tests/bench/`program`.c with pkg-config's `libraries` into build/bench."""
    out = ROOT / "build" / "bench" / program
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", *libraries], text=True) if libraries else ""
    compiler = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'include'}"]
    subprocess.run([*compiler, HERE / f"{program}.c", "-o", out, *shlex.split(flags)], check=True)
    return out


def need_packages() -> None:
    """Install what a build and a mount need, or say what is missing; fusermount3 is only for those who are not root."""
    packages = ["gcc", "libc6-dev", "pkg-config", "libfuse3-dev", *(["fuse3"] if os.geteuid() else [])]
    if subprocess.run([ROOT / "scripts" / "need", *packages], check=False).returncode:
        raise BenchError("packages are missing")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise BenchError("/dev/fuse cannot be opened here, and both servers need it")


def short(number: int) -> str:
    """1000 as 1k, 1000000 as 1M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number % size == 0:
            return f"{number // size}{letter}"
    return str(number)


def placed(name: str, placement: str) -> str:
    return f"{name}, {placement}"


def with_standing(name: str, areas: int) -> str:
    return f"{name}, {short(areas)} standing"


def show(row: Row) -> None:
    peer = "-" if row.peer is None else f"{row.peer:.1f}"
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    print(f"{row.name:52} {row.unit:>5} {row.iommud:>9.1f} {peer:>9} {ratio:>6}", flush=True)


def verdicts(rows: Sequence[Row], effort: Effort) -> Iterator[str]:
    """Whether the figures that this project set itself hold, a line each."""
    by_name = {row.name: row for row in rows}
    most = effort.standing[-1]
    grown = [by_name[with_standing(name, most)].ratio or 0.0 for name in ON_STANDING]
    size = f"{short(most)} areas standing"
    alloc_destroy = by_name[placed(ALLOC_DESTROY, ONE_CORE)].ratio or 0.0
    for what, value, limit in (
        (f"{ALLOC_DESTROY} on one core, times the C server's", alloc_destroy, 2.5),
        (f"MAP+UNMAP with {size}, times that with {short(effort.reference)}", max(grown), 1.5),
        (f"bytes a standing area, with {size}", by_name[BYTES_PER_AREA].iommud, 400),
    ):
        yield f"{what}: {value:.2f}, at most {limit}: {'holds' if value <= limit else 'DOES NOT HOLD'}"


def measure(iommud: Sequence[str], effort: Effort, stop: Stop) -> list[Row]:
    """Every row, shown as it comes."""
    rows = []
    for part in (Bench.round_trips, Bench.standing):
        with ExitStack() as stack:
            for row in part(Bench(iommud, effort, stop, stack)):
                show(row)
                rows.append(row)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure round trips through iommud beside a C server.")
    parser.add_argument("--quick", action="store_true", help="seconds instead of minutes; the figures mean little")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench.json", help="where the rows go as JSON")
    parser.add_argument("--iommud", default=str(ROOT / ".venv" / "bin" / "iommud"), help="the command iommud")
    args = parser.parse_args()
    effort = QUICK if args.quick else FULL
    stop = Stop()
    try:
        need_packages()
        cpus = len(os.sched_getaffinity(0))
        print(f"Linux {platform.release()}, {cpus} cores, Python {platform.python_version()}")
        print(f"{'':52} {'unit':>5} {'iommud':>9} {'peer':>9} {'ratio':>6}", flush=True)
        rows = measure(shlex.split(args.iommud), effort, stop)
    except (BenchError, OSError, subprocess.CalledProcessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps([row.as_json() for row in rows], indent=1) + "\n")
    print("peer: the C server; with areas standing, an iommud that keeps", short(effort.reference), "of them")
    for verdict in verdicts(rows, effort):
        print(verdict)
    return 0


if __name__ == "__main__":
    sys.exit(main())
