"""`make test`, but for the lint: all that this machine can run, in two lanes, for the processors
are two and most tests use one.

What changes the whole machine (the number of its huge pages) is in one lane. What measures how long
others have to wait comes last, when nothing else runs. Of the second lane, and of what fails, the
output is shown when it has ended.

Exit status 1: something failed.
"""

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from tests.support import ROOT

NOT_HERE = 77  # exit status of what has to be fetched, and has said why it cannot be had
NO_TESTS = 5  # pytest's
PYTEST = (sys.executable, "-m", "pytest", "-q")
CLIENTS = (sys.executable, "-m", "tests.real_clients")
SELFTEST = (sys.executable, str(ROOT / "tests" / "kernel_selftest" / "run.py"))
LAST = ("tests/hostile", "tests/clients/test_stress.py")
FIRST_LANE = ("tests/clients", "tests/wire", "tests/mmio")


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
    """First lane, second lane, and what comes last."""
    ignored = tuple(f"--ignore={name}" for name in LAST)
    others = tuple(name for name in folders() if name not in (*FIRST_LANE, *LAST))
    first = [
        Step(SELFTEST, (NOT_HERE,)),
        Step((*SELFTEST, "--pin=watch"), (NOT_HERE,)),
        Step(CLIENTS, (NOT_HERE,)),
        Step((*PYTEST, *FIRST_LANE, *ignored)),
    ]
    return first, [Step((*PYTEST, *others))], [Step((*PYTEST, *LAST))]


class Lane:
    """Steps, one after the other. `output`: where what they print goes; None: it is shown."""

    def __init__(self, name: str, steps: list[Step], room: Path, output: IO[bytes] | None = None) -> None:
        self._name, self._steps, self._output = name, steps, output
        room.mkdir()
        # pytest closes the directory of all that it keeps to others whenever it starts, also to the
        # other lane's nobody.
        self._environment = {**os.environ, "PYTEST_DEBUG_TEMPROOT": str(room)}
        self.failed: list[str] = []

    def run(self) -> None:
        for step in self._steps:
            began = time.monotonic()
            done = subprocess.run(
                step.command, cwd=ROOT, env=self._environment, stdout=self._output, stderr=self._output, check=False
            )
            words = " ".join(step.command[1:])
            print(f"{self._name}: {words}: {time.monotonic() - began:.0f} s, status {done.returncode}", flush=True)
            if done.returncode and done.returncode not in step.fine:
                self.failed.append(words)


def main() -> int:
    first, second, last = lanes()
    with TemporaryDirectory(prefix="iommud-lanes-") as name, open(Path(name) / "second", "w+b") as output:
        Path(name).chmod(0o755)
        both = [Lane("first lane", first, Path(name) / "1"), Lane("second lane", second, Path(name) / "2", output)]
        threads = [threading.Thread(target=lane.run) for lane in both]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        output.seek(0)
        print("--- what the second lane said ---", flush=True)
        sys.stdout.buffer.write(output.read())
        sys.stdout.flush()
        alone = Lane("alone", last, Path(name) / "3")
        alone.run()
        failed = [what for lane in (*both, alone) for what in lane.failed]
    for what in failed:
        print(f"failed: {what}")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
