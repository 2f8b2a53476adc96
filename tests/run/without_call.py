"""`without_call.py NAME COMMAND...`: run it where the system call NAME is not permitted (EPERM), as
in a container.
"""

import ctypes
import os
import platform
import struct
import sys

NUMBERS = {
    "x86_64": {"process_vm_readv": 310, "pidfd_getfd": 438, "unshare": 272, "mount": 165},
    "aarch64": {"process_vm_readv": 270, "pidfd_getfd": 438, "unshare": 97, "mount": 40},
}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # of classic BPF
ALLOW, ERRNO, EPERM = 0x7FFF0000, 0x00050000, 1


def main() -> None:
    """Install the filter, then COMMAND."""
    number = NUMBERS[platform.machine()][sys.argv[1]]
    # The number; if it is the one, the next instruction, else the one after that.
    steps = [(LOAD, 0, 0, 0), (JUMP_IF_EQUAL, 0, 1, number), (RETURN, 0, 0, ERRNO | EPERM), (RETURN, 0, 0, ALLOW)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
        if libc.prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    os.execvp(sys.argv[2], sys.argv[2:])


if __name__ == "__main__":
    main()
