"""What every part of the benchmark stands on: how much to measure, the rows and verdicts that come
of it, the servers and clients.
"""

from __future__ import annotations

import os
import shlex
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.bench.servers import Client, Server, Stop

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "tests" / "bench"
DEVICE = Path("/dev/iommu")
VFIO_DEVICE = Path("/dev/vfio/devices/vfio0")

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
PRIVATE, SHARED = KINDS = "private", "shared"  # memory that only its process has, and a memfd's

# Unpinned, the scheduler keeps client and server together or apart for seconds at a time, as luck
# has it, which can put a factor of six between two servers that are the same. So both are measured
# on purpose as well.
UNPINNED, ONE_CORE, TWO_CORES = "unpinned", "one core", "two cores"
PLACEMENTS = [UNPINNED, ONE_CORE, TWO_CORES] if len(os.sched_getaffinity(0)) > 1 else [UNPINNED, ONE_CORE]


@dataclass(frozen=True)
class Effort:
    """How much to measure. Sizes are in bytes; numbers and sizes ascend."""

    batches: int  # a column of a row
    repeat: int  # repetitions of the workload in a batch
    standing: tuple[int, ...]  # numbers of standing areas
    reference: int  # the one of them that the others are compared with
    maps: tuple[int, ...]  # mapped for a device; the first is what the others are compared with
    copies: tuple[int, ...]  # copied by the engine
    ioctls: tuple[int, ...]  # copied by one ACCESS_RW, 16 MiB at most
    tracked: int  # mapped in a page table with dirty tracking
    entries: int  # of one HWPT_INVALIDATE
    filled: int  # areas in a page table that is filled


FULL = Effort(
    batches=60,
    repeat=200,
    standing=(1_000, 10_000, 100_000, 1_000_000),
    reference=10_000,
    maps=(4 * KIB, 64 * MIB, GIB),
    copies=(4 * KIB, MIB, 64 * MIB),
    ioctls=(4 * KIB, MIB, 16 * MIB),
    tracked=64 * GIB,
    entries=4096,
    filled=10_000,
)
QUICK = Effort(
    batches=3,
    repeat=20,
    standing=(100, 200, 1_000, 2_000),
    reference=200,
    maps=(4 * KIB, MIB, 8 * MIB),
    copies=(4 * KIB, 64 * KIB, MIB),
    ioctls=(4 * KIB, 64 * KIB, MIB),
    tracked=128 * MIB,
    entries=64,
    filled=100,
)


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


@dataclass(frozen=True)
class Verdict:
    """A figure that this project set itself, and what came out."""

    what: str
    value: float
    limit: float
    at_least: bool = False  # else at most

    def __str__(self) -> str:
        holds = self.value >= self.limit if self.at_least else self.value <= self.limit
        bound = "at least" if self.at_least else "at most"
        return f"{self.what}: {self.value:.2f}, {bound} {self.limit}: {'holds' if holds else 'DOES NOT HOLD'}"


def in_turns(batches: int, *measured: Callable[[], float]) -> tuple[float, ...]:
    """The median of `batches` calls of each, taking turns."""
    figures: list[list[float]] = [[] for _ in measured]
    for _ in range(batches):
        for figure, measure in zip(figures, measured, strict=True):
            figure.append(measure())
    return tuple(map(statistics.median, figures))


class Bench:
    """The servers and clients of one part of the run; what `stack` ends, they end with."""

    def __init__(self, iommud: Sequence[str], effort: Effort, stop: Stop, stack: ExitStack) -> None:
        self.effort = effort
        self.stack = stack
        self._stop = stop
        places = stack.enter_context(tempfile.TemporaryDirectory(prefix="iommud-bench-"))
        self._places = Path(places).resolve()  # as in the table of mounts
        self._iommud = iommud

    def serve(self) -> Server:
        """An `iommud serve`."""
        return self._server([*self._iommud, "serve", "--fuse"], self._places / "serve")

    def peer(self, program: str = "peer") -> Server:
        """The C server `program`.c."""
        place = self._places / program
        place.touch()  # iommud makes and removes its own
        return self._server([str(build(program, "fuse3"))], place)

    def _server(self, command: Sequence[str], place: Path) -> Server:
        with self._stop.held():
            server = Server(command, place)
            self.stack.callback(server.stop)
        server.wait_mounted()
        return server

    def run(
        self,
        program: str,
        *servers: Server,
        mock: bool = False,
        device: str | None = None,
        more: Sequence[Path] = (),
    ) -> Client:
        """`program`.c as `iommud run` starts it: it opens /dev/iommu (with `mock`, one that has
        mock devices), VFIO's file of a `device`, the servers' files, and `more`.
        """
        options = [*(["--mock"] if mock else []), *(["--device", device] if device else [])]
        files = [DEVICE, *([VFIO_DEVICE] if device else []), *(server.path for server in servers), *more]
        return self._client(program, files, [*self._iommud, "run", *options, "--"])

    def alone(self, program: str) -> Client:
        """`program`.c, which opens nothing."""
        return self._client(program, [], [])

    def device(self, device: str, command: Sequence[str]) -> list[str]:
        """The command that runs another command with a device."""
        return [*self._iommud, "run", "--device", device, "--", *command]

    def directory(self, name: str) -> Path:
        """A new one, which goes in the end."""
        (self._places / name).mkdir()
        return self._places / name

    def _client(self, program: str, files: Sequence[Path], prefix: Sequence[str]) -> Client:
        built = build(program)
        with self._stop.held():
            client = Client(built, files, prefix)
            self.stack.callback(client.stop)
        return client

    def place(self, placement: str, client: Client, *servers: Server) -> None:
        """Put the client where the `placement` of PLACEMENTS says, and the servers, and what
        `iommud run` has beside it.
        """
        cpus = sorted(os.sched_getaffinity(0))
        theirs = cpus if placement == UNPINNED else cpus[:1]
        ours = cpus[1:2] if placement == TWO_CORES else theirs
        daemons = [*client.daemons(), *(pid for server in servers for pid in server.processes())]
        for pid, allowed in [(client.pid, ours), *((pid, theirs) for pid in daemons)]:
            with suppress(FileNotFoundError, ProcessLookupError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    os.sched_setaffinity(int(task.name), allowed)


def build(program: str, *libraries: str) -> Path:
    """Compile tests/bench/`program`.c with pkg-config's `libraries` into build/bench."""
    out = ROOT / "build" / "bench" / program
    out.parent.mkdir(parents=True, exist_ok=True)
    flags = subprocess.check_output(["pkg-config", "--cflags", "--libs", *libraries], text=True) if libraries else ""
    compiler = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'include'}"]
    subprocess.run([*compiler, HERE / f"{program}.c", "-o", out, *shlex.split(flags)], check=True)
    return out


def short(number: int) -> str:
    """1000 as 1k, 1000000 as 1M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if number % size == 0:
            return f"{number // size}{letter}"
    return str(number)


def size(number: int) -> str:
    """Bytes for people: 4096 as 4 KiB."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if number % unit == 0:
            return f"{number // unit} {name}"
    return f"{number} B"
