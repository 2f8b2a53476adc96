"""Where a reader sends a request of an open file that moves in that moment, or whose worker may
have read others.
"""

import os
import socket
from collections.abc import Iterator

import pytest

from cuse_glue.broker.door import Door, Reader
from cuse_glue.broker.lending import MOST, Lending
from cuse_glue.broker.routes import Routes, Worker
from cuse_glue.broker.turns import Turns
from cuse_glue.fuse import wire
from cuse_glue.fuse.closes import Ended

FIRST, SECOND = 1, 2
HANDLE = FIRST << 32 | 1


class MovesMeanwhile(dict[int, Worker]):
    """The workers; as soon as one is looked up, the open file is moved to another."""

    def __init__(self, routes: Routes) -> None:
        super().__init__(routes.workers)
        self._routes = routes

    def get(self, number: int, default: object = None) -> Worker | None:  # type: ignore[override]
        found = self[number]
        self._routes.moved[HANDLE] = self[SECOND]
        return found


def an_ioctl(handle: int, unique: int) -> bytearray:
    length = wire.REQUEST_HEADER_SIZE + wire.IOCTL_IN.size
    head = wire.IN_HEADER.pack(length, wire.IOCTL, unique, 1, 0, 0, 0, 0, 0)
    return bytearray(head + wire.IOCTL_IN.pack(handle, 0, 0, 0, 0, 0))


@pytest.fixture
def pipes() -> Iterator[list[tuple[int, int]]]:
    pipes = [os.pipe2(os.O_NONBLOCK) for _ in range(3)]
    yield pipes
    for pipe in pipes:
        for fd in pipe:
            os.close(fd)


def test_a_request_goes_to_the_worker_that_has_the_file_when_it_is_sent(pipes: list[tuple[int, int]]) -> None:
    routes = Routes(1, lambda: None, lambda worker, full: None)
    for number in FIRST, SECOND:
        worker = routes.workers[number] = Worker(number, 0, pipes[number][1], -1)
        worker.door = 0
    routes.workers = MovesMeanwhile(routes)  # type: ignore[misc]
    reader = Reader(
        0, Door(pipes[0][1], moves=True), routes, lambda: None, lambda reader: None, lambda *which: None, Turns(), None
    )
    request = an_ioctl(HANDLE, 2)
    reader.handle(memoryview(request))
    with pytest.raises(BlockingIOError):
        os.read(pipes[FIRST][0], 4096)
    assert os.read(pipes[SECOND][0], 4096) == request


def test_what_was_kept_for_a_worker_goes_to_it_though_requests_for_others_never_end(
    pipes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cuse_glue.broker.lending.ALONE", 0.0)
    routes = Routes(1, lambda: None, lambda worker, full: None)
    for number in FIRST, SECOND:
        worker = routes.workers[number] = Worker(number, 0, pipes[number][1], -1)
        worker.door = 0
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lending = Lending()
    reader = Reader(
        0, Door(ours.fileno()), routes, lambda: None, lambda reader: None, lambda *which: None, None, lending
    )
    lender = reader._lender
    assert lender is not None
    for _ in range(MOST + 1):
        lender.sent(routes.workers[FIRST])
    loan = lender.lend()
    assert loan is not None
    assert list(lender.await_end(loan, lambda: True)) == [], "it is taken back"
    lending.give_back(loan.number)
    kernel.send(an_ioctl(FIRST << 32 | 1, 2))
    for unique in 4, 6, 8:
        kernel.send(an_ioctl(SECOND << 32 | 1, unique))
    kernel.close()  # the queue is never empty before the end
    with ours, pytest.raises(Ended):
        reader._read()
    assert os.read(pipes[FIRST][0], 4096) == an_ioctl(FIRST << 32 | 1, 2)
    assert len(os.read(pipes[SECOND][0], 4096)) == 3 * len(an_ioctl(0, 0))
    for fd in lending.ended, lending.end:
        os.close(fd)
