"""A QEMU that knows IOMMUFD: Debian trixie's, with its own libraries and dynamic loader, beside the
system.
"""

import platform
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.debian import NotHere, Suite, cache

SUITE = "trixie"
PACKAGE = "qemu-system-x86"
MOST = 150_000_000  # bytes to fetch
COMPLETE = ".complete"  # holds the version; written last


class Qemu:
    """Where it was unpacked."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self.version = (root / COMPLETE).read_text().strip()

    @property
    def command(self) -> list[str]:
        """What starts it, without any option but where its firmware is."""
        usr = self._root / "usr"
        libraries = usr / "lib" / "x86_64-linux-gnu"
        loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", str(libraries)]
        data = [word for name in ("qemu", "seabios") for word in ("-L", str(usr / "share" / name))]
        return ["env", f"QEMU_MODULE_DIR={libraries / 'qemu'}", *loader, str(usr / "bin" / "qemu-system-x86_64"), *data]


def place() -> Path:
    """Where it is, or will be."""
    return cache() / f"qemu-{SUITE}"


def find() -> Qemu:
    """From the cache, or freshly fetched. Raises NotHere."""
    if platform.machine() != "x86_64":
        raise NotHere("the QEMU that is fetched is an x86-64 one")
    if not (place() / COMPLETE).is_file():
        _fetch(place())
    return Qemu(place())


def _fetch(into: Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise NotHere(f"there is no {tool} to fetch Debian's {PACKAGE} with")
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{into.name}.", dir=into.parent) as name:
        work = Path(name)
        suite = Suite(work, SUITE)
        sizes = suite.sizes(PACKAGE)
        size = sum(sizes.values())
        print(
            f"fetching {PACKAGE} of Debian {SUITE} and what it needs: {len(sizes)} packages, {size / 1e6:.0f} MB, "
            f"to {into} (once; the system's own packages stay as they are)",
            flush=True,
        )
        if size > MOST:
            raise NotHere(
                f"{PACKAGE} and what it needs are {size / 1e6:.0f} MB, more than the {MOST / 1e6:.0f} that are allowed"
            )
        tree = work / "tree"
        suite.download(*sizes)
        for file in work.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", str(file), str(tree)], check=True)
        (file,) = work.glob(f"{PACKAGE}_*.deb")
        version = file.name.split("_")[1]
        tree.chmod(0o755)
        (tree / COMPLETE).write_text(f"{version.replace('%3a', ':')}\n")
        shutil.rmtree(into, ignore_errors=True)
        tree.rename(into)
