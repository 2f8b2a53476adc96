"""A tree of ours among the files of /sys, in a private mount namespace (namespace.py).

The tree is one FUSE file system, and only parts of it are to be seen. First it is mounted over all
of /sys, where nobody looks yet. From there its parts are bound to their places, as merge.py has
planned it; then the mount over all is taken away. Meanwhile the old /sys below it is reached by a
descriptor.
"""

import os
from collections.abc import Iterable

from ..errors import Unusable
from ..system import libc
from ..tree.merge import How, Step
from .mount import mount_fuse
from .namespace import here_below


class Staged:
    """A tree that is mounted, and not shown yet."""

    def __init__(self, fd: int, name: str, directory: str = "/sys") -> None:
        """Mount the connection `fd`, whose server need not answer yet, as type `fuse.NAME`. Raises
        Unusable.
        """
        try:
            self._old = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Unusable(f"there is no {directory} in which devices can be shown: {error.strerror}") from None
        self._directory = directory
        self._here = here_below(directory)
        mount_fuse(fd, directory, name=name, mode=0o755, is_directory=True)

    def show(self, steps: Iterable[Step]) -> None:
        """Carry out the steps. The server must be able to answer meanwhile. Raises OSError."""
        ours = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        covered = {"": self._old}  # what our directories lie on, by path
        root = self._old
        try:
            for how, path in steps:
                if how is How.KEEP:
                    self._keep(covered, root, path)
                elif not path:
                    root = ours  # it is mounted over all already, and stays
                else:
                    place = _below(root, path)
                    if os.path.isdir(place):
                        covered[path] = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                    libc.mount(_below(ours, path), place, None, libc.MS_BIND)
        finally:
            for fd in (*covered.values(), ours):
                os.close(fd)
        if root != ours:
            libc.umount(self._directory, libc.MNT_DETACH)
        if self._here is not None:
            os.chdir(self._here)

    @staticmethod
    def _keep(covered: dict[str, int], root: int, path: str) -> None:
        above = path
        while above not in covered:
            above = above.rpartition("/")[0]
        try:
            libc.mount(
                _below(covered[above], path[len(above) :].lstrip("/")),
                _below(root, path),
                None,
                libc.MS_BIND | libc.MS_REC,
            )
        except FileNotFoundError:
            pass  # it went since the steps were planned: its place stays empty


def _below(directory: int, path: str) -> str:
    return f"/proc/self/fd/{directory}/{path}"
