"""arm64 as data for `ptrace.py`, from the kernel's headers; nobody has run it yet.

The result of a call takes the place of its first argument (x0), and the register set does not hold what was there. So the descriptor
that a client called ioctl on is asked of /proc/TID/syscall while it still waits.
"""

from typing import Final

from .ptrace import Machine

# struct user_pt_regs: x0-x30, sp, pc, pstate; Ref: v7.3 arch/arm64/include/uapi/asm/ptrace.h, include/uapi/asm-generic/unistd.h
ARM64: Final = Machine(
    words=34,
    compat_result=0,  # r0
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
    exit=93,
    interruptible=None,
)
