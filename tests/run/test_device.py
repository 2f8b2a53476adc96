"""What a program under `iommud run` finds in /dev, and what everybody else does not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import AS_NOBODY, IOMMUD, PATIENCE, mounts_at

RUN = [IOMMUD, "run", "--"]
LIST_DEV = "find -L /dev -xdev -maxdepth 1 -printf '%f %y %m %u:%g\\n' 2>/dev/null | sort"
PTY = "import os; a, b = os.openpty(); os.write(b, b'x'); assert os.read(a, 1) == b'x'; print(os.ttyname(b))"


def output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def test_a_program_that_knows_nothing_of_it(probe: str) -> None:
    assert output([*RUN, probe]) == "ioas 1\nrefused 2\n"


def test_why_is_one_line_with_who_which_errno_and_rule(probe: str) -> None:
    done = subprocess.run([IOMMUD, "run", "--why", probe], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == "ioas 1\nrefused 2\n"
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(r"probe\[\d+\]: IOMMU_DESTROY: ENOENT: .*77.*", line)


def test_mode_and_owner_are_the_kernels() -> None:
    assert output([*RUN, "stat", "-c", "%a %u %g", "/dev/iommu"]).split() == [
        "660",
        str(os.geteuid()),
        str(os.getegid()),
    ]


def test_everything_else_is_there_as_before() -> None:
    before = output(["sh", "-c", LIST_DEV]).splitlines()
    within = output([*RUN, "sh", "-c", LIST_DEV]).splitlines()
    assert [line for line in within if not line.startswith("iommu ")] == [
        line for line in before if not line.startswith("iommu ")
    ]
    assert any(line.startswith("null c") for line in within)
    stat = ["stat", "-c", "%t:%T %a %u %g", "/dev/null", "/dev/zero", "/dev/tty", "/dev/ptmx", "/dev/random"]
    assert output([*RUN, *stat]) == output(stat)


def test_devices_and_shared_memory_are_the_same_objects() -> None:
    name = f"/dev/shm/iommud-test-{os.getpid()}"
    try:
        assert (
            output([*RUN, "sh", "-c", f"echo in > {name}; head -c 3 /dev/zero | wc -c; echo gone > /dev/null"]) == "3\n"
        )
        assert Path(name).read_text() == "in\n"
    finally:
        os.unlink(name)


def test_terminals_can_be_made() -> None:
    assert re.fullmatch(r"/dev/pts/\d+\n", output([*RUN, sys.executable, "-c", PTY]))


def test_nobody_else_sees_a_change() -> None:
    before = os.listdir("/dev")
    with subprocess.Popen(
        [*RUN, "sh", "-c", "echo up; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        assert sorted(os.listdir("/dev")) == sorted(before)
        assert not [line for line in mounts_at("/dev") if "iommu" in line]
        process.communicate(b"\n", timeout=PATIENCE)


@pytest.mark.usefixtures("root")
def test_where_mounts_are_shared_nobody_else_sees_one() -> None:
    script = f"mount --make-rshared / && {' '.join(RUN)} grep -c ' /dev/iommu ' /proc/$$/mountinfo"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_two_programs_have_a_device_each(probe: str) -> None:
    with subprocess.Popen([*RUN, probe, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"ioas 1\n"
        assert output([*RUN, probe]) == "ioas 1\nrefused 2\n"
        first.communicate(b"", timeout=PATIENCE)


def test_nested(probe: str) -> None:
    script = f"{probe}; {IOMMUD} run --why -- {probe} 2>&1; {probe}"
    lines = output([*RUN, "sh", "-c", script]).splitlines()
    assert [line for line in lines if not line.startswith("probe[")] == ["ioas 1", "refused 2"] * 3
    assert len([line for line in lines if line.startswith("probe[")]) == 1, "only the inner one tells why"


@pytest.mark.usefixtures("root")
class TestAsNobody:
    """A user without any privilege: a user namespace is used."""

    def test_a_program(self, probe: str) -> None:
        assert output([*AS_NOBODY, *RUN, probe]) == "ioas 1\nrefused 2\n"

    def test_nested(self, probe: str) -> None:
        assert output([*AS_NOBODY, *RUN, *RUN, probe]) == "ioas 1\nrefused 2\n"

    def test_identity_stays(self) -> None:
        status = ["grep", "-E", "^(Uid|Gid|Groups|Cap(Inh|Prm|Eff|Amb))", "/proc/self/status"]
        assert output([*AS_NOBODY, *RUN, *status]) == output([*AS_NOBODY, *status])

    def test_dev_is_whole_and_no_more_writable(self) -> None:
        script = "ls /dev; echo x > /dev/null; test -w /dev || echo unwritable"
        within = output([*AS_NOBODY, *RUN, "sh", "-c", script]).split()
        assert set(within) - set(output([*AS_NOBODY, "sh", "-c", script]).split()) == {"iommu"}
        assert "unwritable" in within

    def test_terminals_can_be_made(self) -> None:
        assert "/pts/" in output([*AS_NOBODY, *RUN, sys.executable, "-c", PTY])

    def test_a_working_directory_that_is_closed_to_the_user(self, tmp_path: Path) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        done = subprocess.run([*AS_NOBODY, *RUN, "true"], cwd=closed, capture_output=True, timeout=PATIENCE)
        assert (done.returncode, done.stderr) == (0, b"")
