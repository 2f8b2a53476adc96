"""A process of ours in which the processor itself carries out single instructions, with registers
and memory as we say.

Nothing else is in this process: one page with an instruction that enters the kernel, and the pages
that are laid there for each step. A fault tells which page is missing. No memory of it is a
client's, so clients see nothing of what is tried there.

But a client chooses the instruction, and may have put another one there meanwhile: also one that
enters the kernel. So the kernel carries out only calls that come from the process's own page.
"""

import errno
import os
import signal
import struct
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from ..errors import ThreadGone
from .decoder import X86_64
from .trace import EXIT_WITH_TRACER, Hand, ThreadEnded

PAGE: Final = 4096  # bytes
_HOME: Final = 0x1F_E000_0000  # a place where nobody has anything
_TOP: Final = (1 << 47) - PAGE
_SYSCALL: Final = b"\x0f\x05"
_CPUID: Final = b"\x0f\xa2"
_FIRST_ARGUMENTS: Final = (14, 13, 12, 7, 9, 8)  # rdi rsi rdx r10 r8 r9
_RAX: Final = 10
_RCX: Final = 11
_RBX: Final = 5
_ORIGINAL_RAX: Final = 15
_CS_OF_32: Final = 13  # among the registers of a 32-bit program
_USER_CS: Final = 0x33  # of a 64-bit program
_MMAP: Final = 9
_MUNMAP: Final = 11
_RSEQ: Final = 334
_CLOSE_RANGE: Final = 436
_PRCTL: Final = 157
_NO_NEW_PRIVS: Final = 38
_SECCOMP: Final = 317
_SECCOMP_FILTER: Final = 1
# struct sock_filter, each: load a word of struct seccomp_data, jump if it is so, return
_LOAD: Final = 0x20
_JUMP: Final = 0x15
_RETURN: Final = 0x06
_ARCHITECTURE: Final = 4
_POINTER: Final = 8
_X86_64: Final = 0xC000003E
_ALLOW: Final = 0x7FFF_0000
_ENOSYS: Final = 0x0005_0000 | errno.ENOSYS
_RSEQ_UNREGISTER: Final = 1
_READ_WRITE: Final = 3
_READ_EXECUTE: Final = 5
_PRIVATE_ANONYMOUS: Final = 0x22
_FIXED: Final = 0x10
WATCHES: Final = 4  # places that can be watched in one step
_CONTROL: Final = 7  # debug registers; Ref: Intel SDM volume 3, 18.2
_STATUS: Final = 6
_WRITES: Final = 1
_READS_AND_WRITES: Final = 3
_LENGTHS: Final = {1: 0, 8: 2}
_COMMAND: Final = (sys.executable, "-ISc", "import signal; signal.pause()")


class StepperError(Exception):
    """The stepper cannot be had, or cannot do this; the text says why."""


class Fault(NamedTuple):
    """Why an instruction was not carried out."""

    signal: int
    address: int  # if memory is missing


@dataclass(frozen=True, slots=True)
class Machine:
    """All registers: words of the general ones (as ptrace has them of a 64-bit program), and the
    others as XSAVE lays them out.
    """

    words: tuple[int, ...]
    xstate: bytes


class Stepper:
    """The process. Belongs to the thread that made it. StepperError may come of each call; then it
    is to be closed.
    """

    def __init__(self) -> None:
        self._hand = Hand()
        self._pages: dict[int, bool] = {}  # True: of code
        self.pid = self._spawn()
        try:
            self._memory = os.open(f"/proc/{self.pid}/mem", os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            self._end()
            raise StepperError(f"its memory cannot be opened: {error.strerror}") from None
        try:
            self._begin()
        except (ThreadGone, OSError) as failure:
            self.close()
            raise StepperError(f"it cannot be made: {failure}") from None

    def close(self) -> None:
        """End the process."""
        os.close(self._memory)
        self._end()

    def touches(self, machine: Machine, addresses: Sequence[int], size: int, *, writes: bool) -> list[bool]:
        """Which of up to WATCHES places of `size` (1 or 8) bytes, aligned, the instruction reads or
        writes; `writes`: which it writes. A place that a mask leaves out may be among them.
        """
        control = 0
        try:
            for number, address in enumerate(addresses):
                self._hand.set_debug_register(self.pid, number, address)
                kind = _LENGTHS[size] << 2 | (_WRITES if writes else _READS_AND_WRITES)
                control |= 1 << 2 * number | kind << 16 + 4 * number
            self._hand.set_debug_register(self.pid, _CONTROL, control)
            self._hand.set_debug_register(self.pid, _STATUS, 0)
            self.step(machine)
            seen = self._hand.debug_register(self.pid, _STATUS)
            self._hand.set_debug_register(self.pid, _CONTROL, 0)
        except (ThreadGone, OSError) as failure:
            raise StepperError(f"the debug registers of the processor cannot be had: {failure}") from None
        return [bool(seen >> number & 1) for number in range(len(addresses))]

    def _spawn(self) -> int:
        nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        try:
            return os.posix_spawn(_COMMAND[0], _COMMAND, {}, file_actions=nothing, setpgroup=0)
        except OSError as error:
            raise StepperError(f"{_COMMAND[0]}: {error.strerror}") from None

    def _end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        try:
            while True:
                self._hand.status(self.pid, wait=True)
        except ThreadEnded:
            pass

    def _begin(self) -> None:
        """Remove all that the process had, and leave it one page of ours (`_HOME`)."""
        hand, pid = self._hand, self.pid
        hand.seize(pid, EXIT_WITH_TRACER)
        hand.interrupt(pid)
        hand.status(pid, wait=True)
        hand.read_words(pid)
        here = hand.words[X86_64.pointer]
        os.pwrite(self._memory, _SYSCALL, here)
        self._idle = tuple(hand.words[index] for index in range(27))
        place, size, mark = hand.rseq(pid)
        if place:
            self._call_at(here, _RSEQ, place, size, _RSEQ_UNREGISTER, mark)
        self._call_at(here, _MMAP, _HOME, PAGE, _READ_EXECUTE, _PRIVATE_ANONYMOUS | _FIXED, (1 << 64) - 1, 0)
        os.pwrite(self._memory, _SYSCALL + _CPUID, _HOME)
        self._call(_CLOSE_RANGE, 0, 0xFFFF_FFFF, 0)
        self._rule_out_calls()
        self._call(_MUNMAP, 0, _HOME)
        self._call(_MUNMAP, _HOME + PAGE, _TOP - _HOME - PAGE)

    def _rule_out_calls(self) -> None:
        """From now on the kernel refuses all system calls but those of the instruction at _HOME."""
        after = _HOME + len(_SYSCALL)
        rows = (
            (_LOAD, 0, 0, _ARCHITECTURE),
            (_JUMP, 0, 5, _X86_64),
            (_LOAD, 0, 0, _POINTER),
            (_JUMP, 0, 3, after & 0xFFFF_FFFF),
            (_LOAD, 0, 0, _POINTER + 4),
            (_JUMP, 0, 1, after >> 32),
            (_RETURN, 0, 0, _ALLOW),
            (_RETURN, 0, 0, _ENOSYS),
        )
        program = b"".join(struct.pack("=HBBI", *row) for row in rows)
        place = _HOME + PAGE  # removed with all else that is not at _HOME
        self._call(_MMAP, place, PAGE, _READ_WRITE, _PRIVATE_ANONYMOUS | _FIXED, (1 << 64) - 1, 0)
        os.pwrite(self._memory, struct.pack("=H6xQ", len(rows), place + 16) + program, place)
        self._call(_PRCTL, _NO_NEW_PRIVS, 1, 0, 0, 0)
        self._call(_SECCOMP, _SECCOMP_FILTER, 0, place)

    def _call(self, number: int, *arguments: int) -> None:
        self._call_at(_HOME, number, *arguments)

    def _call_at(self, place: int, number: int, *arguments: int) -> None:
        words = list(self._idle)
        words[_RAX], words[_ORIGINAL_RAX], words[X86_64.pointer] = number, (1 << 64) - 1, place
        for index, value in zip(_FIRST_ARGUMENTS, arguments, strict=False):
            words[index] = value
        self._set_words(words)
        if self._step() is not None:
            raise StepperError("it cannot enter the kernel")
        result = self._hand.words[_RAX]
        if result >> 63:
            raise OSError((1 << 64) - result, f"system call {number} failed")

    def _set_words(self, words: Iterable[int]) -> None:
        self._hand.layout = X86_64
        for index, value in enumerate(words):
            self._hand.words[index] = value
        self._hand.write_words(self.pid)

    def _return_to_64(self) -> None:
        """Make it a 64-bit program again. After a SYSENTER, where a 64-bit program can have it
        (Intel), it goes on as a 32-bit one.
        """
        self._hand.words[_CS_OF_32] = _USER_CS
        self._hand.write_words(self.pid)
        self._hand.read_words(self.pid)

    def _step(self) -> Fault | None:
        """Carry out one instruction. Afterwards the hand has the registers."""
        hand, pid = self._hand, self.pid
        while True:
            hand.step(pid)
            status = hand.status(pid, wait=True)
            assert status is not None
            stopped_by = os.WSTOPSIG(status)
            if status >> 16 or stopped_by not in _ITS_OWN:
                continue  # somebody sends it signals: they are lost
            number, _, address = hand.signal(pid)
            hand.read_words(pid)
            return None if number == signal.SIGTRAP else Fault(number, address)

    # --- for its users ---

    def idle(self) -> Machine:
        """Registers that a process can begin with."""
        try:
            return Machine(self._idle, bytes(self._hand.read_xstate(self.pid)))
        except (ThreadGone, OSError) as failure:
            raise StepperError(f"it is lost: {failure}") from None

    def features(self, leaf: int, index: int) -> tuple[int, int, int]:
        """EAX, EBX and ECX of CPUID."""
        words = list(self._idle)
        words[_RAX], words[_RCX], words[X86_64.pointer] = leaf, index, _HOME + len(_SYSCALL)
        try:
            self._set_words(words)
            if self._step() is not None:
                raise StepperError("it has no CPUID")
        except (ThreadGone, OSError) as failure:
            raise StepperError(f"it is lost: {failure}") from None
        found = self._hand.words
        return found[_RAX] & 0xFFFF_FFFF, found[_RBX] & 0xFFFF_FFFF, found[_RCX] & 0xFFFF_FFFF

    def lay(self, address: int, data: bytes, *, code: bool = False) -> None:
        """Put bytes into its memory, within one page, which is made if it is not there."""
        page = address & -PAGE
        if page == _HOME or not 0 < page < _TOP:
            raise StepperError(f"it can have no page at {page:#x}")
        try:
            if self._pages.get(page) is not code:
                self._call(
                    _MMAP,
                    page,
                    PAGE,
                    _READ_EXECUTE if code else _READ_WRITE,
                    _PRIVATE_ANONYMOUS | _FIXED,
                    (1 << 64) - 1,
                    0,
                )
                self._pages[page] = code
            os.pwrite(self._memory, data, address)
        except (ThreadGone, OSError) as failure:
            raise StepperError(f"it is lost: {failure}") from None

    def look(self, address: int, length: int) -> bytes:
        """Bytes of its memory, where something was laid."""
        return os.pread(self._memory, length, address)

    def clear(self) -> None:
        """Take away all that was laid."""
        try:
            for page in self._pages:
                self._call(_MUNMAP, page, PAGE)
        except (ThreadGone, OSError) as failure:
            raise StepperError(f"it is lost: {failure}") from None
        self._pages.clear()

    def step(self, machine: Machine) -> tuple[Machine, Fault | None]:
        """Carry out the instruction that its pointer names; all registers after it, or after its
        fault. SYSENTER faults, as on AMD's processors.
        """
        words = list(machine.words)
        words[_ORIGINAL_RAX] = (1 << 64) - 1
        try:
            self._set_words(words)
            self._hand.write_xstate(self.pid, machine.xstate)
            fault = self._step()
            if self._hand.layout is not X86_64:
                self._return_to_64()
                return machine, Fault(signal.SIGILL, words[X86_64.pointer])
            found = self._hand.words
            after = [found[index] for index in range(27)]
            after[_ORIGINAL_RAX] = machine.words[_ORIGINAL_RAX]
            return Machine(tuple(after), bytes(self._hand.read_xstate(self.pid))), fault
        except (ThreadGone, OSError) as failure:
            raise StepperError(f"it is lost: {failure}") from None


_ITS_OWN: Final = (signal.SIGTRAP, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
