"""A worker's sessions: the requests of one open file come from the broker, and the answers go into
the connection.

It is a session in every respect (session.py), except for where requests come from. When a worker
has no open file any more, it tells the broker so, and after how many messages. If the broker has
sent it another message meanwhile, the worker stays.

Open files of other doors can be moved to a worker (routes.py). For each such door the worker then
has one more session, on that door's connection. The first session hands it its requests.

The worker of the only busy client reads the connection itself for a while (lending.py).
"""

import os
import socket
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from struct import Struct
from typing import Any, Final, NamedTuple, Protocol

import trio

from ..fuse import wire
from ..fuse.node import ROOT_INODE, Attributes, Node
from ..fuse.session import DRAIN_LIMIT, Session
from ..request.caller import Caller
from ..request.mapped import Mapped
from ..request.open_file import Opener, OpenFile
from ..request.reply import PassedOn, passer
from ..system.detach import name
from .borrower import Borrower
from .channel import (
    ASK,
    BY_HANDLE,
    CLAIM,
    DONE,
    HAS,
    LEFT,
    LEND,
    MOVE,
    NOTE,
    SHOWN,
    STAYS,
    TAKE,
    TAKE_BACK,
    UNASK,
    UNCLAIM,
    WANTED,
    Assignment,
    Requests,
    door_of,
    put_door,
    read_assignment,
    read_loan,
    read_move,
)
from .lending import Lending

_first: Final = Struct("<Q").unpack_from


class Links(NamedTuple):
    """What all workers have of the broker's."""

    connections: Sequence[int]  # one for each door
    notes: socket.socket
    lendings: Sequence[Lending | None]  # one for each door; None: nothing of it is ever lent


class Broker:
    """The way back to the broker, for one worker. Any thread."""

    def __init__(self, number: int, notes: socket.socket) -> None:
        self.number: Final = number
        self._notes = notes

    def claim(self, tid: int) -> None:
        """Tell the broker that the next OPEN by thread `tid` is for us. The broker learns of it
        before any OPEN that is made after this has returned.
        """
        self._tell(CLAIM, tid)

    def unclaim(self, tid: int) -> None:
        """Tell the broker that no OPEN by this thread is to be expected any more."""
        self._tell(UNCLAIM, tid)

    def shown(self, offset: int, length: int) -> None:
        """Tell the broker that whatever a mapping writes to these bytes of the file is for us."""
        self._tell(SHOWN, offset, length)

    def ask(self, tid: int) -> None:
        """As recognise.Broker."""
        self._tell(ASK, tid)

    def unask(self, tid: int) -> None:
        """As recognise.Broker."""
        self._tell(UNASK, tid)

    def move(self, handle: int, asked: int, request: bytes) -> None:
        """Tell the broker to move an open file, with a request for it, to the worker that the poll
        by thread `asked` has found.
        """
        self._tell(MOVE, handle, asked, request)

    def has(self, unique: int, door: int) -> None:
        """Tell the broker of a request that it does not know, and that we will answer later."""
        self._tell(HAS, unique, door)

    def done(self, messages: int) -> None:
        """Tell the broker that after so many messages we have no open file."""
        self._tell(DONE, messages)

    def _tell(self, kind: int, first: int, second: int = 0, behind: bytes = b"") -> None:
        try:
            self._notes.send(NOTE.pack(kind, self.number, first, second) + behind)
        except OSError:
            pass  # the broker is gone, and we go


class Service(Protocol):
    """What a worker serves."""

    def warm_up(self) -> None:
        """Do once what a client may ask for, so that the first client need not wait while modules
        and caches are filled.
        """

    def assign(self, what: Assignment) -> None:
        """It is now known whom the worker serves."""

    def opener(self, door: int) -> Opener:
        """The opener of the device's file with this index."""

    def attributes(self, door: int) -> Attributes:
        """What stat(2) shows of that file."""

    def take(self, door: int) -> OpenFile:
        """An open file of that door is moved here. Returns what serves it from now on."""

    def leave(self, file: OpenFile) -> None:
        """An open file has been moved to another worker: no release of it will come."""

    def stay(self, file: OpenFile) -> None:
        """An open file that was to be moved could not be."""

    def wanted(self, what: int) -> None:
        """Something that a client has is wanted back."""

    def mapped(self, door: int) -> Mapped | None:
        """What can be mapped of the file with this index."""

    def shutdown(self) -> None:
        """The session has ended."""


class DoorSession(Session):
    """Serves a worker's open files of one door."""

    def __init__(self, connection: int, door: int, service: Service, broker: Broker, handles: Iterator[int]) -> None:
        super().__init__(connection, service.opener(door), service.attributes(door))
        self.door: Final = door
        self._service = service
        self._broker = broker
        assert isinstance(self._node, Node)
        self._node.number_handles(handles)

    def begin_mapped(self, mapped: Mapped) -> None:
        """The kernel lets the file be mapped."""
        assert isinstance(self._node, Node)
        self._node.begin_mapped(mapped, self._broker.shown)

    @property
    def is_idle(self) -> bool:
        """It has no open file, and no request."""
        return not self._node.files and not self._running

    def settled(self) -> None:
        """A request that had a task of its own was answered."""

    async def _settle(self, unique: int, *request: Any) -> None:
        passer.set(lambda *what: self._pass_on(unique, *what))
        try:
            await super()._settle(unique, *request)
        finally:
            self.settled()

    def _pass_on(self, unique: int, file: OpenFile, caller: Caller, cmd: int, arg: int, asked: int) -> None:
        handle = next((handle for handle, its in self._node.files.items() if its is file), None)
        if handle is None or self._running.pop(unique, None) is None:
            return
        body = wire.IOCTL_IN.pack(handle, 0, cmd, arg, 0, 0)
        length = wire.REQUEST_HEADER_SIZE + len(body)
        request = bytearray(
            wire.IN_HEADER.pack(length, wire.IOCTL, unique, ROOT_INODE, caller.uid, caller.gid, caller.tid, 0, 0) + body
        )
        put_door(request, self.door)
        caller.end()
        self._broker.move(handle, asked, bytes(request))
        raise PassedOn


class WorkerSession(DoorSession):
    """Serves one open file, or the rest of a user's; and those that are moved here."""

    def __init__(self, links: Links, door: int, service: Service, requests: Requests, broker: Broker) -> None:
        self._handles = count((broker.number << 32) + 1)
        super().__init__(links.connections[door], door, service, broker, self._handles)
        self._connections = links.connections
        lending = links.lendings[door]
        self._borrower = Borrower(self._fd, self, lending) if lending is not None else None
        self._requests = requests
        self._others: dict[int, Other] = {}  # by door
        self._messages = 0
        self._told = 0

    async def _read_requests(self) -> None:
        requests, request = self._requests, self.handle
        in_a_row = 0
        while True:
            message = requests.take()
            if message is None:
                try:
                    if not requests.fill():
                        return
                except BlockingIOError:
                    self._tell_if_done()
                    in_a_row = 0
                    await trio.lowlevel.wait_readable(requests.fd)
                continue
            self._messages += 1
            door = door_of(message)
            if door < 0:
                request(message)
            else:
                self._elsewhere(door, message)
            in_a_row += 1
            if in_a_row >= DRAIN_LIMIT or self._running:
                in_a_row = 0
                await trio.lowlevel.checkpoint()

    def _elsewhere(self, door: int, message: memoryview) -> None:
        """A message about open files that move, or a request of a door that is not our own."""
        opcode = wire.opcode_of(message)
        session = self if door == self.door else self._others.get(door)
        if opcode in (LEND, TAKE_BACK):
            assert self._borrower is not None
            loan, slot = read_loan(message)
            if opcode == LEND:
                self._borrower.begin(loan, slot, self._nursery)
            else:
                self._borrower.stop(loan)
        elif opcode == WANTED:
            self._service.wanted(read_move(message).handle)
        elif opcode == TAKE:
            handle, mappable = read_move(message)
            if session is None:
                session = self._others[door] = self._other(door, mappable)
            session._node.files[handle] = self._service.take(door)
        elif session is None:
            return
        elif opcode in (LEFT, STAYS):
            files = session._node.files
            handle = read_move(message).handle
            if opcode == STAYS:
                self._service.stay(files[handle])
            else:
                self._service.leave(files.pop(handle))
        else:
            session.handle(message)

    def _other(self, door: int, mappable: bool) -> "Other":
        session = Other(
            self._connections[door], door, self._service, self._broker, self._handles, self._nursery, self.settled
        )
        mapped = self._service.mapped(door)
        if mappable and mapped is not None:
            session.begin_mapped(mapped)
        return session

    # --- requests that the broker does not know (borrower.Session) ---

    def owns(self, request: memoryview) -> bool:
        opcode = wire.opcode_of(request)
        (first,) = _first(request, wire.REQUEST_HEADER_SIZE)
        if opcode == wire.INTERRUPT:
            return first in self._running
        if opcode == wire.WRITE and wire.WRITE_IN.unpack_from(request, wire.REQUEST_HEADER_SIZE)[3] & wire.WRITE_CACHE:
            return False  # from a mapping: the handle may be any open file's
        return opcode in BY_HANDLE and first in self._node.files

    def handle_own(self, request: memoryview) -> None:
        self.handle(request)
        if self._running:
            unique = wire.unique_of(request)
            if unique in self._running:
                self._broker.has(unique, self.door)

    @property
    def waits(self) -> bool:
        return bool(self._running)

    def _disconnect(self) -> None:
        if self._borrower is not None:
            self._borrower.close()
        for session in self._others.values():
            session._disconnect()
        super()._disconnect()

    def _end(self) -> None:
        for session in self._others.values():
            session._end()
        super()._end()

    def settled(self) -> None:
        self._tell_if_done()

    def _tell_if_done(self) -> None:
        if self.is_idle and all(other.is_idle for other in self._others.values()) and self._told != self._messages:
            self._told = self._messages
            if self._borrower is not None:
                self._borrower.give_back()
            self._broker.done(self._messages)


class Other(DoorSession):
    """Serves what was moved to a worker from one other door."""

    def __init__(
        self,
        connection: int,
        door: int,
        service: Service,
        broker: Broker,
        handles: Iterator[int],
        nursery: trio.Nursery,
        settled: Callable[[], None],
    ) -> None:
        """`nursery`: the first session's. That session also says when this one begins and ends."""
        super().__init__(connection, door, service, broker, handles)
        self._nursery = nursery
        self._settled = settled

    def settled(self) -> None:
        self._settled()


def work(
    number: int,
    pipe: int,
    ready: Callable[[], None],
    links: Links,
    make: Callable[[Broker], Service],
) -> None:
    """Be worker `number`: wait for the assignment, then serve until the pipe ends.

    `ready` is called when everything is there that any assignment needs. So no client that opens
    the device waits for that.
    """
    broker = Broker(number, links.notes)
    service = make(broker)
    os.set_blocking(pipe, False)
    trio.run(_work, Requests(pipe), broker, service, ready, links)


async def _work(requests: Requests, broker: Broker, service: Service, ready: Callable[[], None], links: Links) -> None:
    service.warm_up()
    ready()
    while (message := requests.take()) is None:
        try:
            if not requests.fill():
                return
        except BlockingIOError:
            await trio.lowlevel.wait_readable(requests.fd)
    name("iommud-worker")
    what = read_assignment(message)
    service.assign(what)
    session = WorkerSession(links, what.door, service, requests, broker)
    mapped = service.mapped(what.door)
    if what.mappable and mapped is not None:
        session.begin_mapped(mapped)
    await session.serve()
    service.shutdown()
