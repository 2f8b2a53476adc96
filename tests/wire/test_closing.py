"""Closing files whose close may last."""

import os
import threading
from collections.abc import Iterator
from errno import EIO

import pytest

from cuse_glue.pins.closing import THREADS, Closer


class Slow:
    """os.close as a file system makes it that answers nobody until `answer`."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.closed: list[int] = []
        self._answered = threading.Event()
        self._one_more = threading.Semaphore(0)

    def __call__(self, fd: int) -> None:
        self.asked.append(fd)
        self._answered.wait()
        self.closed.append(fd)
        self._one_more.release()

    def answer(self) -> None:
        self._answered.set()

    def wait_closed(self, count: int) -> None:
        for _ in range(count):
            assert self._one_more.acquire(timeout=30)


@pytest.fixture
def slow() -> Iterator[Slow]:
    slow = Slow()
    yield slow
    slow.answer()


def test_what_hangs_takes_a_few_threads_only_and_nobody_waits_for_it(slow: Slow) -> None:
    closer = Closer(slow)
    for fd in range(THREADS + 5):
        closer.close(fd)
    assert sorted(slow.asked) == list(range(THREADS))
    slow.answer()
    slow.wait_closed(THREADS + 5)
    assert sorted(slow.closed) == list(range(THREADS + 5))


def test_without_a_thread_it_is_closed_with_the_next(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    closer = Closer(slow)
    slow.answer()

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        for fd in range(THREADS + 1):
            closer.close(fd)
    assert slow.asked == []
    closer.close(THREADS + 1)
    slow.wait_closed(THREADS + 2)
    assert slow.closed == list(range(THREADS + 2))


def test_what_a_close_is_refused_is_nobodys_fault() -> None:
    """pytest fails a test whose threads end by an exception."""
    asked: list[int] = []

    def refuse(fd: int) -> None:
        asked.append(fd)
        raise OSError(EIO, os.strerror(EIO))

    Closer(refuse).close(5)
    assert asked == [5]
