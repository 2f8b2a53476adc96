"""The command line itself."""

import os
import re
import subprocess
import sys
from errno import EINVAL, ENODEV

import pytest

from iommud import __version__
from iommud.commands.cli import WITH_VALUE
from iommud.uapi.header import const
from tests.house.options import commands
from tests.support import IOMMUD, PATIENCE


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([IOMMUD, *arguments], capture_output=True, text=True, timeout=PATIENCE)


def test_version() -> None:
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"iommud {__version__}\n")


def test_help_shows_both_commands_and_examples() -> None:
    done = run("--help")
    assert done.returncode == 0
    for part in ("iommud run -- ", "iommud serve", "examples:", "--version"):
        assert part in done.stdout


@pytest.mark.parametrize("command", ["run", "serve"])
def test_help_of_a_command_shows_every_option(command: str) -> None:
    text = run(command, "--help").stdout
    own = {"run": ["COMMAND", "125"], "serve": ["--fuse PATH", "--cuse NAME", "--mode", "--group"]}[command]
    for part in [*own, "--why", "--mock", "--iommu", "--pin", "--log-level"]:
        assert part in text


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        ((), 2, "run | serve"),
        (("help", "frobnicate"), 2, "invalid choice"),
        (("help", "run", "more"), 2, "invalid choice"),
        (("\x1b[2J\n",), 2, r"\x1b[2J\n"),
        (("frobnicate",), 2, "invalid choice"),
        (("run",), 125, "a COMMAND is missing"),
        (("run", "--"), 125, "a COMMAND is missing"),
        (("run", "--device", "edu", "--"), 125, "a COMMAND is missing"),
        (("run", "--log-level", "loud", "true"), 125, "invalid choice: 'loud'"),
        (("run", "--nonsense", "--", "true"), 125, "--nonsense"),
        (("run", "--vfio=type2", "--", "true"), 125, "invalid choice: 'type2'"),
        (("serve", "--vfio", "type2"), 2, "type2"),
        (("run", "--mock", "--iommu", "gart", "--", "true"), 125, "invalid choice: 'gart'"),
        (("run", "--iommu", "vtd", "--", "true"), 125, "there is neither --device nor --mock"),
        (("serve", "--pin", "down"), 2, "invalid choice: 'down'"),
        (("serve", "--iommu", "mock"), 2, "there is neither --device nor --mock"),
        (("run", "--device", "x", "--", "true"), 125, "there is no model 'x': there are edu"),
        (("run", "--device", "edu,bdf=1", "--", "true"), 125, "'1' is not where a PCI device can be"),
        (("run", "--device", "edu,iommu=mock", "--", "true"), 125, "iommu is one of vtd"),
        (
            ("run", "--device", "edu,bdf=e0:01.0", "--device", "null,bdf=e0:01.0", "--", "true"),
            125,
            "null and edu cannot both be at 0000:e0:01.0",
        ),
        (("serve", "--device", "edo"), 2, "--device: there is no model 'edo'"),
        (("serve", "--mode", "0999"), 2, "'0999' is no octal mode"),
        (("serve", "--mode", "7777"), 2, "'7777' is no octal mode"),
        (("serve", "--fuse", "/x", "--cuse", "y"), 2, "not allowed with"),
        (("serve", "more"), 2, "more"),
    ],
)
def test_a_wrong_command_line(arguments: tuple[str, ...], status: int, sentence: str) -> None:
    done = run(*arguments)
    assert done.returncode == status
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [(), ("run",), ("serve",)])
def test_help_is_a_word_too(command: tuple[str, ...]) -> None:
    done = run("help", *command)
    assert (done.returncode, done.stdout) == (0, run(*command, "--help").stdout)


@pytest.mark.parametrize("command", [("run",), ("run", "--"), ("run", "--", "false"), ("serve",)])
def test_the_models_are_listed_and_nothing_is_run(command: tuple[str, ...]) -> None:
    action, *rest = command
    done = run(action, "--device", "edu", "--device", "help", *rest)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search("\n  edu +QEMU's educational device", done.stdout)
    done = run(action, "--device", "edu,help", *rest)
    assert (done.returncode, done.stderr) == (0, "")
    assert "  dma_mask=MASK " in done.stdout


def test_who_reads_the_list_may_end_before_it() -> None:
    readable, writable = os.pipe()
    os.close(readable)
    command = [IOMMUD, "run", "--device", "help"]
    done = subprocess.run(command, stdout=writable, stderr=subprocess.PIPE, text=True, timeout=PATIENCE, check=False)
    os.close(writable)
    assert (done.returncode, done.stderr) == (0, "")


def test_options_end_where_the_command_begins() -> None:
    done = run("run", "echo", "--why", "--", "--version")
    assert done.stdout == "--why -- --version\n"


@pytest.mark.parametrize(
    ("how", "errno"),
    [
        ("--vfio", ENODEV),
        ("--vfio iommufd", ENODEV),
        ("--vfio --", ENODEV),
        ("--vfio type1", EINVAL),
        ("--vfio=type1", EINVAL),
        ("--vfio type1 --pin watch --", EINVAL),
        ("--pin watch --vfio type1", EINVAL),
    ],
)
def test_the_value_of_vfio_can_be_left_out(how: str, errno: int) -> None:
    """VFIO_SET_IOMMU without a group tells which container it is."""
    look = (
        "import fcntl, os, sys; fd = os.open('/dev/vfio/vfio', os.O_RDWR)\n"
        f"try: fcntl.ioctl(fd, {const('VFIO_SET_IOMMU')}, 1)\n"
        "except OSError as error: print(error.errno, *sys.argv[1:])"
    )
    done = run("run", *how.split(), sys.executable, "-c", look, "--vfio", "type1")
    assert (done.stdout, done.stderr) == (f"{errno} --vfio type1\n", "")


def test_words_behind_an_option_with_a_value_are_no_command() -> None:
    (options,) = [command.options for command in commands() if command.name == "run"]
    assert {flag for option in options if option.value for flag in option.flags} - {"--vfio"} == set(WITH_VALUE)


def test_python_dash_m() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "iommud", "--version"], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.stdout == f"iommud {__version__}\n"


def test_nothing_heavy_is_loaded_for_a_word() -> None:
    script = (
        "import sys; sys.argv[1:] = ['--version']\n"
        "from iommud.commands.cli import main\n"
        "try: main()\n"
        "except SystemExit: print({'trio', 'cffi', 'iommud.engine'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_usage_of_run_is_written_by_hand_and_whole() -> None:
    [command] = [command for command in commands() if command.name == "run"]
    usage, _ = run("run", "--help").stdout.split("\n", 1)
    assert set(command.flags) - {"-h", "--help"} == set(re.findall(r"--[\w-]+", usage))


def test_the_broker_of_serve_loads_no_engine() -> None:
    """Only the process that makes workers needs it, and imports it beside."""
    script = (
        "import sys, iommud.commands.serve, iommud.commands.shares, cuse_glue.broker.broker; "
        "print({'iommud.engine.device.context', 'iommud.vfio.group', 'iommud.ops.table'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
