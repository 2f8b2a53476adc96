"""`iommud run` hands the user's process on as it found it: everything that a program can see of
itself is as without it.
"""

import os
import re
import resource
import signal
import subprocess
import tempfile

import pytest

from tests.support import IOMMUD, PATIENCE
from tests.terminal import Terminal

RUN = [IOMMUD, "run", "--"]


def output(command: list[str], **how: object) -> bytes:
    return subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=PATIENCE, **how).stdout  # type: ignore[call-overload,no-any-return]


def same(command: list[str], **how: object) -> bytes:
    """What `command` prints, after a look that it prints the same under `iommud run`."""
    plain = output(command, **how)
    assert output([*RUN, *command], **how) == plain
    return plain


@pytest.mark.parametrize("status", [0, 1, 3, 125, 255])
def test_exit_status(status: int) -> None:
    assert subprocess.run([*RUN, "sh", "-c", f"exit {status}"], timeout=PATIENCE).returncode == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGABRT, signal.SIGPIPE])
def test_death_by_signal(number: signal.Signals) -> None:
    script = f"ulimit -c 0; kill -{int(number)} $$"
    assert subprocess.run([*RUN, "sh", "-c", script], timeout=PATIENCE).returncode == -number


def test_pid_is_the_users_process() -> None:
    with subprocess.Popen([*RUN, "sh", "-c", "echo $$"], stdout=subprocess.PIPE) as process:
        assert int(process.communicate(timeout=PATIENCE)[0]) == process.pid


def test_stdin_arrives_whole() -> None:
    data = os.urandom(1 << 20)
    assert output([*RUN, "cat"], input=data) == data


def test_arguments_arrive_as_they_are() -> None:
    words = ["--why", "--", "", "a b", "--help", "\udcff"]
    expected = b"".join(os.fsencode(word) + b"\0" for word in words)
    assert output([*RUN, "printf", "%s\\0", *words]) == expected


def test_environment_byte_for_byte() -> None:
    # Without LC_ALL and LANG, Python puts LC_CTYPE into its own environment.
    environment = {b"PATH": os.environb[b"PATH"], b"ODD": b"\xff\xfe=\n", b"EMPTY": b""}
    assert b"LC_CTYPE" not in same(["cat", "/proc/self/environ"], env=environment)


def test_working_directory() -> None:
    for directory in "/", "/usr/lib", "/dev", "/dev/shm":
        assert same(["readlink", "/proc/self/cwd"], cwd=directory).decode().strip() == directory
        assert same(
            ["sh", "-c", "/bin/pwd -P; ls -d ./null 2>/dev/null"] if directory == "/dev" else ["/bin/pwd", "-P"],
            cwd=directory,
        )


def test_in_dev_as_working_directory_the_device_is_seen() -> None:
    assert output([*RUN, "sh", "-c", "test -e iommu && echo yes"], cwd="/dev") == b"yes\n"


def test_umask_and_limits() -> None:
    low = resource.getrlimit(resource.RLIMIT_NOFILE)[1] // 2
    how = {"umask": 0o027, "preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (low // 2, low))}
    assert b"Umask:\t0027" in same(["grep", "Umask", "/proc/self/status"], **how)
    assert str(low // 2).encode() in same(["cat", "/proc/self/limits"], **how)


def test_signals_ignored_blocked_and_pending() -> None:
    def before_exec() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGUSR2, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR1, signal.SIGCHLD])

    lines = same(["grep", "-E", "^(Sig[PBIC]|Shd|NoNew|Speculation)", "/proc/self/status"], preexec_fn=before_exec)
    ignored = re.search(rb"SigIgn:\t(\w+)", lines)
    assert ignored is not None
    ours = 1 << (signal.SIGHUP - 1) | 1 << (signal.SIGINT - 1)
    # whoever started us may ignore more: `same` has compared all of it
    assert int(ignored[1], 16) & ours == ours


def test_sigchld_ignored() -> None:
    how = {"preexec_fn": lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)}
    same(["grep", "^SigIgn", "/proc/self/status"], **how)


@pytest.mark.usefixtures("root")
def test_credentials_and_capabilities_of_root() -> None:
    same(["grep", "-E", "^(Uid|Gid|Groups|Cap)", "/proc/self/status"])
    same(["cat", "/proc/self/uid_map"])


def test_descriptors_pass_and_none_is_added() -> None:
    with tempfile.TemporaryFile() as file, tempfile.TemporaryFile() as kept_back:
        find = ["find", "/proc/self/fd", "-mindepth", "1", "-printf", "%f %l\n"]

        def held(prefix: list[str]) -> list[str]:
            lines = output([*prefix, *find], pass_fds=[file.fileno()]).decode().splitlines()
            # find's own
            return sorted(re.sub("pipe:.*", "pipe", line) for line in lines if "/proc/" not in line)

        plain = held([])
        assert held(RUN) == plain
        numbers = [line.split()[0] for line in plain]
        assert str(file.fileno()) in numbers
        assert str(kept_back.fileno()) not in numbers


def test_closed_standard_descriptors() -> None:
    script = f'"{IOMMUD}" run -- sh -c "exit 9" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", script], timeout=PATIENCE).returncode == 9


def test_no_child_no_zombie() -> None:
    listing = output([*RUN, "sh", "-c", "cat /proc/$$/task/$$/children; echo end"]).split()
    assert listing[-1] == b"end"
    assert len(listing) <= 2, "besides the cat"


def test_a_pipeline_ends_with_the_program() -> None:
    # communicate() waits until nobody has the other end of stdout or stderr any more.
    done = subprocess.run([*RUN, "sh", "-c", "echo out; echo err >&2"], capture_output=True, timeout=PATIENCE)
    assert (done.stdout, done.stderr) == (b"out\n", b"err\n")


def test_terminal_and_interrupt_key() -> None:
    terminal = Terminal([*RUN, "sh", "-c", "tty; stty -g >/dev/null && echo ready; exec cat"])
    assert b"/dev/pts/" in terminal.read_until(b"ready")
    terminal.type("\x03")
    status = terminal.status()
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGINT


def test_job_control() -> None:
    job = f"{' '.join(RUN)} sh -c 'echo ready; read line; echo got $line; exit 5'"
    terminal = Terminal(["bash", "-c", f"set -m; {job}; echo stopped by $(($? - 128)); fg"])
    terminal.read_until(b"ready")
    terminal.type("\x1a")
    terminal.read_until(f"stopped by {int(signal.SIGTSTP)}".encode())
    terminal.type("on\n")
    terminal.read_until(b"got on")
    assert os.waitstatus_to_exitcode(terminal.status()) == 5
