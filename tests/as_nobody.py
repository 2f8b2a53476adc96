"""`as_nobody.py [--closed-fuse [--first SCRIPT]] [--hide DIRECTORY] COMMAND...` as root: run it as the user nobody, on a machine that
lets everybody use /dev/fuse. --closed-fuse: on one that does not, but for what root does there first. --hide: DIRECTORY is empty there.

What nobody is not let into (a Python below /root) is opened up in a private mount namespace; the machine stays as it is.
"""

import argparse
import os
import stat
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cuse_glue import libc  # noqa: E402  (a script has to say first where the packages are)

NOBODY = 65534
MS_PRIVATE = 1 << 18
FUSE = os.makedev(10, 229)


def open_up(path: Path) -> None:
    """Lay a tmpfs over the first directory above `path` that others may not search, with nothing but `path` in it."""
    closed = [above for above in reversed(path.parents) if not above.stat().st_mode & stat.S_IXOTH]
    if not closed:
        return
    old = os.open(path, os.O_PATH)
    libc.mount("open", str(closed[0]), "tmpfs", 0, "mode=0755")
    path.mkdir(parents=True)
    libc.mount(f"/proc/self/fd/{old}", str(path), None, libc.MS_BIND | libc.MS_REC)
    os.close(old)


def main() -> None:
    """Become nobody, then COMMAND."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--closed-fuse", action="store_true")
    parser.add_argument("--first")
    parser.add_argument("--hide")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    os.umask(0)
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount(None, "/", None, libc.MS_REC | MS_PRIVATE)
    for path in dict.fromkeys((Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT)):
        open_up(path)
    place = "/dev/shm/iommud-test-fuse"
    libc.mount("open", "/dev/shm", "tmpfs", 0, "mode=1777")
    os.mknod(place, stat.S_IFCHR | (0o600 if arguments.closed_fuse else 0o666), FUSE)
    libc.mount(place, "/dev/fuse", None, libc.MS_BIND)
    if arguments.first:
        subprocess.run(["sh", "-ec", arguments.first], check=True)
    if arguments.hide:
        libc.mount("hidden", arguments.hide, "tmpfs", 0, "mode=0755")
    os.umask(0o022)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execvp(arguments.command[0], arguments.command)


if __name__ == "__main__":
    main()
