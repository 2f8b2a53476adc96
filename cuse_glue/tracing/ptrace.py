"""One thread of another process under our control, so that it makes a system call for us
(ptrace(2)).

A thread that is seized and interrupted inside a system call stops on its way back to user mode. Its
instruction pointer then stands just past the instruction that entered the kernel. With the pointer
one instruction back, and other registers, it enters the kernel again, for a call of our choice.
Nothing of its code is touched. It runs to the entry and the exit of the call by PTRACE_SYSCALL and
not by single steps: a step forces a SIGTRAP on the thread, and if the program blocks or ignores
SIGTRAP, the kernel would throw that setting away.

A thread can also be taken when it does not wait for us: in any other system call, or in the midst
of its own code. A system call that is interrupted in this way ends with a code that tells the
kernel to make it again, unless a signal's handler comes first. The kernel decides that when the
thread leaves it. So before we let the thread go, we stop it once more at that very place, with all
its registers as they were, and the kernel does what it would have done. A few calls end with a
plain EINTR instead; if they had no effect, we make them again. In its own code there may be no
instruction near that enters the kernel; then one of the vdso's is used.

All signals are blocked meanwhile, so a pending one is handled after `detach`, with the thread's own
registers, as if nothing had happened. SIGSTOP cannot be blocked. It stops the process as usual; our
thread goes on under our control, and stops with the others when it is let go.

The kernel binds all this to the tracing **thread**: an object of this module is used by the thread
that made it. What differs between machines is data (`Machine`): where the registers lie, and the
numbers of the calls.

ptrace itself cannot hit another program: when another thread of the process executes one, our
tracee is gone (ESRCH). Access to memory by a thread's number could. So a tracee carries the
`Memory` of the address space in which it was taken.
"""

import errno
import os
import platform
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

import cffi

from ..errors import ControlError, ThreadGone
from ..system import status
from .machine import X86_64 as X86_64
from .machine import Machine as Machine

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    struct vec { uintptr_t base; size_t length; };
    long ptrace(long request, long pid, uintptr_t address, uintptr_t data);
    """
)
_libc: Final[Any] = _ffi.dlopen(None)

SUSPEND_SECCOMP: Final = 1 << 21  # PTRACE_O_*

_TRACESYSGOOD: Final = 1 << 0
SETOPTIONS: Final = 0x4200
CONT: Final = 7
_DETACH: Final = 17
_SYSCALL: Final = 24
_GETREGSET: Final = 0x4204
_SETREGSET: Final = 0x4205
_GETEVENTMSG: Final = 0x4201
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_GETSIGMASK: Final = 0x420A
_SETSIGMASK: Final = 0x420B
_EVENT_CLONE: Final = 3
_EVENT_STOP: Final = 128
_NT_PRSTATUS: Final = 1
WALL: Final = 0x4000_0000  # __WALL: threads as well as processes
_WNOTHREAD: Final = 0x2000_0000  # __WNOTHREAD: only what this thread traces
_SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
_SIGMASK_SIZE: Final = 8
_ALL_SIGNALS: Final[Any] = _ffi.new("uint64_t *", (1 << 64) - 1)
_U64: Final = (1 << 64) - 1
# -ERESTART*: the kernel would make the call again after a signal
_RESTART: Final = range(-516, -511)
_PROC_SYSCALL_TRIES: Final = 1000
_VDSO_SIZE: Final = 8192  # bytes

# `.of`: by tracee, what waitpid(2) has told while we waited for another one
_heard: Final = threading.local()


def machine() -> Machine | None:
    """The kind that we run on. None: nobody has described it."""
    if platform.machine() == "aarch64":
        from .ptrace_arm64 import ARM64

        return ARM64
    return X86_64 if platform.machine() == "x86_64" else None


class Memory(Protocol):
    """The memory of the address space in which a thread was taken, and of no other. Any address;
    any thread.
    """

    def read(self, address: int, length: int) -> bytes:
        """At most `length` bytes from `address`; shorter when a byte cannot be read, empty when the
        first cannot.
        """

    def write(self, address: int, data: bytes) -> int:
        """How many bytes of `data` were written before one could not be."""


class Tracee:
    """A seized thread. `interrupt`, then `wait_stop`, then `call` as often as needed, then
    `detach`, whatever happens.

    Each raises ThreadGone when the thread ends meanwhile; then there is nothing left to detach.
    """

    def __init__(self, tid: int, machine: Machine, memory: Memory, options: int = 0) -> None:
        """Seize `tid`; it runs on. OSError: EPERM (another tracer has it, or we may not), ESRCH (it
        is gone).
        """
        if _libc.ptrace(_SEIZE, tid, 0, options | _TRACESYSGOOD) != 0:
            raise OSError(_ffi.errno, os.strerror(_ffi.errno))
        self._begin(tid, machine, memory, options | _TRACESYSGOOD)
        self._others.pop(tid, None)  # of one that had this number before

    def _begin(self, tid: int, machine: Machine, memory: Memory, options: int) -> None:
        self.tid = tid
        self.memory = memory
        self.machine = machine  # from `make_ready` on, what this thread runs on
        self._options = options
        if not hasattr(_heard, "of"):
            _heard.of = {}
        self._others: dict[int, list[int]] = _heard.of
        self._buffer: Any = _ffi.new("uint64_t[]", machine.words)
        self._vec: Any = _ffi.new("struct vec *", {"base": _address(self._buffer)})
        self._mask: Any = _ffi.new("uint64_t *")
        self._message: Any = _ffi.new("uintptr_t *")
        self._stopped: list[int] = []  # its own registers
        self._ready: list[int] = []  # the same, but about to enter the kernel by `instruction`
        self._to_restart = False
        self._at_rest = False
        self._is_gone = False
        self._cloned = 0  # the process that a clone made, if that is asked for

    def interrupt(self) -> None:
        """Make it stop before it is in user mode again. If it is gone, `wait_stop` will tell."""
        _libc.ptrace(_INTERRUPT, self.tid, 0, 0)

    def wait_stop(self) -> None:
        """Wait until it has left the kernel, and has stopped."""
        while (status := self._wait()) >> 16 != _EVENT_STOP:
            # it was not in the kernel any more, and a signal came first
            self._ptrace(CONT, 0, os.WSTOPSIG(status))

    def has_stopped(self) -> bool:
        """Whether `wait_stop` would return at once."""
        while self._is_heard(wait=False):
            status = self._wait()
            if status >> 16 == _EVENT_STOP:
                return True
            self._ptrace(CONT, 0, os.WSTOPSIG(status))
        return False

    def make_ready(self) -> list[int]:
        """Take control of the stopped thread: its registers, which are also kept for `detach`, and
        its signals, which are blocked. ControlError: it is in no call that we can follow.
        """
        size = self._read_registers()
        if size != self.machine.size:
            if self.machine.compat is None or size != self.machine.compat.size:
                raise ControlError(f"it has a register set of {size} bytes")
            self.machine = self.machine.compat
        m = self.machine
        registers = list(self._words())
        if registers[m.called] != m.ioctl:
            raise ControlError(f"it called {registers[m.called]:#x}, not ioctl as a {m.bits}-bit program does")
        place = (registers[m.instruction_pointer] - len(m.instruction)) & m.most
        if self.memory.read(place, len(m.instruction)) != m.instruction:
            raise ControlError(f"there is no {m.instruction.hex()} at {place:#x}, where it entered the kernel")
        self._block_signals()
        self._stopped = registers
        self._ready = registers.copy()
        self._ready[m.instruction_pointer] = place
        return registers

    def make_ready_anywhere(self, vdso: int) -> None:
        """As `make_ready`, wherever the thread was stopped. `vdso`: the address of its vdso; 0:
        it has none.
        """
        m = self.machine
        if m.interruptible is None:
            raise ControlError(
                "how a thread goes on that is stopped outside of an ioctl of ours is not known of this machine"
            )
        if self._read_registers() != m.size:
            raise ControlError("it is a 32-bit program")
        registers = list(self._buffer)
        called = int(_ffi.cast("int64_t", registers[m.called]))
        place = (registers[m.instruction_pointer] - len(m.instruction)) & m.most
        if called < 0 or self.memory.read(place, len(m.instruction)) != m.instruction:
            code = self.memory.read(vdso, _VDSO_SIZE) if vdso else b""
            at = code.find(m.instruction)
            if at < 0:
                raise ControlError("it has no instruction that enters the kernel where one is looked for, in its vdso")
            place = vdso + at
        self._block_signals()
        self._ready = registers.copy()
        self._ready[m.instruction_pointer] = place
        self._ready[m.called] = _U64
        result = int(_ffi.cast("int64_t", registers[m.result]))
        if called >= 0 and result == -errno.EINTR and called in m.interruptible and not _has_signals(self.tid):
            registers[m.result] = called
            registers[m.instruction_pointer] -= len(m.instruction)
            registers[m.called] = _U64
        self._to_restart = called >= 0 and result in _RESTART
        self._stopped = registers

    def _block_signals(self) -> None:
        self._ptrace(_GETSIGMASK, _SIGMASK_SIZE, _address(self._mask))
        self._ptrace(_SETSIGMASK, _SIGMASK_SIZE, _address(_ALL_SIGNALS))

    @property
    def stack_pointer(self) -> int:
        """The stack pointer of the thread, which is ready. Its program may use that register for
        anything.
        """
        return self._stopped[self.machine.stack_pointer]

    def check(self) -> None:
        """ThreadGone: it is not under our control any more. Otherwise, what was read by its number
        until now belongs to it.
        """
        self._read_registers()

    def obey_filters(self) -> None:
        """End SUSPEND_SECCOMP for a thread that is stopped."""
        self._options &= ~SUSPEND_SECCOMP
        self._ptrace(SETOPTIONS, 0, self._options)

    def call(self, number: int, *arguments: int, inside: Callable[[], None] | None = None) -> int:
        """Let the thread, which is ready, make one system call. Returns its result; negative is
        -errno. `inside`: called while the thread is in the call.
        """
        m = self.machine
        while True:
            registers = self._ready.copy()
            for index, value in zip(m.arguments, arguments, strict=False):
                registers[index] = value & m.most
            registers[m.number] = number
            self._write_registers(registers)
            self._run_to_boundary()  # the call's entry
            self._run_to_boundary(inside)  # its exit
            self._read_registers()
            result = m.signed(self._words()[m.result])
            if result not in _RESTART:
                return result

    def resume(self) -> None:
        """From rest to ready."""
        self._ptrace(_SETSIGMASK, _SIGMASK_SIZE, _address(_ALL_SIGNALS))
        self._at_rest = False

    def rest(self) -> None:
        """From ready to rest: it stays stopped, with registers and signals as they were at the
        stop. If we die, it goes on as if nothing had happened.
        """
        if self._at_rest:
            return
        if self._to_restart:
            self.interrupt()
            self._ptrace(CONT, 0, 0)
            self.wait_stop()
        self._write_registers(self._stopped)
        self._ptrace(_SETSIGMASK, _SIGMASK_SIZE, _address(self._mask))
        self._at_rest = True

    def detach(self, result: int | None = None) -> None:
        """Let it go, with all registers as they were at the stop. With `result`, the call that it
        had made returns that.
        """
        if self._stopped:
            if result is not None:
                self._stopped[self.machine.result] = result & self.machine.most
                self._at_rest = False
            self.rest()
        elif result is not None:
            self._write_result(result)
        self._ptrace(_DETACH, 0, 0)

    # --- the kernel's calls ---

    def _run_to_boundary(self, meanwhile: Callable[[], None] | None = None) -> None:
        pass_on = 0
        while True:
            self._ptrace(_SYSCALL, 0, pass_on)
            if meanwhile is not None:
                meanwhile()
                meanwhile = None
            status = self._wait()
            stopped_by = os.WSTOPSIG(status)
            if stopped_by == _SYSCALL_STOP:
                return
            if status >> 16 == _EVENT_CLONE:
                self._ptrace(_GETEVENTMSG, 0, _address(self._message))
                self._cloned = int(self._message[0])
            # If it is a new process, or a group stop that begins or ends, we go on. Else it is
            # SIGSTOP, the only signal that is not blocked.
            pass_on = 0 if status >> 16 else self._passed_on(stopped_by)

    def _passed_on(self, number: int) -> int:
        return number

    def _wait(self) -> int:
        self._is_heard(wait=True)
        status = self._others[self.tid].pop(0)
        if os.WIFSTOPPED(status):
            return status
        self._is_gone = True
        raise ThreadGone

    def _is_heard(self, *, wait: bool) -> bool:
        """Whether the kernel has something to tell of it."""
        # Wait for whatever this thread traces, not by id. An exec in another thread of the program
        # takes over our tracee's id and lets our tracee go; the kernel then wakes only those who
        # wait for any. And another worker may be tracing the new owner of the id.
        if self._is_gone:
            raise ThreadGone
        while not self._others.get(self.tid):
            try:
                tid, status = os.waitpid(-1, WALL | _WNOTHREAD | (0 if wait else os.WNOHANG))
            except ChildProcessError:
                raise ThreadGone from None
            if not tid:
                return False
            self._others.setdefault(tid, []).append(status)
        return True

    def _ptrace(self, request: int, address: int, data: int) -> None:
        if _libc.ptrace(request, self.tid, address, data) == 0:
            return
        failed = _ffi.errno
        if failed != errno.ESRCH:
            raise OSError(failed, f"ptrace request {request:#x}: {os.strerror(failed)}")
        while True:  # it was killed: collect it, or it stays a zombie until we end
            self._wait()

    def _words(self) -> Any:
        return (
            self._buffer if self.machine.bits == 64 else _ffi.cast("uint32_t *", self._buffer)[0 : self.machine.words]
        )

    def _read_registers(self) -> int:
        self._vec.length = _ffi.sizeof(self._buffer)
        self._ptrace(_GETREGSET, _NT_PRSTATUS, _address(self._vec))
        return int(self._vec.length)

    def _write_registers(self, registers: list[int]) -> None:
        self._words()[0 : len(registers)] = registers
        self._vec.length = self.machine.size
        self._ptrace(_SETREGSET, _NT_PRSTATUS, _address(self._vec))

    def _write_result(self, result: int) -> None:
        size = self._read_registers()
        if size != self.machine.size and self.machine.compat is not None:
            self.machine = self.machine.compat
        self._words()[self.machine.result] = result & self.machine.most
        self._vec.length = size
        self._ptrace(_SETREGSET, _NT_PRSTATUS, _address(self._vec))


def blocked_call(tid: int) -> list[int] | None:
    """Number and arguments of the system call that a thread waits in. None: it does not wait.
    OSError: it is gone, or we may not ask.
    """
    for _ in range(_PROC_SYSCALL_TRIES):
        if words := _call_of(tid):  # else something woke it, and it will wait again
            return words[:7]
        time.sleep(0)
    return None


def waiting_in(tid: int) -> int | None:
    """The number of the system call that a thread waits in now. None: it runs. OSError: it is gone,
    or we may not ask.
    """
    words = _call_of(tid)
    return words[0] if words and words[0] >= 0 else None


def _call_of(tid: int) -> list[int]:
    with open(f"/proc/{tid}/syscall", encoding="ascii") as file:
        words = file.read().split()
    return [int(word, 0) for word in words] if len(words) > 2 else []  # `running`, or between calls


def _has_signals(tid: int) -> bool:
    """Whether signals are pending for a thread. Also True if that cannot be told."""
    try:
        known = status.read(tid)
    except OSError:
        return True
    return any(known.mask(name) != 0 for name in ("SigPnd", "ShdPnd"))


def _address(pointer: Any) -> int:
    return int(_ffi.cast("uintptr_t", pointer))
