"""`bare_dev.py COMMAND...` as root: run it in a mount namespace whose /dev has null, zero and fuse,
and nothing else.
"""

import os
import stat
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cuse_glue.system import libc

DEVICES = {"null": (1, 3), "zero": (1, 5), "fuse": (10, 229)}


def main() -> None:
    """Lay out the bare /dev, then COMMAND."""
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount(None, "/", None, libc.MS_REC | 1 << 18)
    libc.mount("bare", "/dev", "tmpfs", 0, "mode=0755")
    for name, number in DEVICES.items():
        os.mknod(f"/dev/{name}", stat.S_IFCHR | 0o666, os.makedev(*number))
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
