"""The man page names what the parser knows, no more and no less, and says it in good mdoc."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from tests.house.options import Command, Option, commands
from tests.packaging.need import need
from tests.support import PATIENCE, ROOT

PAGE = ROOT / "man" / "iommud.1"
TEXT = PAGE.read_text()
COMMANDS = {command.name: command for command in commands()}
# Where the options of a command stand.
PLACES = {
    "iommud": ["Options of iommud itself"],
    "run": ["Options of both", "Options of iommud run"],
    "serve": ["Options of both", "Options of iommud serve"],
}
OPTIONS = [(command, option) for command in COMMANDS.values() for option in command.options]
# The rooms whose sentences a person meets.
SENTENCES = [path for room in ("cuse_glue/mounts", "iommud/commands") for path in (ROOT / room).glob("*.py")]


def section(title: str, kind: str = "Sh") -> str:
    found = re.search(rf"(?ms)^\.{kind} {re.escape(title)}\n(.*?)(?=^\.S[hs] |\Z)", TEXT)
    return found[1] if found else ""


def items(text: str) -> dict[str, str]:
    """The entries of a list: what follows `.It Fl `, and the text."""
    return {head.strip(): body for head, body in re.findall(r"(?ms)^\.It Fl (.*?)\n(.*?)(?=^\.It|^\.El)", text)}


def described(command: str) -> dict[str, str]:
    """The options of a command that the page describes, as the parser spells them: `-h, --help`,
    `--log-level level`.
    """
    entries = {}
    for title in PLACES[command]:
        for head, body in items(section(title, "Ss")).items():
            flags = re.sub(r"(^|, )(?:Fl )?(?=[\w-])", r"\1-", head.replace(" ,", ","))
            entries[flags.replace(" Ar ", " ")] = body
    return entries


def spelled(option: Option) -> str:
    return ", ".join(option.flags) + (f" {option.value.lower()}" if option.value else "")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_described_and_none_that_is_not_there(command: str) -> None:
    wanted = {spelled(option) for option in COMMANDS[command].options}
    has = set(described(command))
    assert has == wanted, (
        f"man/iommud.1, {PLACES[command]}: missing {sorted(wanted - has)}, too many {sorted(has - wanted)}"
    )


@pytest.mark.parametrize(
    ("command", "option"), OPTIONS, ids=lambda it: it.name if isinstance(it, Command) else it.flags[-1]
)
def test_every_choice_of_an_option_is_described(command: Command, option: Option) -> None:
    words = set(
        re.findall(r"[\w-]+", " ".join(re.findall(r"(?m)^\.Cm (.*)$", described(command.name)[spelled(option)])))
    )
    assert set(option.choices) <= words, (
        f"man/iommud.1, {spelled(option)}: missing {sorted(set(option.choices) - words)}"
    )


@pytest.mark.parametrize("command", ["run", "serve"])
def test_the_synopsis_has_every_option(command: str) -> None:
    [synopsis] = [part for part in section("SYNOPSIS").split(".Nm\n") if part.startswith(f".Cm {command}\n")]
    has = {f"-{flag}" for flag in re.findall(r"Fl (-[\w-]+)", synopsis)}
    wanted = set(COMMANDS[command].flags) - {"-h", "--help"}
    assert has == wanted, (
        f"man/iommud.1, SYNOPSIS of {command}: missing {sorted(wanted - has)}, too many {sorted(has - wanted)}"
    )


def test_the_diagnostics_are_sentences_of_the_code() -> None:
    nodes = (node for path in SENTENCES for node in ast.walk(ast.parse(path.read_text())))
    said = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    quoted = re.findall(r'(?m)^\.It "(.*)"$', section("DIAGNOSTICS"))
    quoted = [sentence.replace("/dev/fuse ", "") for sentence in quoted]
    assert quoted
    assert [sentence for sentence in quoted if not any(sentence in text for text in said)] == []


def test_its_sections_are_in_the_usual_order() -> None:
    usual = "NAME SYNOPSIS DESCRIPTION OPTIONS ENVIRONMENT FILES EXIT_STATUS EXAMPLES DIAGNOSTICS SEE_ALSO CAVEATS"
    assert re.findall(r"(?m)^\.Sh (.*)$", TEXT) == [title.replace("_", " ") for title in usual.split()]


def complaints(*command: str | Path) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    lines = (done.stderr + done.stdout).splitlines()
    # Whether the pages it refers to are installed is not its fault.
    return [line for line in lines if "referenced manual not found" not in line and "outdated mandoc.db" not in line]


def test_mandoc_has_nothing_to_say() -> None:
    assert complaints(need("mandoc"), "-Tlint", PAGE) == []


def test_groff_has_nothing_to_say() -> None:
    assert complaints(need("groff"), "-ww", "-mdoc", "-Tutf8", "-z", PAGE) == []


def test_linters_would_complain(tmp_path: Path) -> None:
    bad = tmp_path / "bad.1"
    bad.write_text(TEXT.replace(".Sh FILES", ".Sh FILES\n.Nosuchmacro", 1))
    assert complaints(need("mandoc"), "-Tlint", bad)
    assert complaints(need("groff"), "-ww", "-mdoc", "-Tutf8", "-z", bad)


def test_man_shows_it() -> None:
    environment = {"MANWIDTH": "80", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    command = [need("man", "man-db"), "--warnings", "-l", str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--log-level level" in re.sub(r".\x08", "", done.stdout)
