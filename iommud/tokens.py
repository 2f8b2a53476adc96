"""How much of something may be had in a time: so many at once, and then so many a second."""

import time
from typing import Generic, TypeVar

Key = TypeVar("Key")


class Tokens:
    """At most `burst` at once, and `rate` a second."""

    __slots__ = ("_burst", "_left", "_rate", "_since")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._left = burst
        self._since = time.monotonic()

    def take(self) -> bool:
        """Whether one more may be had. If so, it is taken."""
        now = time.monotonic()
        self._left = min(self._burst, self._left + (now - self._since) * self._rate)
        self._since = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def full(self) -> bool:
        """Whether it is as if nothing had been taken."""
        return self._left + (time.monotonic() - self._since) * self._rate >= self._burst


class LeftOut(Generic[Key]):
    """Counts what could not be had."""

    def __init__(self) -> None:
        self._counts: dict[Key, int] = {}

    def __bool__(self) -> bool:
        return bool(self._counts)

    def add(self, key: Key) -> None:
        self._counts[key] = self._counts.get(key, 0) + 1

    def take(self, key: Key) -> int:
        """The count; from now on it is 0."""
        return self._counts.pop(key, 0)

    def take_all(self) -> dict[Key, int]:
        counts, self._counts = self._counts, {}
        return counts
