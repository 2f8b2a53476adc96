"""One thread of another process under our control, so that it makes a system call for us (ptrace(2)).

A thread that is seized while it is inside a system call and interrupted stops on its way back to user mode. Its instruction pointer then
stands just past the instruction that entered the kernel, so a step back by that instruction and other registers make it enter again, for a
call of our choice; nothing of its code is touched. It runs to the call's entry and exit by PTRACE_SYSCALL and not by single steps: a
step forces a SIGTRAP on the thread, and the kernel throws away the program's own way with SIGTRAP if that is blocked or ignored.

A thread can also be taken where nothing of ours waits for it: in any other system call, or in the midst of its own code. A system call
that is interrupted so ends with a code that tells the kernel to make it again, unless a signal's handler comes first; that is decided when
the thread leaves the kernel. So before it is let go it is stopped once more at that very place, with all its registers as they were, and
the kernel does what it would have done. A few calls end with a plain EINTR instead; those of them that had no effect are made again by
us. In its own code there may be no instruction near that enters the kernel: one of the vdso's is used.

All signals are blocked meanwhile, so a pending one is handled after `detach` with the thread's own registers, as if nothing had been.
SIGSTOP cannot be blocked: it stops the process as usual, our thread goes on under our hand, and stops with the others when it is let go.

The kernel binds all this to the tracing **thread**: an object of this module is used by the thread that made it. What differs between
machines is data (`Machine`): where the registers lie, and the numbers of the calls.
"""

import errno
import os
import platform
import re
import signal
import time
from typing import Any, Final

import cffi

from .machine import X86_64 as X86_64
from .machine import Machine as Machine

_ffi: Final = cffi.FFI()
_ffi.cdef(
    """
    struct vec { uintptr_t base; size_t length; };
    ssize_t process_vm_readv(int pid, const struct vec *local, unsigned long nlocal,
                             const struct vec *remote, unsigned long nremote, unsigned long flags);
    ssize_t process_vm_writev(int pid, const struct vec *local, unsigned long nlocal,
                              const struct vec *remote, unsigned long nremote, unsigned long flags);
    long ptrace(long request, long pid, uintptr_t address, uintptr_t data);
    """
)
_libc: Final[Any] = _ffi.dlopen(None)

SUSPEND_SECCOMP: Final = 1 << 21  # PTRACE_O_*

_TRACESYSGOOD: Final = 1 << 0
_TRACECLONE: Final = 1 << 3
_THREAD: Final = 0x100 | 0x200 | 0x400 | 0x800 | 0x10000 | 0x40000  # CLONE_VM, _FS, _FILES, _SIGHAND, _THREAD, _SYSVSEM
_SETOPTIONS: Final = 0x4200
_CONT: Final = 7
_DETACH: Final = 17
_SYSCALL: Final = 24
_GETREGSET: Final = 0x4204
_SETREGSET: Final = 0x4205
_SEIZE: Final = 0x4206
_INTERRUPT: Final = 0x4207
_GETSIGMASK: Final = 0x420A
_SETSIGMASK: Final = 0x420B
_EVENT_STOP: Final = 128
_NT_PRSTATUS: Final = 1
_WALL: Final = 0x4000_0000  # __WALL: threads as well as processes
_WNOTHREAD: Final = 0x2000_0000  # __WNOTHREAD: only what this thread traces
_SYSCALL_STOP: Final = signal.SIGTRAP | 0x80
_SIGMASK_SIZE: Final = 8
_ALL_SIGNALS: Final[Any] = _ffi.new("uint64_t *", (1 << 64) - 1)
_U64: Final = (1 << 64) - 1
_PENDING: Final = re.compile(rb"^(?:SigPnd|ShdPnd):\t(\w+)$", re.MULTILINE)
_RESTART: Final = range(-516, -511)  # -ERESTART*: the kernel would make the call again after a signal
_PROC_SYSCALL_TRIES: Final = 1000
_VDSO_SIZE: Final = 8192  # bytes


def machine() -> Machine | None:
    """The one we run on; None: nobody has described it."""
    if platform.machine() == "aarch64":
        from .ptrace_arm64 import ARM64

        return ARM64
    return X86_64 if platform.machine() == "x86_64" else None


class Gone(Exception):
    """The thread has ended, or was killed. It is not ours any more."""


class Foreign(Exception):
    """The thread is not in a system call that we know how to follow; the text says why."""


class Tracee:
    """A seized thread. `interrupt`, then `wait_stop`, then `call` as often as needed, then `detach`, whatever happens.

    Each raises Gone when the thread ends meanwhile; then there is nothing left to detach.
    """

    def __init__(self, tid: int, machine: Machine, options: int = 0) -> None:
        """Seize `tid`; it runs on. OSError: EPERM (another tracer has it, or we may not), ESRCH (it is gone)."""
        if _libc.ptrace(_SEIZE, tid, 0, options | _TRACESYSGOOD) != 0:
            raise OSError(_ffi.errno, os.strerror(_ffi.errno))
        self._begin(tid, machine, {})
        self._options = options | _TRACESYSGOOD

    def _begin(self, tid: int, machine: Machine, others: dict[int, list[int]]) -> None:
        self.tid = tid
        self.machine = machine  # from `hold` on, what this thread runs on
        self._others = others  # what waiting told of threads that were not waited for just then; shared with a helper
        self._buffer: Any = _ffi.new("uint64_t[]", machine.words)
        self._vec: Any = _ffi.new("struct vec *", {"base": _address(self._buffer)})
        self._mask: Any = _ffi.new("uint64_t *")
        self._stopped: list[int] = []  # its own registers
        self._ready: list[int] = []  # the same, but about to enter the kernel by `instruction`
        self._to_restart = False

    def interrupt(self) -> None:
        """Make it stop before it is in user mode again. If it is gone, `wait_stop` will tell."""
        _libc.ptrace(_INTERRUPT, self.tid, 0, 0)

    def wait_stop(self) -> None:
        """Wait until it has left the kernel and stopped there."""
        while (status := self._wait()) >> 16 != _EVENT_STOP:
            self._ptrace(_CONT, 0, os.WSTOPSIG(status))  # it was not in the kernel any more, and a signal came first

    def hold(self) -> list[int]:
        """Take hold of the stopped thread: its registers, also kept for `detach`, and its signals blocked. Foreign: it is none of ours."""
        size = self._read_registers()
        if size != self.machine.size:
            if self.machine.compat is None or size != self.machine.compat.size:
                raise Foreign(f"it has a register set of {size} bytes")
            self.machine = self.machine.compat
        m = self.machine
        registers = list(self._words())
        if registers[m.called] != m.ioctl:
            raise Foreign(f"it called {registers[m.called]:#x}, not ioctl as a {m.bits}-bit program does")
        place = registers[m.instruction_pointer] - len(m.instruction)
        if read_memory(self.tid, place, len(m.instruction)) != m.instruction:
            raise Foreign(f"there is no {m.instruction.hex()} at {place:#x}, where it entered the kernel")
        self._block_signals()
        self._stopped = registers
        self._ready = registers.copy()
        self._ready[m.instruction_pointer] = place
        return registers

    def hold_anywhere(self, vdso: int) -> None:
        """As `hold`, wherever the thread was stopped. `vdso`: the address of its vdso, 0 if it has none."""
        m = self.machine
        if m.interruptible is None:
            raise Foreign("how a thread goes on that is stopped outside of an ioctl of ours is not known of this machine")
        if self._read_registers() != m.size:
            raise Foreign("it is a 32-bit program")
        registers = list(self._buffer)
        called = int(_ffi.cast("int64_t", registers[m.called]))
        place = registers[m.instruction_pointer] - len(m.instruction)
        if called < 0 or read_memory(self.tid, place, len(m.instruction)) != m.instruction:
            code = read_memory(self.tid, vdso, _VDSO_SIZE) if vdso else b""
            at = code.find(m.instruction)
            if at < 0:
                raise Foreign("it has no instruction that enters the kernel where one is looked for, in its vdso")
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

    def call(self, number: int, *arguments: int) -> int:
        """Let the thread, which is on hold, make one system call. Its result: negative is -errno."""
        m = self.machine
        while True:
            registers = self._ready.copy()
            for index, value in zip(m.arguments, arguments, strict=False):
                registers[index] = value & m.most
            registers[m.number] = number
            self._write_registers(registers)
            self._run_to_boundary()  # the call's entry
            self._run_to_boundary()  # its exit
            self._read_registers()
            result = m.signed(self._words()[m.result])
            if result not in _RESTART:
                return result

    def helper(self) -> "Tracee":
        """A new thread of the process, in hand like this one, which is on hold; `end` it. Blocked: OSError(EAGAIN), no thread is to be had.

        What the kernel remembers of a thread (which rings it made, to be told of their end) goes with it.
        """
        m = self.machine
        self._ptrace(_SETOPTIONS, 0, self._options | _TRACECLONE)
        number = self.call(m.clone, _THREAD, 0, 0, 0, 0)
        self._ptrace(_SETOPTIONS, 0, self._options)
        if number < 0:
            raise OSError(-number, os.strerror(-number))
        made = object.__new__(Tracee)
        made._begin(number, m, self._others)
        made._ready = self._ready
        made.wait_stop()
        return made

    def end(self) -> None:
        """End a helper, for good."""
        registers = self._ready.copy()
        registers[self.machine.arguments[0]] = 0
        registers[self.machine.number] = self.machine.exit
        try:
            self._write_registers(registers)
            self._ptrace(_CONT, 0, 0)
            while True:
                self._ptrace(_CONT, 0, os.WSTOPSIG(self._wait()))
        except Gone:
            pass

    def detach(self, result: int | None = None) -> None:
        """Let it go, with all registers as they were at the stop, but for `result`, which the call it made then returns."""
        if self._stopped:
            if self._to_restart:
                self.interrupt()
                self._ptrace(_CONT, 0, 0)
                self.wait_stop()
            registers = self._stopped
            if result is not None:
                registers[self.machine.result] = result & self.machine.most
            self._write_registers(registers)
            self._ptrace(_SETSIGMASK, _SIGMASK_SIZE, _address(self._mask))
        elif result is not None:
            self._write_result(result)
        self._ptrace(_DETACH, 0, 0)

    # --- the kernel's calls ---

    def _run_to_boundary(self) -> None:
        pass_on = 0
        while True:
            self._ptrace(_SYSCALL, 0, pass_on)
            status = self._wait()
            stopped_by = os.WSTOPSIG(status)
            if stopped_by == _SYSCALL_STOP:
                return
            # A new thread, or a group stop that begins or ends: we go on. Else it is SIGSTOP, the only one that is not blocked.
            pass_on = 0 if status >> 16 else stopped_by

    def _wait(self) -> int:
        # Whatever this thread traces: not by id. An exec in another thread of the program gives that one our tracee's id and lets ours go;
        # the kernel then wakes only who waits for any. And another worker may have the id's new owner in its hands.
        while not self._others.get(self.tid):
            try:
                tid, status = os.waitpid(-1, _WALL | _WNOTHREAD)
            except ChildProcessError:
                raise Gone from None
            self._others.setdefault(tid, []).append(status)
        status = self._others[self.tid].pop(0)
        if os.WIFSTOPPED(status):
            return status
        raise Gone

    def _ptrace(self, request: int, address: int, data: int) -> None:
        if _libc.ptrace(request, self.tid, address, data) == 0:
            return
        failed = _ffi.errno
        if failed != errno.ESRCH:
            raise OSError(failed, f"ptrace request {request:#x}: {os.strerror(failed)}")
        while True:  # it was killed: collect it, or it stays a zombie until we end
            self._wait()

    def _words(self) -> Any:
        return self._buffer if self.machine.bits == 64 else _ffi.cast("uint32_t *", self._buffer)[0 : self.machine.words]

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
    """Number and arguments of the system call that a thread waits in; None: it does not wait. OSError: it is gone, or not ours to ask."""
    for _ in range(_PROC_SYSCALL_TRIES):
        if words := _call_of(tid):  # else something woke it, and it will wait again
            return words[:7]
        time.sleep(0)
    return None


def waiting_in(tid: int) -> int | None:
    """The number of the system call that a thread waits in now; None: it runs. OSError: it is gone, or not ours to ask."""
    words = _call_of(tid)
    return words[0] if words and words[0] >= 0 else None


def _call_of(tid: int) -> list[int]:
    with open(f"/proc/{tid}/syscall", encoding="ascii") as file:
        words = file.read().split()
    return [int(word, 0) for word in words] if len(words) > 2 else []  # `running`, or between calls


def _has_signals(tid: int) -> bool:
    """Whether signals wait for a thread. True also where that cannot be told."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            found = _PENDING.findall(file.read())
    except OSError:
        return True
    return len(found) != 2 or any(int(word, 16) for word in found)


def read_memory(tid: int, address: int, length: int) -> bytes:
    """What can be read (bytes) of `length` from `address`, as `caller.ProcessMemory`, but in any thread."""
    data = bytearray(length)
    count = _transfer(_libc.process_vm_readv, tid, _ffi.from_buffer(data), address, length)
    return bytes(data[:count])


def write_memory(tid: int, address: int, data: bytes) -> bool:
    """Whether all of `data` could be written."""
    return _transfer(_libc.process_vm_writev, tid, _ffi.from_buffer(data), address, len(data)) == len(data)


def _transfer(call: Any, tid: int, ours: Any, address: int, length: int) -> int:
    local = _ffi.new("struct vec *", (_address(ours), length))
    remote = _ffi.new("struct vec *", (address, length))
    return max(0, int(call(tid, local, 1, remote, 1, 0)))


def _address(pointer: Any) -> int:
    return int(_ffi.cast("uintptr_t", pointer))
