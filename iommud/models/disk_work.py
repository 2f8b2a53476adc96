"""What waits for a disk, done in threads, a few at a time; and a reset that forgets it.

What has begun cannot be stopped. So a reset drops what has not begun, and takes no notice of the
rest; but what is asked for after it begins only when that rest has ended. Otherwise an old write
could come after a new one.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from ..pci.scheduler import Scheduler

LANES: Final = 4  # that are under way at the same time
BATCH: Final = 8  # jobs of one lane's turn, at most


class Job:
    """Something to be done. `run` in a thread, which must touch nothing of a device; then `done`
    in the device's own.
    """

    __slots__ = ("done", "run")

    def __init__(self, run: Callable[[], None], done: Callable[[], None]) -> None:
        self.run = run
        self.done = done


class DiskWork:
    """`settled`: called after the `done` of each batch, and when nothing `holds` any more."""

    def __init__(self, scheduler: Scheduler, settled: Callable[[], None]) -> None:
        self._scheduler: Final = scheduler
        self._settled: Final = settled
        self._waiting: deque[Job] = deque()
        self._lanes = 0  # that are under way
        self._old = 0  # of these, begun before the last reset
        self._era = 0

    @property
    def holds(self) -> bool:
        """Something is under way that was begun before the last reset."""
        return bool(self._old)

    def add(self, job: Job) -> None:
        """Do it soon, in any order with what was not done yet."""
        self._waiting.append(job)

    def go(self) -> None:
        """Begin what was added."""
        while self._waiting and not self._old and self._lanes < LANES:
            share = max(1, min(BATCH, len(self._waiting) // (LANES - self._lanes)))
            self._begin([self._waiting.popleft() for _ in range(share)])

    def reset(self) -> None:
        self._waiting.clear()
        self._era += 1
        self._old = self._lanes

    def _begin(self, jobs: list[Job]) -> None:
        era = self._era
        self._lanes += 1

        def run() -> None:
            for job in jobs:
                job.run()

        async def work() -> None:
            try:
                await self._scheduler.in_thread(run)
            finally:
                self._lanes -= 1
                if era != self._era:
                    self._old -= 1
            if era == self._era:
                for job in jobs:
                    job.done()
                self._settled()
            elif not self._old:
                self._settled()
            self.go()

        self._scheduler.start(work)
