"""`as_nobody.py [OPTION...] COMMAND...` as root: run it as the user nobody, on a machine that lets
everybody use /dev/fuse. --closed-fuse: on one that does not, but for what root does there first
(--first SCRIPT). --hide DIRECTORY: it is empty there. --open DIRECTORY: nobody may look into it.

What nobody is not let into (a Python below /root) is opened up in a private mount namespace; the
machine stays as it is.
"""

import argparse
import os
import stat
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cuse_glue.system import libc  # noqa: E402  (a script has to say first where the packages are)

NOBODY = 65534
MS_PRIVATE = 1 << 18
FUSE = os.makedev(10, 229)


def open_up(paths: list[Path]) -> None:
    """Lay a tmpfs over each first directory above one of the paths that others may not search,
    with nothing in it but those paths.
    """
    closed = {}
    for path in paths:
        above = [each for each in reversed(path.parents) if not each.stat().st_mode & stat.S_IXOTH]
        if above:
            closed[path] = os.open(path, os.O_PATH), above[0]
    for directory in {directory for _, directory in closed.values()}:
        libc.mount("open", str(directory), "tmpfs", 0, "mode=0755")
    for path, (old, _) in closed.items():
        path.mkdir(parents=True, exist_ok=True)
        libc.mount(f"/proc/self/fd/{old}", str(path), None, libc.MS_BIND | libc.MS_REC)
        os.close(old)


def main() -> None:
    """Become nobody, then COMMAND."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--closed-fuse", action="store_true")
    parser.add_argument("--first")
    parser.add_argument("--hide")
    parser.add_argument("--open", action="append", default=[], type=Path)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    os.umask(0)
    libc.unshare(libc.CLONE_NEWNS)
    libc.mount(None, "/", None, libc.MS_REC | MS_PRIVATE)
    open_up([Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT, *arguments.open])
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
