"""The commands and options of iommud, read from its parser, for what has to name each of them: the
man page, the shells' completion.
"""

import argparse
from dataclasses import dataclass

from iommud.commands.cli import command_line


@dataclass(frozen=True, slots=True)
class Option:
    """One option. `value` is None where it takes none, else the name of it; `excludes` are flags
    that cannot stand beside it.
    """

    flags: tuple[str, ...]
    help: str
    value: str | None
    choices: tuple[str, ...]
    excludes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Command:
    """`run`, `serve`, or what stands before either: `iommud`. `takes_program`: a program's command
    line ends it.
    """

    name: str
    help: str
    options: tuple[Option, ...]
    takes_program: bool = False

    @property
    def flags(self) -> list[str]:
        """Every spelling of every option."""
        return [flag for option in self.options for flag in option.flags]


def commands() -> list[Command]:
    """`iommud` itself first."""
    parser = command_line()
    [actions] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    helps = {choice.dest: choice.help or "" for choice in actions._choices_actions}
    found = [Command("iommud", parser.description or "", _options(parser))]
    for name, sub in actions.choices.items():
        takes_program = any(action.nargs == argparse.REMAINDER for action in sub._actions)
        found.append(Command(name, helps[name], _options(sub), takes_program))
    return found


def _options(parser: argparse.ArgumentParser) -> tuple[Option, ...]:
    return tuple(_option(parser, action) for action in parser._actions if action.option_strings)


def _option(parser: argparse.ArgumentParser, action: argparse.Action) -> Option:
    assert action.nargs in (0, None), (
        f"{action.option_strings}: no shell has been told of options with {action.nargs!r} values"
    )
    rivals = [
        other
        for group in parser._mutually_exclusive_groups
        if action in group._group_actions
        for other in group._group_actions
    ]
    return Option(
        flags=tuple(action.option_strings),
        help=(action.help or "") % {"default": action.default},
        value=None if action.nargs == 0 else str(action.metavar or action.dest).upper(),
        choices=tuple(map(str, action.choices or ())),
        excludes=tuple(flag for other in rivals if other is not action for flag in other.option_strings),
    )
