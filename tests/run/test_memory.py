"""Clients whose memory is large, in very many pieces or closed to us, and a daemon with few
descriptors.
"""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.support import AS_NOBODY, IOMMUD, PATIENCE, ROOT

RUN = [IOMMUD, "run", "--mock", "--why", "--"]
MAPPED = [f"{what} 0" for what in ("device", "MAP_FILE", "MAP shared", "MAP private", "MAP large", "CREATE_ACCESS")]
WELL = [*MAPPED, "read 0", "7 bytes", "write 0", "check 0"]
MACHINE_FACTOR = 4  # a machine with other work to do


@pytest.fixture(scope="module")
def memory() -> Iterator[str]:
    with TemporaryDirectory(prefix="iommud-test-") as name:
        Path(name).chmod(0o755)
        program = Path(name) / "memory"
        flags = ["-std=gnu11", "-O1", "-pthread", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'include'}"]
        subprocess.run(["cc", *flags, str(Path(__file__).with_name("memory.c")), "-o", str(program)], check=True)
        yield str(program)


def run(*command: str) -> tuple[list[str], list[str]]:
    """What the client and the daemon said."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=4 * PATIENCE)
    assert done.returncode == 0, done
    return done.stdout.splitlines(), done.stderr.splitlines()


@pytest.mark.parametrize("limit", [12, 13, 14, 16, 18, 20, 24, 32, 64])
def test_few_descriptors(limit: int, memory: str) -> None:
    """All is well, or an errno that the kernel has as well, with a sentence."""
    said, log = run("sh", "-c", f'ulimit -n {limit}; exec "$@"', "-", *RUN, memory, "few")
    refused = [line for line in said if not line.endswith((" 0", " bytes"))]
    assert all(line.endswith((" ENOMEM", " EMFILE")) for line in refused), said
    assert len(
        [line for line in log if re.search(r": IOMMU_\w+: (ENOMEM|EMFILE): .*(descriptors|open files)", line)]
    ) == len(refused)
    assert len(log) == len(refused), log
    if limit >= 24:
        assert said == WELL


@pytest.mark.parametrize("limit", [7, 8, 9, 10, 11])
def test_too_few_descriptors(limit: int, memory: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "-", *RUN, memory, "few"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 125
    assert f"{limit} open files (ulimit -n) are too few" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("who", [[], AS_NOBODY], ids=["root", "nobody"])
@pytest.mark.parametrize("how", ["undumpable", "closed"])
def test_a_program_that_is_not_dumpable(how: str, who: list[str], memory: str) -> None:
    """As an ordinary user's daemon it may not open its memory, and reaches it all the same."""
    said, log = run(*who, *RUN, memory, how)
    assert said == (WELL * 2 if how == "closed" else WELL)
    assert not log


@pytest.mark.parametrize("count", [1, 8])
def test_structs_of_gigabytes(count: int, memory: str) -> None:
    """Which were never touched: 1 GiB, and 4 GiB less a byte eight times at once."""
    said, took = run(*RUN, memory, "large", str(count))
    assert said == ["IOAS_ALLOC 0"] * count
    assert max(int(line.split()[0]) for line in took) < 500 * MACHINE_FACTOR


def test_two_million_ranges(memory: str) -> None:
    said, log = run(*RUN, memory, "ranges", "2000000")
    assert said == ["ALLOW_IOVAS 0", "MAP 0", "MAP of more ENOSPC"] * 2
    assert len(log) == 2


def test_fifty_thousand_pieces(memory: str) -> None:
    if int(Path("/proc/sys/vm/max_map_count").read_text()) < 60_000:
        pytest.skip("a process may not have so many mappings here")
    said, took = run(*RUN, memory, "pieces", "50000")
    assert said == ["MAP 0", "UNMAP 0"] * 2
    assert max(int(line.split()[0]) for line in took) < 2000 * MACHINE_FACTOR


@pytest.mark.parametrize("what", ["large 8", "ranges 2000000", "pieces 50000"])
def test_others_do_not_wait(what: str, memory: str) -> None:
    """The longest call of another client of the same daemon."""
    script = f'"$0" {what} >/dev/null 2>&1 & "$0" calls 3000; wait'
    (longest,), _ = run(*RUN, "sh", "-c", script, memory)
    assert int(longest) < 100_000 * MACHINE_FACTOR
