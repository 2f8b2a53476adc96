"""The kernel's own selftests of VFIO, unmodified, built from the tree that its selftest of IOMMUFD
is built from.
"""

import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.debian import NotHere
from tests.kernel_selftest.build import SELFTESTS, UAPI
from tests.support import ROOT

VFIO = f"{SELFTESTS}/vfio"
PROGRAMS = (
    "vfio_iommufd_setup_test",
    "vfio_pci_device_test",
    "vfio_dma_mapping_test",
    "vfio_dma_mapping_mmio_test",
    "vfio_pci_device_init_perf_test",
    "vfio_pci_driver_test",
)
WARNINGS = ("-Wall", "-Werror")
# What vfio_pci_driver_test maps, all of which is pinned as long as a test lasts, in MiB.
REGION = 1024
DRIVERS_REGION = 2
# The same program, which maps less: its source is unmodified, and SZ_1G means less to it.
SMALLER = "vfio_pci_driver_test, smaller"
SMALLER_REGION = 4
SMALLER_HEADER = f"""\
#include <linux/sizes.h>
#undef SZ_1G
#define SZ_1G {SMALLER_REGION << 20}UL
"""


def build(tree: Path, into: Path) -> dict[str, Path]:
    """The programs by name, in `into`; compiled only when their sources are not those of last time.

    Raises NotHere when the compiler or a header is missing and may not be installed,
    CalledProcessError when they do not compile.
    """
    need = [str(ROOT / "scripts" / "need"), "gcc", "libc6-dev", "uuid-dev"]
    if subprocess.run(need, check=False).returncode:
        raise NotHere("the selftests need gcc and uuid-dev")
    library = [*(tree / VFIO / "lib").glob("*.c"), *(tree / VFIO / "lib" / "drivers").glob("*/*.c")]
    programs = {name: into / name for name in PROGRAMS}
    programs[SMALLER] = into / "vfio_pci_driver_test.smaller"
    digest, stamp = _fingerprint(tree), into / "inputs.sha256"
    if stamp.is_file() and stamp.read_text() == digest and all(path.is_file() for path in programs.values()):
        return programs
    headers = into / "include" / "linux"
    headers.mkdir(parents=True, exist_ok=True)
    for name in UAPI:
        shutil.copy(tree / "include/uapi/linux" / name, headers / name)
    flags = ["-O2", *WARNINGS, "-D_GNU_SOURCE=", "-D__counted_by(member)=", "-isystem", str(headers.parent)]
    flags += [
        f"-I{tree / place}" for place in (f"{VFIO}/lib/include", SELFTESTS, "tools/include", "tools/arch/x86/include")
    ]
    smaller = into / "smaller.h"
    smaller.write_text(SMALLER_HEADER)
    for name, program in programs.items():
        sources = [str(path) for path in (tree / VFIO / f"{program.stem}.c", *library)]
        more = ["-include", str(smaller)] if name == SMALLER else []
        subprocess.run(["gcc", *flags, *more, *sources, "-o", str(program), "-luuid", "-pthread"], check=True)
        program.chmod(0o755)
    stamp.write_text(digest)
    return programs


def _fingerprint(tree: Path) -> str:
    state = hashlib.sha256(subprocess.run(["gcc", "--version"], stdout=subprocess.PIPE, check=True).stdout)
    state.update(Path(__file__).read_bytes())
    for path in sorted(path for path in (tree / VFIO).rglob("*.[ch]")):
        state.update(path.read_bytes())
    for name in UAPI:
        state.update((tree / "include/uapi/linux" / name).read_bytes())
    return state.hexdigest()
