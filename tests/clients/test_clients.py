"""C programs that know nothing of iommud judge it. Each of them passes on Linux 7.3's own
/dev/iommu.
"""

import re
import subprocess
from pathlib import Path

import pytest

from tests.clients.build import SOURCES, build
from tests.support import IOMMUD

PATIENCE = 120.0  # seconds for one client
RUN = [IOMMUD, "run", "--"]
USER_NAMESPACE = ["unshare", "--user", "--map-root-user"]
CAP_SYS_RESOURCE = 24
# These play with the device and know no right answers by themselves.
PLAYERS = {"fuzz", "fuzz_devices", "fuzz_vfio", "hold", "stress", "waits"}
CLIENTS = sorted(path.stem for path in SOURCES.glob("*.c") if path.stem not in PLAYERS)
# What the calls of `fuzz --areas --calls 50000 --threads 1 --seed N` were answered by Linux 7.3 on
# x86-64, as a checksum over all errnos and all values written back. To find the first answer that
# differs, compare the output with --trace.
LINUX_ANSWERS = {1: "b120b993bd178a86", 2: "3deeff711e762183", 3: "04746d62248a7e3d"}

# The same for every command and the mock device's operations: `fuzz_devices --alone --calls 30000
# --seed N`.
LINUX_DEVICE_ANSWERS = {11: "25e681b71690215a", 12: "59207fa3dbb57b0b", 13: "660179dbbd0977ba"}


def judge(command: list[str]) -> None:
    """Run a client; show what it found wrong."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    lines = done.stdout.splitlines()
    wrong = [line for line in lines if not line.startswith(("ok ", "# ", "1.."))]
    assert not wrong, "\n".join(wrong)
    assert (done.returncode, done.stderr) == (0, "")
    passed = sum(line.startswith("ok ") for line in lines)
    assert passed > 0
    assert lines[-1] == f"1..{passed}", "a client that ended early"


@pytest.mark.parametrize("name", CLIENTS)
def test_client(name: str) -> None:
    judge([*RUN, build(name)])


def to_set_rlimit_mode() -> list[str]:
    """What to begin a command with. Containers often lack CAP_SYS_RESOURCE; in a user namespace
    everybody has it.
    """
    effective = re.search(r"^CapEff:\s*(\w+)", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert effective
    prefix = [] if int(effective[1], 16) >> CAP_SYS_RESOURCE & 1 else USER_NAMESPACE
    if subprocess.run([*prefix, "true"], capture_output=True).returncode != 0:
        pytest.skip("neither CAP_SYS_RESOURCE nor a user namespace")
    return prefix


def test_rlimit_mode_with_its_capability() -> None:
    judge([*to_set_rlimit_mode(), *RUN, build("option"), "--privileged"])


def last_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("seed", LINUX_ANSWERS)
def test_random_calls_are_answered_as_by_linux(seed: int) -> None:
    said = last_line(
        *RUN, build("fuzz"), "--areas", "--calls", "50000", "--threads", "1", "--seed", str(seed), "/dev/iommu"
    )
    assert said == f"thread 0: checksum {LINUX_ANSWERS[seed]}"


@pytest.mark.parametrize("seed", LINUX_DEVICE_ANSWERS)
def test_random_calls_with_devices_are_answered_as_by_linux(seed: int) -> None:
    command = [build("fuzz_devices"), "--alone", "--calls", "30000", "--seed", str(seed), "/dev/iommu"]
    assert last_line(IOMMUD, "run", "--mock", "--", *command) == f"checksum {LINUX_DEVICE_ANSWERS[seed]}"
