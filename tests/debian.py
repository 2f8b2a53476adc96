"""Debian's packages by name, for tests: from the very archive that this system's own package
sources name (only the suite may differ), through apt's own checks of signatures.

The system's package sources, lists and packages are left as they are: apt gets private directories,
and what it downloads is unpacked elsewhere.
"""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
DOWNLOAD_SECONDS = 900


class NotHere(Exception):
    """A test cannot run on this machine; the message says what is missing."""


def cache() -> Path:
    """Where what was fetched is kept: the user's cache, or below $XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "iommud"


class Suite:
    """One suite of Debian's archive, for apt alone."""

    def __init__(self, work: Path, name: str) -> None:
        """Its lists go below `work`, where packages come too. Raises NotHere."""
        self._work = work
        self.name = name
        sources = work / "sources.list"
        sources.write_text(f"deb [signed-by={KEYRING}] {_archive(work)} {name} main\n")
        (work / "status").touch()
        self._options = [
            f"Dir::Etc::sourcelist={sources}",
            "Dir::Etc::sourceparts=/dev/null",
            f"Dir::State::status={work}/status",  # as if nothing were installed
            *lists_under(work / "suite"),
        ]
        if not apt(work, self._options, "update"):
            raise NotHere(f"the archive's suite {name} cannot be read")

    def download(self, *packages: str) -> None:
        """The packages, to `work`. Raises NotHere."""
        if not apt(self._work, self._options, "download", *packages):
            raise NotHere(f"the archive's suite {self.name} does not give {' '.join(packages)}")

    def sizes(self, *packages: str) -> dict[str, int]:
        """The packages and all that they depend on, with the bytes of each. Raises NotHere."""
        command = ["apt-get", "-qq", *flags(self._options), "--print-uris", "--no-install-recommends", "install"]
        done = subprocess.run([*command, *packages], stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode:
            raise NotHere(f"the archive's suite {self.name} has not all of {' '.join(packages)}")
        found = {}
        for line in done.stdout.splitlines():  # 'ADDRESS' NAME_VERSION_ARCHITECTURE.deb SIZE HASH
            _, file, size, *_ = line.split()
            found[file.partition("_")[0]] = int(size)
        return found


def _archive(work: Path) -> str:
    """Where this system gets its Debian packages: the base of the archive's address."""
    if not Path(KEYRING).is_file():
        raise NotHere(f"there is no {KEYRING} to check Debian's packages with")
    known = index_targets(())
    if not known:  # a system whose lists were thrown away, as small containers do
        options = lists_under(work / "system")
        apt(work, options, "update")
        known = index_targets(options)
    for origin, codename, base in known:
        if origin == "Debian" and "-" not in codename:
            return base
    raise NotHere("there is no Debian archive among this system's package sources")


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
    """apt's options for lists of its own."""
    (place / "lists" / "partial").mkdir(parents=True)
    (place / "cache" / "archives" / "partial").mkdir(parents=True)
    # Root's apt would hand the download to a user that may not write here.
    return [f"Dir::State::lists={place}/lists", f"Dir::Cache={place}/cache", "APT::Sandbox::User=root"]


def flags(options: Sequence[str]) -> list[str]:
    """Options as apt's command line has them."""
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
