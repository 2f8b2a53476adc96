"""arm64, as data for ptrace.py, from the kernel's headers. Nobody has run it yet.

The result of a call takes the place of its first argument (x0), and the register set does not hold
what was there before. So the descriptor that a client called ioctl on is read from
/proc/TID/syscall while the client still waits.
"""

from typing import Final

from .machine import Machine

# What a 32-bit thread has: r0-r15, cpsr, the first argument of its call; Ref: v7.3
# arch/arm64/kernel/ptrace.c compat_gpr_get. A program in Thumb code enters the kernel by another
# instruction, and is none that we can follow.
ARM: Final = Machine(
    bits=32,
    words=18,
    instruction=b"\x00\x00\x00\xef",  # svc #0
    instruction_pointer=15,
    stack_pointer=13,
    red_zone=0,
    called=7,  # r7
    number=7,
    arguments=(0, 1, 2, 3, 4, 5),
    result=0,
    first_argument=17,
    ioctl=54,
    openat=322,
    close=6,
    sigprocmask=175,
    mmap=192,  # mmap2
    munmap=91,
    mremap=163,
    madvise=220,
    capset=185,
    clone=120,
    wait4=114,
    exit=1,
    socketpair=288,
    recvmsg=297,
    dup3=358,
    prctl=172,
    seccomp=383,
    getpid=20,
    interruptible=None,
)

# struct user_pt_regs: x0-x30, sp, pc, pstate; Ref: v7.3 arch/arm64/include/uapi/asm/ptrace.h,
# include/uapi/asm-generic/unistd.h
ARM64: Final = Machine(
    bits=64,
    words=34,
    instruction=b"\x01\x00\x00\xd4",  # svc #0
    instruction_pointer=32,
    stack_pointer=31,
    red_zone=128,  # the procedure call standard has none; other systems' compilers use one
    called=8,  # x8
    number=8,
    arguments=(0, 1, 2, 3, 4, 5),
    result=0,
    first_argument=None,
    ioctl=29,
    openat=56,
    close=57,
    sigprocmask=135,
    mmap=222,
    munmap=215,
    mremap=216,
    madvise=233,
    capset=91,
    clone=220,
    wait4=260,
    exit=93,
    socketpair=199,
    recvmsg=212,
    dup3=24,
    prctl=167,
    seccomp=277,
    getpid=172,
    interruptible=None,
    compat=ARM,
)
