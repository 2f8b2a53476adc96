"""Kinds of machines, as data for ptrace.py: where the registers lie, and the numbers of the calls.
arm64 is in ptrace_arm64.py.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Machine:
    """Where one kind of machine keeps what we need, as indexes of words in its register set
    (NT_PRSTATUS).
    """

    bits: int  # of a word, and of what a call returns
    words: int  # of the whole set
    instruction: bytes  # what enters the kernel, just before the instruction pointer at the stop
    instruction_pointer: int
    stack_pointer: int
    red_zone: int  # bytes below the stack pointer that a leaf function may use
    called: int  # at the stop: the number of the call that the thread made
    number: int  # at the instruction: the number of the call
    arguments: tuple[int, ...]
    result: int
    first_argument: int | None  # still there at the stop; None: the result has taken its place
    ioctl: int
    openat: int
    close: int
    sigprocmask: int
    mmap: int
    munmap: int
    mremap: int
    madvise: int
    capset: int
    clone: int
    wait4: int
    exit: int
    socketpair: int
    recvmsg: int
    dup3: int
    prctl: int
    seccomp: int
    getpid: int
    # Calls that a stop ends with EINTR although they have done nothing: they are made again. None:
    # on this machine, we only take threads that wait for an answer of ours.
    interruptible: frozenset[int] | None
    compat: "Machine | None" = None  # what a 32-bit thread runs on; its set is smaller

    @property
    def size(self) -> int:
        """The size of the register set (bytes)."""
        return self.words * self.bits // 8

    @property
    def most(self) -> int:
        """The highest value of a word."""
        return (1 << self.bits) - 1

    def is_error(self, result: int) -> bool:
        """Whether the result of a call, as a signed word, is -errno and no address."""
        return -4096 < result < 0

    def signed(self, word: int) -> int:
        """A word as the result of a call."""
        return word - (word >> self.bits - 1 << self.bits)


# struct user_regs_struct32; Ref: v7.3 arch/x86/include/asm/user_32.h,
# arch/x86/entry/syscalls/syscall_32.tbl. However a 32-bit thread entered the kernel, it leaves it
# just past an int $0x80. The faster ways are in the vdso, which has an int $0x80 where they return
# (int80_landing_pad).
I386: Final = Machine(
    bits=32,
    words=17,
    instruction=b"\xcd\x80",  # int $0x80
    instruction_pointer=12,
    stack_pointer=15,
    red_zone=0,
    called=11,  # orig_eax
    number=6,  # eax
    arguments=(0, 1, 2, 3, 4, 5),  # ebx ecx edx esi edi ebp
    result=6,
    first_argument=0,
    ioctl=54,
    openat=295,
    close=6,
    sigprocmask=175,
    mmap=192,  # mmap2
    munmap=91,
    mremap=163,
    madvise=219,
    capset=185,
    clone=120,
    wait4=114,
    exit=1,
    socketpair=360,
    recvmsg=372,
    dup3=330,
    prctl=172,
    seccomp=354,
    getpid=20,
    interruptible=None,
)

# struct user_regs_struct; Ref: v7.3 arch/x86/include/asm/user_64.h,
# arch/x86/entry/syscalls/syscall_64.tbl
X86_64: Final = Machine(
    bits=64,
    words=27,
    instruction=b"\x0f\x05",  # syscall
    instruction_pointer=16,
    stack_pointer=19,
    red_zone=128,
    called=15,  # orig_rax
    number=10,  # rax
    arguments=(14, 13, 12, 7, 9, 8),  # rdi rsi rdx r10 r8 r9
    result=10,  # rax
    first_argument=14,
    ioctl=16,
    openat=257,
    close=3,
    sigprocmask=14,
    mmap=9,
    munmap=11,
    mremap=25,
    madvise=28,
    capset=126,
    clone=56,
    wait4=61,
    exit=60,
    socketpair=53,
    recvmsg=47,
    dup3=292,
    prctl=157,
    seccomp=317,
    getpid=39,
    # epoll_wait, epoll_pwait, epoll_pwait2, rt_sigtimedwait, semop, semtimedop, io_getevents
    interruptible=frozenset((232, 281, 441, 128, 65, 220, 208)),
    compat=I386,
)
