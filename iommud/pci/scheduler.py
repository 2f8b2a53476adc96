"""What a model is given for things that take time. iommud gives it one of trio; a test gives it one
whose clock it turns itself.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol


class Cancel(Protocol):
    """Something that is to come, or goes on, and can be called off. Once is enough; afterwards, or
    when it is over, it does nothing.
    """

    def cancel(self) -> None: ...


class Scheduler(Protocol):
    """Everything happens in one thread, between two requests of a client or during one's wait."""

    def now(self) -> float:
        """Seconds since some moment."""
        ...

    def after(self, seconds: float, call: Callable[[], None]) -> Cancel:
        """`call` once, in so many seconds; 0: as soon as whoever is at work has done."""
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
