"""Programs of another release of Debian, with their own libraries and dynamic loader, beside the
system.
"""

import platform
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.debian import NotHere, Suite, cache

SUITE = "trixie"
MOST = 150_000_000  # bytes to fetch, of each
COMPLETE = ".complete"  # holds the version; written last


@dataclass(frozen=True)
class Unpacked:
    """Packages and what they depend on. `name`: what the cache calls them."""

    name: str
    packages: tuple[str, ...]

    @property
    def root(self) -> Path:
        """Where it is, or will be."""
        return cache() / f"{self.name}-{SUITE}"

    @property
    def version(self) -> str:
        """Of the first package."""
        return (self.root / COMPLETE).read_text().strip()

    @property
    def libraries(self) -> Path:
        return self.root / "usr" / "lib" / "x86_64-linux-gnu"

    def program(self, name: str, *more: Path) -> list[str]:
        """The command that starts one of their programs. `more`: where else its libraries are."""
        loader = str(self.libraries / "ld-linux-x86-64.so.2")
        path = ":".join(map(str, (self.libraries, *more)))
        [file] = (self.root / "usr").glob(f"[bs]*in/{name}")
        return [loader, "--library-path", path, str(file)]

    @property
    def is_here(self) -> bool:
        """Whether it was fetched."""
        return (self.root / COMPLETE).is_file()

    def find(self) -> "Unpacked":
        """From the cache, or freshly fetched. Raises NotHere."""
        if platform.machine() != "x86_64":
            raise NotHere(f"the {self.name} that is fetched is for x86-64")
        if not self.is_here:
            self._fetch()
        return self

    def _fetch(self) -> None:
        for tool in ("apt-get", "dpkg-deb"):
            if not shutil.which(tool):
                raise NotHere(f"there is no {tool} to fetch Debian's {self.packages[0]} with")
        into = self.root
        into.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{into.name}.", dir=into.parent) as name:
            work = Path(name)
            suite = Suite(work, SUITE)
            sizes = suite.sizes(*self.packages)
            size = sum(sizes.values())
            print(
                f"fetching {' and '.join(self.packages)} of Debian {SUITE} and what they need: {len(sizes)} packages, "
                f"{size / 1e6:.0f} MB, to {into} (once; the system's own packages stay as they are)",
                flush=True,
            )
            if size > MOST:
                raise NotHere(
                    f"{self.packages[0]} and what is needed beside are {size / 1e6:.0f} MB, more than the "
                    f"{MOST / 1e6:.0f} that are allowed"
                )
            tree = work / "tree"
            suite.download(*sizes)
            for file in work.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", str(file), str(tree)], check=True)
            (file,) = work.glob(f"{self.packages[0]}_*.deb")
            tree.chmod(0o755)
            (tree / COMPLETE).write_text(f"{file.name.split('_')[1].replace('%3a', ':')}\n")
            shutil.rmtree(into, ignore_errors=True)
            tree.rename(into)
