"""The kernel tree that the selftest is built from: Linux 7.3, or the few directories of it that are needed.

$LINUX_SRC names a tree. Without it the tree comes out of Debian's package of the kernel's source, from the very archive
that this system's own package sources name (only the suite may differ), through apt's own checks of signatures. The
system's package sources and lists are left as they are: apt gets private directories. The package is 160 MB and the
tree we keep of it is 8 MB, in the user's cache; what was downloaded goes as soon as it is unpacked.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

VERSION = "7.3"
PACKAGE = f"linux-source-{VERSION}"
SUITE = "trixie-backports"  # where Debian has that version, if the system's own suites do not
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
MEMBERS = (
    "tools/testing/selftests/iommu",
    "tools/testing/selftests/*.h",
    "drivers/iommu/iommufd",
    "include/uapi/linux",
)
PROGRAM = "tools/testing/selftests/iommu/iommufd.c"
COMPLETE = ".complete"  # holds the package's version; written last
DOWNLOAD_SECONDS = 900
NO_TREE = "no kernel tree (LINUX_SRC is not set), and"


class NotHere(Exception):
    """The selftest cannot run on this machine; the message says what is missing."""


def find() -> Path:
    """The root of a kernel tree that holds the selftest: $LINUX_SRC, the cache, or freshly fetched (a minute or two).

    Raises NotHere when there is no way to a tree, ValueError when $LINUX_SRC is set to something that is not one.
    """
    if named := os.environ.get("LINUX_SRC"):
        tree = Path(named)
        if not (tree / PROGRAM).is_file():
            raise ValueError(f"LINUX_SRC={named} has no {PROGRAM}")
        return tree
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iommud"
    tree = cache / f"linux-{VERSION}"
    if not (tree / COMPLETE).is_file():
        cache.mkdir(parents=True, exist_ok=True)
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
        (fresh / COMPLETE).write_text(package.name.split("_")[1] + "\n")
        shutil.rmtree(tree, ignore_errors=True)  # what an interrupted or older run left
        fresh.rename(tree)


def download(work: Path) -> Path:
    """The package, in `work`: from the system's own package sources, else from SUITE of the same archive."""
    if not apt(work, (), "download", PACKAGE, quiet=True):
        lists = private_lists(work)
        if not apt(work, lists, "update"):
            raise NotHere(f"{NO_TREE} the archive's suite {SUITE} cannot be read")
        if not apt(work, lists, "download", PACKAGE):
            raise NotHere(f"{NO_TREE} the archive's suite {SUITE} has no {PACKAGE}")
    return next(work.glob("*.deb"))


def private_lists(work: Path) -> list[str]:
    """apt's options for a world that has only SUITE in it, kept under `work`."""
    sources = work / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {archive(work)} {SUITE} main\n")
    return [f"Dir::Etc::sourcelist={sources}", "Dir::Etc::sourceparts=/dev/null", *lists_under(work / "suite")]


def archive(work: Path) -> str:
    """Where this system gets its Debian packages: the base of the archive's address."""
    if not Path(KEYRING).is_file():
        raise NotHere(f"{NO_TREE} no {KEYRING} to check Debian's {PACKAGE} with")
    known = index_targets(())
    if not known:  # a system whose lists were thrown away, as small containers do
        options = lists_under(work / "system")
        apt(work, options, "update")
        known = index_targets(options)
    for origin, codename, base in known:
        if origin == "Debian" and "-" not in codename:
            return base
    raise NotHere(f"{NO_TREE} no Debian archive for {PACKAGE} among this system's package sources")


def index_targets(options: Sequence[str]) -> list[tuple[str, str, str]]:
    """(origin, codename, base address) of each list of packages that apt knows."""
    form = "$(ORIGIN)\t$(CODENAME)\t$(REPO_URI)"
    done = subprocess.run(
        ["apt-get", *flags(options), "indextargets", "--format", form, "Created-By: Packages"],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def lists_under(place: Path) -> list[str]:
    (place / "lists" / "partial").mkdir(parents=True)
    (place / "cache" / "archives" / "partial").mkdir(parents=True)
    # Root's apt would hand the download to a user that may not write here.
    return [f"Dir::State::lists={place}/lists", f"Dir::Cache={place}/cache", "APT::Sandbox::User=root"]


def flags(options: Sequence[str]) -> list[str]:
    return [word for option in options for word in ("-o", option)]


def apt(work: Path, options: Sequence[str], *words: str, quiet: bool = False) -> bool:
    """Runs apt-get in `work`; True when it succeeded. Its complaints are shown unless `quiet`."""
    sandbox = [] if options else ["-o", "APT::Sandbox::User=root"]
    command = ["apt-get", "-qq", *sandbox, *flags(options), *words]
    try:
        done = subprocess.run(
            command, cwd=work, timeout=DOWNLOAD_SECONDS, stderr=subprocess.DEVNULL if quiet else None, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def unpack(package: Path, into: Path) -> None:
    """Writes the members we need below `into`, in one pass over an archive (tar.xz) inside an archive (.deb)."""
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
