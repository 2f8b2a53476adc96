"""What a model is given for things that take time. iommud gives it a scheduler that runs on trio; a
test gives it one whose clock the test turns.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Cancel(Protocol):
    """Something that is due or under way, and can be called off. `cancel` has no effect the second
    time, or when all is over.
    """

    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """Everything happens in one thread, between two requests or while one waits."""

    def now(self) -> float:
        """Seconds since some moment."""
        ...

    def after(self, seconds: float, call: Callable[[], None]) -> Cancel:
        """Do `call` once, in so many seconds; 0: as soon as the code that runs now is done."""
        ...

    def start(self, work: Callable[[], Awaitable[None]]) -> Cancel:
        """Begin long work beside all else, at the next opportunity."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Within such work: let others go on for so long at least; 0: let them have one turn."""
        ...

    async def in_thread(self, call: Callable[[], T]) -> T:
        """Within such work: the result of `call`, which may wait for a disk, and is made in a
        thread. It must touch nothing of the function's. Once begun, it is never given up: work that
        is called off meanwhile ends when `call` has returned.
        """
        ...


class Idle:
    """The scheduler of a function that was given none: nothing is ever due."""

    def now(self) -> float:
        return 0.0

    def after(self, seconds: float, call: Callable[[], None]) -> Cancel:
        return self

    def start(self, work: Callable[[], Awaitable[None]]) -> Cancel:
        return self

    async def sleep(self, seconds: float) -> None:
        pass

    async def in_thread(self, call: Callable[[], T]) -> T:
        return call()

    def cancel(self) -> None:
        pass
