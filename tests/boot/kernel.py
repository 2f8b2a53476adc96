"""Debian's stock kernel for this machine, as it comes: fetched by apt from the system's own package
sources, unpacked below build/.

The package is 70 MB and is fetched once. Kept of it are the modules, indexed for modprobe in the
guest, and the kernel itself: as the plain ELF file where the image holds it xz-compressed, which
saves a slow machine the two seconds of unpacking it at each boot.
"""

import contextlib
import fcntl
import lzma
import platform
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.debian import NotHere, apt
from tests.support import ROOT

METAPACKAGE = "linux-image-amd64"
CACHE = ROOT / "build" / "kernel"
PLAIN = "vmlinux"
PACKED = "vmlinuz"
SETUP_SECTORS = 0x1F1  # of the x86 boot protocol's header
PAYLOAD = 0x248  # payload_offset, payload_length
SECTOR = 512


@dataclass(frozen=True)
class Kernel:
    """What QEMU boots, and the kernel's modules (the directory that it calls
    /lib/modules/`release`).
    """

    release: str
    image: Path
    modules: Path

    def needed_for(self, names: Iterable[str]) -> list[Path]:
        """The files of these modules and of all that they need, in an order in which they can be
        loaded. What is built in has none.
        """
        files = {path.name.split(".")[0].replace("-", "_"): path for path in self.modules.rglob("*.ko*")}
        order: list[Path] = []

        def add(name: str) -> None:
            path = files.get(name.replace("-", "_"))
            if path is None or path in order:
                return
            found = re.search(rb"\0depends=([^\0]*)\0", read_module(path))
            for other in found[1].decode().split(",") if found and found[1] else []:
                add(other)
            order.append(path)

        for name in names:
            add(name)
        return order


def read_module(path: Path) -> bytes:
    """A module's ELF file, which may be compressed by xz."""
    return lzma.decompress(path.read_bytes()) if path.suffix == ".xz" else path.read_bytes()


def find() -> Kernel:
    """The kernel, fetched if it is not there yet. Raises NotHere."""
    if platform.machine() != "x86_64":
        raise NotHere("the virtual machine is an x86-64 one")
    with contextlib.suppress(IndexError):
        return _kept()
    for tool in ("apt-get", "apt-cache", "dpkg-deb"):
        if not shutil.which(tool):
            raise NotHere(f"there is no {tool} to fetch Debian's kernel with")
    CACHE.parent.mkdir(parents=True, exist_ok=True)
    with open(CACHE.parent / "kernel.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two lanes of `make test` want it
        with contextlib.suppress(IndexError):
            return _kept()
        with tempfile.TemporaryDirectory(prefix="kernel.", dir=CACHE.parent) as name:
            work = Path(name)
            _unpack(_download(work), work / "tree", work / "kernel")
            shutil.rmtree(CACHE, ignore_errors=True)
            (work / "kernel").rename(CACHE)
    return _kept()


def _kept() -> Kernel:
    modules = next(iter(sorted((CACHE / "lib" / "modules").glob("*")))) if CACHE.is_dir() else None
    if modules is None:
        raise IndexError
    image = CACHE / PLAIN
    return Kernel(modules.name, image if image.is_file() else CACHE / PACKED, modules)


def _download(work: Path) -> Path:
    print(f"fetching Debian's {METAPACKAGE} (about 70 MB, once)", flush=True)
    package = _package()
    if package is None or not apt(work, (), "download", package, quiet=True):
        # no lists yet, or old ones that name a package which has been replaced
        apt(work, (), "update")
        package = _package()
        if package is None or not apt(work, (), "download", package):
            raise NotHere(f"the system's package sources have no {METAPACKAGE}")
    return next(work.glob("*.deb"))


def _package() -> str | None:
    """The package that has the newest kernel, by its name."""
    command = ["apt-cache", "depends", "--important", METAPACKAGE]
    said = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    found = re.search(r"^ *Depends: (linux-image-\S+)$", said, re.MULTILINE)
    return found[1] if found else None


def _unpack(package: Path, tree: Path, into: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", str(package), str(tree)], check=True)
    for place in (tree / "lib" / "modules", tree / "usr" / "lib" / "modules"):
        if place.is_dir():
            shutil.copytree(place, into / "lib" / "modules", copy_function=shutil.move)
    (modules,) = (into / "lib" / "modules").glob("*")
    subprocess.run(["depmod", "-b", str(into), modules.name], check=True)
    packed = next((tree / "boot").glob("vmlinuz-*"))
    plain = _plain(packed.read_bytes())
    if plain is None:
        shutil.copy(packed, into / PACKED)
    else:
        (into / PLAIN).write_bytes(plain)


def _plain(image: bytes) -> bytes | None:
    """The ELF file in a bzImage; None: it is compressed by something else than xz. Ref: v7.3
    Documentation/arch/x86/boot.rst
    """
    offset, length = struct.unpack_from("<II", image, PAYLOAD)
    begin = (image[SETUP_SECTORS] + 1) * SECTOR + offset
    try:
        return lzma.LZMADecompressor().decompress(
            image[begin : begin + length]
        )  # what follows the stream is the kernel's business
    except lzma.LZMAError:
        return None
