"""What a function does in threads, and what of it is still under way when the function was reset.

A thread that writes to a disk cannot be called back. Were the device to go on at once after a
reset, an old write could come after a new one. So it holds until the old ones have ended.
"""

from collections.abc import Callable
from typing import Final, TypeVar

from ...pci.scheduler import Scheduler

T = TypeVar("T")


class Threads:
    """`free` is called when nothing holds any more."""

    def __init__(self, scheduler: Scheduler, free: Callable[[], None]) -> None:
        self._scheduler: Final = scheduler
        self._free: Final = free
        self._era = 0
        self._out: list[tuple[int, int]] = []  # of each call under way: its queue, and its era

    async def run(self, queue: int, call: Callable[[], T]) -> T:
        """Within work: as Scheduler.in_thread."""
        mine = queue, self._era
        self._out.append(mine)
        try:
            return await self._scheduler.in_thread(call)
        finally:
            self._out.remove(mine)
            if mine[1] != self._era and not self.hold:
                self._free()

    def reset(self) -> None:
        """What is under way is old now."""
        self._era += 1

    @property
    def hold(self) -> bool:
        """Something old is under way."""
        return any(era != self._era for _, era in self._out)

    def is_busy(self, queue: int) -> bool:
        """Something of this queue's is under way that is not old."""
        return (queue, self._era) in self._out
