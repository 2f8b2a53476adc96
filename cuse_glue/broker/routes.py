"""Who serves which open file: the workers of a device, the users that they work for, and what is
sent to whom.

Two kinds of threads of the broker use this: those that read a connection (door.py), and the main
one (broker.py). They change it only under `lock`. Each worker has a lock of its own, for its pipe.

An open file stays with its first worker, whose number is in its handle, until it is moved to
another. That happens to an open file of a device when its client binds it to a /dev/iommu: the open
file then goes to the worker of that /dev/iommu. Its first worker does what there is to do before.
To find the other worker, it fetches the descriptor that the client has named, and polls it: the
poll comes to the broker, which knows whose the open file is. It keeps the descriptor until it has
told the broker. So a client can name nothing that it has not open itself. And what the client makes
slow delays only its own workers.
"""

import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from .channel import (
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
    assignment,
    door_of,
    move,
)

MOST_KEPT: Final = 8 << 20  # bytes that are kept for a worker whose pipe is full


class Worker:
    """One worker, as the broker knows it."""

    __slots__ = (
        "claims",
        "done",
        "door",
        "doors",
        "gone",
        "kept",
        "kept_size",
        "lock",
        "number",
        "pid",
        "pidfd",
        "pipe",
        "rest",
        "sent",
        "uid",
    )

    def __init__(self, number: int, pid: int, pipe: int, pidfd: int) -> None:
        self.number: Final = number
        self.pid: Final = pid
        self.pipe: Final = pipe
        self.pidfd: Final = pidfd
        self.lock: Final = threading.Lock()  # of the pipe, and of what was sent
        self.door = -1  # which it serves; not assigned yet
        self.doors: set[int] = set()  # of which it ever served an open file
        self.uid = -1
        self.rest = False
        self.sent = 0  # messages
        self.done = -1  # after so many it had no open file
        self.kept: deque[bytes] | None = None  # what its pipe did not take
        self.kept_size = 0  # bytes
        self.gone = False
        self.claims: set[int] = set()  # threads


Opening = Callable[[Worker], None]
"""An open(2): to be called with the worker that gets it."""


class _Waiting:
    """A worker that does not exist yet, and the opens that wait for it."""

    def __init__(self, what: Assignment, opening: Opening) -> None:
        self.what = what
        self.openings = [opening]


class _User:
    def __init__(self) -> None:
        self.workers = 0  # with those that do not exist yet, without those of the rest
        self.served = 0  # workers that exist, with those of the rest
        self.rest: dict[int, Worker | _Waiting] = {}  # by door
        self.waiting: deque[_Waiting] = deque()


class Routes:
    """All workers of one device."""

    def __init__(
        self,
        share: int,
        more: Callable[[], None],
        full: Callable[[Worker, bool], None],
        reserve: int = 1,
        moving: Callable[[int, int, int], None] = lambda door, giver, taker: None,
    ) -> None:
        """`share`: how many workers a user gets before one serves the rest. `more`: called when a
        spare has been used up. `full`: called with True when a pipe is full, so that somebody
        watches it and calls `flush`, and with False when it is no longer full. `reserve`: so many
        spares are kept for users who have no worker. `moving`: as of Broker.
        """
        self.lock: Final = threading.Lock()
        self.workers: Final[dict[int, Worker]] = {}  # at work, by number
        self.spares: Final[deque[Worker]] = deque()
        self._users: dict[int, _User] = {}
        # users that wait for workers: each gets the next worker in turn
        self._turns: deque[int] = deque()
        self._claims: dict[int, Worker] = {}  # by thread
        self._shown: dict[int, tuple[int, Worker]] = {}  # by offset: the end, and whose
        self.moved: Final[dict[int, Worker]] = {}  # open files that have another worker than their first, by handle
        self._asking: dict[int, Worker] = {}  # by thread: who wants to know whose an open file is
        self._found: dict[int, Worker] = {}  # by thread: whose it is
        self._overtaken = False  # whose turn it is was passed over by a user without a worker
        self._share = share
        self._reserve = reserve
        self._more = more
        self._full = full
        self._moving = moving

    # --- requests; in any thread ---

    def send(self, worker: Worker, message: memoryview | bytes | bytearray, *, always: bool = False) -> bool:
        """Send a request. Never waits. False: too much is kept for this worker already, and
        `always` was not set. Nothing is sent to a worker that is gone.
        """
        with worker.lock:
            if worker.gone:
                return True  # as is seen afterwards
            worker.sent += 1
            if worker.kept is None:
                try:
                    count = os.write(worker.pipe, message)
                except BlockingIOError:
                    count = 0
                except BrokenPipeError:
                    return True  # it has ended, which the steward sees, too
                if count == len(message):
                    return True
                message = message[count:]
                always |= count > 0
            if worker.kept_size > MOST_KEPT and not always:
                worker.sent -= 1
                return False
            if worker.kept is None:
                worker.kept = deque()
                self._full(worker, True)
            worker.kept.append(bytes(message))
            worker.kept_size += len(message)
        return True

    def flush(self, worker: Worker) -> None:
        """Send as much as possible of what was kept."""
        with worker.lock:
            kept = worker.kept
            if kept is None or worker.gone:
                return
            while kept:
                try:
                    count = os.write(worker.pipe, kept[0])
                except BlockingIOError:
                    return
                except BrokenPipeError:
                    kept.clear()
                    break
                worker.kept_size -= count
                if count == len(kept[0]):
                    kept.popleft()
                else:
                    kept[0] = kept[0][count:]
            worker.kept = None
            worker.kept_size = 0
            self._full(worker, False)

    # --- under `lock` ---

    def open(self, what: Assignment, tid: int, opening: Opening) -> None:
        """Route an OPEN by thread `tid`, or keep it until there is a worker. `what`: the assignment
        that a new worker would get, except for `rest`.
        """
        claimed = self._claims.pop(tid, None)
        if claimed is not None and what.door in claimed.doors:
            claimed.claims.discard(tid)
            opening(claimed)
            return
        uid = what.uid
        user = self._users.setdefault(uid, _User())
        waiting = _Waiting(what._replace(rest=user.workers >= self._share), opening)
        if waiting.what.rest:
            there = user.rest.setdefault(what.door, waiting)
            if isinstance(there, Worker):
                opening(there)
                return
            if there is not waiting:
                there.openings.append(opening)
                return
        else:
            user.workers += 1
        if not user.waiting:
            self._turns.append(uid)
        user.waiting.append(waiting)
        self.assign()

    def assign(self) -> None:
        """Give the spare workers to those who wait for one, user by user."""
        while self._turns and self.spares:
            uid = self._turns[0]
            if len(self.spares) > self._reserve or self._overtaken:
                self._overtaken = False
            else:
                uid = next((each for each in self._turns if not self._users[each].served), -1)
                if uid < 0:
                    return
                # Who opens and closes again and again has no worker each time.
                self._overtaken = uid != self._turns[0]
            self._turns.remove(uid)
            user = self._users[uid]
            self._assign(self.spares.popleft(), user, user.waiting.popleft())
            if user.waiting:
                self._turns.append(uid)
            self._more()

    def _assign(self, worker: Worker, user: _User, waiting: _Waiting) -> None:
        worker.door, worker.uid, worker.rest = waiting.what.door, waiting.what.uid, waiting.what.rest
        worker.doors.add(worker.door)
        self.workers[worker.number] = worker
        user.served += 1
        if worker.rest:
            user.rest[worker.door] = worker
        self.send(worker, assignment(waiting.what), always=True)
        worker.sent = 0
        for opening in waiting.openings:
            opening(worker)

    def note(self, kind: int, number: int, first: int, second: int) -> Worker | None:
        """Take in what worker `number` has to say. Returns the worker if it is to go: it has no
        open file, and nothing is on its way to it.
        """
        worker = self.workers.get(number)
        if worker is None:
            return None
        if kind == CLAIM:
            self._claims[first] = worker
            worker.claims.add(first)
        elif kind == UNCLAIM:
            if self._claims.get(first) is worker:
                del self._claims[first]
            worker.claims.discard(first)
        elif kind == SHOWN:
            self._shown[first] = first + second, worker
        elif kind == ASK:
            self._asking[first] = worker
        elif kind == UNASK:
            self._asking.pop(first, None)
            self._found.pop(first, None)
        elif kind == DONE:
            worker.done = first
        # The thread that takes back a claim is not the one that says DONE, and may be later.
        return worker if worker.done == worker.sent and not worker.claims else None

    def whose(self, door: int, offset: int, length: int) -> Worker | None:
        """The worker that shows these bytes of the file."""
        for start, (end, worker) in self._shown.items():
            if worker.door == door and start <= offset and offset + length <= end:
                return worker
        return None

    def asked(self, tid: int, of: Worker) -> bool:
        """Thread `tid` has polled an open file of the worker `of`. Returns whether another worker
        asks by this POLL; if not, the POLL is like any other.
        """
        asking = self._asking.pop(tid, None)
        if asking is None or asking is of:
            return False
        self._found[tid] = of
        return True

    def move(self, giver: int, handle: int, tid: int, request: bytes, mappable: bool) -> Worker | None:
        """Worker `giver` hands over an open file to the worker that thread `tid` has found, and
        with it the request that is the reason. Returns that worker; None: it is gone. `mappable`:
        as in Assignment.
        """
        self._asking.pop(tid, None)
        taker = self._found.pop(tid, None)
        door, what = door_of(request), Move(handle, mappable)
        here = taker is not None and not taker.gone
        if taker is not None and here:
            self._moving(door, giver, taker.number)
        self.send(self.workers[giver], move(LEFT if here else STAYS, door, what), always=True)
        if taker is None or taker.gone:
            return None
        taker.doors.add(door)
        self.send(taker, move(TAKE, door, what), always=True)
        self.moved[handle] = taker
        self.send(taker, request, always=True)
        return taker

    def forget(self, worker: Worker) -> None:
        """The worker has gone, or is to go: nothing is sent to it any more, and its pipe is the
        caller's to close.
        """
        with worker.lock:
            worker.gone = True
        self.workers.pop(worker.number, None)
        for tid in worker.claims:
            self._claims.pop(tid, None)
        for start in [start for start, (_, its) in self._shown.items() if its is worker]:
            del self._shown[start]
        for threads in self._asking, self._found:
            for tid in [tid for tid, its in threads.items() if its is worker]:
                del threads[tid]
        user = self._users.get(worker.uid)
        if user is None:
            return
        user.served -= 1
        if worker.rest:
            del user.rest[worker.door]
        else:
            user.workers -= 1
        if not user.workers and not user.rest:
            del self._users[worker.uid]
