"""`iommud serve` as processes: whose worker has what, and what the others notice when one of them
is stopped, or dies.
"""

import errno
import fcntl
import os
import signal
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cuse_glue.broker.broker import SPARES
from cuse_glue.system import libc
from tests.broker.served import Client, Served, until
from tests.support import AS_NOBODY, PATIENCE, mounts_at, wait_for_call, wait_for_end

pytestmark = pytest.mark.usefixtures("root")

IOCTL = 16  # of x86-64
Start = Callable[..., Served]
Begin = Callable[..., Client]


@pytest.fixture
def path(open_directory: Path) -> str:
    return str(open_directory / "iommu")


@pytest.fixture
def serve(path: str, begin: Begin) -> Iterator[Start]:
    """The daemon goes before its clients do: one may wait for a worker that was stopped."""
    with ExitStack() as stack:

        def start(*flags: str) -> Served:
            served = Served(path, "--mode", "0666", *flags)
            stack.callback(served.close)
            return served

        yield start


@pytest.fixture
def begin(path: str) -> Iterator[Begin]:
    with ExitStack() as stack:

        def start(*prefix: str) -> Client:
            client = Client(path, *prefix)
            stack.callback(client.close)
            return client

        yield start


def has_a_message(pid: int) -> bool:
    """Whether something waits in one of its pipes."""
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        if "pipe:" in os.readlink(entry):
            fd = os.open(entry, os.O_RDONLY | os.O_NONBLOCK)
            waiting = bytearray(4)
            fcntl.ioctl(fd, termios.FIONREAD, waiting)
            os.close(fd)
            if any(waiting):
                return True
    return False


def the_new(served: Served, before: set[int]) -> int:
    (worker,) = served.busy_workers() - before
    return worker


def test_each_open_file_has_a_worker_which_goes_with_it(serve: Start, begin: Begin) -> None:
    served = serve()
    client = begin()
    assert client.ask("open") == "0"
    assert client.ask("open") == "1"
    assert client.ask("alloc 0") == client.ask("alloc 1") == "1", "two contexts"
    assert len(served.busy_workers()) == 2
    first = served.busy_workers()
    client.ask("close 0")
    until(lambda: len(served.busy_workers()) == 1)
    assert client.ask("alloc 1") == "2"
    client.close()
    until(lambda: not served.busy_workers())
    for pid in first:
        wait_for_end(pid)
    assert served.stop() == (0, "")


def test_twins_end_with_their_workers(serve: Start, begin: Begin) -> None:
    served = serve()
    client = begin()
    for at in range(5):
        client.ask("open")
        client.ask(f"alloc {at}")
    client.close()
    until(lambda: not served.busy_workers())
    until(lambda: len(served.family("iommud-twin")) == len(served.spares()) == SPARES)


def test_a_worker_that_dies_harms_its_own_file_only(serve: Start, begin: Begin) -> None:
    served = serve()
    innocent, client = begin(), begin(*AS_NOBODY)
    innocent.ask("open")
    before = served.busy_workers()
    client.ask("open")
    worker = the_new(served, before)
    os.kill(worker, signal.SIGSTOP)
    client.tell("alloc 0")  # and waits
    wait_for_call(client.process.pid, IOCTL)
    assert innocent.ask("alloc 0") == "1"
    os.kill(worker, signal.SIGKILL)
    assert client.hear() == "EIO"
    assert client.ask("alloc 0") == "EIO"
    assert client.ask("close 0") == "0"
    assert client.ask("open") == "1"
    assert client.ask("alloc 1") == "1"
    assert innocent.ask("alloc 0") == "2"
    code, said = served.stop()
    assert code == 0
    assert (
        said == f"iommud: WARNING: a worker (process {worker}, of user 65534) has ended; what it had open gives EIO\n"
    )


def test_an_open_that_waits_for_a_worker_that_dies_is_answered(serve: Start, begin: Begin) -> None:
    served = serve()
    spares = served.spares()
    for pid in spares:
        os.kill(pid, signal.SIGSTOP)
    client = begin()
    client.ask("stat")  # by now it has opened all that Python opens
    client.tell("open")
    until(lambda: any(map(has_a_message, spares)))
    for pid in spares:
        os.kill(pid, signal.SIGKILL)
    assert client.hear() == "EIO"
    until(lambda: client.ask("open") == "0")  # the other spare may be known to be dead only now


def test_beyond_the_share_one_worker_serves_the_rest(serve: Start, begin: Begin) -> None:
    served = serve("--share", "workers=2")
    client, other = begin(*AS_NOBODY), begin()
    for at in range(6):
        assert client.ask("open") == str(at)
        assert client.ask(f"alloc {at}") == "1"
    assert len(served.busy_workers()) == 3
    assert other.ask("open") == "0"
    assert other.ask("alloc 0") == "1"
    assert len(served.busy_workers()) == 4, "the share is each user's"
    for at in range(6):
        client.ask(f"close {at}")
    until(lambda: len(served.busy_workers()) == 1)


def test_a_given_descriptor_is_its_contexts(serve: Start, begin: Begin) -> None:
    served = serve()
    client = begin()
    client.ask("open")
    assert client.ask("queue 0") == "1"
    assert len(served.busy_workers()) == 1
    assert client.ask("ioctl 1") == "ENOTTY", "the queue's own file"
    assert client.ask("destroy 0 1") == "EBUSY", "its descriptor is open"
    client.ask("close 1")
    assert client.ask("destroy 0 1") == "0"
    assert client.ask("open") == "2"
    assert len(served.busy_workers()) == 2, "an open of its own is a new context"


def test_objects_of_a_user_are_limited_together_and_nobody_else_is(serve: Start, begin: Begin) -> None:
    serve("--share", "objects=256,workers=2")
    client, other = begin(*AS_NOBODY), begin()
    made = 0
    for at in range(3):
        assert client.ask("open") == str(at)
    while (answer := client.ask(f"alloc {made % 3}")).isdigit():
        made += 1
        assert made < 300
    assert answer == "ENOMEM"
    assert made > 256 // 2
    assert other.ask("open") == "0"
    assert other.ask("alloc 0") == "1"


def test_a_write_longer_than_a_pipes_atom_comes_whole(serve: Start, begin: Begin) -> None:
    """The device refuses it, and the next request is understood."""
    served = serve()
    fd = os.open(served.path, os.O_RDWR)
    for length in (5000, 60_000, 128 * 1024):
        with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
            os.write(fd, bytes(length))
    os.close(fd)
    client = begin()
    client.ask("open")
    assert client.ask("alloc 0") == "1"


def test_killed_while_a_worker_cannot_answer_it_lets_go(serve: Start, begin: Begin, path: str) -> None:
    """A stopped worker stands for one that sleeps in the kernel: nobody may hang on it."""
    served = serve()
    client, waiting = begin(), begin()
    client.ask("open")
    waiting.ask("open")
    for pid in served.busy_workers():
        os.kill(pid, signal.SIGSTOP)
    waiting.tell("alloc 0")
    wait_for_call(waiting.process.pid, IOCTL)
    begun = time.monotonic()
    served.process.kill()
    assert waiting.hear() in ("ECONNABORTED", "ENOTCONN")
    assert time.monotonic() - begun < 5  # 0.75 s, on a machine that has time
    assert client.ask("open") == "ENOTCONN"
    assert mounts_at(path)
    libc.umount(path, libc.MNT_DETACH)
    served = serve()
    again = begin()
    assert again.ask("open") == "0"
    assert again.ask("alloc 0") == "1"


def test_stopped_while_a_worker_cannot_answer_it_ends(serve: Start, begin: Begin) -> None:
    served = serve()
    client = begin()
    client.ask("open")
    (worker,) = served.busy_workers()
    os.kill(worker, signal.SIGSTOP)
    client.tell("alloc 0")
    wait_for_call(client.process.pid, IOCTL)
    assert served.stop() == (0, "")
    assert client.hear() in ("ECONNABORTED", "ENOTCONN")
    assert not os.path.lexists(served.path)
    wait_for_end(worker)


def test_without_its_spawner_it_ends_and_says_so(serve: Start, begin: Begin) -> None:
    served = serve()
    client = begin()
    client.ask("open")
    # what the spawner forks has the spawner's name for a moment
    until(lambda: len(served.family("iommud-spawner")) == 1)
    (spawner,) = served.family("iommud-spawner")
    os.kill(spawner.pid, signal.SIGKILL)
    assert served.process.wait(PATIENCE) == 70
    assert client.ask("alloc 0") in ("ECONNABORTED", "ENOTCONN")
    assert served.process.stderr is not None
    assert served.process.stderr.read() == b"iommud: ERROR: the process that makes workers is gone\n"


def test_many_opens_and_closes_leave_nothing(serve: Start, begin: Begin) -> None:
    served = serve()
    client = begin()
    client.ask("open")
    client.ask("close 0")
    until(lambda: len(served.spares()) == SPARES)
    before = len(os.listdir(f"/proc/{served.process.pid}/fd"))
    for at in range(1, 40):
        assert client.ask("open") == str(at)
        assert client.ask(f"alloc {at}") == "1"
        client.ask(f"close {at}")
    until(lambda: not served.busy_workers() and len(served.spares()) == SPARES)

    def left() -> int:
        """The descriptors of a worker go with the next request after its end."""
        client.ask(f"close {client.ask('open')}")
        return len(os.listdir(f"/proc/{served.process.pid}/fd"))

    until(lambda: left() <= before + 2)
