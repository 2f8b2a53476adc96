"""What the shells complete after `iommud`, asked of the shells themselves."""

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.house.options import commands
from tests.packaging.need import need
from tests.support import PATIENCE
from tests.terminal import Terminal
from tools.completion import DIRECTORY, FILES

PROGRAM = "zyzzyva"  # a command that no machine has
FLAGS = {command.name: set(command.flags) for command in commands()}
# What was typed, and all that it can become.
LINES = {
    "iommud ru": {"run"},
    "iommud --v": {"--version"},
    "iommud run --w": {"--why"},
    "iommud run --": {flag for flag in FLAGS["run"] if flag.startswith("--")},
    "iommud serve --": {flag for flag in FLAGS["serve"] if flag.startswith("--")},
    "iommud run --log-level w": {"warning"},
    "iommud run --mock --iommu v": {"vtd"},
    "iommud serve --group roo": {"root"},
    "iommud serve --fuse /etc/os-rel": {"/etc/os-release"},
    "iommud run zyzz": {PROGRAM},
    "iommud run --why -- zyzz": {PROGRAM},
    "iommud run --log-level info zyzz": {PROGRAM},
    f"iommud run {PROGRAM} --w": set(),
    f"iommud run -- {PROGRAM} --w": set(),
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """With a program that can be completed to, and nobody's dot files."""
    program = tmp_path / "bin" / PROGRAM
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "TERM": "dumb",
        "INPUTRC": "/dev/null",
        "LC_ALL": "C",
    }


@pytest.mark.parametrize("name", FILES)
def test_it_is_up_to_date(name: str) -> None:
    assert (DIRECTORY / name).read_text() == FILES[name](), "make docs"


# The function that bash calls for TAB, called as bash calls it, and what it leaves.
ASK_BASH = r"""
source "$1"
compopt() { :; } # bash has it only while it completes
COMP_LINE=$2 COMP_POINT=${#2}
IFS=$' \n' read -ra COMP_WORDS <<<"${2/=/ = }"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_iommud iommud "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"""


def bash(line: str, environment: dict[str, str]) -> set[str]:
    command = ["bash", "--norc", "-c", ASK_BASH, "bash", str(DIRECTORY / "iommud.bash"), line]
    return set(
        subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE
        ).stdout.split()
    )


def fish(line: str, environment: dict[str, str]) -> set[str]:
    script = f"source {DIRECTORY / 'iommud.fish'}; complete -C $argv[1]"
    command = [need("fish"), "--no-config", "-c", script, line]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=PATIENCE)
    assert done.stderr == ""
    return {shown.split("\t")[0] for shown in done.stdout.splitlines()}


@pytest.mark.parametrize("line", LINES)
def test_bash(line: str, environment: dict[str, str]) -> None:
    assert bash(line, environment) == LINES[line]


@pytest.mark.parametrize("line", LINES)
def test_fish(line: str, environment: dict[str, str]) -> None:
    assert fish(line, environment) == LINES[line]


@pytest.mark.parametrize("ask", [bash, fish])
def test_after_two_dashes_no_option_is_iommuds(
    ask: Callable[[str, dict[str, str]], set[str]], environment: dict[str, str]
) -> None:
    assert "--why" in ask("iommud run --w", environment)
    assert "--why" not in ask("iommud run -- --w", environment)


@pytest.fixture(params=["bash", "zsh"])
def prompt(request: pytest.FixtureRequest, environment: dict[str, str], tmp_path: Path) -> Iterator[Terminal]:
    """An interactive shell that has loaded the completion."""
    if request.param == "bash":
        shell, load = ["bash", "--noprofile", "--norc", "-i"], f"source {DIRECTORY / 'iommud.bash'}"
    else:
        shell = [need("zsh"), "-f", "-i"]
        load = f"fpath=({DIRECTORY} $fpath); autoload -Uz compinit && compinit -u -d {tmp_path / 'dump'}"
    terminal = Terminal(shell, environment)
    terminal.type(f"{load}; echo read''y\n")
    terminal.read_until(rb"ready\r\n")
    yield terminal
    terminal.hang_up()


@pytest.mark.parametrize("line", [line for line in LINES if len(LINES[line]) == 1])
def test_tab(line: str, prompt: Terminal) -> None:
    [word] = LINES[line]
    *words, _ = line.split(" ")
    prompt.type(f"{line}\t")
    prompt.read_until(re.escape(" ".join([*words, word]).encode()))


@pytest.mark.parametrize("line", ["iommud serve --fuse {}/pass", f"iommud run -- {PROGRAM} {{}}/pass"])
def test_tab_completes_files(line: str, prompt: Terminal, tmp_path: Path) -> None:
    (tmp_path / "passenger").touch()
    prompt.type(line.format(tmp_path) + "\t")
    prompt.read_until(rb"/passenger")
