"""What the guest starts from: the modules that it needs to reach its files, and the first program
(guest/init).
"""

from collections.abc import Mapping
from pathlib import Path

from tests.boot import initramfs
from tests.boot.kernel import Kernel

FIRST = Path(__file__).with_name("guest") / "init"
MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_console", "fuse", "cuse", "autofs4")


def build(kernel: Kernel, settings: Mapping[str, str], units: Mapping[str, str | None]) -> bytes:
    """The archive. `settings`: shell variables for guest/init. `units`: systemd's, by name; None
    masks one. Raises NotHere.
    """
    archive = initramfs.start(kernel, MODULES, FIRST)
    archive.directory("units")
    archive.file("settings", "".join(f"{name}='{value}'\n" for name, value in settings.items()).encode())
    for name, text in units.items():
        if "/" in name:
            archive.directory(f"units/{name.rpartition('/')[0]}")
        if text is None:
            archive.link(f"units/{name}", "/dev/null")
        else:
            archive.file(f"units/{name}", text.encode())
    return archive.finish()
