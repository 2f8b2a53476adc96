"""What goes on while a thread is seized and the kernel waits for another one's exec."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from cuse_glue.mmio.impatience import Impatience
from cuse_glue.mmio.trace import Hand
from tests.support import PATIENCE


class Waiting(Hand):
    """A hand whose seizing waits until somebody has answered the fault, as the kernel does."""

    def __init__(self) -> None:
        super().__init__()
        self.until = threading.Event()

    def seize(self, tid: int, options: int = 0) -> None:
        assert self.until.wait(PATIENCE), "nobody got on"


@pytest.fixture
def hand() -> Waiting:
    return Waiting()


@pytest.fixture
def child() -> int:
    """A process that waits for a signal."""
    pid = os.fork()
    if not pid:
        signal.pause()
        os._exit(0)
    return pid


def test_a_fault_is_refused_if_to_seize_its_thread_takes_long(hand: Waiting) -> None:
    impatience = Impatience(hand, {})
    assert impatience.seize(1, hand.until.set) is True
    hand.until.clear()
    assert impatience.seize(1, hand.until.set) is True, "and the next one"
    impatience.close()


def test_a_thread_that_is_seized_at_once_is_not_refused(hand: Waiting) -> None:
    impatience = Impatience(hand, {})
    hand.until.set()
    assert impatience.seize(1, lambda: pytest.fail("it is refused")) is False
    impatience.close()


def test_who_has_ended_is_collected_meanwhile(hand: Waiting, child: int) -> None:
    class Seen(dict[int, None]):
        """The second look comes when the first has collected."""

        looks = 0

        def __iter__(self) -> Iterator[int]:
            self.looks += 1
            if self.looks > 1:
                hand.until.set()
            return super().__iter__()

    os.kill(child, signal.SIGKILL)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    impatience = Impatience(hand, Seen({child: None}))
    impatience.seize(1, lambda: None)
    impatience.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(child, os.WNOHANG)
