"""One daemon under eight users, with and without kills; what it is like before and after."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.clients.build import build
from tests.daemon import take_away
from tests.family import Process, descriptors, family, wait_gone
from tests.hostile.server import HANGS, Server
from tests.soak.players import Outcome, Player

PLAYERS = 8
MOST_A_ROUND = 10_000  # calls
LEAST_A_ROUND = 500
KILL_EVERY = 4.0  # seconds, on average
# What is killed, with their weights. When three quarters of the calls are made, the first process
# of a daemon is not killed any more: so the daemon that is looked at in the end has served for a
# while.
VICTIMS = {"client": 6, "worker": 3, "daemon": 1}
LAST_STRETCH = 0.75
WORKER = "iommud-worker"
# seconds in which a client must end after its daemon was killed; one call may take 20
ENDS_IN = 60.0
AT_REST_IN = 30.0
ALIKE = 8  # looks in a row, 0.2 s apart, at a daemon that does nothing more
TOLD = 20  # times that a phase tells how far it is
GROWTH = 24 << 20  # bytes by which the memory of all the daemon's processes may grow


@dataclass(frozen=True)
class State:
    """A daemon without clients. Its processes by name, the first one's descriptors by what they
    are, and bytes of memory of all (PSS).
    """

    processes: Counter[str]
    descriptors: Counter[str]
    memory: int
    waiting: int

    def left(self, before: State) -> list[str]:
        """What it has that it did not have before."""
        found = [f"{count} processes {name}" for name, count in (self.processes - before.processes).items()]
        found += [f"{count} descriptors {name}" for name, count in (self.descriptors - before.descriptors).items()]
        if self.waiting:
            found.append(f"{self.waiting} requests")
        return found


def memory(processes: list[Process]) -> int:
    """Bytes of memory that the processes have; of shared memory each has its part (PSS)."""
    total = 0
    for process in processes:
        try:
            found = re.search(
                r"^Pss:\s*(\d+) kB", Path("/proc", str(process.pid), "smaps_rollup").read_text(), re.MULTILINE
            )
        except OSError:
            continue
        total += int(found[1]) << 10 if found else 0
    return total


class Phase:
    """One part of the whole: `calls` ioctls on one place."""

    def __init__(self, place: Path, connections: Path, mock: bool, calls: int, random: Random) -> None:
        self._path, self._connections = place / "iommu", connections
        self._flags = ("--mock",) if mock else ()
        self._calls, self._random = calls, random
        for name in ("fuzz", "fuzz_devices"):
            shutil.copy(build(name), place / name)
        a_round = min(MOST_A_ROUND, max(LEAST_A_ROUND, calls // PLAYERS // 8))
        self._players = [Player(number, place, self._path, mock, a_round, random) for number in range(PLAYERS)]
        self._killed: set[Player] = set()  # whose round ends because we ended it
        self._excused: set[Player] = set()  # whose daemon was killed
        self._excuses = 0  # workers that were killed; each excuses one client
        self._wrong: list[str] = []
        self._made = 0
        self._kills = Counter[str]()
        self._took = self._restarts = 0.0
        self._before: State | None = None
        self._after: State | None = None
        self._mounts = self._mount_count()

    @staticmethod
    def _mount_count() -> int:
        return len(Path("/proc/self/mountinfo").read_text().splitlines())

    def _serve(self) -> Server:
        began = time.monotonic()
        server = Server(self._path, *self._flags)
        if server.wait_until_serving() is None:
            raise AssertionError(f"no daemon could be started: {server.said}")
        self._restarts = max(self._restarts, time.monotonic() - began)
        return server

    def _state(self, server: Server) -> State:
        processes = server.family()
        first = next(process for process in processes if process.pid == server.process.pid)
        waiting = int((self._connections / str(os.minor(os.stat(self._path).st_dev)) / "waiting").read_text())
        names = Counter(process.name for process in processes)
        held = Counter(re.sub(r"\d+", "N", name) for name in descriptors(first))
        return State(names, held, memory(processes), waiting)

    def play(self) -> list[str]:
        """All rounds; what is wrong."""
        began = time.monotonic()
        told = 0
        server = self._serve()
        next_kill = began + self._random.expovariate(1 / KILL_EVERY)
        try:
            self._warm_up(server)
            for player in self._players:
                player.begin()
            while self._made < self._calls and len(self._wrong) < 20:
                self._wait_for_an_end(max(0.0, next_kill - time.monotonic()))
                self._gather(begin_again=True)
                if self._made >= told + self._calls // TOLD:
                    told = self._made
                    print(f"{told:,} ioctls after {time.monotonic() - began:.0f} s", flush=True)
                if server.process.poll() is not None:
                    self._wrong.append(f"the daemon ended with status {server.process.returncode}: {server.said}")
                    break
                if time.monotonic() >= next_kill:
                    next_kill = time.monotonic() + self._random.expovariate(1 / KILL_EVERY)
                    server = self._kill(server)
            self._end_all()
            self._compare(server)
            self._wrong += server.terminate(lambda _: HANGS)
        finally:
            for player in self._players:
                self._kill_player(player)
            server.remove()
            take_away(self._path)
        if (more := self._mount_count() - self._mounts) > 0:
            self._wrong.append(f"{more} mounts are left")
        self._took = time.monotonic() - began
        return [f"{'with' if self._flags else 'without'} mock devices: {what}" for what in self._wrong]

    def _warm_up(self, server: Server) -> None:
        """One round of each player but the first, undisturbed. Afterwards, what is allocated only
        once is there, and so is the state to compare with.
        """
        for player in self._players[1:]:  # the first one's rounds are long
            player.begin()
        while any(player.process for player in self._players):
            self._wait_for_an_end(AT_REST_IN)
            self._gather(begin_again=False)
        self._before = self._at_rest(server, None)

    def _at_rest(self, server: Server, before: State | None) -> State:
        """The state, when nothing is left that was not there before; or after AT_REST_IN seconds.

        Who closes a file for the last time does not wait until that is done. Looking is a request
        as well, and comes after the close.
        """
        end = time.monotonic() + AT_REST_IN
        state = self._state(server)
        alike = 0
        while time.monotonic() < end:
            last, state = state, self._state(server)
            alike = alike + 1 if (state.processes, state.descriptors) == (last.processes, last.descriptors) else 0
            if alike >= ALIKE and not (before and state.left(before)):
                break
            select.select([], [], [], 0.2)
        return state

    def _wait_for_an_end(self, seconds: float) -> None:
        poll = select.poll()
        fds = [os.pidfd_open(player.process.pid) for player in self._players if player.process]
        for fd in fds:
            poll.register(fd, select.POLLIN)
        poll.poll(seconds * 1000)
        for fd in fds:
            os.close(fd)

    def _gather(self, *, begin_again: bool) -> None:
        for player in self._players:
            if player.process and player.process.poll() is not None:
                self._judge(player, player.outcome(player in self._killed))
                self._killed.discard(player)
                if begin_again:
                    player.begin()

    def _judge(self, player: Player, outcome: Outcome) -> None:
        self._made += outcome.calls
        excused = player in self._excused
        self._excused.discard(player)
        if outcome.wrong is None or (excused and outcome.of_a_kill):
            return
        if outcome.of_a_kill and self._excuses:
            self._excuses -= 1
            return
        self._wrong.append(outcome.wrong)

    # --- kills ---

    def _kill(self, server: Server) -> Server:
        """Kill one process, of either side. Returns the daemon that serves then."""
        workers = [process for process in server.family() if process.name == WORKER]
        weights = dict(VICTIMS)
        if not workers:
            del weights["worker"]
        if self._made > LAST_STRETCH * self._calls:
            del weights["daemon"]
        (kind,) = self._random.choices(list(weights), list(weights.values()))
        self._kills[kind] += 1
        if kind == "client":
            self._kill_player(self._random.choice(self._players))
        elif kind == "worker":
            self._excuses += 1
            try:
                os.kill(self._random.choice(workers).pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        else:
            server = self._kill_daemon(server)
        return server

    def _kill_player(self, player: Player) -> None:
        if player.process:
            self._killed.add(player)
            try:
                os.killpg(player.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _kill_daemon(self, server: Server) -> Server:
        self._wrong += server.kill(lambda _: 2.0)
        self._excused |= {player for player in self._players if player.process}
        new = self._serve()
        if left := wait_gone(family(server.process.pid), HANGS):
            self._wrong.append(f"of a daemon that was killed there is left: {left}")
        server.remove()
        self._end_all()
        for player in self._players:
            player.begin()
        return new

    def _end_all(self) -> None:
        """Wait until all clients have ended: by themselves if their daemon was killed, or else at
        the end of their round.
        """
        end = time.monotonic() + ENDS_IN
        while any(player.process for player in self._players):
            if time.monotonic() > end:
                for player in self._players:
                    if player.process and player in self._excused:
                        self._wrong.append(f"a client of a daemon that was killed did not end in {ENDS_IN:.0f} s")
                    self._kill_player(player)
            self._wait_for_an_end(1.0)
            self._gather(begin_again=False)

    def _compare(self, server: Server) -> None:
        assert self._before
        self._after = self._at_rest(server, self._before)
        self._wrong += [f"there is left: {what}" for what in self._after.left(self._before)]
        if (grown := self._after.memory - self._before.memory) > GROWTH:
            self._wrong.append(f"the daemon's memory grew by {grown >> 20} MiB")

    def figures(self) -> str:
        """For the one who ran it."""
        kills = ", ".join(f"{count} {kind}s" for kind, count in sorted(self._kills.items()))
        lines = [
            f"{'with' if self._flags else 'without'} mock devices: {self._made:,} ioctls (without those of rounds that were killed)",
            f"  in {self._took:.0f} s, {self._made / self._took:.0f} a second; killed: {kills or 'nothing'}",
            f"  the longest start of a daemon {self._restarts:.2f} s",
        ]
        for name, state in (("before", self._before), ("after", self._after)):
            if state:
                processes = sum(state.processes.values())
                held = sum(state.descriptors.values())
                size = f"{state.memory / (1 << 20):.1f} MiB"
                lines.append(f"  {name}: {processes} processes, {held} descriptors, {size}, {state.waiting} requests")
        return "\n".join(lines)
