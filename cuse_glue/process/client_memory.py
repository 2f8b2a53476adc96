"""The memory of a client that is made to do something. It is bound to the client's address space,
or reached by the thread's number where nobody could gain by that.

If a program is not dumpable (its user may not read its file, or it has asked for it), the files of
/proc that bind (bound.py) belong to root, while process_vm_* looks at user IDs alone. A daemon that
runs as an ordinary user, without any capability, can reach by number only programs of that user,
and no set-user-ID program: the kernel refuses that. So in this case, and in no other, the number is
used.
"""

import errno
import os
from typing import Protocol

from ..system import status
from . import raw_memory
from .bound import BoundMemory


class ClientMemory(Protocol):
    """ptrace.Memory; `close` it once nobody uses it."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> int: ...

    def close(self) -> None: ...


class ByNumber:
    """The memory of whatever program thread `tid` executes at the moment. Any thread."""

    def __init__(self, tid: int) -> None:
        self._tid = tid

    def close(self) -> None:
        pass

    def _number(self) -> int:
        return self._tid

    def read(self, address: int, length: int) -> bytes:
        buffer = bytearray(length)
        return bytes(buffer[: raw_memory.read_process(self._number, address, buffer)])

    def write(self, address: int, data: bytes) -> int:
        return raw_memory.write_process(self._number, address, data)


def open_memory(tid: int, uid: int) -> ClientMemory:
    """The memory of thread `tid`, which is in a call that only we can answer. `uid`: its user's ID.
    OSError: we may not look into it.
    """
    try:
        return BoundMemory(tid)
    except PermissionError:
        return by_number(tid, uid)


def by_number(tid: int, uid: int) -> ClientMemory:
    """The memory of thread `tid`, whose files of /proc cannot be opened. PermissionError: somebody
    could gain by the use of its number.
    """
    if uid != os.geteuid() or not _is_ordinary():
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return ByNumber(tid)


def _is_ordinary() -> bool:
    """Whether we may do no more than an ordinary user's program."""
    if os.geteuid() == 0:
        return False
    return not status.read("self").mask("CapEff")
