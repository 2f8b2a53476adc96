"""What a guest with the stock kernel starts from: busybox, modules, and its first program, which
begins as `begin` does.
"""

import shutil
import stat
from collections.abc import Iterable
from pathlib import Path

from tests.debian import NotHere

from .kernel import Kernel, read_module

BUSYBOX = "busybox"
BEGIN = Path(__file__).with_name("begin")


class Archive:
    """A cpio archive of the kind that the kernel unpacks ("newc"). Ref: v7.3
    Documentation/driver-api/early-userspace/buffer-format.rst
    """

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._count = 0

    def directory(self, *names: str) -> None:
        for name in names:
            self._add(name, stat.S_IFDIR | 0o755, b"")

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        self._add(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def finish(self) -> bytes:
        self._add("TRAILER!!!", 0, b"")
        return b"".join(self._parts)

    def _add(self, name: str, mode: int, data: bytes) -> None:
        self._count += 1
        path = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, 4 device numbers, length of the name, no
        # checksum
        fields = (self._count, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(path), 0)
        head = b"070701" + b"".join(b"%08x" % field for field in fields) + path
        self._parts += [head, bytes(-len(head) % 4), data, bytes(-len(data) % 4)]


def start(kernel: Kernel, modules: Iterable[str], first: Path) -> Archive:
    """An archive to add to. `modules`: by name; what they need is added. `first`: the first
    program, which reads /begin. Raises NotHere.
    """
    busybox = shutil.which(BUSYBOX)
    if busybox is None:
        raise NotHere("there is no busybox (the package busybox-static)")
    files = kernel.needed_for(modules)
    archive = Archive()
    archive.directory("bin", "lib")
    archive.file("bin/busybox", Path(busybox).resolve().read_bytes(), 0o755)
    archive.file("init", first.read_bytes(), 0o755)
    archive.file("begin", BEGIN.read_bytes())
    archive.file("modules", "".join(f"{path.stem.split('.')[0]}.ko\n" for path in files).encode())
    for path in files:
        archive.file(f"lib/{path.stem.split('.')[0]}.ko", read_module(path))
    return archive
