"""The command line: what can be asked for, and who carries it out.

Heavy modules are imported only when they are needed, so `iommud --version` takes no longer than
Python itself.
"""

import argparse
import os
import signal
import sys
from dataclasses import fields
from typing import Any, Final, NoReturn

from .. import __version__
from ..selftest import kinds
from ..settings import LOG_LEVELS, PINS, VFIO, Settings, Shares
from ..text import escape

EXAMPLES = """\
examples:
  iommud run -- ./my-vmm --device vfio        a program with its own /dev/iommu; no root needed
  iommud run --why -- ./test_iommufd          and a line on stderr for each ioctl that is refused
  iommud serve                                /dev/iommu for many programs (needs root)
  iommud serve --group kvm --mode 0660        for the members of a group
  iommud serve --fuse /run/test/iommu         at another path

`iommud help run` and `iommud help serve` list the options of each.
"""

# options of `run` whose next word is theirs, and not COMMAND
WITH_VALUE: Final = ("--device", "--iommu", "--pin", "--log-level")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        # Exit statuses of `run` below 125 are the program's.
        self.exit(125 if self.prog.endswith(" run") else 2, f"{self.prog}: {escape(message)}\n")


def main() -> NoReturn:
    """The command `iommud`. Exits."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # SIGINT gives no traceback, until a better handler replaces this
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    words = sys.argv[1:]
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"] if len(words) < 3 else words
    arguments, unknown = command_line().parse_known_args(_explicit(words))
    if unknown:
        arguments.parser.error(f"unknown arguments: {' '.join(unknown)}")
    arguments.devices = tuple(arguments.devices)
    if arguments.devices:
        _look_at_devices(arguments)
    elif arguments.iommu is not None and not arguments.mock:
        arguments.parser.error("--iommu says what devices stand behind, and there is neither --device nor --mock")
    if arguments.action == "run" and not arguments.command:  # `--device help` needs none
        arguments.parser.error("a COMMAND is missing")
    if arguments.action == "serve" and arguments.sysfs is not None and not arguments.devices:
        arguments.parser.error("--sysfs shows PCI devices, and there is no --device")
    given = {field.name: vars(arguments)[field.name] for field in fields(Settings) if field.name in arguments}
    settings = Settings(**given)
    if arguments.action == "run":
        from .run import run

        run(arguments.command, settings)

    from .serve import clean, serve

    sys.exit((clean if arguments.clean else serve)(settings))


def command_line() -> argparse.ArgumentParser:
    """The parser of everything that can be asked for. Tests compare the man page and the shells'
    completion with it.
    """
    layout: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False}
    parser = argparse.ArgumentParser(
        prog="iommud",
        description="A /dev/iommu in userspace: Linux's IOMMUFD for programs on machines that have none.",
        epilog=EXAMPLES,
        **layout,
    )
    parser.add_argument("--version", action="version", version=f"iommud {__version__}")

    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--why",
        action="store_true",
        help="one line on stderr for each refused ioctl: who, which, errno, and the broken rule",
    )
    shared.add_argument(
        "--vfio",
        metavar="HOW",
        choices=VFIO,
        help="also serve /dev/vfio/vfio, VFIO's type1 container, for programs older than IOMMUFD; iommufd, which can be left "
        "out: IOMMUFD's; type1: VFIO's own, which distributions' kernels have",
    )
    shared.add_argument(
        "--mock",
        action="store_true",
        help="offer the test ioctl of the kernel's selftests, which makes mock devices",
    )
    shared.add_argument(
        "--device",
        dest="devices",
        metavar="MODEL[,KEY=VALUE...]",
        action="append",
        default=[],
        help="a PCI device, as /dev/vfio/devices/vfio0 and so on; any number of times. `help` lists the models, `MODEL,help` "
        "the keys of one, and nothing is run",
    )
    shared.add_argument(
        "--iommu",
        metavar="KIND",
        choices=tuple(kinds.NAMES),
        help=f"with --mock or --device: which IOMMU devices stand behind: {', '.join(kinds.NAMES)} (default: "
        f"{kinds.DEFAULT} with --mock, vtd of a --device)",
    )
    shared.add_argument(
        "--pin",
        metavar="HOW",
        choices=PINS,
        default=PINS[0],
        help="how memory is kept for devices; watch (default): private memory is reached in its process; uring: all memory "
        "is really pinned, and shows in VmPin",
    )
    shared.add_argument(
        "--log-level",
        metavar="LEVEL",
        choices=LOG_LEVELS,
        default="warning",
        help=f"log to stderr from this level on: {', '.join(LOG_LEVELS)} (default: warning)",
    )

    actions = parser.add_subparsers(dest="action", required=True, metavar="run | serve", parser_class=_Parser)
    _add_run(actions, shared, layout)
    _add_serve(actions, shared, layout)
    return parser


def _explicit(words: list[str]) -> list[str]:
    """The same words, with `--vfio` and its value as one word. The value can be left out, and what
    follows may be COMMAND, which argparse would take for it.
    """
    found: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--vfio":
            word += "=" + (rest.pop(0) if rest and rest[0] in VFIO else VFIO[0])
        elif words[0] == "run" and (word == "--" or _is_command(word, found)):
            return [*found, word, *rest]
        found.append(word)
    return found


def _is_command(word: str, before: list[str]) -> bool:
    return bool(before) and not word.startswith("-") and before[-1] not in WITH_VALUE


def _add_run(actions: Any, shared: argparse.ArgumentParser, layout: dict[str, Any]) -> None:
    parser = actions.add_parser(
        "run",
        parents=[shared],
        help="run a program that sees a private /dev/iommu",
        usage="iommud run [--why] [--vfio HOW] [--device MODEL[,KEY=VALUE...]] [--mock] [--iommu KIND] [--pin HOW] "
        "[--no-watch | --chardev] [--log-level LEVEL] [--] COMMAND [ARGUMENT ...]",
        description="Run COMMAND with a private /dev/iommu. Pid, exit status, signals and terminal are its own.\n"
        "Without root, COMMAND runs in a user namespace, where files of others belong to `nobody`.",
        epilog="exit status: COMMAND's; 125: iommud failed, 126: COMMAND cannot be executed, 127: it is not found",
        **layout,
    )
    parser.set_defaults(parser=parser)
    watching = parser.add_mutually_exclusive_group()
    watching.add_argument(
        "--no-watch",
        dest="watch",
        action="store_false",
        help="do without the seccomp filter that refuses mmap, and reads and writes of 0 bytes, as the kernel's device does; "
        "for a program that needs a seccomp listener of its own",
    )
    watching.add_argument(
        "--chardev",
        action="store_true",
        help="tell whoever asks about the open device (fstat) that it is a character device, which some programs insist on; "
        "each fstat of the program then takes longer",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, type=str, action=_Command, help=argparse.SUPPRESS)


def _look_at_devices(arguments: argparse.Namespace) -> None:
    """Check `--device`. Ends the process if it makes no sense, or after the help that it asks
    for.
    """
    from ..iommus.kinds import CLASSES
    from ..models.plan import plan
    from ..models.registry import BadDevice, asked_for_help, from_anywhere

    try:
        for text in arguments.devices:
            told = asked_for_help(text, CLASSES)
            if told is not None:
                _tell(told)
                sys.exit(0)
        plan(arguments.devices, CLASSES)
        arguments.devices = tuple(from_anywhere(text, CLASSES, os.path.abspath) for text in arguments.devices)
    except BadDevice as error:
        arguments.parser.error(f"--device: {error}")


def _tell(text: str) -> None:
    """Print it, to somebody who may have read enough before its end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Command(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        namespace.command = values[1:] if values[:1] == ["--"] else values


def _add_serve(actions: Any, shared: argparse.ArgumentParser, layout: dict[str, Any]) -> None:
    parser = actions.add_parser(
        "serve",
        parents=[shared],
        help="serve a /dev/iommu for many programs",
        description="Serve /dev/iommu for all programs that may open it, in the foreground, until SIGTERM or SIGINT.\n"
        "It is a CUSE device if there is a /dev/cuse, else a FUSE file. Needs root.",
        epilog="exit status: 0: stopped; 1: refused, with a sentence; 2: wrong arguments; 70: a bug, with a traceback;\n"
        "75: somebody took the device's place away, and it may be served again\n"
        "Tells systemd when it is ready (Type=notify), and that it is alive (WatchdogSec=).",
        **layout,
    )
    parser.set_defaults(parser=parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--fuse",
        metavar="PATH",
        type=os.path.abspath,
        help="serve a file at PATH; the file, and missing directories, are made, and removed afterwards",
    )
    where.add_argument("--cuse", metavar="NAME", help="serve a character device /dev/NAME (needs CUSE in the kernel)")
    where.add_argument(
        "--name", default="iommu", type=_name, help="serve /dev/NAME, by CUSE or by FUSE (default: iommu)"
    )
    parser.add_argument(
        "--clean", action="store_true", help="serve nothing; only remove what a killed iommud has left there"
    )
    parser.add_argument(
        "--mode", type=_mode, default=0o660, help="permission bits of the device, octal (default: 0660)"
    )
    parser.add_argument(
        "--share",
        dest="shares",
        metavar="KEY=N,...",
        type=_share,
        default=Shares(),
        help="what one user gets: workers (processes, one for each open file; 32, and one more for the rest), files (descriptors "
        "of each worker; 16384), memory (bytes of each worker; 2G), objects (with mappings, of all workers; 2000000)",
    )
    parser.add_argument(
        "--sysfs",
        metavar="DIR",
        type=os.path.abspath,
        help="with --device: show at DIR what the devices are in /sys, to be given to a container as its /sys, or to be bound "
        "over parts of one",
    )
    parser.add_argument("--group", metavar="GROUP", help="group of the device, by name (default: the caller's)")


def _name(text: str) -> str:
    if text in ("", ".", "..") or "/" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file in /dev")
    return text


def _share(text: str) -> Shares:
    try:
        return Shares.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _mode(text: str) -> int:
    if len(text) not in (3, 4) or text.strip("01234567") or int(text, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is no octal mode like 0660")
    return int(text, 8)
