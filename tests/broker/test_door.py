"""Where a reader sends a request of an open file that moves in that moment."""

import os
from collections.abc import Iterator

import pytest

from cuse_glue.broker.door import Door, Reader
from cuse_glue.broker.routes import Routes, Worker
from cuse_glue.broker.turns import Turns
from cuse_glue.fuse import wire

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
    length = wire.REQUEST_HEADER_SIZE + wire.IOCTL_IN.size
    request = bytearray(wire.IN_HEADER.pack(length, wire.IOCTL, 2, 1, 0, 0, 0, 0, 0))
    request += wire.IOCTL_IN.pack(HANDLE, 0, 0, 0, 0, 0)
    reader.handle(memoryview(request))
    with pytest.raises(BlockingIOError):
        os.read(pipes[FIRST][0], 4096)
    assert os.read(pipes[SECOND][0], 4096) == request
