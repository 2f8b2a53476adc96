"""`iommud run --vfio type1`: what /sys tells of it, and what is said there."""

import subprocess
import sys
from errno import EINVAL, ERANGE

from tests.clients.build import build
from tests.support import IOMMUD, PATIENCE

PARAMETERS = "/sys/module/vfio_iommu_type1/parameters"
RUN = [IOMMUD, "run", "--vfio", "type1", "--device", "edu", "--"]


def python(script: str, *command: str) -> str:
    done = subprocess.run(
        [*(command or RUN), sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_parameters_of_the_module() -> None:
    script = f"""
import os
from pathlib import Path
place = Path({PARAMETERS!r})
for path in sorted(place.iterdir()):
    print(path.name, oct(path.stat().st_mode), path.read_text(), end="")
def write(name, said):
    fd = os.open(place / name, os.O_WRONLY)
    try:
        os.write(fd, said)
    except OSError as error:
        print(error.errno)
    finally:
        os.close(fd)
write("dma_entry_limit", b"0x7\\n")
write("dma_entry_limit", b"x")
write("dma_entry_limit", b"4294967296")
write("disable_hugepages", b"on")
write("disable_hugepages", b"?")
print((place / "dma_entry_limit").read_text(), (place / "disable_hugepages").read_text(), sep="", end="")
"""
    assert python(script).split("\n") == [
        "allow_unsafe_interrupts 0o100644 N",
        "disable_hugepages 0o100644 N",
        "dma_entry_limit 0o100644 65535",
        str(EINVAL),
        str(ERANGE),
        str(EINVAL),
        "7",
        "Y",
        "",
    ]


def test_they_are_not_there_with_iommufds_container() -> None:
    script = f"import os; print(os.path.exists({PARAMETERS!r}))"
    assert python(script, IOMMUD, "run", "--device", "edu", "--") == "False\n"


def test_the_limit_is_that_of_the_containers_that_come() -> None:
    script = f"echo 3 >{PARAMETERS}/dma_entry_limit && exec {build('vfio/type1_container')} 0000:e0:00.0 0000:e0:00.0 0000:e0:00.0"
    done = subprocess.run([*RUN, "sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert "GET_INFO: 3\n" in done.stdout
