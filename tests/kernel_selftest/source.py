"""The kernel tree that selftests are built from: Linux 7.3, or the few directories of it that are
needed.

$LINUX_SRC names a tree. Without it the tree comes out of Debian's package of the kernel's source
(tests/debian.py). The package is 160 MB and the tree we keep of it is 12 MB, in the user's cache;
what was downloaded goes as soon as it is unpacked.
"""

import os
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.debian import NotHere, Suite, apt, cache

VERSION = "7.3"
PACKAGE = f"linux-source-{VERSION}"
SUITE = "trixie-backports"  # where Debian has that version, if the system's own suites do not
MEMBERS = (
    "tools/testing/selftests/iommu",
    "tools/testing/selftests/*.h",
    "drivers/iommu/iommufd",
    "include/uapi/linux",
    "tools/testing/selftests/vfio",
    "tools/include",
    "tools/arch/x86/include",
    # what those have links to
    "include/linux/pci_ids.h",
    "drivers/dma/idxd/registers.h",
    "drivers/dma/ioat/*.h",
    "drivers/net/ethernet/intel/igb/*.h",
)
PROGRAM = "tools/testing/selftests/iommu/iommufd.c"
COMPLETE = ".complete"  # holds the package's version, and MEMBERS; written last
NO_TREE = "no kernel tree (LINUX_SRC is not set), and"


def find() -> Path:
    """The root of a kernel tree that holds the selftest: $LINUX_SRC, the cache, or freshly fetched
    (a minute or two).

    Raises NotHere when there is no way to a tree, ValueError when $LINUX_SRC is set to something
    that is not one.
    """
    if named := os.environ.get("LINUX_SRC"):
        tree = Path(named)
        if not (tree / PROGRAM).is_file():
            raise ValueError(f"LINUX_SRC={named} has no {PROGRAM}")
        return tree
    tree = cache() / f"linux-{VERSION}"
    stamp = tree / COMPLETE
    if not (stamp.is_file() and stamp.read_text().splitlines()[1:] == list(MEMBERS)):
        tree.parent.mkdir(parents=True, exist_ok=True)
        fetch(tree)
    return tree


def fetch(tree: Path) -> None:
    """Makes `tree` out of Debian's package. Nothing is at `tree` unless it is whole."""
    for tool in ("apt-get", "dpkg-deb", "tar", "xz"):
        if not shutil.which(tool):
            raise NotHere(f"{NO_TREE} no {tool} to fetch Debian's {PACKAGE} with")
    print(f"fetching {PACKAGE} (about 160 MB, once)", flush=True)
    with tempfile.TemporaryDirectory(prefix=f"{tree.name}.", dir=tree.parent) as name:
        work = Path(name)
        package = download(work)
        fresh = work / "tree"
        fresh.mkdir()
        unpack(package, fresh)
        if not (fresh / PROGRAM).is_file():
            raise NotHere(f"{package.name} does not hold {PROGRAM}")
        (fresh / COMPLETE).write_text("\n".join([package.name.split("_")[1], *MEMBERS, ""]))
        shutil.rmtree(tree, ignore_errors=True)  # what an interrupted or older run left
        fresh.rename(tree)


def download(work: Path) -> Path:
    """The package, in `work`: from the system's own package sources, else from SUITE of the same
    archive.
    """
    if not apt(work, (), "download", PACKAGE, quiet=True):
        try:
            Suite(work, SUITE).download(PACKAGE)
        except NotHere as reason:
            raise NotHere(f"{NO_TREE} {reason}") from None
    return next(work.glob("*.deb"))


def unpack(package: Path, into: Path) -> None:
    """Writes the members we need below `into`, in one pass over an archive (tar.xz) inside an
    archive (.deb).
    """
    stages = (
        ["dpkg-deb", "--fsys-tarfile", str(package)],
        ["tar", "-xO", "--wildcards", f"./usr/src/{PACKAGE}.tar.*"],
        ["xz", "-dcT0"],
        ["tar", "-x", "-C", str(into), "--strip-components=1", "--wildcards", "--no-wildcards-match-slash"]
        + [f"*/{member}" for member in MEMBERS],
    )
    with ExitStack() as stack:
        before: subprocess.Popen[bytes] | None = None
        running = []
        for stage in stages:
            last = stage is stages[-1]
            process = stack.enter_context(
                subprocess.Popen(
                    stage, stdin=before.stdout if before else None, stdout=None if last else subprocess.PIPE
                )
            )
            if before and before.stdout:
                before.stdout.close()  # so that a stage hears when the next one is gone
            running.append(process)
            before = process
        failed = [process.args for process in running if process.wait()]
    if failed:
        raise NotHere(f"{package.name} cannot be unpacked: {failed} failed")
