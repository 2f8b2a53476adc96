"""An attack, from its beginning to its end, and all that is wrong with how the daemon bore it."""

from __future__ import annotations

import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.family import wait_gone
from tests.hostile.attacker import CONTROL, HERE, INNOCENT, Attacker, build, make_nodes
from tests.hostile.attacks import Attack
from tests.hostile.judge import LIMIT, Report, held_up, parse, usual_delay
from tests.hostile.log import faults_of_log
from tests.hostile.server import HANGS, MARGIN, STARTED_IN, Server, clear

# Seconds that an attack may take to get under way, also on a machine that stops for a while. If
# that is the daemon's doing, its other client sees it.
READY_IN = 20.0
KNOCKED_IN = 3.0
REFUSED_IN = 15.0  # seconds in which an attacker that takes all it can get must be refused
UNLIMITED = "1000000"


@dataclass
class Result:
    """What came of one attack. Seconds."""

    attack: Attack
    longest: float = 0.0  # of the innocent client's calls
    held_up: float = 0.0  # of that, what was the daemon's doing
    machine: float = 0.0  # the longest of a client whose daemon nobody attacked
    tries: int = 0
    astray: int = 0
    killed: bool = False  # the daemon was gone in time
    serves: float | None = None  # a new one served after so long
    answers: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    beside: tuple[Attack, ...] = ()

    def __str__(self) -> str:
        return " + ".join(map(str, (self.attack, *self.beside)))


class Innocent:
    """An ordinary client, of another user than the attacker."""

    def __init__(self, place: Path, device: Path, user: int) -> None:
        self.process = subprocess.Popen(
            [str(place / "innocent"), str(device), UNLIMITED],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            user=user,
            group=user,
            extra_groups=[],
        )
        line = self._line()
        assert line == "ready\n", line

    def report(self) -> Report:
        """What it measured. Its process may not be able to end yet."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        lines = []
        while (line := self._line()) != "end\n":
            lines.append(line)
        return parse("".join(lines))

    def _line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "an innocent client ended"
        return line

    def end(self) -> None:
        self.process.kill()
        self.process.wait(HANGS)
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe:
                pipe.close()


class Stage:
    """Daemons that are attacked, one after the other, and one that never is."""

    def __init__(self, place: Path) -> None:
        """`place`: an empty directory that all may search."""
        self.place = place
        build(HERE / "innocent.c", place)
        make_nodes(place)
        self._path, self._calm_path = place / "iommu", place / "calm" / "iommu"
        self._server: Server | None = None
        self._stuck: list[Server] = []  # those that will end when the attackers have
        self._begun_for: Attack | None = None
        self._calm = Server(self._calm_path, "--mock")
        assert self._calm.wait_until_serving(), b"".join(self._calm.said)

    def close(self) -> None:
        for server in (self._server, self._calm):
            if server:
                server.remove()
                clear(server.path)

    def _usual_start(self) -> float:
        """How long a daemon takes to serve, at this moment, in a place that nobody knows;
        seconds.
        """
        server = Server(self.place / "unknown" / "iommu", "--mock")
        took = server.wait_until_serving()
        server.remove()
        clear(server.path)
        assert took is not None, b"".join(server.said)
        return took

    def _usual_end(self, number: signal.Signals) -> float:
        """How long such a daemon takes to end by this signal; seconds."""
        server = Server(self.place / "unknown" / "iommu", "--mock")
        server.wait_until_serving()
        began = time.monotonic()
        server.process.send_signal(number)
        wait_gone(server.family(), HANGS)
        took = time.monotonic() - began
        server.remove()
        clear(server.path)
        return took

    def _start(self, attack: Attack) -> Server:
        return Server(self._path, *attack.flags, unread=attack.unread)

    def server_for(self, attack: Attack) -> Server:
        """A daemon as this attack wants it; one that is there already, if it can be."""
        old = self._begun_for
        same = old and (old.flags, old.unread) == (attack.flags, attack.unread)
        if not (self._server and same and self._server.process.poll() is None):
            if self._server:
                self._server.remove()
                clear(self._path)
            self._server = self._start(attack)
            assert self._server.wait_until_serving(), b"".join(self._server.said)
            self._begun_for = attack
        return self._server

    @contextmanager
    def attackers(self, *attacks: Attack) -> Iterator[list[Attacker]]:
        """Attackers, until the block ends. All that hangs because of them ends with them."""
        begun: list[Attacker] = []
        try:
            for attack in attacks:
                begun.append(Attacker(attack, str(self._path), self.place))
            yield begun
        finally:
            for attacker in begun:
                attacker.end()
            # Those whose calls a daemon never answers end with it.
            if self._server and not all(attacker.has_ended(HANGS) for attacker in begun):
                self._server.remove()
            for attacker in begun:
                attacker.close()

    def run(self, attack: Attack, seconds: float, *beside: Attack, tries: int = 0, limit: float = LIMIT) -> Result:
        """The attack for so long, and those beside it; then the daemon is killed, and another one
        takes its place over.

        `tries`: go on until it was tried so often. `limit`: seconds that others may be held up.
        """
        result = Result(attack, beside=beside)
        server = self.server_for(attack)
        innocent = Innocent(self.place, self._path, INNOCENT)
        control = Innocent(self.place, self._calm_path, CONTROL)
        try:
            with self.attackers(attack, *beside) as (attacker, *others):
                if not all(each.wait_ready(READY_IN) for each in (attacker, *others)):
                    result.wrong.append("the attack was not under way in time")
                self._wait(seconds, tries, attacker, result)
                ours, theirs = innocent.report(), control.report()
                self._judge(result, ours, theirs, limit)
                result.answers = attacker.answers()
                result.tries, result.astray = attacker.counters.tries, attacker.counters.astray
                self._replace(server, attack, result)
            result.wrong += faults_of_log(server.said, attack, seconds)
        finally:
            server.remove()
            for stuck in self._stuck:
                stuck.remove()
                clear(self._path)
            self._stuck.clear()
            innocent.end()
            control.end()
        if result.astray:
            result.wrong.append(f"{result.astray} writes came into another program")
        if attack.refused and not result.answers.keys() & set(attack.refused):
            result.wrong.append(f"was given without an end what all need: {result.answers}")
        return result

    @staticmethod
    def _wait(seconds: float, tries: int, attacker: Attacker, result: Result) -> None:
        end = time.monotonic() + REFUSED_IN
        while True:
            try:
                attacker.process.wait(seconds)
            except subprocess.TimeoutExpired:
                refused = attacker.attack.refused
                tried = attacker.counters.tries >= tries
                if tried and (not refused or attacker.answers().keys() & set(refused) or time.monotonic() > end):
                    return
            else:
                result.wrong.append(f"the attacker ended: {attacker.said()}")
                return

    @staticmethod
    def _judge(result: Result, ours: Report, theirs: Report, limit: float) -> None:
        result.longest, result.machine = ours.longest_call, theirs.longest_call
        result.held_up = held_up(ours, theirs)
        if result.held_up > limit + usual_delay(theirs):
            worst = max(ours.longest, key=lambda kind: ours.longest[kind])
            result.wrong.append(f"another client was held up for {result.held_up:.2f} s, by {worst}")
        result.wrong += [f"another client was refused {what}" for what in ours.wrong]
        result.wrong += [f"the client of a daemon that nobody attacks was refused {what}" for what in theirs.wrong]

    def _replace(self, server: Server, attack: Attack, result: Result) -> None:
        wrong = server.kill(self._usual_end)
        result.killed = not wrong
        result.wrong += wrong
        self._server = None
        knocked = self._knock()
        if knocked not in ("ENOTCONN", "ECONNABORTED"):
            result.wrong.append(f"the place of the daemon that was killed gives {knocked}, not ENOTCONN")
        new = self._start(attack)
        result.serves = new.wait_until_serving(STARTED_IN)
        if result.serves is None:
            result.serves = new.wait_until_serving(STARTED_IN + MARGIN * self._usual_start())
        if result.serves is None:
            result.wrong.append(f"a new daemon did not serve in time: {new.said}")
            self._stuck.append(new)
            return
        self._server, self._begun_for = new, attack
        if (knocked := self._knock()) != "ok":
            result.wrong.append(f"the new daemon gives {knocked}")

    def _knock(self) -> str:
        """What one call of another client gives, within KNOCKED_IN."""
        process = subprocess.Popen(
            [str(self.place / "innocent"), str(self._path)],
            stdout=subprocess.PIPE,
            text=True,
            user=INNOCENT,
            group=INNOCENT,
        )
        assert process.stdout is not None
        poll = select.poll()
        poll.register(process.stdout, select.POLLIN)
        if not poll.poll(KNOCKED_IN * 1000):
            process.kill()
            return "nothing at all"
        with process:
            return process.stdout.read().strip()

    def terminate_under(self, *attacks: Attack) -> list[str]:
        """What is wrong with how a daemon ends on SIGTERM while all of these attacks are
        under way.
        """
        server = self.server_for(attacks[0])
        with self.attackers(*attacks) as attackers:
            # one time for all: an attacker that holds up other attackers harms nobody
            end = time.monotonic() + READY_IN
            under_way = [each for each in attackers if each.wait_ready(max(0.0, end - time.monotonic()))]
            wrong = server.terminate(self._usual_end)
            if len(under_way) < len(attackers) / 2:
                wrong.append(f"no more than {len(under_way)} of {len(attackers)} attacks were under way")
        server.remove()
        clear(self._path)
        self._server = None
        return wrong
