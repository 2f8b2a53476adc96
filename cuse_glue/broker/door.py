"""One connection to the kernel: a thread that reads its requests, and sends each to the worker of
the open file.

It waits in read(2); where the doors take turns (turns.py), in poll(2); and while the reading is
lent to a worker (lending.py), for that worker. It looks at the first 48 bytes of a request, and
touches nothing that belongs to a client. Requests that belong to no open file (attributes, the
beginning) it answers itself.
"""

import errno
import logging
import os
import select
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from struct import Struct
from typing import Final

from ..fuse import wire
from ..fuse.closes import Ended
from ..fuse.node import MAX_WRITE, ROOT_INODE, Attributes, Node, Work
from ..request.caller import Caller
from ..request.mapped import Show
from ..request.open_file import OpenFile
from ..system.priority import go_first
from .channel import BY_HANDLE, Assignment, lend, put_door, take_back
from .lending import Lender, Lending
from .routes import Routes, Worker
from .turns import Turns

log: Final = logging.getLogger("cuse_glue.broker")

_head: Final = wire.IN_HEADER.unpack_from
_handle: Final = Struct("<Q").unpack_from  # which a request of an open file begins with
_REMEMBERED: Final = 1 << 16  # requests of which is known who has them
_BEGINNINGS: Final = (wire.INIT, wire.CUSE_INIT)
_TAKEN_BACK: Final = (errno.ENOENT, errno.EINTR)
_ENDED: Final = (errno.ENODEV, errno.ECONNABORTED)
_NO_REPLY_NEEDED: Final = (errno.ENOENT, errno.ENODEV, errno.EPERM)
_ELSEWHERE: Final = wire.POLL_OUT.pack(select.POLLMSG, 0)  # as recognise.which has it


@dataclass
class Door:
    """One of the device's files, as a connection: mounted (FUSE), or about to make a device
    (`cuse_name`).
    """

    fd: int
    attributes: Attributes = field(default_factory=Attributes)
    cuse_name: str | None = None
    mappable: bool = False  # whether there is anything that could be mapped
    moves: bool = False  # its open files may be moved to workers of another door
    counted: bool = False  # who may open it depends on who has closed it


class _Mappable:
    """The broker's mapped.Mapped. The broker only wants to know whether the kernel can map the
    file.
    """

    def __init__(self) -> None:
        self.begun = False

    def begin(self, show: Show) -> None:
        self.begun = True

    def page_in(self, file: OpenFile, caller: Caller, offset: int, size: int) -> bytes:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def page_out(self, offset: int, data: bytes) -> None:
        pass


class Reader:
    """Reads the requests of one door."""

    def __init__(
        self,
        index: int,
        door: Door,
        routes: Routes,
        notes: Callable[[], None],
        changed: Callable[["Reader"], None],
        closing: Callable[[int, int], None],
        turns: Turns | None,
        lending: Lending | None,
    ) -> None:
        """`notes`: takes in what workers have said, under the routes' lock. `changed`: called when
        the reader is ready, and when it has ended. `closing`: as of Broker. `turns`: those of all
        the doors, if open files move; then a POLL may be a worker's question. `lending`: None if
        nothing is to be lent.
        """
        self.index: Final = index
        self.is_ready = False
        self.ended = False
        self.failed = False
        self.fd: Final = door.fd
        self._turns = turns
        self._lender = Lender(lending, door.fd) if lending is not None else None
        self._is_lending_due = False
        buffer = bytearray(MAX_WRITE + 4096)
        self._view, self._buffers = memoryview(buffer), [buffer]
        self._routes = routes
        self._notes = notes
        self._changed = changed
        self._mappable = _Mappable() if door.mappable else None
        self._node = Node(_NoOpener(), door.attributes, self._send, cuse_name=door.cuse_name, mapped=self._mappable)
        self._uniques = [0] * _REMEMBERED
        self._owners: list[Worker | None] = [None] * _REMEMBERED
        self._closing = False
        self._counted = door.counted
        self._tell_closing = closing
        self._mapper: Worker | None = None  # to whom an open file of a door that moves went last
        self.thread: Final = threading.Thread(target=self._run, name=f"door-{index}", daemon=True)

    def close(self) -> None:
        """From now on every new request fails as it does after our end. The connection itself ends
        when the last worker lets go of it.
        """
        self._closing = True

    @property
    def can_be_mapped(self) -> bool:
        """Something of the file, and the kernel lets it."""
        return self._mappable is not None and self._mappable.begun

    def moved(self, unique: int, worker: Worker | None) -> None:
        """An open file was moved, with this request of it; None: it could not be, because whom the
        client has named is gone, or is nobody's. Under the routes' lock; in any thread.
        """
        if worker is None:
            self._send(wire.reply(unique, -errno.EBADFD))
            return
        self._mapper = worker
        slot = unique >> 1 & 0xFFFF
        if self._uniques[slot] == unique:
            self._owners[slot] = worker

    def has(self, unique: int, worker: Worker | None) -> None:
        """A worker that read a request itself will answer it later; None: it has ended. Under the
        routes' lock; in any thread.
        """
        if worker is None:
            self._send(wire.reply(unique, -errno.EIO))
            return
        slot = unique >> 1 & 0xFFFF
        self._uniques[slot] = unique
        self._owners[slot] = worker

    def end_loans(self, worker: Worker) -> None:
        """A worker has ended. In another thread, after the routes have forgotten the worker."""
        if self._lender is not None:
            self._lender.died(worker)

    def abandon(self, worker: Worker) -> None:
        """A worker has ended: whoever waits for an answer of this worker gets EIO. In another
        thread, after the routes have forgotten the worker.
        """
        for slot, owner in enumerate(self._owners):
            if owner is worker:
                self._owners[slot] = None
                self._send(wire.reply(self._uniques[slot], -errno.EIO))

    def _run(self) -> None:
        try:
            go_first()
            if self._turns is None:
                self._read()
            else:
                os.set_blocking(self.fd, False)
                self._turns.read(self)
        except Ended:
            pass
        except Exception:
            self.failed = True
            log.exception("bug: a door")
        finally:
            self.ended = True
            self._changed(self)

    def _read(self) -> None:
        lender = self._lender
        while True:
            request = self.receive()
            if request is not None:
                self.handle(request)
            if lender is None:
                continue
            if lender.is_out():
                if request is None:
                    lender.wait()
                self._take_in(lender.returned())
                if not lender.is_out():
                    os.set_blocking(self.fd, True)
            if self._is_lending_due:
                self._lend(lender)

    def _lend(self, lender: Lender) -> None:
        """Lend the reading, and wait until it is back. As long as a worker may still read, this
        thread does not block in its own read(2): that would make the worker block in its.
        """
        self._is_lending_due = False
        loan = None if self._closing else lender.lend()
        if loan is None:
            return
        os.set_blocking(self.fd, False)
        self._routes.send(loan.worker, lend(self.index, loan.number, loan.slot), always=True)
        if loan.worker.gone:
            lender.died(loan.worker)
        self._take_in(lender.await_end(loan, lambda: self._closing))
        if lender.is_out():
            self._routes.send(loan.worker, take_back(self.index, loan.number), always=True)
        else:
            os.set_blocking(self.fd, True)

    def _take_in(self, requests: Iterable[memoryview]) -> None:
        for request in requests:
            self.handle(request)

    def receive(self) -> memoryview | None:
        """The next request, good until the next call. None: there is none, which is so once behind
        the beginning, and later only in turns. Raises Ended.
        """
        while True:
            try:
                size = os.readv(self.fd, self._buffers)
            except BlockingIOError:
                if not self.is_ready:
                    self._begin()
                return None
            except OSError as error:
                if error.errno in _TAKEN_BACK:
                    continue
                if error.errno in _ENDED:
                    raise Ended from None
                raise
            if size == 0:
                raise Ended
            return self._view[:size]

    def is_close(self, request: memoryview) -> bool:
        """Whether it is a RELEASE."""
        return wire.opcode_of(request) == wire.RELEASE

    def handle(self, request: memoryview) -> None:
        """Send a request to whom it is for, or answer it. Never waits."""
        _, opcode, unique, _, uid, _, pid, _, _ = _head(request)
        if opcode not in BY_HANDLE:
            self._other(request, opcode, unique, uid, pid)
            return
        (handle,) = _handle(request, wire.REQUEST_HEADER_SIZE)
        routes = self._routes
        moved = routes.moved
        worker = (moved and moved.get(handle)) or routes.workers.get(handle >> 32)
        if opcode == wire.WRITE:
            worker = self._written(request, worker)
        if worker is None or (worker.gone and opcode == wire.RELEASE):
            moved.pop(handle, None)
            self._refuse(unique, opcode)
            return
        if self._turns is not None and opcode == wire.POLL and self._is_question(unique, pid, worker):
            return
        if opcode == wire.RELEASE and (moved.pop(handle, None) is not None or self._counted):
            with routes.lock:
                if not worker.gone:
                    self._tell_closing(self.index, worker.number)
        if self._turns is None or opcode == wire.RELEASE:
            self._deliver(worker, request, unique, opcode)
        else:
            with routes.lock:  # the file may have been moved just now, which another thread does
                self._deliver(moved.get(handle, worker), request, unique, opcode)

    def _deliver(self, worker: Worker, request: memoryview, unique: int, opcode: int) -> None:
        if self._lender is not None:
            kept = self._lender.keep(worker, request, always=opcode == wire.RELEASE)
            if kept is not None:
                if not kept:
                    self._send(wire.reply(unique, -errno.ENOMEM))
                return
        if worker.door != self.index:
            put_door(request, self.index)
        slot = unique >> 1 & 0xFFFF
        self._uniques[slot] = unique
        self._owners[slot] = worker
        if self._lender is not None and self._lender.sent(worker):
            self._is_lending_due = True
        if not self._routes.send(worker, request, always=opcode == wire.RELEASE):
            self._send(wire.reply(unique, -errno.ENOMEM))
        elif worker.gone:
            # It ended in this moment, perhaps before we noted that it has the request.
            self._refuse(unique, opcode)

    def _written(self, request: memoryview, worker: Worker | None) -> Worker | None:
        """Who gets a WRITE. If it comes from a mapping, that is the worker that shows these bytes,
        as the handle is then that of any open file.
        """
        _, offset, size, flags, *_ = wire.WRITE_IN.unpack_from(request, wire.REQUEST_HEADER_SIZE)
        if not flags & wire.WRITE_CACHE:
            return worker
        with self._routes.lock:
            self._notes()
            shown = self._routes.whose(self.index, offset, size)
        mapper = self._mapper
        return shown or (mapper if mapper is not None and not mapper.gone else worker)

    def _is_question(self, unique: int, tid: int, worker: Worker) -> bool:
        """Whether a POLL was another worker's question, which is answered here."""
        with self._routes.lock:
            self._notes()
            if not self._routes.asked(tid, worker):
                return False
        self._send(wire.reply(unique, 0, _ELSEWHERE))
        return True

    def _refuse(self, unique: int, opcode: int) -> None:
        """A request whose worker is gone."""
        if opcode == wire.RELEASE:
            self._send(wire.reply(unique, 0))
        else:
            self._send(wire.reply(unique, -(errno.ENOTCONN if self._closing else errno.EIO)))

    def _other(self, request: memoryview, opcode: int, unique: int, uid: int, pid: int) -> None:
        if not self.is_ready and opcode not in _BEGINNINGS:
            self._begin()
        if opcode == wire.OPEN:
            if self._closing:
                self._send(wire.reply(unique, -errno.ENOTCONN))
                return
            what = Assignment(self.index, uid, self.can_be_mapped, False)
            message = bytearray(request)
            with self._routes.lock:
                self._notes()
                self._routes.open(what, pid, lambda worker: self._open(worker, unique, message))
        elif opcode == wire.INTERRUPT:
            (target,) = wire.INTERRUPT_IN.unpack_from(request, wire.REQUEST_HEADER_SIZE)
            self._interrupt(request, target)
        elif opcode not in (wire.FORGET, wire.BATCH_FORGET):
            self._answer(request, opcode, unique, uid, pid)

    def _open(self, worker: Worker, unique: int, message: bytearray) -> None:
        """Under the routes' lock; in any thread."""
        slot = unique >> 1 & 0xFFFF
        self._uniques[slot] = unique
        self._owners[slot] = worker
        self._send_on(worker, message, always=True)

    def _interrupt(self, request: memoryview, target: int) -> None:
        with self._routes.lock:
            self._notes()
        slot = target >> 1 & 0xFFFF
        worker = self._owners[slot] if self._uniques[slot] == target else None
        # A worker that reads itself may not have come to say that it has the request.
        whose = [worker] if worker is not None else self._lender.slow() if self._lender is not None else []
        for worker in whose:
            if self._lender is not None and self._lender.keep(worker, request, always=True):
                continue
            if not worker.gone:
                self._send_on(worker, bytearray(request))

    def _send_on(self, worker: Worker, message: bytearray, *, always: bool = False) -> None:
        """A request of this door, to a worker that may have been assigned to another."""
        if worker.door != self.index:
            put_door(message, self.index)
        self._routes.send(worker, message, always=always)

    def _answer(self, request: memoryview, opcode: int, unique: int, uid: int, pid: int) -> None:
        try:
            answer = self._node.answer(opcode, ROOT_INODE, Caller(pid, uid, 0), request[wire.REQUEST_HEADER_SIZE :])
            if isinstance(answer, Work):
                raise OSError(errno.EIO, "a request of an open file")
            message = wire.reply(unique, 0, answer)
        except OSError as error:
            message = wire.reply(unique, -(error.errno or errno.EIO))
        except Exception:
            log.exception("bug: an answer")
            message = wire.reply(unique, -errno.EIO)
        self._send(message)
        if opcode in _BEGINNINGS:
            # to see whether the kernel took the answer: a name may be in use
            os.set_blocking(self.fd, False)

    def _begin(self) -> None:
        if self._turns is None:
            os.set_blocking(self.fd, True)
        if not self.is_ready:
            self.is_ready = True
            self._changed(self)

    def _send(self, message: bytes) -> None:
        try:
            os.write(self.fd, message)
        except OSError as error:
            if error.errno not in _NO_REPLY_NEEDED:
                log.error("a reply was refused: %s", error.strerror)


class _NoOpener:
    def open(self, caller: Caller, flags: int) -> OpenFile:
        raise OSError(errno.EIO, "an OPEN is a worker's")
