"""The broker of a device: its doors, its workers, and its end.

Each door has a thread that reads (door.py). This is the main thread. It takes in new workers from
the spawner, hears what workers have to say, sees who has ended, and sends on what a full pipe did
not take. It waits in epoll and nowhere else.

At the end every worker's pipe is closed. Each worker lets go of its clients (it may have a client's
thread in its hands) and ends. If a worker is not gone in time, its twin kills it, and closes the
connection if even that does not help.
"""

import enum
import errno
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Final

from ..fuse import wire
from . import spawner
from .channel import HAS, LONGEST_NOTE, MOVE, NOTE, WANT, door_of, wanted
from .door import Door, Reader
from .lending import Lending
from .routes import Routes, Worker
from .turns import Turns
from .worker import Links

log: Final = logging.getLogger("cuse_glue.broker")

SPARES: Final = 3  # workers that wait for an open(2)
# seconds in which workers may end by themselves; above twin.GRACE, which begins after that
GRACE: Final = 1.0
LAST: Final = 0.4  # seconds in which twins end the others
STILLBORN: Final = (
    # spare workers in a row that end before they are used: then something is wrong that will not go
    # away
    3
)
STOP: Final = (signal.SIGTERM, signal.SIGINT)
_NOTES_AT_ONCE: Final = 256


class Ending(enum.Enum):
    """Why a broker ended."""

    STOPPED = enum.auto()  # a signal, or `stop`
    TAKEN_AWAY = enum.auto()  # a mount or device is gone
    REFUSED = enum.auto()  # the kernel did not take a door to begin with
    FAILED = enum.auto()  # a bug, which is in the log


class Broker:
    """Serves the doors of one device. A process makes and uses it in its main thread, while it has
    no other thread.
    """

    def __init__(
        self,
        doors: Sequence[Door],
        share: int,
        prepare: Callable[[Links], spawner.Work],
        kept: Sequence[int] = (),
        ended: Callable[[int], None] = lambda number: None,
        closing: Callable[[int, int], None] = lambda door, number: None,
        moving: Callable[[int, int, int], None] = lambda door, giver, taker: None,
        needed: int | None = None,
    ) -> None:
        """The doors' descriptors are the broker's from now on. `share`: how many workers one user
        gets. `prepare(links)`: called in the spawner, returns what a worker does; `kept`:
        descriptors that it needs. `ended`: called with the number of each worker that has ended.
        `closing`: called with the door and the worker of each open file that was moved and is
        closed, before the worker hears of it; of all that are closed, if the door is `counted`.
        `moving`: called with the door of an open file that is moved, and with the two workers,
        before they hear of it. None of these at the same time. `needed`: a pipe that ends with a
        process without which it cannot go on.

        OSError: no process can be made.
        """
        with ExitStack() as failing:
            alive, self._alive = os.pipe2(os.O_CLOEXEC)
            failing.callback(os.close, self._alive)
            self._notes, notes = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
            connections = [door.fd for door in doors]
            turns = Turns() if any(door.moves for door in doors) else None
            lendings = [Lending() if turns is None else None for _ in doors]
            links = Links(connections, notes, lendings)
            kept = [notes.fileno(), *(lending.end for lending in lendings if lending is not None), *kept]
            with notes:
                self._link = spawner.start(SPARES, lambda: prepare(links), alive, connections, kept)
            os.close(alive)
            failing.pop_all()
        self._notes.setblocking(False)
        self._link.setblocking(False)
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[], None]] = {}
        self._routes = Routes(share, self._order_worker, self._watch_pipe, moving=moving)
        self._changes, self._changed = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in self._changes, self._changed:
            end.setblocking(False)
        self._readers = [
            Reader(index, door, self._routes, self._take_notes, self._wake, closing, turns, lending)
            for index, (door, lending) in enumerate(zip(doors, lendings, strict=True))
        ]
        if turns is not None:
            turns.doors = tuple(self._readers)
        self._connections = connections
        self._ended = ended
        self._needed = needed
        self._ready: Callable[[], bool] | None = None
        self._ending: Ending | None = None
        self._spawned = 0
        self._stillborn = 0

    def serve(
        self, ready: Callable[[], bool], tick: Callable[[], None], every: float | None, ending: Callable[[], None]
    ) -> Ending:
        """Serve until a signal of STOP comes or a door is gone. When this returns all workers are
        gone, and clients get ENOTCONN.

        `ready` is called once, when each door can be opened; it says whether to go on. `tick` is
        called `every` so many seconds, unless that is None. `ending` is called when the end begins
        because somebody asked for it.
        """
        self._ready = ready
        self._watch(self._changes.fileno(), self._look)
        self._watch(self._notes.fileno(), self._read_notes)
        self._watch(self._link.fileno(), self._take_workers)
        if self._needed is not None:
            self._watch(self._needed, self._miss)
        signal.set_wakeup_fd(self._changed.fileno(), warn_on_full_buffer=False)
        for number in STOP:
            signal.signal(number, lambda *_: self.stop(Ending.STOPPED))
        signal.signal(signal.SIGUSR1, lambda *_: None)  # brings a reader out of its wait
        for reader in self._readers:
            reader.thread.start()
        following = time.monotonic()
        while (why := self._why()) is None:
            if every is not None and time.monotonic() >= following:
                if self._is_ready():
                    tick()
                following = time.monotonic() + every
            self._wait(following - time.monotonic() if every is not None else -1)
        for number in STOP:
            signal.signal(number, signal.SIG_IGN)  # impatience must not stop the cleaning up
        if why is Ending.STOPPED:
            ending()
        self._end()
        return why

    def _is_ready(self) -> bool:
        return self._ready is None

    def _why(self) -> Ending | None:
        return self._ending  # which a signal's handler sets at any time

    def stop(self, why: Ending) -> None:
        """Make `serve` return, for the first reason that is given."""
        if self._ending is None:
            self._ending = why

    # --- what happens ---

    def _watch(self, fd: int, handler: Callable[[], None], events: int = select.EPOLLIN) -> None:
        self._handlers[fd] = handler
        self._epoll.register(fd, events)

    def _unwatch(self, fd: int) -> None:
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _wait(self, timeout: float) -> None:
        for fd, _ in self._epoll.poll(timeout if timeout < 0 else max(timeout, 0)):
            handler = self._handlers.get(fd)
            if handler is not None:
                handler()

    def _wake(self, _reader: Reader) -> None:
        """In a reader's thread."""
        try:
            self._changed.send(b".")
        except OSError:
            pass  # full: it will be looked

    def _look(self) -> None:
        try:
            self._changes.recv(4096)
        except BlockingIOError:
            pass
        for reader in self._readers:
            if reader.ended:
                self.stop(Ending.FAILED if reader.failed else Ending.TAKEN_AWAY if reader.is_ready else Ending.REFUSED)
        self._be_ready()

    def _be_ready(self) -> None:
        if self._ready is not None and self._spawned and all(reader.is_ready for reader in self._readers):
            ready, self._ready = self._ready, None
            if not ready():
                self.stop(Ending.REFUSED)

    def _read_notes(self) -> None:
        with self._routes.lock:
            self._take_notes()

    def _take_notes(self) -> None:
        """Under the routes' lock; in any thread."""
        for _ in range(_NOTES_AT_ONCE):
            try:
                note = self._notes.recv(LONGEST_NOTE)
            except BlockingIOError:
                return
            kind, number, first, second = NOTE.unpack_from(note)
            if kind == MOVE:
                self._move(number, first, second, note[NOTE.size :])
                continue
            if kind == WANT:
                if first in self._routes.workers:
                    self._routes.send(self._routes.workers[first], wanted(second), always=True)
                continue
            if kind == HAS:
                self._readers[second].has(first, self._routes.workers.get(number))
                continue
            worker = self._routes.note(kind, number, first, second)
            if worker is not None:
                self._retire(worker)  # it reads the end of its pipe, and ends

    def _move(self, number: int, handle: int, tid: int, request: bytes) -> None:
        if number not in self._routes.workers:
            return  # it has ended, and its clients have heard of it
        reader = self._readers[door_of(request)]
        taker = self._routes.move(number, handle, tid, request, reader.can_be_mapped)
        reader.moved(wire.unique_of(request), taker)

    def _retire(self, worker: Worker) -> None:
        """Send nothing to it any more. Under the routes' lock."""
        self._routes.forget(worker)
        self._unwatch(worker.pipe)
        os.close(worker.pipe)

    def _take_workers(self) -> None:
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self._link, spawner.MADE.size, 2)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    return
                if error.errno != errno.ECONNRESET:  # it was killed before it had read all
                    raise
                message, descriptors = b"", []
            if not message:
                log.error("the process that makes workers is gone")
                self.stop(Ending.FAILED)
                self._unwatch(self._link.fileno())
                return
            self._take_worker(*spawner.MADE.unpack(message), *descriptors)

    def _take_worker(self, number: int, pid: int, *descriptors: int) -> None:
        if len(descriptors) != 2:  # we are short of descriptors; without its pipe it ends
            for fd in descriptors:
                os.close(fd)
            self._order_worker()
            return
        pipe, pidfd = descriptors
        os.set_blocking(pipe, False)
        worker = Worker(number, pid, pipe, pidfd)
        self._watch(pidfd, lambda: self._bury(worker))
        self._spawned += 1
        with self._routes.lock:
            self._routes.spares.append(worker)
            self._routes.assign()
        self._be_ready()

    def _miss(self) -> None:
        log.error("a process that is needed is gone")
        self.stop(Ending.FAILED)

    def _order_worker(self) -> None:
        """Any thread."""
        try:
            self._link.send(spawner.MORE)
        except OSError as error:
            log.debug("a worker cannot be ordered: %s", error.strerror)

    def _watch_pipe(self, worker: Worker, full: bool) -> None:
        """A worker's pipe is full, or is not any more. In any thread."""
        if full:
            self._watch(worker.pipe, lambda: self._routes.flush(worker), select.EPOLLOUT)
        else:
            self._unwatch(worker.pipe)

    def _bury(self, worker: Worker) -> None:
        """A worker has ended."""
        self._unwatch(worker.pidfd)
        os.close(worker.pidfd)
        with self._routes.lock:
            self._ended(worker.number)
            retired = worker.gone
            unused = worker.door < 0
            if unused:
                self._routes.spares.remove(worker)
            if not retired:
                self._retire(worker)
        if unused:
            self._stillborn += 1
            if self._stillborn >= STILLBORN:
                log.error("workers end as soon as they are made")
                self.stop(Ending.FAILED)
            self._order_worker()
        else:
            self._stillborn = 0
            for reader in self._readers:
                reader.end_loans(worker)
        if not retired and not unused:
            for door in worker.doors:
                self._readers[door].abandon(worker)
            log.warning(
                "a worker (process %d, of user %d) has ended; what it had open gives EIO", worker.pid, worker.uid
            )

    # --- the end ---

    def _end(self) -> None:
        for reader in self._readers:
            reader.close()
        with self._routes.lock:
            here = [*self._routes.workers.values(), *self._routes.spares]
            self._routes.spares.clear()
            for worker in here:
                self._retire(worker)
        self._link.close()
        waiting = {worker.pidfd for worker in here}
        self._await_ends(waiting, GRACE)
        os.close(self._alive)
        self._await_ends(waiting, LAST)
        self._leave_doors()

    @staticmethod
    def _await_ends(pidfds: set[int], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        poll = select.poll()
        for fd in pidfds:
            poll.register(fd, select.POLLIN)
        while pidfds and (rest := deadline - time.monotonic()) > 0:
            for fd, _ in poll.poll(rest * 1000):
                poll.unregister(fd)
                pidfds.discard(fd)

    def _leave_doors(self) -> None:
        """Close the connections. A thread that reads one of them keeps it open until it has
        come out of its read(2).
        """
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        for fd in self._connections:
            os.dup2(null, fd, inheritable=False)
        os.close(null)
        deadline = time.monotonic() + LAST
        for reader in self._readers:
            while reader.thread.is_alive() and time.monotonic() < deadline:
                signal.pthread_kill(reader.thread.ident or threading.get_ident(), signal.SIGUSR1)
                reader.thread.join(0.01)
        for fd in self._connections:
            os.close(fd)
