"""A client's thread in our hand: it calls the kernel for us, with what it may and where its memory is, and knows nothing of it afterwards.

Ref: ptrace.py, for how; this is who, and what with.
"""

import errno
import os
import re
import resource
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from . import ptrace
from .caller import Caller
from .origin import Mm
from .seize import NotOurs, seize

_AT_SYSINFO_EHDR: Final = 33  # of the auxiliary vector: where the vdso is
_PAIR: Final = struct.Struct("=QQ")
_SCRATCH: Final = 0x02 | 0x20  # MAP_PRIVATE | MAP_ANONYMOUS
_CAPABILITY_VERSION_3: Final = 0x20080522
_CAPABILITIES: Final = re.compile(rb"^Cap(?:Inh|Prm|Eff):\t(\w+)$", re.MULTILINE)
_MEMLOCK: Final = resource.RLIMIT_MEMLOCK
_READ_WRITE: Final = 3  # PROT_*
_PURPOSE: Final = "be made to pin memory"


class Unwilling(Exception):
    """The client cannot be made to do it; the text says why."""


class Hand:
    """A thread that is stopped and ours until `__exit__`. For the thread that made it."""

    def __init__(self, tracee: ptrace.Tracee) -> None:
        self._tracee = tracee
        self.machine = tracee.machine

    def __enter__(self) -> "Hand":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, ptrace.Gone):
            self._tracee.detach()

    @contextmanager
    def helper(self) -> Iterator["Hand"]:
        """A thread made for the occasion, which is gone afterwards. It makes rings: the end of a ring is told to the thread that made it,
        which a system call that it waits in can notice."""
        try:
            tracee = self._tracee.helper()
        except OSError as error:
            raise Unwilling(f"it cannot have another thread: {error.strerror}") from None
        try:
            yield Hand(tracee)
        finally:
            tracee.end()

    def call(self, what: str, number: int, *arguments: int) -> int:
        """One system call. Unwilling: it failed; `what`, for people."""
        result = self._tracee.call(number, *arguments)
        if -4096 < result < 0:
            raise Unwilling(f"it cannot {what}: {os.strerror(-result)}")
        return result

    def give_up(self, capability: int) -> None:
        """The thread, which is a helper, does without a capability from now on."""
        try:
            with open(f"/proc/{self._tracee.tid}/status", "rb") as file:
                inheritable, permitted, effective = (int(word, 16) for word in _CAPABILITIES.findall(file.read()))
        except (OSError, ValueError) as error:
            raise Unwilling(f"its capabilities cannot be read: {error}") from None
        if not effective >> capability & 1:
            return
        effective &= ~(1 << capability)
        sets = (words >> shift & 0xFFFF_FFFF for shift in (0, 32) for words in (effective, permitted, inheritable))
        data = struct.pack("=8I", _CAPABILITY_VERSION_3, 0, *sets)
        with self.scratch(len(data)) as place:
            self.write(place, data)
            self.call("do without a capability", self.machine.capset, place, place + 8)

    def try_call(self, number: int, *arguments: int) -> int:
        """One system call. Its result: negative is -errno."""
        return self._tracee.call(number, *arguments)

    def write(self, address: int, data: bytes) -> None:
        if not ptrace.write_memory(self._tracee.tid, address, data):
            raise Unwilling(f"its memory at {address:#x} cannot be written")

    @contextmanager
    def unlimited(self) -> Iterator[None]:
        """For a moment its process may lock as much memory as we can allow it: who is to be refused has been, by then."""
        tid = self._tracee.tid
        try:
            before = resource.prlimit(tid, _MEMLOCK)
            raised = _raise(tid, before)
        except OSError:  # not ours to ask, or gone
            yield
            return
        try:
            yield
        finally:
            try:
                now = resource.prlimit(tid, _MEMLOCK, before)
                if now != raised:  # another of its threads has set it meanwhile
                    hard = before[1] if now[1] == raised[1] else now[1]
                    resource.prlimit(tid, _MEMLOCK, (now[0], hard))
            except (OSError, ValueError):
                pass

    @contextmanager
    def scratch(self, size: int) -> Iterator[int]:
        """The address of `size` bytes of new memory, for as long as this lasts."""
        address = self.call("have a page of memory", self.machine.mmap, 0, size, _READ_WRITE, _SCRATCH, -1, 0)
        try:
            yield address
        except ptrace.Gone:
            raise
        except BaseException:
            self._tracee.call(self.machine.munmap, address, size)
            raise
        self._tracee.call(self.machine.munmap, address, size)

    @contextmanager
    def descriptor(self, number: int) -> Iterator[int]:
        """The open file behind a new descriptor of its own, as ours, which is the asker's to close; its own is closed at the end."""
        try:
            try:
                fd = Caller(self._tracee.tid, 0, 0).descriptor(number)
            except OSError as error:
                raise Unwilling(f"its descriptor cannot be fetched: {error.strerror}") from None
            yield fd
        except ptrace.Gone:
            raise
        except BaseException:
            self._tracee.call(self.machine.close, number)
            raise
        self._tracee.call(self.machine.close, number)


def _raise(tid: int, limit: tuple[int, int]) -> tuple[int, int]:
    for wanted in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (limit[1], limit[1])):
        try:
            resource.prlimit(tid, _MEMLOCK, wanted)
            return wanted
        except (PermissionError, ValueError):
            pass
    return limit


def take_caller(
    mm: Mm, tid: int, machine: ptrace.Machine, answered: Callable[[], bool], answer: Callable[[], None], filters: int | None
) -> Hand:
    """The thread that waits for `answer`, stopped just before it would see it. Unwilling, ptrace.Gone."""
    try:
        tracee = seize(tid, machine, _PURPOSE, answered, filters)
    except NotOurs as why:
        raise Unwilling(str(why)) from None
    tracee.interrupt()
    answer()
    return _hold(tracee, mm)


def take_somebody(mm: Mm, machine: ptrace.Machine, filters: int | None) -> Hand:
    """Any thread of an address space, wherever it is, the idle ones first. Unwilling: none can be had. ptrace.Gone: none is there."""
    why: Exception = ptrace.Gone()
    for tid in sorted(mm.threads(), key=_effort):
        try:
            tracee = seize(tid, machine, _PURPOSE, lambda: False, filters)
        except ptrace.Gone:
            continue
        except NotOurs as reason:
            why = Unwilling(str(reason))
            continue
        mm.account.waiting_for = tid
        tracee.interrupt()
        try:
            return _hold(tracee, mm)
        except (Unwilling, ptrace.Gone) as reason:
            why = reason
    raise why


def _hold(tracee: ptrace.Tracee, mm: Mm) -> Hand:
    try:
        tracee.wait_stop()
    finally:
        mm.account.waiting_for = 0
    try:
        if not mm.lives_in(tracee.tid):
            raise Unwilling("it executes another program")
        if tracee.machine.interruptible is None:
            tracee.hold()
        else:
            tracee.hold_anywhere(_vdso(mm.auxv))
    except ptrace.Gone:
        raise
    except BaseException as failure:
        tracee.detach()
        if isinstance(failure, ptrace.Foreign):
            raise Unwilling(str(failure)) from None
        raise
    return Hand(tracee)


def _vdso(auxv: bytes) -> int:
    for kind, value in _PAIR.iter_unpack(auxv[: len(auxv) // _PAIR.size * _PAIR.size]):
        if kind == _AT_SYSINFO_EHDR:
            return int(value)
    return 0


def _effort(tid: int) -> int:
    """How well a thread can be taken: 0, if it sleeps in a call that is no ioctl (which might be one of ours, without an answer yet)."""
    try:
        call = ptrace.waiting_in(tid)
    except OSError as error:
        return 3 if error.errno == errno.ESRCH else 2
    if call is None:
        return 1
    found = ptrace.machine()
    return 2 if found is not None and call == found.ioctl else 0
