"""The vector registers of a stopped thread, fetched when an instruction asks for one."""

from collections.abc import Callable

from .trace import Hand
from .xstate import XState


class Lazy:
    """A `Vectors` of one thread after another."""

    def __init__(self, hand: Hand, where: Callable[[int], int]) -> None:
        """`where`: as XState."""
        self._hand = hand
        self._where = where
        self._tid = 0
        self._state: XState | None = None
        self.changed = False

    def begin(self, tid: int) -> None:
        """From now on those of thread `tid`."""
        self._tid, self._state, self.changed = tid, None, False

    def save(self) -> None:
        """Give them to the thread, if they have changed."""
        if self.changed and self._state is not None:
            self._hand.write_xstate(self._tid, self._state.state)

    def read(self, number: int, size: int) -> int:
        return self._fetched().read(number, size)

    def write(self, number: int, size: int, value: int, clear: bool) -> None:
        self._fetched().write(number, size, value, clear)
        self.changed = True

    def _fetched(self) -> XState:
        if self._state is None:
            self._state = XState(self._hand.read_xstate(self._tid), self._where)
        return self._state
