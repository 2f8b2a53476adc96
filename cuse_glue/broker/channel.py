"""What runs between the processes of a device: requests to a worker, and notes back to the broker.

A worker's pipe is a stream of FUSE requests as the kernel made them; each begins with its length.
The first message is ours and has the same form (`assignment`). Nobody waits for a full pipe: the
broker keeps what does not fit.

Most requests are of the door that the worker was assigned to. A request of another door says so in
its header, in a field that FUSE leaves at 0 (`put_door`).

Notes are datagrams, on a socket that all workers share.
"""

import os
from struct import Struct
from typing import Final, NamedTuple

from ..fuse import wire
from ..fuse.node import MAX_WRITE

ASSIGN: Final = 0xFFFF_0000  # opcodes that FUSE does not have
TAKE: Final = 0xFFFF_0001  # an open file comes from another worker
LEFT: Final = 0xFFFF_0002  # an open file has gone to another worker
STAYS: Final = 0xFFFF_0003  # an open file could not go to another worker
WANTED: Final = 0xFFFF_0004  # something that its client has is wanted back
LEND: Final = 0xFFFF_0005  # the worker reads the connection itself (lending.py)
TAKE_BACK: Final = 0xFFFF_0006  # it does so no more
_ASSIGNMENT: Final = Struct("<IIII")
_MOVE: Final = Struct("<QI")
_LOAN: Final = Struct("<QI")
_DOOR: Final = Struct("<H")  # 0: the worker's own; or one more than its index
_DOOR_AT: Final = 38  # in wire.IN_HEADER, its last field
_LENGTH: Final = Struct("<I")
_LONGEST: Final = MAX_WRITE + 4096

# opcodes of requests that name an open file by its handle, at the beginning of their body
BY_HANDLE: Final = frozenset((wire.IOCTL, wire.READ, wire.WRITE, wire.POLL, wire.RELEASE))

NOTE: Final = Struct("=IIQQ")  # kind, number of the worker, and two words
CLAIM: Final = 1  # the next OPEN by thread A is for this worker
UNCLAIM: Final = 2
DONE: Final = 3  # after A messages it has no open file any more
# what a mapping writes to the B bytes of the file from offset A on is for this worker
SHOWN: Final = 4
ASK: Final = 5  # the next POLL by thread A of this worker asks whose the polled open file is
UNASK: Final = 6
# the open file with handle A goes to the worker that the POLL by thread B has found; behind the
# note follows a request for that file, which goes with it
MOVE: Final = 7
WANT: Final = 8  # not from a worker: tell worker A that B, which its client has, is wanted back
HAS: Final = 9  # a worker that reads itself has the request A of door B, and will answer later
LONGEST_NOTE: Final = NOTE.size + wire.REQUEST_HEADER_SIZE + wire.IOCTL_IN.size


class Assignment(NamedTuple):
    """What a worker is for. It is told once."""

    door: int  # which of the device's files
    uid: int  # who opened it
    mappable: bool  # whether the kernel lets that file be mapped
    rest: bool  # whether it serves all that its user has beyond a share


def assignment(what: Assignment) -> bytes:
    body = _ASSIGNMENT.pack(what.door, what.uid, what.mappable, what.rest)
    return wire.IN_HEADER.pack(wire.REQUEST_HEADER_SIZE + len(body), ASSIGN, 0, 0, 0, 0, 0, 0, 0) + body


def read_assignment(message: memoryview) -> Assignment:
    """ValueError: the message is no assignment."""
    if wire.opcode_of(message) != ASSIGN:
        raise ValueError("no assignment")
    door, uid, mappable, rest = _ASSIGNMENT.unpack_from(message, wire.REQUEST_HEADER_SIZE)
    return Assignment(door, uid, bool(mappable), bool(rest))


class Move(NamedTuple):
    """Where an open file's requests go, as its old and its new worker are told."""

    handle: int
    mappable: bool  # as in Assignment


def move(opcode: int, door: int, what: Move) -> bytes:
    """`opcode`: TAKE, LEFT, STAYS. `door`: the open file's."""
    return _ours(opcode, door, _MOVE.pack(*what))


def lend(door: int, loan: int, slot: int) -> bytes:
    """That a worker has a loan, and where it is to read."""
    return _ours(LEND, door, _LOAN.pack(loan, slot))


def take_back(door: int, loan: int) -> bytes:
    """That a loan was taken back."""
    return _ours(TAKE_BACK, door, _LOAN.pack(loan, 0))


def _ours(opcode: int, door: int, body: bytes) -> bytes:
    message = bytearray(wire.IN_HEADER.pack(wire.REQUEST_HEADER_SIZE + len(body), opcode, 0, 0, 0, 0, 0, 0, 0) + body)
    put_door(message, door)
    return bytes(message)


def read_loan(message: memoryview) -> tuple[int, int]:
    """The loan and the slot that `lend` has packed."""
    loan, slot = _LOAN.unpack_from(message, wire.REQUEST_HEADER_SIZE)
    return loan, slot


def wanted(what: int) -> bytes:
    """The message that `what`, a number of the service's, is wanted back."""
    return move(WANTED, 0, Move(what, False))


def read_move(message: memoryview) -> Move:
    """What `move` has packed."""
    handle, mappable = _MOVE.unpack_from(message, wire.REQUEST_HEADER_SIZE)
    return Move(handle, bool(mappable))


def put_door(request: bytearray | memoryview, door: int) -> None:
    """Say in a request's header which door it is of."""
    _DOOR.pack_into(request, _DOOR_AT, door + 1)


def door_of(request: memoryview | bytes) -> int:
    """Which door a request is of; -1: the worker's own."""
    return int(_DOOR.unpack_from(request, _DOOR_AT)[0]) - 1


class Requests:
    """Cuts what comes out of a pipe into requests."""

    def __init__(self, fd: int) -> None:
        self.fd: Final = fd
        self._buffer = bytearray(2 * _LONGEST)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0

    def take(self) -> memoryview | None:
        """The next request that is here whole; it is valid until the next `fill`. None: call `fill`
        first.
        """
        start, available = self._start, self._end - self._start
        if available < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack_from(self._buffer, start)
        if available < length:
            return None
        self._start += length
        return self._view[start : start + length]

    def fill(self) -> bool:
        """Read what is there. False: nobody will send anything more. OSError(EAGAIN): nothing is
        there yet.
        """
        if self._start == self._end:
            self._start = self._end = 0
        elif len(self._buffer) - self._start < _LONGEST:
            rest = bytes(self._view[self._start : self._end])
            self._buffer[: len(rest)] = rest
            self._start, self._end = 0, len(rest)
        count = os.readv(self.fd, [self._view[self._end :]])
        self._end += count
        return bool(count)
