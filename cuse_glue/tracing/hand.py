"""A client's thread under our control makes a helper. The helper calls the kernel for us, where the
client's memory is.

The thread itself makes no system call but clone and wait4. The helper does all the rest, while the
thread is at rest: stopped, with its own registers. The helper is a process that shares the client's
memory and descriptors (twin.py). So however long the helper's calls wait, and whenever we are
killed, no thread of the client is left half way through a call that is not its own. And what is
permitted to the helper is permitted to it alone: a limit that is raised for it is inherited by no
child of the client.

The calls go by numbers, but reach no other address space or process than the one that is meant:

- Memory is reached by the files that its Mm has open.
- A thread that we have stopped cannot execute another program. Another thread of its process can;
  that ends ours and may take over its number. But ptrace checks whether the number is still the
  tracee's (ESRCH, which is ThreadGone).
- Nobody else controls the helper. It executes nothing, and shares the memory of the very thread
  that made it. Only a kill ends it, and its number is its own until we have waited for it. So its
  limits, capabilities and namespaces can be looked up by that number. Its descriptors are fetched,
  and it is killed, by a pidfd that is opened while it is stopped.
- One thing is asked of the stopped thread by its number: whether it has unshared its PID namespace.
  The answer decides only what is tried with ptrace next.

ptrace.py controls a thread; this module decides which thread does what.
"""

import os
import resource
import signal
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..errors import ControlError, ThreadGone
from ..request.address_space import Mm
from ..system import libc, status
from . import ptrace
from .twin import Twin

_SCRATCH: Final = 0x02 | 0x20  # MAP_PRIVATE | MAP_ANONYMOUS
_CAPABILITY_VERSION_3: Final = 0x20080522
_MEMLOCK: Final = resource.RLIMIT_MEMLOCK
_READ_WRITE: Final = 3  # PROT_*
_HIGHEST: Final = (1 << 63) - 1  # what a file position can say


class MemoryOf:
    """ptrace.Memory of an address space, to which somebody has a reference. It goes by the file,
    never by a thread's number.
    """

    def __init__(self, mm: Mm) -> None:
        self._mm = mm

    def read(self, address: int, length: int) -> bytes:
        if address + length > _HIGHEST:
            return b""
        data = bytearray(length)
        count = self._mm.read(address, memoryview(data))
        return bytes(data[:count])

    def write(self, address: int, data: bytes) -> int:
        return self._mm.write(address, memoryview(data)) if address + len(data) <= _HIGHEST else 0


class Hand:
    """A thread that is stopped and under our control, until `__exit__`. For the thread of ours that
    made it.
    """

    def __init__(self, tracee: ptrace.Tracee) -> None:
        """Takes a tracee that is ready."""
        self._tracee = tracee

    def __enter__(self) -> "Hand":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._tracee.detach()
        except ThreadGone:
            pass

    @contextmanager
    def helper(self) -> Iterator["Helper"]:
        """A helper process, which leaves nothing behind. Raises ControlError, ThreadGone."""
        if _has_unshared(self._tracee.tid):
            # The helper would be the first process of the new namespace, which would end with the
            # helper.
            raise ControlError("it has unshared its PID namespace, and its next process must be its own")
        try:
            twin = Twin(self._tracee)
        except OSError as error:
            raise ControlError(f"it cannot have another process: {error.strerror}") from None
        try:
            with Helper(twin) as helper:
                yield helper
        finally:
            twin.end()


class Helper:
    """What calls the kernel for us. For the thread of ours that has the hand, except for `kill`.
    ThreadGone: somebody has killed the helper.
    """

    def __init__(self, tracee: Twin) -> None:
        self._tracee = tracee
        self.machine = tracee.machine
        self._pidfd = os.pidfd_open(tracee.tid)
        _allow_to_lock(tracee.tid)

    def __enter__(self) -> "Helper":
        return self

    def __exit__(self, *_: object) -> None:
        pidfd, self._pidfd = self._pidfd, -1
        os.close(pidfd)

    def call(self, what: str, number: int, *arguments: int) -> int:
        """Make one system call. `what` it should do, for people. ControlError: it failed."""
        result = self._tracee.call(number, *arguments)
        if -4096 < result < 0:
            raise ControlError(f"it cannot {what}: {os.strerror(-result)}")
        return result

    def try_call(self, number: int, *arguments: int) -> int:
        """Make one system call. Returns its result; negative is -errno."""
        return self._tracee.call(number, *arguments)

    def give_up(self, capability: int) -> None:
        """From now on the helper does without this capability."""
        try:
            known = status.read(self._tracee.tid)
        except OSError as error:
            raise ControlError(f"its capabilities cannot be read: {error}") from None
        inheritable, permitted, effective = (known.mask(name) or 0 for name in ("CapInh", "CapPrm", "CapEff"))
        if not effective >> capability & 1:
            return
        effective &= ~(1 << capability)
        sets = (words >> shift & 0xFFFF_FFFF for shift in (0, 32) for words in (effective, permitted, inheritable))
        data = struct.pack("=8I", _CAPABILITY_VERSION_3, 0, *sets)
        with self.scratch(len(data)) as place:
            self.write(place, data)
            self.call("do without a capability", self.machine.capset, place, place + 8)

    def write(self, address: int, data: bytes) -> None:
        if self._tracee.memory.write(address, data) != len(data):
            raise ControlError(f"its memory at {address:#x} cannot be written")

    @contextmanager
    def scratch(self, size: int) -> Iterator[int]:
        """The address of `size` bytes of new memory, for as long as this lasts."""
        address = self.call("have a page of memory", self.machine.mmap, 0, size, _READ_WRITE, _SCRATCH, -1, 0)
        with self._undoing(self.machine.munmap, address, size):
            yield address

    @contextmanager
    def descriptor(self, number: int) -> Iterator[int]:
        """The open file behind a new descriptor of the helper, as a descriptor of ours; the caller
        closes it. The helper's own is closed at the end.
        """
        with self._undoing(self.machine.close, number):
            try:
                fd = libc.pidfd_getfd(self._pidfd, number)
            except OSError as error:
                raise ControlError(f"its descriptor cannot be fetched: {error.strerror}") from None
            yield fd

    @contextmanager
    def _undoing(self, number: int, *arguments: int) -> Iterator[None]:
        try:
            yield
        except ThreadGone:
            raise
        except BaseException:
            self._tracee.call(number, *arguments)
            raise
        self._tracee.call(number, *arguments)

    def kill(self) -> None:
        """End it, even if it waits for something. Any thread."""
        pidfd = self._pidfd
        if pidfd >= 0:
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            except OSError:
                pass


def _has_unshared(tid: int) -> bool:
    try:
        return os.readlink(f"/proc/{tid}/ns/pid_for_children") != os.readlink(f"/proc/{tid}/ns/pid")
    except OSError:
        return True  # nobody lives in the new one yet


def _allow_to_lock(tid: int) -> None:
    """Let a helper lock as much memory as we may allow. The limit of the client has been checked
    before.
    """
    try:
        _, most = resource.prlimit(tid, _MEMLOCK)
    except OSError:
        return
    for wanted in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (most, most)):
        try:
            resource.prlimit(tid, _MEMLOCK, wanted)
            return
        except (OSError, ValueError):
            pass
