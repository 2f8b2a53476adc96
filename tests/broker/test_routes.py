"""Who gets which open file: shares, turns, claims, what was shown, and a pipe that is full."""

import os
from collections.abc import Iterator

import pytest

from cuse_glue.broker.channel import (
    ASK,
    CLAIM,
    DONE,
    LEFT,
    SHOWN,
    STAYS,
    TAKE,
    UNASK,
    UNCLAIM,
    Assignment,
    Move,
    Requests,
    door_of,
    put_door,
    read_assignment,
    read_move,
)
from cuse_glue.broker.routes import MOST_KEPT, Routes, Worker
from cuse_glue.fuse import wire


class Table:
    """Routes whose workers are the ends of pipes."""

    def __init__(self, share: int, reserve: int = 0) -> None:
        self.ordered = 0
        self.full: list[tuple[int, bool]] = []
        self.routes = Routes(share, self._order, lambda worker, full: self.full.append((worker.number, full)), reserve)
        self.opened: list[tuple[str, int]] = []  # label, number of the worker
        self.reading: dict[int, int] = {}
        self._numbers = 0

    def _order(self) -> None:
        self.ordered += 1

    def spare(self) -> Worker:
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        os.set_blocking(reading, False)
        self._numbers += 1
        worker = Worker(self._numbers, 0, writing, -1)
        self.reading[worker.number] = reading
        self.routes.spares.append(worker)
        self.routes.assign()
        return worker

    def open(self, label: str, uid: int = 1, tid: int = 0, door: int = 0) -> None:
        def opening(worker: Worker) -> None:
            self.opened.append((label, worker.number))
            self.routes.send(worker, label.encode())

        self.routes.open(Assignment(door, uid, False, False), tid, opening)

    def read(self, worker: Worker) -> bytes:
        try:
            return os.read(self.reading[worker.number], 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        for fd in self.reading.values():
            os.close(fd)
        for worker in [*self.routes.workers.values(), *self.routes.spares]:
            os.close(worker.pipe)


@pytest.fixture
def table() -> Iterator[Table]:
    it = Table(share=2)
    yield it
    it.close()


def test_each_open_gets_a_worker_of_its_own_and_a_new_one_is_ordered(table: Table) -> None:
    first, second = table.spare(), table.spare()
    table.open("a")
    table.open("b")
    assert table.opened == [("a", first.number), ("b", second.number)]
    assert table.ordered == 2
    stream = table.read(first)
    told = read_assignment(memoryview(stream))
    assert told == Assignment(0, 1, False, False)
    assert stream.endswith(b"a")


def test_beyond_the_share_one_worker_serves_the_rest(table: Table) -> None:
    workers = [table.spare() for _ in range(4)]
    for label in "abcde":
        table.open(label)
    assert [number for _, number in table.opened] == [workers[at].number for at in (0, 1, 2, 2, 2)]
    assert read_assignment(memoryview(table.read(workers[2]))).rest
    table.open("f", door=1)
    assert table.opened[-1] == ("f", workers[3].number), "another door's rest is another worker"


def test_opens_of_the_rest_wait_for_one_worker(table: Table) -> None:
    for label in "abcd":
        table.open(label)
    for _ in range(4):
        table.spare()
    assert sorted(table.opened) == [("a", 1), ("b", 2), ("c", 3), ("d", 3)]
    assert len(table.routes.spares) == 1


def test_a_user_that_opens_much_does_not_go_before_another(table: Table) -> None:
    for label in ("1", "2", "rest"):
        table.open(label, uid=1)
    table.open("innocent", uid=2)
    table.spare()
    table.spare()
    assert [label for label, _ in table.opened] == ["1", "innocent"]


def test_the_last_spare_is_kept_for_a_user_who_has_none() -> None:
    table = Table(share=9, reserve=1)
    table.spare()
    table.open("a", uid=1)
    last = table.spare()
    table.open("b", uid=1)
    assert table.opened == [("a", 1)]
    table.open("c", uid=2)
    assert table.opened[-1] == ("c", last.number)
    table.spare()
    assert table.opened[-1][0] == "b", "whoever was passed over is not passed over again"
    table.spare()
    table.open("d", uid=1)
    assert len(table.opened) == 3
    table.close()


def test_who_comes_and_goes_does_not_pass_another_over_again_and_again() -> None:
    """A user whose workers end at once has none each time."""
    table = Table(share=9, reserve=1)
    table.spare()
    table.open("innocent", uid=1)
    table.open("waits", uid=1)
    for _ in range(8):
        table.open("comes", uid=2)
    for _ in range(2):
        comes = table.spare()
        if comes.number in table.routes.workers and comes.uid == 2:
            table.routes.forget(comes)
            os.close(comes.pipe)
    assert "waits" in dict(table.opened)
    table.close()


def test_a_worker_that_is_forgotten_leaves_room(table: Table) -> None:
    workers = [table.spare() for _ in range(3)]
    for label in "ab":
        table.open(label)
    table.routes.forget(workers[0])
    table.open("c")
    assert table.opened[-1] == ("c", workers[2].number)
    assert not workers[2].rest
    os.close(workers[0].pipe)


def test_the_rest_is_begun_anew_when_its_worker_has_gone(table: Table) -> None:
    workers = [table.spare() for _ in range(4)]
    for label in "abc":
        table.open(label)
    table.routes.forget(workers[2])
    table.open("d")
    assert table.opened[-1] == ("d", workers[3].number)
    os.close(workers[2].pipe)


def test_a_claimed_open_goes_to_who_claimed_it_once(table: Table) -> None:
    first, second = table.spare(), table.spare()
    table.open("a")
    table.routes.note(CLAIM, first.number, 77, 0)
    table.open("given", uid=9, tid=77)
    assert table.opened[-1] == ("given", first.number)
    table.open("its own", uid=9, tid=77)
    assert table.opened[-1] == ("its own", second.number)


def test_a_claim_that_was_taken_back_or_whose_worker_went_is_none(table: Table) -> None:
    workers = [table.spare() for _ in range(4)]
    table.open("a")
    table.open("b")
    table.routes.note(CLAIM, workers[0].number, 77, 0)
    table.routes.note(UNCLAIM, workers[0].number, 77, 0)
    table.open("c", uid=9, tid=77)
    assert table.opened[-1] == ("c", workers[2].number)
    table.routes.note(CLAIM, workers[1].number, 78, 0)
    table.routes.forget(workers[1])
    table.open("d", uid=9, tid=78)
    assert table.opened[-1] == ("d", workers[3].number)
    os.close(workers[1].pipe)


def test_a_claim_is_for_the_workers_own_door(table: Table) -> None:
    first, second = table.spare(), table.spare()
    table.open("a")
    table.routes.note(CLAIM, first.number, 77, 0)
    table.open("b", tid=77, door=1)
    assert table.opened[-1] == ("b", second.number)


def test_a_worker_goes_only_when_nothing_is_on_its_way_to_it(table: Table) -> None:
    worker = table.spare()
    table.open("a")
    assert table.routes.note(DONE, worker.number, 1, 0) is worker
    table.routes.send(worker, b"another")
    assert table.routes.note(DONE, worker.number, 1, 0) is None
    table.routes.note(CLAIM, worker.number, 5, 0)
    assert table.routes.note(DONE, worker.number, 2, 0) is None, "an open that it waits for is on its way"
    assert table.routes.note(UNCLAIM, worker.number, 5, 0) is worker, "none has come, and none will"


def test_what_is_shown_is_found_by_its_place(table: Table) -> None:
    first, second = table.spare(), table.spare()
    table.open("a")
    table.open("b")
    table.routes.note(SHOWN, first.number, 0x10000, 0x2000)
    table.routes.note(SHOWN, second.number, 0x40000, 0x1000)
    assert table.routes.whose(0, 0x11000, 0x1000) is first
    assert table.routes.whose(0, 0x40000, 0x1000) is second
    assert table.routes.whose(0, 0x40000, 0x2000) is None
    assert table.routes.whose(1, 0x40000, 0x1000) is None, "another file"
    table.routes.forget(first)
    assert table.routes.whose(0, 0x10000, 0x1000) is None
    os.close(first.pipe)


def test_a_full_pipe_delays_nothing_and_loses_nothing(table: Table) -> None:
    worker = table.spare()
    table.open("a")
    table.read(worker)
    messages = [bytes([number & 0xFF]) * 5000 for number in range(100)]
    for each in messages:
        assert table.routes.send(worker, each)
    assert table.full == [(worker.number, True)]
    came = b""
    while len(came) < 500_000:
        came += table.read(worker)
        table.routes.flush(worker)
    assert came == b"".join(messages)
    assert table.full == [(worker.number, True), (worker.number, False)]
    assert worker.kept is None
    table.routes.send(worker, b"and on")
    assert table.read(worker) == b"and on"


def test_what_is_kept_for_one_worker_is_bounded(table: Table) -> None:
    worker = table.spare()
    table.open("a")
    each = bytes(1 << 20)
    sent = 0
    while table.routes.send(worker, each):
        sent += 1
        assert sent < 100
    assert sent << 20 <= MOST_KEPT + (2 << 20)
    before = worker.sent
    assert not table.routes.send(worker, each)
    assert worker.sent == before
    assert table.routes.send(worker, b"RELEASE", always=True)


def test_requests_and_the_stream_agree(table: Table) -> None:
    worker = table.spare()
    table.open("a")
    requests = Requests(table.reading[worker.number])
    assert requests.fill()
    first = requests.take()
    assert first is not None
    assert len(first) == wire.REQUEST_HEADER_SIZE + 16


DEVICE = 1  # a door whose open files move
HANDLE = 1 << 32 | 5


def request_of_a_device() -> bytes:
    message = bytearray(wire.IN_HEADER.pack(wire.REQUEST_HEADER_SIZE, wire.IOCTL, 77, 1, 0, 0, 0, 0, 0))
    put_door(message, DEVICE)
    return bytes(message)


def messages(table: Table, worker: Worker) -> list[memoryview]:
    """What the worker was sent after its assignment."""
    requests = Requests(table.reading[worker.number])
    assert requests.fill()
    found = []
    while (message := requests.take()) is not None:
        found.append(message)
    return found[1:]


def two_workers(table: Table) -> tuple[Worker, Worker]:
    """One of a device, and one of /dev/iommu."""
    giver, taker = table.spare(), table.spare()
    table.routes.open(Assignment(DEVICE, 1, False, False), 0, lambda worker: None)
    table.routes.open(Assignment(0, 2, False, False), 0, lambda worker: None)
    return giver, taker


def test_a_file_moves_to_whom_the_poll_was_for(table: Table) -> None:
    giver, taker = two_workers(table)
    table.routes.note(ASK, giver.number, 9, 0)
    assert not table.routes.asked(8, taker), "another thread's poll is no question"
    assert table.routes.asked(9, taker)
    assert not table.routes.asked(9, taker), "it asks once"
    assert table.routes.move(giver.number, HANDLE, 9, request_of_a_device(), True) is taker
    assert table.routes.moved == {HANDLE: taker}
    (left,) = messages(table, giver)
    assert (wire.IN_HEADER.unpack_from(left)[1], read_move(left).handle) == (LEFT, HANDLE)
    take, request = messages(table, taker)
    assert (wire.IN_HEADER.unpack_from(take)[1], read_move(take), door_of(take)) == (TAKE, Move(HANDLE, True), DEVICE)
    assert bytes(request) == request_of_a_device()
    assert table.routes.note(DONE, taker.number, 0, 0) is None, "what it was sent meanwhile counts"
    assert table.routes.note(DONE, taker.number, 2, 0) is taker


def test_a_workers_question_of_its_own_file_is_its_own_to_answer(table: Table) -> None:
    giver, _ = two_workers(table)
    table.routes.note(ASK, giver.number, 9, 0)
    assert not table.routes.asked(9, giver)


@pytest.mark.parametrize("end", ["nobody was found", "it was asked no longer", "whom it found has gone"])
def test_a_file_that_cannot_move_stays(table: Table, end: str) -> None:
    giver, taker = two_workers(table)
    table.routes.note(ASK, giver.number, 9, 0)
    if end != "nobody was found":
        assert table.routes.asked(9, taker)
    if end == "it was asked no longer":
        table.routes.note(UNASK, giver.number, 9, 0)
    if end == "whom it found has gone":
        table.routes.forget(taker)
        os.close(taker.pipe)
    assert table.routes.move(giver.number, HANDLE, 9, request_of_a_device(), False) is None
    assert table.routes.moved == {}
    (stays,) = messages(table, giver)
    assert (wire.IN_HEADER.unpack_from(stays)[1], read_move(stays).handle) == (STAYS, HANDLE)


def test_a_worker_that_has_gone_asks_nothing(table: Table) -> None:
    giver, taker = two_workers(table)
    table.routes.note(ASK, giver.number, 9, 0)
    table.routes.forget(giver)
    os.close(giver.pipe)
    assert not table.routes.asked(9, taker)


def test_to_whom_is_gone_nothing_is_sent(table: Table) -> None:
    worker = table.spare()
    table.open("a")
    table.read(worker)
    table.routes.forget(worker)
    assert table.routes.send(worker, b"x")
    assert table.read(worker) == b""
    os.close(worker.pipe)


def test_a_claim_is_of_each_door_that_a_worker_serves(table: Table) -> None:
    giver, taker = two_workers(table)
    table.routes.note(ASK, giver.number, 9, 0)
    table.routes.asked(9, taker)
    table.routes.note(CLAIM, taker.number, 5, 0)
    opened: list[Worker] = []
    table.routes.move(giver.number, HANDLE, 9, request_of_a_device(), False)
    table.routes.open(Assignment(DEVICE, 2, False, False), 5, opened.append)
    assert opened == [taker]
