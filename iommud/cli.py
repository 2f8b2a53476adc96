"""The command line: what can be asked for, and whom it goes to.

Nothing heavy is imported before it is known that it is needed: `iommud --version` takes no longer than Python itself.
"""

import argparse
import os
import sys
from dataclasses import dataclass
from typing import Any, NoReturn

from . import __version__
from .devices import kinds

EXAMPLES = """\
examples:
  iommud run -- ./my-vmm --device vfio        a program with a /dev/iommu of its own; no root needed
  iommud run --why -- ./test_iommufd          and a line on stderr for every ioctl that is refused
  iommud serve                                /dev/iommu for everybody on this machine (root)
  iommud serve --group kvm --mode 0660        as above, for the members of a group
  iommud serve --fuse /tmp/iommu              on another path

`iommud run --help` and `iommud serve --help` list the options of each.
"""
PINS = ("watch", "uring")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, slots=True)
class Settings:
    """What both commands share."""

    mock: bool = False
    vfio: bool = False
    iommu: str = kinds.DEFAULT  # what the devices of `mock` stand behind
    pin: str = PINS[0]
    why: bool = False
    log_level: str = "warning"
    watch: bool = True  # `run` only: the system calls that FUSE does not tell of


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        # Below 125 an exit status of `run` is the program's.
        self.exit(125 if self.prog.endswith(" run") else 2, f"{self.prog}: {message}\n")


def main() -> NoReturn:
    """The command `iommud`. Exits."""
    arguments, unknown = command_line().parse_known_args()
    if unknown:
        arguments.parser.error(f"what is {' '.join(unknown)}?")
    if arguments.iommu is not None and not arguments.mock:
        arguments.parser.error("--iommu says what the devices of --mock stand behind, and there is no --mock")
    iommu = arguments.iommu or kinds.DEFAULT
    settings = Settings(
        mock=arguments.mock,
        iommu=iommu,
        vfio=arguments.vfio,
        pin=arguments.pin,
        why=arguments.why,
        log_level=arguments.log_level,
        watch=not getattr(arguments, "no_watch", False),
    )
    if arguments.action == "run":
        from .run import run

        run(arguments.command, settings)

    from .serve import Place, clean, serve

    place = Place(
        fuse=arguments.fuse, cuse=arguments.cuse, name=arguments.name, mode=arguments.mode, group=arguments.group
    )
    sys.exit((clean if arguments.clean else serve)(place, settings))


def command_line() -> argparse.ArgumentParser:
    """All that can be asked for; the man page and the shells' completion are held against it."""
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
        action="store_true",
        help="serve /dev/vfio/vfio as well, VFIO's type1 container for programs older than IOMMUFD",
    )
    shared.add_argument(
        "--mock",
        action="store_true",
        help="have the test ioctl of the kernel's selftests, which makes mock devices; without it there are none",
    )
    shared.add_argument(
        "--iommu",
        metavar="KIND",
        choices=tuple(kinds.KINDS),
        help=f"with --mock: the IOMMU that its devices stand behind: {', '.join(kinds.KINDS)} (default: {kinds.DEFAULT})",
    )
    shared.add_argument(
        "--pin",
        metavar="HOW",
        choices=PINS,
        default=PINS[0],
        help="how memory is held for devices: watch, private memory is reached in its process (default), or uring, all is "
        "truly pinned, and shows in VmPin",
    )
    shared.add_argument(
        "--log-level",
        metavar="LEVEL",
        choices=LOG_LEVELS,
        default="warning",
        help=f"from which level on to log to stderr: {', '.join(LOG_LEVELS)} (default: warning)",
    )

    actions = parser.add_subparsers(dest="action", required=True, metavar="run | serve", parser_class=_Parser)
    _add_run(actions, shared, layout)
    _add_serve(actions, shared, layout)
    return parser


def _add_run(actions: Any, shared: argparse.ArgumentParser, layout: dict[str, Any]) -> None:
    parser = actions.add_parser(
        "run",
        parents=[shared],
        help="run a program that sees a private /dev/iommu",
        usage="iommud run [--why] [--vfio] [--mock [--iommu KIND]] [--pin HOW] [--no-watch] "
        "[--log-level LEVEL] [--] COMMAND [ARGUMENT ...]",
        description="Run COMMAND with a private /dev/iommu. Pid, exit status, signals and terminal are its own.\n"
        "Without root, a user namespace is used: files of others show as owned by `nobody` in there.",
        epilog="exit status: COMMAND's; 125: iommud failed, 126: COMMAND cannot be executed, 127: it is not found",
        **layout,
    )
    parser.set_defaults(parser=parser)
    parser.add_argument(
        "--no-watch",
        action="store_true",
        help="without the seccomp filter by which mmap, and reads and writes of nothing, are refused as by the kernel's device; "
        "for a program that needs a seccomp listener of its own",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, type=str, action=_Command, help=argparse.SUPPRESS)


class _Command(argparse.Action):
    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: Any = None
    ) -> None:
        command = values[1:] if values[:1] == ["--"] else values
        if not command:
            parser.error("a COMMAND is missing")
        namespace.command = command


def _add_serve(actions: Any, shared: argparse.ArgumentParser, layout: dict[str, Any]) -> None:
    parser = actions.add_parser(
        "serve",
        parents=[shared],
        help="serve /dev/iommu in the foreground",
        description="Serve /dev/iommu for everybody on this machine, in the foreground, until SIGTERM or SIGINT.\n"
        "By CUSE where there is a /dev/cuse, else by FUSE. Needs root.",
        epilog="exit status: 0: stopped; 1: refused, with a sentence; 2: wrong arguments; 70: a bug, with a traceback\n"
        "Tells systemd when it is ready (Type=notify), and that it is alive (WatchdogSec=).",
        **layout,
    )
    parser.set_defaults(parser=parser)
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--fuse", metavar="PATH", type=os.path.abspath, help="serve a file PATH, which is made, and gone afterwards"
    )
    where.add_argument("--cuse", metavar="NAME", help="serve a character device /dev/NAME (the kernel needs CUSE)")
    where.add_argument("--name", default="iommu", type=_name, help="serve /dev/NAME, by what the kernel has (default: iommu)")
    parser.add_argument("--clean", action="store_true", help="remove what an iommud that was killed has left there, and end")
    parser.add_argument("--mode", type=_mode, default=0o660, help="its permission bits, octal (default: 0660)")
    parser.add_argument("--group", metavar="GROUP", help="its group, by name (default: the caller's)")


def _name(text: str) -> str:
    if text in ("", ".", "..") or "/" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is no name of a file in /dev")
    return text


def _mode(text: str) -> int:
    if len(text) not in (3, 4) or text.strip("01234567") or int(text, 8) > 0o777:
        raise argparse.ArgumentTypeError(f"{text!r} is no octal mode like 0660")
    return int(text, 8)
