"""What a model is given for things that take time. iommud gives it a scheduler that runs on trio; a
test gives it one whose clock the test turns.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol


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

    def cancel(self) -> None:
        pass
