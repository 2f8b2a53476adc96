"""Compiles the kernel's selftest, unmodified, against its own kernel's headers.

Only two uAPI headers must be those of that kernel: the rest of the system's do. They are taken as
they lie in the tree, so the one word that `make headers_install` would strip from them is defined
away.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.debian import NotHere

from .source import PROGRAM

ROOT = Path(__file__).resolve().parents[2]
SELFTESTS = "tools/testing/selftests"
UAPI = ("iommufd.h", "vfio.h")
INPUTS = (
    PROGRAM,
    f"{SELFTESTS}/iommu/iommufd_utils.h",
    f"{SELFTESTS}/kselftest.h",
    f"{SELFTESTS}/kselftest_harness.h",
    "drivers/iommu/iommufd/iommufd_test.h",
    *(f"include/uapi/linux/{name}" for name in UAPI),
)
# the selftest's own Makefile leaves unused functions alone
WARNINGS = ("-Wall", "-Werror", "-Wno-unused-function")


def build(tree: Path, into: Path) -> Path:
    """The selftest's binary in `into`; compiled only when its sources or the compiler are not those
    of last time.

    Raises NotHere when the compiler or libcap's header is missing and may not be installed,
    CalledProcessError when it does not compile.
    """
    if subprocess.run([str(ROOT / "scripts" / "need"), "gcc", "libc6-dev", "libcap-dev"], check=False).returncode:
        raise NotHere("the selftest needs gcc and libcap-dev")
    binary = into / "iommufd"
    stamp = into / "inputs.sha256"
    digest = fingerprint(tree)
    if binary.is_file() and stamp.is_file() and stamp.read_text() == digest:
        return binary
    headers = into / "include" / "linux"
    headers.mkdir(parents=True, exist_ok=True)
    for name in UAPI:
        shutil.copy(tree / "include/uapi/linux" / name, headers / name)
    flags = ["-O2", *WARNINGS, "-D_GNU_SOURCE=", "-D__counted_by(member)=", "-isystem", str(headers.parent)]
    command = ["gcc", *flags, "-I", str(tree / SELFTESTS), str(tree / PROGRAM), "-o", str(binary), "-lcap"]
    subprocess.run(command, check=True)
    stamp.write_text(digest)
    return binary


def fingerprint(tree: Path) -> str:
    """Of everything that the binary is made from."""
    state = hashlib.sha256(subprocess.run(["gcc", "--version"], stdout=subprocess.PIPE, check=True).stdout)
    state.update(Path(__file__).read_bytes())
    for name in INPUTS:
        state.update((tree / name).read_bytes())
    return state.hexdigest()
