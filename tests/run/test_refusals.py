"""When `iommud run` cannot: an exit status that is not the program's, and a sentence that says what
is missing.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import AS_NOBODY, IOMMUD, PATIENCE

RUN = [IOMMUD, "run", "--"]


def refusal(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == ""
    return done.returncode, done.stderr.strip()


def test_not_found() -> None:
    assert refusal([*RUN, "no-such-program"]) == (
        127,
        "iommud: no-such-program cannot be run: No such file or directory",
    )


def test_not_executable(tmp_path: Path) -> None:
    program = tmp_path / "data"
    program.write_bytes(b"\x7fELF is not all it takes")
    assert refusal([*RUN, str(program)]) == (126, f"iommud: {program} cannot be run: Permission denied")
    program.chmod(0o755)
    assert refusal([*RUN, str(tmp_path)])[0] == 126


def test_a_script_without_an_interpreter_line_runs_as_in_a_shell(tmp_path: Path) -> None:
    program = tmp_path / "script"
    program.write_text("exit 7\n")
    program.chmod(0o755)
    assert refusal([*RUN, str(program)]) == (7, "")


@pytest.mark.usefixtures("root")
def test_fuse_is_closed_to_the_user() -> None:
    status, sentence = refusal([*AS_NOBODY, "--closed-fuse", *RUN, "true"])
    assert status == 125
    assert sentence.startswith("iommud: /dev/fuse may not be opened by you: ")
    assert "chmod 0666 /dev/fuse" in sentence


@pytest.mark.usefixtures("root")
def test_no_fuse() -> None:
    bare = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && exec "
    status, sentence = refusal(["unshare", "-m", "sh", "-c", f'{bare} "$@"', "sh", *RUN, "true"])
    assert status == 125
    assert sentence.startswith("iommud: /dev/fuse is not there: ")
    assert "modprobe fuse" in sentence


@pytest.mark.usefixtures("root")
def test_no_user_namespaces() -> None:
    shut = "echo 0 > /proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all --inh-caps=-all"
    status, sentence = refusal(["unshare", "-Ur", "sh", "-c", f'{shut} "$@"', "sh", *RUN, "true"])
    assert status == 125
    assert "a private mount namespace cannot be made" in sentence
    assert "user.max_user_namespaces" in sentence


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ("process_vm_readv", "the memory of programs cannot be read (process_vm_readv: Operation not permitted)"),
        ("pidfd_getfd", "the descriptors of programs cannot be fetched (pidfd_getfd: Operation not permitted)"),
        ("unshare", "a private mount namespace cannot be made"),
        ("mount", "a private mount namespace cannot be made"),
    ],
)
def test_a_profile_forbids_a_call(call: str, sentence: str) -> None:
    """Nothing runs half: with these two forbidden, each ioctl would fail, and nobody would know
    why.
    """
    forbidden = [sys.executable, str(Path(__file__).with_name("without_call.py")), call]
    status, said = refusal([*forbidden, *RUN, "true"])
    assert status == 125
    assert said.startswith(f"iommud: {sentence}")
    assert "--security-opt seccomp=unconfined" in said


@pytest.mark.usefixtures("root")
def test_serve_asks_as_well(tmp_path: Path) -> None:
    forbidden = [sys.executable, str(Path(__file__).with_name("without_call.py")), "process_vm_readv"]
    status, said = refusal([*forbidden, IOMMUD, "serve", "--fuse", str(tmp_path / "iommu")])
    assert status == 1
    assert said.startswith("iommud: the memory of programs cannot be read")
    assert not (tmp_path / "iommu").exists()


@pytest.mark.usefixtures("root")
def test_no_memory_can_be_pinned() -> None:
    command = [IOMMUD, "run", "--pin=uring", "--", "true"]
    status, sentences = refusal([*AS_NOBODY, "prlimit", "--memlock=0:0", *command])
    assert status == 125
    assert (
        sentences.splitlines()[0]
        == "iommud: --pin=uring cannot pin a page: RLIMIT_MEMLOCK leaves no room for it, and has to be raised"
    )
