"""ptrace(2), as far as loads and stores need it: threads that are seized, stopped, looked at and
let go.

The kernel binds a tracee to the thread that seized it: all calls for one come from there. Ref:
ptrace(2), v7.3 kernel/ptrace.c
"""

import errno
import os
import struct
from typing import Any, Final

import cffi

from ..errors import ThreadGone
from .decoder import I386, X86_64, Layout
from .instruction import Words

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    struct vec { uintptr_t base; size_t length; };
    long ptrace(long request, long pid, uintptr_t address, uintptr_t data);
    int waitpid(int pid, int *status, int options);
    """
)
_libc: Final[Any] = _ffi.dlopen(None)
_ptrace: Final[Any] = _libc.ptrace
_waitpid: Final[Any] = _libc.waitpid

_PEEKTEXT: Final = 1
_PEEKUSER: Final = 3
_POKEUSER: Final = 6
_CONT: Final = 7
_SINGLESTEP: Final = 9
_DETACH: Final = 17
_GETSIGINFO: Final = 0x4202
_GETREGSET: Final = 0x4204
_SETREGSET: Final = 0x4205
_PEEKSIGINFO: Final = 0x4209
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_GET_RSEQ_CONFIGURATION: Final = 0x420F
EXIT_WITH_TRACER: Final = 1 << 20  # PTRACE_O_EXITKILL

_NT_PRSTATUS: Final = 1
_NT_X86_XSTATE: Final = 0x202
WALL: Final = 0x4000_0000  # __WALL: threads as well as processes
EVENT_STOP: Final = 128  # PTRACE_EVENT_STOP
_WORD: Final = 8  # bytes
_DEBUG_REGISTERS: Final = 848  # where they are in struct user, bytes
_U64: Final = (1 << 64) - 1
_SIZE_64: Final = 27 * 8  # of struct user_regs_struct, bytes
_SIZE_32: Final = 17 * 4
_MANY_SIGNALS: Final = struct.Struct("=QIi")  # struct ptrace_peeksiginfo_args
_SIGNALS: Final = 32
_XSTATE: Final = 16384  # bytes; there is room for AMX


class ThreadKilled(ThreadGone):
    """The thread was killed. It is still ours until `status` has said so."""


class ThreadEnded(ThreadGone):
    """The thread is no more, and not ours any more."""


class Hand:
    """The one thread of ours that traces, and what it knows of its tracees. Each call for a tracee
    may raise ThreadKilled.
    """

    def __init__(self) -> None:
        self._words_64: Any = _ffi.new("uint64_t[]", _SIZE_64 // 8)
        self._words_32: Any = _ffi.cast("uint32_t *", self._words_64)[0 : _SIZE_64 // 4]
        self._bytes: Any = _ffi.new("char[]", _XSTATE)
        self._vec: Any = _ffi.new("struct vec *")
        self._vec_address = _address(self._vec)
        self._status: Any = _ffi.new("int *")
        self.words: Words = self._words_64
        """The registers that were read last."""
        self.layout: Layout = X86_64
        """What is where in them."""

    def seize(self, tid: int, options: int = 0) -> None:
        """Seize `tid`; it runs on. OSError: EPERM (another traces it, or we may not), ESRCH.

        Can wait for an exec of another thread of its program. That exec waits for `tid` to end.
        """
        if _ptrace(_SEIZE, tid, 0, options):
            raise OSError(_ffi.errno, os.strerror(_ffi.errno))

    def interrupt(self, tid: int) -> None:
        """Make it stop before it is in user mode again."""
        self._do(_INTERRUPT, tid, 0, 0)

    def status(self, tid: int, *, wait: bool = False) -> int | None:
        """What waitpid(2) tells of a stop; None: it has not stopped. ThreadEnded."""
        while (found := _waitpid(tid, self._status, WALL if wait else WALL | os.WNOHANG)) < 0:
            if _ffi.errno != errno.EINTR:
                raise ThreadEnded
        if not found:
            return None
        status: int = self._status[0]
        if os.WIFSTOPPED(status):
            return status
        raise ThreadEnded

    def resume(self, tid: int, signal: int = 0) -> None:
        """Let it run on, with `signal`."""
        self._do(_CONT, tid, 0, signal)

    def step(self, tid: int) -> None:
        """Let it run for one instruction, or for one element of a string instruction."""
        self._do(_SINGLESTEP, tid, 0, 0)

    def detach(self, tid: int, signal: int = 0) -> None:
        """Let it run on, with `signal`. It is no tracee of ours any more."""
        self._do(_DETACH, tid, 0, signal)

    def signal(self, tid: int) -> tuple[int, int, int]:
        """Which signal it stopped by, its code, and the address that a fault was at."""
        self._do(_GETSIGINFO, tid, 0, _address(self._bytes))
        numbers, far = _ffi.cast("int *", self._bytes), _ffi.cast("uint64_t *", self._bytes)
        return int(numbers[0]), int(numbers[2]), int(far[2])

    def has_signal(self, tid: int, number: int) -> bool:
        """Whether signal `number` is among the first few that wait for the thread itself."""
        _MANY_SIGNALS.pack_into(_ffi.buffer(self._bytes), 0, 0, 0, _SIGNALS)
        room = _address(self._bytes) + 64
        found: int = _ptrace(_PEEKSIGINFO, tid, _address(self._bytes), room)
        if found < 0:
            raise self._failure()
        numbers = _ffi.cast("int *", room)
        return any(numbers[at * 32] == number for at in range(found))

    # --- registers and code ---

    def read_words(self, tid: int) -> None:
        """Read its general registers into `words`, and set `layout`."""
        self._vec.base, self._vec.length = _address(self._words_64), _SIZE_64
        self._do(_GETREGSET, tid, _NT_PRSTATUS, self._vec_address)
        if self._vec.length == _SIZE_32:
            self.words, self.layout = self._words_32, I386
        else:
            self.words, self.layout = self._words_64, X86_64

    def write_words(self, tid: int) -> None:
        """Write `words` into its general registers."""
        self._vec.base = _address(self._words_64)
        self._vec.length = _SIZE_64 if self.layout is X86_64 else _SIZE_32
        self._do(_SETREGSET, tid, _NT_PRSTATUS, self._vec_address)

    def read_xstate(self, tid: int) -> bytearray:
        """Its other registers, as XSAVE lays them out. OSError: the processor has no XSAVE."""
        self._vec.base, self._vec.length = _address(self._bytes), _XSTATE
        self._do(_GETREGSET, tid, _NT_X86_XSTATE, self._vec_address)
        return bytearray(_ffi.buffer(self._bytes, self._vec.length))

    def write_xstate(self, tid: int, state: bytes | bytearray) -> None:
        """Write its other registers, as `read_xstate` reads them."""
        _ffi.memmove(self._bytes, state, len(state))
        self._vec.base, self._vec.length = _address(self._bytes), len(state)
        self._do(_SETREGSET, tid, _NT_X86_XSTATE, self._vec_address)

    def code(self, tid: int, address: int) -> tuple[int, int]:
        """The word at `address` and the word 7 bytes on, which are 15 bytes together. The thread
        need not be allowed to read them. OSError: EIO, EFAULT: there are none.
        """
        first, second = _ptrace(_PEEKTEXT, tid, address, 0), _ptrace(_PEEKTEXT, tid, address + 7, 0)
        if first == -1 or second == -1:
            first, second = self._word(tid, address), self._word(tid, address + 7)
        return first, second

    def _word(self, tid: int, address: int) -> int:
        word: int = _ptrace(_PEEKTEXT, tid, address, 0)
        if word == -1 and _ffi.errno:
            raise self._failure()
        return word

    def set_debug_register(self, tid: int, number: int, value: int) -> None:
        """OSError: the register cannot have this value, or somebody else has the register."""
        self._do(_POKEUSER, tid, _DEBUG_REGISTERS + _WORD * number, value)

    def debug_register(self, tid: int, number: int) -> int:
        """The value of the debug register now."""
        value: int = _ptrace(_PEEKUSER, tid, _DEBUG_REGISTERS + _WORD * number, 0)
        if value == -1 and _ffi.errno:
            raise self._failure()
        return value & _U64

    def rseq(self, tid: int) -> tuple[int, int, int]:
        """Address, size and signature of the thread's restartable sequences (rseq(2)); address 0:
        it has none.
        """
        if _ptrace(_GET_RSEQ_CONFIGURATION, tid, 24, _address(self._bytes)) < 0:
            return 0, 0, 0  # before Linux 5.13, or without them
        small = _ffi.cast("uint32_t *", self._bytes)
        return int(_ffi.cast("uint64_t *", self._bytes)[0]), int(small[2]), int(small[3])

    def _do(self, request: int, tid: int, address: int, data: int) -> None:
        if _ptrace(request, tid, address, data) < 0:
            raise self._failure()

    @staticmethod
    def _failure() -> Exception:
        failed = _ffi.errno
        return ThreadKilled() if failed == errno.ESRCH else OSError(failed, os.strerror(failed))


def _address(pointer: Any) -> int:
    return int(_ffi.cast("uintptr_t", pointer))
