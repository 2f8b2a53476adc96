"""A worker that reads its connection itself (cuse_glue/broker/lending.py): when it does, and that
nobody else waits for it longer than a moment.
"""

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cuse_glue.broker import channel, lending
from cuse_glue.broker.lending import ENOUGH, SLOTS, Lender, Lending, Loan
from cuse_glue.broker.routes import Worker
from cuse_glue.fuse import wire
from tests.broker.served import Client, Served, until
from tests.clients.build import build
from tests.support import PATIENCE, wait_for_end, wait_for_input

FOR_EVER = "many 0 1000000000"
Begin = Callable[[], Client]


# --- the broker's side, alone ---


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lending]:
    monkeypatch.setattr(lending, "LOOK", 1)
    monkeypatch.setattr(lending, "ALONE", 0.0)
    shared = Lending()
    yield shared
    os.close(shared.ended)
    os.close(shared.end)


@pytest.fixture
def queue() -> Iterator[tuple[int, int]]:
    """Stands for the connection: what is written to the second is in the queue."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


@pytest.fixture
def lender(shared: Lending, queue: tuple[int, int]) -> Lender:
    return Lender(shared, queue[0])


def a_worker(number: int) -> Worker:
    return Worker(number, 0, -1, -1)


def make_busy(lender: Lender, worker: Worker, times: int = ENOUGH) -> bool:
    """Send it one request more than that in a row; returns whether to lend."""
    return [lender.sent(worker) for _ in range(times + 1)][-1]


def begin(lender: Lender, worker: Worker) -> Loan:
    assert make_busy(lender, worker, lending.MOST)
    loan = lender.lend()
    assert loan is not None
    return loan


def a_request(unique: int) -> bytes:
    return wire.IN_HEADER.pack(wire.REQUEST_HEADER_SIZE, wire.GETATTR, unique, 1, 0, 0, 0, 0, 0)


def test_only_many_in_a_row_for_one_worker_are_enough(lender: Lender) -> None:
    first, second = a_worker(1), a_worker(2)
    for worker in first, second, first:
        assert not make_busy(lender, worker, ENOUGH - 1)
    assert lender.sent(first)


def test_nothing_is_lent_to_a_worker_that_is_gone(lender: Lender) -> None:
    worker = a_worker(1)
    make_busy(lender, worker)
    worker.gone = True
    assert lender.lend() is None
    assert not lender.is_out()


def test_nothing_is_lent_while_others_have_requests_too(lender: Lender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "ALONE", 0.005)
    now = 1000.0
    monkeypatch.setattr("cuse_glue.broker.lending.time.monotonic", lambda: now)
    worker = a_worker(1)
    assert make_busy(lender, worker)
    now += 0.004
    assert lender.lend() is None
    now += 0.002
    assert make_busy(lender, worker)
    assert lender.lend() is not None


def test_a_request_that_is_not_the_workers_comes_back_with_the_reading(lender: Lender, shared: Lending) -> None:
    loan = begin(lender, a_worker(1))
    slot = shared.slots[loan.slot]
    slot.finish()
    slot.request[: wire.REQUEST_HEADER_SIZE] = a_request(7)
    slot.begin()
    shared.give_back(loan.number)
    assert [bytes(request) for request in lender.await_end(loan, lambda: False)] == [a_request(7)]
    assert not lender.is_out()


def test_an_idle_worker_loses_the_reading(lender: Lender, shared: Lending) -> None:
    loan = begin(lender, a_worker(1))
    slot = shared.slots[loan.slot]
    slot.finish()
    assert slot.is_lent(loan.number)
    assert list(lender.await_end(loan, lambda: False)) == []
    assert not slot.is_lent(loan.number)
    assert lender.is_out(), "the worker has not said so yet"
    shared.give_back(loan.number)
    lender.wait()
    assert list(lender.returned()) == []
    assert not lender.is_out()


def test_a_worker_that_leaves_a_request_waiting_loses_the_reading(
    lender: Lender, shared: Lending, queue: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "IDLE", 1 << 40)
    loan = begin(lender, a_worker(1))
    shared.slots[loan.slot].finish()
    os.write(queue[1], b"a request")
    assert list(lender.await_end(loan, lambda: False)) == []
    assert not shared.slots[loan.slot].is_lent(loan.number)


def test_after_a_slow_worker_nothing_is_lent_for_a_while_and_longer_each_time(
    lender: Lender, shared: Lending, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("cuse_glue.broker.lending.time.monotonic", lambda: now)
    for pause in lending.SLOW, 2 * lending.SLOW, 4 * lending.SLOW:
        loan = begin(lender, a_worker(1))  # and it does not take in the message
        assert list(lender.await_end(loan, lambda: False)) == []
        shared.give_back(loan.number)
        assert list(lender.returned()) == []
        now += pause - 0.01
        make_busy(lender, a_worker(2), lending.MOST)
        assert lender.lend() is None
        now += 0.02


def test_a_slot_is_used_again_only_when_its_worker_has_said_that_it_is_done(
    lender: Lender, shared: Lending, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lending, "SLOW", 0.0)
    lender._slow = 0.0
    loans = []
    for number in range(SLOTS):
        loans.append(begin(lender, a_worker(number)))
        assert list(lender.await_end(loans[-1], lambda: False)) == []
    assert len({loan.slot for loan in loans}) == SLOTS
    make_busy(lender, a_worker(99), lending.MOST)
    assert lender.lend() is None
    shared.give_back(loans[2].number)
    assert list(lender.returned()) == []
    lender._not_before = 0.0
    assert begin(lender, a_worker(99)).slot == loans[2].slot


def test_what_a_dead_worker_had_in_its_hands_is_not_lost(lender: Lender, shared: Lending) -> None:
    worker = a_worker(1)
    loan = begin(lender, worker)
    shared.slots[loan.slot].finish()
    shared.slots[loan.slot].request[: wire.REQUEST_HEADER_SIZE] = a_request(9)
    lender.died(worker)
    assert [bytes(request) for request in lender.await_end(loan, lambda: False)] == [a_request(9)]
    lender.died(worker)
    assert shared.read_ended() == []


def test_requests_for_a_worker_that_may_have_read_keep_their_order(lender: Lender, shared: Lending) -> None:
    """The worker reads the second one just before the reading is taken back."""
    slow, other = a_worker(1), a_worker(2)
    loan = begin(lender, slow)
    shared.slots[loan.slot].finish()
    assert lender.keep(slow, memoryview(a_request(2)), always=False) is None, "it has the reading"
    assert list(lender.await_end(loan, lambda: False)) == []
    assert lender.keep(other, memoryview(a_request(3)), always=False) is None
    assert lender.keep(slow, memoryview(a_request(8)), always=False)
    assert lender.keep(slow, memoryview(a_request(4)), always=True)
    shared.slots[loan.slot].request[: wire.REQUEST_HEADER_SIZE] = a_request(6)
    shared.give_back(loan.number)
    lender.wait()
    numbers = []
    for request in lender.returned():
        assert lender.keep(slow, request, always=False) is None, "it may go to the worker now"
        numbers.append(wire.IN_HEADER.unpack_from(request)[2])
    assert numbers == [4, 6, 8]


def test_not_too_much_is_kept(lender: Lender, shared: Lending, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "MOST_KEPT", 50)
    slow = a_worker(1)
    loan = begin(lender, slow)
    assert list(lender.await_end(loan, lambda: True)) == []
    request = memoryview(a_request(2))
    assert [lender.keep(slow, request, always=False) for _ in range(3)] == [True, True, False]
    assert lender.keep(slow, request, always=True)
    shared.give_back(loan.number)
    assert len(list(lender.returned())) == 3
    lender._not_before = 0.0
    loan = begin(lender, a_worker(2))
    assert list(lender.await_end(loan, lambda: True)) == []
    assert lender.keep(loan.worker, request, always=False)


def test_a_loan_ends_once_though_it_is_told_twice(lender: Lender, shared: Lending) -> None:
    loan = begin(lender, a_worker(1))
    shared.give_back(loan.number)
    shared.give_back(loan.number)
    assert list(lender.await_end(loan, lambda: False)) == []
    lender._not_before = 0.0
    again = begin(lender, a_worker(1))
    shared.give_back(loan.number)
    assert list(lender.returned()) == []
    assert lender.is_out()
    assert shared.slots[again.slot].is_lent(again.number)


def test_at_the_end_the_reading_is_taken_back_at_once(lender: Lender, shared: Lending) -> None:
    loan = begin(lender, a_worker(1))
    shared.slots[loan.slot].finish()
    list(lender.await_end(loan, lambda: True))
    assert not shared.slots[loan.slot].is_lent(loan.number)


def test_the_messages_about_a_loan_are_read_as_they_were_written() -> None:
    message = memoryview(channel.lend(3, 1 << 40, 2))
    assert wire.IN_HEADER.unpack_from(message)[1] == channel.LEND
    assert channel.door_of(message) == 3
    assert channel.read_loan(message) == (1 << 40, 2)


# --- processes ---


@pytest.fixture
def path(open_directory: Path) -> str:
    return str(open_directory / "iommu")


@pytest.fixture
def served(path: str, root: None) -> Iterator[Served]:
    served = Served(path, "--mode", "0666")
    yield served
    served.close()


@pytest.fixture
def begin_client(served: Served, path: str) -> Iterator[Begin]:
    with ExitStack() as stack:

        def start() -> Client:
            client = Client(path)
            stack.callback(client.close)
            assert client.ask("open") == "0"
            return client

        yield start


def reads_itself(pid: int) -> bool:
    """Whether one of its epolls watches /dev/fuse."""
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        for line in info.read_text().splitlines():
            if line.startswith("tfd:") and os.readlink(f"/proc/{pid}/fd/{line.split()[1]}") == "/dev/fuse":
                return True
    return False


def busy(served: Served, client: Client) -> int:
    """Let a client make ioctls for ever. Returns its worker, which reads itself."""
    (worker,) = served.busy_workers()
    client.tell(FOR_EVER)
    until(lambda: reads_itself(worker))
    return worker


def test_a_busy_clients_worker_reads_itself_and_an_idle_ones_does_not(served: Served, begin_client: Begin) -> None:
    client = begin_client()
    (worker,) = served.busy_workers()
    until(lambda: client.ask("many 0 50") == "0" and reads_itself(worker))
    until(lambda: not reads_itself(worker))
    until(lambda: client.ask("many 0 50") == "0" and reads_itself(worker))


def test_others_are_answered_while_a_worker_reads_itself(served: Served, begin_client: Begin) -> None:
    client = begin_client()
    worker = busy(served, client)
    other = begin_client()
    assert len(served.busy_workers()) == 2
    for number in range(1, 100):
        assert other.ask("alloc 0") == str(number)
        assert other.ask("stat") == str(0o100666)
    until(lambda: reads_itself(worker))


def test_a_worker_that_stops_while_it_reads_itself_stops_its_own_client_only(
    served: Served, begin_client: Begin
) -> None:
    client = begin_client()
    worker = busy(served, client)
    os.kill(worker, signal.SIGSTOP)
    other = begin_client()
    assert other.ask("many 0 1000") == "0"
    os.kill(worker, signal.SIGCONT)
    until(lambda: not reads_itself(worker))


def test_a_worker_that_is_killed_while_it_reads_itself_harms_its_own_client_only(
    served: Served, begin_client: Begin
) -> None:
    """And the next one can read, however many were killed."""
    for _ in range(SLOTS + 1):
        client = begin_client()
        worker = busy(served, client)
        os.kill(worker, signal.SIGKILL)
        assert client.hear() == "EIO"
        wait_for_end(worker)
        client.close()


def test_an_ioctl_that_waits_ends_by_a_signal_and_with_its_worker(served: Served, path: str) -> None:
    """Only the worker has seen that request, and the reading has been taken back since."""
    for end in signal.SIGINT, signal.SIGKILL, None:
        with subprocess.Popen([build("waits"), path, "1000"], stdout=subprocess.PIPE, text=True) as waiting:
            assert waiting.stdout is not None
            assert waiting.stdout.readline() == "waiting\n"
            (worker,) = served.busy_workers()
            until(lambda pid=worker: not reads_itself(pid))  # type: ignore[misc]
            if end is not None:
                waiting.send_signal(end)
                assert waiting.wait(PATIENCE) == -end
            else:
                os.kill(worker, signal.SIGKILL)
                wait_for_input(waiting.stdout.fileno(), "the end of the ioctl")
                assert waiting.stdout.readline() == f"errno {errno.EIO}\n"
                waiting.kill()
        wait_for_end(worker)


def test_a_client_that_ends_while_its_worker_reads_itself_leaves_nothing(served: Served, begin_client: Begin) -> None:
    client = begin_client()
    worker = busy(served, client)
    client.close()
    wait_for_end(worker)
    other = begin_client()
    assert other.ask("many 0 1000") == "0"
    assert served.stop() == (0, "")


def test_it_ends_while_a_worker_reads_itself(served: Served, begin_client: Begin) -> None:
    client = begin_client()
    busy(served, client)
    assert served.stop() == (0, "")
    assert client.hear() in ("ECONNABORTED", "ENOTCONN")


def test_killed_while_a_worker_reads_itself_it_lets_go(served: Served, begin_client: Begin) -> None:
    client = begin_client()
    worker = busy(served, client)
    served.process.kill()
    assert client.hear() in ("ECONNABORTED", "ENOTCONN")
    wait_for_end(worker)


def test_nobody_wakes_for_a_door_that_it_does_not_read(served: Served, begin_client: Begin) -> None:
    """A worker that had the reading once is not woken by the requests of others."""
    client = begin_client()
    (first,) = served.busy_workers()
    until(lambda: client.ask("many 0 50") == "0" and reads_itself(first))
    until(lambda: not reads_itself(first))
    client.ask("alloc 0")
    before = switches(first)
    other = begin_client()
    assert other.ask("many 0 2000") == "0"
    assert switches(first) - before < 10


def switches(pid: int) -> int:
    """How often a process has gone to sleep."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("\nvoluntary_ctxt_switches:")[1].split()[0])
