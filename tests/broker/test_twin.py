"""The twin of a worker: when the broker is gone it ends the worker, and closes the connection for
one that cannot be ended.
"""

import os
import select
import signal
import time
from pathlib import Path

import pytest

from cuse_glue.broker import twin
from cuse_glue.system import libc
from tests.support import PATIENCE, wait_for_end, wait_for_input


class Family:
    """A worker with a twin. `held`: a pipe whose writing end stands for the connection."""

    def __init__(self, *, deaf: bool, leaves: bool) -> None:
        alive, self.alive = os.pipe()
        self.held, connection = os.pipe()
        ready, told = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.alive)
            if deaf:  # as one in a sleep that no signal ends, as far as the twin can see
                twin._ends = lambda pidfd, milliseconds: False
            twin.make(alive, [connection])
            os.write(told, b".")
            if leaves:
                os.read(alive, 1)
                os._exit(0)
            signal.pause()
        for fd in alive, connection, told:
            os.close(fd)
        wait_for_input(ready, "the twin")
        os.close(ready)
        (self.twin,) = (int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split())

    def end(self) -> int:
        """The worker's status."""
        return os.waitpid(self.pid, 0)[1]

    def close(self) -> None:
        os.close(self.held)


def test_it_ends_with_its_worker() -> None:
    family = Family(deaf=False, leaves=False)
    os.kill(family.pid, signal.SIGKILL)
    family.end()
    wait_for_end(family.twin)
    os.close(family.alive)
    family.close()


def test_a_worker_that_leaves_by_itself_is_let() -> None:
    family = Family(deaf=False, leaves=True)
    os.close(family.alive)
    assert family.end() == 0
    wait_for_end(family.twin)
    family.close()


def test_a_worker_that_does_not_leave_is_killed() -> None:
    family = Family(deaf=False, leaves=False)
    begun = time.monotonic()
    os.close(family.alive)
    assert family.end() == signal.SIGKILL
    assert time.monotonic() - begun >= twin.GRACE / 1000
    wait_for_end(family.twin)
    family.close()


def test_it_closes_the_connection_for_one_that_cannot_be_ended() -> None:
    """SIGKILL does end a stopped worker, so the twin is made to believe (`deaf`) that it did not.
    What the twin closes is seen from outside.
    """
    family = Family(deaf=True, leaves=False)
    os.kill(family.pid, signal.SIGSTOP)
    os.close(family.alive)
    poll = select.poll()
    poll.register(family.held, 0)
    assert poll.poll(PATIENCE * 1000) == [(family.held, select.POLLHUP)]
    family.end()
    family.close()


def test_descriptors_are_shared() -> None:
    reading, writing = os.pipe()
    if libc.clone_sharing_descriptors() == 0:
        os.close(writing)
        os._exit(0)
    os.wait()
    assert os.read(reading, 1) == b""
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.close(writing)
    os.close(reading)
