"""A worker's side of a loan, with packets for requests: what it answers itself, and when it gives
the reading back.
"""

import os
import socket
from collections.abc import Callable, Iterator
from struct import Struct

import pytest
import trio
import trio.testing

from cuse_glue.broker.borrower import MOST_THREADS, Borrower
from cuse_glue.broker.lending import Lending
from cuse_glue.fuse import wire
from cuse_glue.fuse.session import DRAIN_LIMIT

LOAN, SLOT = 5, 1
NUMBER = Struct("=Q")
OURS, ANOTHERS = wire.IOCTL, wire.OPEN


class Answers:
    """borrower.Session."""

    def __init__(self) -> None:
        self.handled: list[int] = []
        self.waits = False
        self.files = True
        self.borrower: Borrower | None = None
        self.on_first: Callable[[], None] = lambda: None
        self.on_owned: Callable[[], None] = lambda: None

    def owns(self, request: memoryview) -> bool:
        self.on_owned()
        return int(wire.IN_HEADER.unpack_from(request)[1]) == OURS

    def handle_own(self, request: memoryview) -> None:
        if not self.handled:
            self.on_first()
        self.handled.append(wire.IN_HEADER.unpack_from(request)[2])

    def settled(self) -> None:
        if not self.files and self.borrower is not None:
            self.borrower.give_back()


class Play:
    def __init__(self) -> None:
        self.kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.fd = ours.detach()
        os.set_blocking(self.fd, False)
        self.lending = Lending()
        self.answers = Answers()
        self.borrower = self.answers.borrower = Borrower(self.fd, self.answers, self.lending)
        self.slot = self.lending.slots[SLOT]

    def ask(self, unique: int, opcode: int = OURS, thread: int = 1) -> None:
        self.kernel.send(wire.IN_HEADER.pack(wire.REQUEST_HEADER_SIZE, opcode, unique, 1, 0, 0, thread, 0, 0))

    def begin(self, nursery: trio.Nursery) -> None:
        self.slot.lend(LOAN)
        self.borrower.begin(LOAN, SLOT, nursery)

    def ended(self) -> list[int]:
        return self.lending.read_ended()

    def close(self) -> None:
        self.kernel.close()
        for fd in self.fd, self.lending.ended, self.lending.end:
            os.close(fd)


@pytest.fixture
def play() -> Iterator[Play]:
    play = Play()
    yield play
    play.close()


async def test_it_answers_its_own_and_gives_back_with_what_is_anothers(play: Play) -> None:
    play.ask(2)
    play.ask(4)
    play.ask(6, ANOTHERS)
    play.ask(8)
    async with trio.open_nursery() as nursery:
        play.begin(nursery)
    assert play.answers.handled == [2, 4]
    assert play.ended() == [LOAN]
    held = play.slot.held
    assert held is not None
    assert wire.IN_HEADER.unpack_from(held)[2] == 6
    assert os.read(play.fd, 4096), "what came later is not read"


async def test_others_get_their_turn_though_requests_never_end(play: Play) -> None:
    for unique in range(3 * DRAIN_LIMIT):
        play.ask(unique)
    seen: list[int] = []

    async def other() -> None:
        seen.append(len(play.answers.handled))

    async with trio.open_nursery() as nursery:
        play.answers.on_first = lambda: nursery.start_soon(other)
        play.begin(nursery)
        await trio.testing.wait_all_tasks_blocked()
        play.borrower.give_back()
    assert seen[0] <= 2 * DRAIN_LIMIT, "trio runs what can run in any order"
    assert len(play.answers.handled) == 3 * DRAIN_LIMIT


async def test_many_threads_at_once_are_the_brokers(play: Play) -> None:
    for unique in range(DRAIN_LIMIT + 5):
        play.ask(unique, thread=unique % (MOST_THREADS + 1))
    async with trio.open_nursery() as nursery:
        play.begin(nursery)
    assert len(play.answers.handled) == DRAIN_LIMIT
    assert play.ended() == [LOAN]
    assert play.slot.held is None


async def test_it_stops_when_the_reading_is_taken_back(play: Play) -> None:
    async with trio.open_nursery() as nursery:
        play.begin(nursery)
        await trio.testing.wait_all_tasks_blocked()
        assert play.ended() == []
        play.slot.take_back()
        play.borrower.stop(LOAN)
    assert play.ended() == [LOAN]
    play.ask(2)
    assert play.answers.handled == []


async def test_what_is_read_after_that_is_for_the_broker_to_put_in_order(play: Play) -> None:
    play.ask(2)
    async with trio.open_nursery() as nursery:
        play.answers.on_owned = play.slot.take_back
        play.begin(nursery)
    assert play.answers.handled == []
    assert play.ended() == [LOAN]
    held = play.slot.held
    assert held is not None
    assert wire.IN_HEADER.unpack_from(held)[2] == 2


async def test_an_older_message_stops_nothing(play: Play) -> None:
    async with trio.open_nursery() as nursery:
        play.begin(nursery)
        play.borrower.stop(LOAN - 1)
        await trio.testing.wait_all_tasks_blocked()
        play.ask(2)
        await trio.testing.wait_all_tasks_blocked()
        assert play.answers.handled == [2]
        play.borrower.give_back()
    assert play.ended() == [LOAN], "once"


async def test_it_gives_back_when_its_last_file_is_closed(play: Play) -> None:
    async with trio.open_nursery() as nursery:
        play.begin(nursery)
        await trio.testing.wait_all_tasks_blocked()
        play.answers.files = False
        play.ask(2)
    assert play.answers.handled == [2]
    assert play.ended() == [LOAN]


async def test_it_gives_back_when_the_connection_ends(play: Play) -> None:
    async with trio.open_nursery() as nursery:
        play.begin(nursery)
        await trio.testing.wait_all_tasks_blocked()
        play.kernel.send(b"")  # a read of nothing
    assert play.ended() == [LOAN]


async def test_it_can_borrow_again(play: Play) -> None:
    for unique in 2, 4:
        async with trio.open_nursery() as nursery:
            play.begin(nursery)
            play.ask(unique)
            await trio.testing.wait_all_tasks_blocked()
            play.borrower.give_back()
    assert play.answers.handled == [2, 4]
    assert play.ended() == [LOAN, LOAN]
