"""`make test`, but for the lint: all that this machine can run, in two lanes, for the processors
are two and most tests use one.

What changes the whole machine (the number of its huge pages) is in the first lane. All other
folders stand in a row, the longest first, and each lane takes the next one when it has nothing else
to do. What measures how long others have to wait comes last, when nothing else runs. The output of
each step is shown when the step has ended.

Exit status 1: something failed.
"""

import os
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from tests.support import ROOT

NOT_HERE = 77  # exit status of what has to be fetched, and has said why it cannot be had
PYTEST = (sys.executable, "-m", "pytest", "-q")
CLIENTS = (sys.executable, "-m", "tests.real_clients", "--brief")
SELFTEST = (sys.executable, str(ROOT / "tests" / "kernel_selftest" / "run.py"))
FIRST_LANE = ("tests/clients", "tests/wire", "tests/mmio")
LONG = ("tests/vm", "tests/packaging", "tests/run", "tests/engine", "tests/serve", "tests/broker", "tests/cli")
LAST = ("tests/hostile", "tests/clients/test_stress.py")


@dataclass(frozen=True)
class Step:
    """One command. `fine`: exit statuses beside 0 that are no failure."""

    command: tuple[str, ...]
    fine: tuple[int, ...] = ()


def folders() -> list[str]:
    """The folders with tests, by name."""
    found = {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")}
    return sorted({"/".join(name.split("/")[:2]) for name in found})


def lanes() -> tuple[list[Step], list[Step], list[Step]]:
    """What is for the first lane, what is for any, and what comes last."""
    ignored = tuple(f"--ignore={name}" for name in LAST)
    others = [name for name in folders() if name not in (*FIRST_LANE, *LAST)]
    others.sort(key=lambda name: LONG.index(name) if name in LONG else len(LONG))
    first = [
        Step(SELFTEST, (NOT_HERE,)),
        Step((*SELFTEST, "--pin=watch"), (NOT_HERE,)),
        Step(CLIENTS, (NOT_HERE,)),
        Step((*PYTEST, *FIRST_LANE, *ignored)),
    ]
    return first, [Step((*PYTEST, name)) for name in others], [Step((*PYTEST, *LAST))]


class Lane:
    """Its own steps, one after the other, and then those that are left of a row for any lane."""

    _speaks = threading.Lock()

    def __init__(self, name: str, own: list[Step], row: deque[Step], room: Path) -> None:
        self._name, self._own, self._row = name, deque(own), row
        room.mkdir()
        # pytest closes the directory of all that it keeps to others whenever it starts, also to the
        # other lane's nobody.
        self._environment = {**os.environ, "PYTEST_DEBUG_TEMPROOT": str(room)}
        self.failed: list[str] = []

    def run(self) -> None:
        for steps in self._own, self._row:
            while True:
                try:
                    step = steps.popleft()
                except IndexError:
                    break
                self._take(step)

    def _take(self, step: Step) -> None:
        began = time.monotonic()
        words = " ".join(step.command[1:])
        with TemporaryFile() as output:
            done = subprocess.run(
                step.command, cwd=ROOT, env=self._environment, stdout=output, stderr=output, check=False
            )
            output.seek(0)
            with self._speaks:
                print(f"--- {self._name}: {words}", flush=True)
                sys.stdout.buffer.write(output.read())
                print(f"--- {time.monotonic() - began:.0f} s, status {done.returncode}", flush=True)
        if done.returncode and done.returncode not in step.fine:
            self.failed.append(words)


def main() -> int:
    first, row, last = lanes()
    with TemporaryDirectory(prefix="iommud-lanes-") as name:
        Path(name).chmod(0o755)
        others = deque(row)
        both = [
            Lane("first lane", first, others, Path(name) / "1"),
            Lane("second lane", [], others, Path(name) / "2"),
        ]
        threads = [threading.Thread(target=lane.run) for lane in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        alone = Lane("alone", last, deque(), Path(name) / "3")
        alone.run()
        failed = [what for lane in (*both, alone) for what in lane.failed]
    for what in failed:
        print(f"failed: {what}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
