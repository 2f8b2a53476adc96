"""The spawner: a process without threads or clients that forks workers before they are needed.

The broker has threads and cannot fork. The spawner imports once what a worker needs (trio, the
engine), and all workers share that memory.
"""

import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from struct import Struct
from typing import Final, NoReturn

from ..system import detach
from ..system.priority import go_first, go_with_others
from . import twin

log: Final = logging.getLogger("cuse_glue.broker")

# a new worker: its number and process id; with the writing end of its pipe, and a pidfd
MADE: Final = Struct("=Ii")
MORE: Final = b"+"  # the broker has used one up
COMM: Final = "iommud-spawner"
PAUSE: Final = 0.1  # seconds until another attempt, where no process is to be had

# (number of the worker, its pipe, what it calls when it is ready to serve): serve until the pipe
# ends
Work = Callable[[int, int, Callable[[], None]], None]


def start(
    spares: int, prepare: Callable[[], Work], alive: int, connections: Sequence[int], kept: Sequence[int]
) -> socket.socket:
    """Fork the spawner; the calling process must have one thread. Returns the broker's end of the
    link.

    `spares`: how many workers are kept ready. `prepare`: imports, and returns what a worker does.
    `alive`: as in twin.make; the broker has the other end. `connections`: to the kernel. `kept`:
    other descriptors that workers need. OSError: no process can be made.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        if os.fork() == 0:
            _be_spawner(theirs, spares, prepare, alive, connections, kept)
    return ours


def _be_spawner(
    link: socket.socket,
    spares: int,
    prepare: Callable[[], Work],
    alive: int,
    connections: Sequence[int],
    kept: Sequence[int],
) -> NoReturn:
    status = 1
    try:
        # It is the broker that is asked to end; the others end with it.
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT:
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody is to be collected
        detach.close_all_but(link.fileno(), alive, *connections, *kept)
        detach.name(COMM)
        detach.adopt_orphans()
        go_first()
        work = prepare()
        gc.collect()
        gc.freeze()
        _spawn(link, spares, work, alive, connections)
        status = 0
    except Exception:
        log.exception("bug: the process that makes workers")
    finally:
        os._exit(status)


def _spawn(link: socket.socket, spares: int, work: Work, alive: int, connections: Sequence[int]) -> None:
    wanted, number = spares, 0
    while True:
        while wanted:
            number += 1
            try:
                _fork_worker(link, number, work, alive, connections)
            except BrokenPipeError:
                return
            except OSError:  # no process, or no descriptor, is to be had just now
                number -= 1
                time.sleep(PAUSE)
                continue
            wanted -= 1
        try:
            asked = link.recv(1)
        except ConnectionResetError:  # the broker was killed, and had not read all that we told it
            return
        if not asked:
            return
        wanted += len(asked)


def _fork_worker(link: socket.socket, number: int, work: Work, alive: int, connections: Sequence[int]) -> None:
    """Fork a worker, and wait until it is ready. A new process needs milliseconds to begin, and
    many at once would delay those that are at work.
    """
    requests, into = os.pipe2(os.O_CLOEXEC)
    ready, tell = os.pipe2(os.O_CLOEXEC)
    try:
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            _be_worker(link, number, work, alive, connections, requests, into, tell)
        os.close(tell)
        tell = -1
        os.read(ready, 1)
        pidfd = os.pidfd_open(pid)  # ProcessLookupError: it has failed already
        try:
            socket.send_fds(link, [MADE.pack(number, pid)], [into, pidfd])
        finally:
            os.close(pidfd)
    finally:
        for fd in requests, into, ready, tell:
            if fd >= 0:
                os.close(fd)


def _be_worker(
    link: socket.socket,
    number: int,
    work: Work,
    alive: int,
    connections: Sequence[int],
    requests: int,
    into: int,
    tell: int,
) -> NoReturn:
    status = 1

    def ready() -> None:
        go_with_others()
        os.close(tell)

    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        link.close()
        os.close(into)
        detach.name("iommud-spare")
        twin.make(alive, connections)
        work(number, requests, ready)
        status = 0
    except Exception:
        log.exception("bug: a worker")
    finally:
        os._exit(status)
