"""What the guest starts from: the drivers of disks, e2fsprogs and fdisk of Debian trixie, our
programs, and files to be copied to disks.
"""

import hashlib
import random
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from tests.boot import initramfs, kernel
from tests.debian import NotHere
from tests.support import lacking

from ..unpacked import Unpacked

HERE: Final = Path(__file__).with_name("guest")
TOOLS: Final = Unpacked("e2fsprogs", ("e2fsprogs", "fdisk"))
PROGRAMS: Final = ("mkfs.ext4", "sfdisk")
# Drivers, ext4, and the checksums that ext4 and nvme ask for by name.
MODULES: Final = ("virtio_pci", "virtio_blk", "nvme", "crc32c_generic", "crc64_rocksoft_generic", "ext4")
SIZES: Final = (
    *(0, 1, 511, 512, 513, 4095, 4096, 4097, 8192, 65535, 65536, 65537),
    *(131072, 131073, 524288, 1 << 20, (1 << 20) + 1, (3 << 20) + 17),
    *range(100, 20000, 331),
)  # bytes


def files() -> dict[str, bytes]:
    """What is copied to disks, by name."""
    source = random.Random(0x10)
    return {f"{at:03}-{size}": source.randbytes(size) for at, size in enumerate(SIZES)}


def build(into: Path) -> Path:
    """The archive, in the directory `into`. Raises NotHere."""
    if why := lacking("busybox-static", "kmod", "gcc", "libc6-dev"):
        raise NotHere(why)
    tools = TOOLS.find()
    archive = initramfs.start(kernel.find(), MODULES, HERE / "init")
    archive.directory("etc", "lib64", "lib/x86_64-linux-gnu", "usr", "usr/sbin", "files")
    archive.file("etc/mke2fs.conf", (tools.root / "etc" / "mke2fs.conf").read_bytes())
    for name in PROGRAMS:
        program = Path(tools.program(name)[-1])
        archive.file(f"usr/sbin/{name}", program.read_bytes(), 0o755)
    for name, path in _libraries(tools).items():
        archive.file(name, path.read_bytes(), 0o755)
    archive.file("usr/sbin/writer", _compile(into, "writer").read_bytes(), 0o755)
    given = files()
    for name, data in given.items():
        archive.file(f"files/{name}", data)
    archive.file(
        "sums", "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in given.items()).encode()
    )
    made = into / "initramfs.cpio"
    made.write_bytes(archive.finish())
    return made


def _libraries(tools: Unpacked) -> Mapping[str, Path]:
    """What the programs are loaded with, by name in the guest."""
    found = {}
    for name in PROGRAMS:
        loader, *words = tools.program(name)
        said = subprocess.run([loader, "--list", *words], capture_output=True, text=True, check=True).stdout
        for line in said.splitlines():
            library, _, where = line.partition(" => ")
            if where:
                found[f"lib/x86_64-linux-gnu/{library.strip()}"] = Path(where.split(" ")[0])
    found["lib64/ld-linux-x86-64.so.2"] = tools.libraries / "ld-linux-x86-64.so.2"
    return found


def _compile(into: Path, name: str) -> Path:
    """One of our programs, which needs no library. Raises CalledProcessError."""
    made = into / name
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", "-static", "-O1", *warnings, HERE / f"{name}.c", "-o", made], check=True)
    return made
