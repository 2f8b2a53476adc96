"""`make docs`: completion/, what bash, zsh and fish complete after `iommud`, from its parser.
`--check`: whether it is up to date.

Written here because the libraries for it end where `iommud run` begins: after its options, or after
`--`, another program's command line is completed, as after sudo or env.
"""

import sys
from pathlib import Path

from tests.house.options import Command, Option, commands

ROOT = Path(__file__).resolve().parents[1]
DIRECTORY = ROOT / "completion"
MADE = "Made by `make docs` from the options of iommud: not to be edited."
# What the value of an option is completed to, by the name of the value; for any other name,
# nothing.
BASH = {
    "PATH": 'compopt -o filenames; words=$(compgen -f -- "$word")',
    "DIR": 'compopt -o filenames; words=$(compgen -d -- "$word")',
    "GROUP": 'words=$(compgen -g -- "$word")',
}
ZSH = {"PATH": "_files", "DIR": "_files -/", "GROUP": "_groups"}
FISH = {"PATH": "-rF", "DIR": "-xa '(__fish_complete_directories)'", "GROUP": "-xa '(__fish_complete_groups)'"}

BASH_FILE = """\
# bash completion for iommud. {made}

_iommud_program() {{ # of which word on the line the program is
    local helper
    for helper in _comp_command_offset _command_offset; do # bash-completion has one of them, and knows more than we do
        if declare -F $helper >/dev/null; then
            $helper "$1"
            return
        fi
    done
    compopt -o default # where nothing is found below: files
    ((COMP_CWORD == $1)) && mapfile -t COMPREPLY < <(compgen -c -- "${{COMP_WORDS[COMP_CWORD]}}")
}}

_iommud() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} place=iommud option= words= i
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${{COMP_WORDS[i]}} == = ]]; then
            continue # bash takes --option=value for three words
        elif [[ $option ]]; then
            option=
            continue
        fi
        case $place:${{COMP_WORDS[i]}} in
            {begin}) place=${{COMP_WORDS[i]}} ;;
            {with_value}) option=${{COMP_WORDS[i]}} ;;
            {program}:--) _iommud_program $((i + 1)); return ;;
            {program}:-*) ;;
            {program}:*) _iommud_program $i; return ;;
        esac
    done
    [[ $word == = ]] && word=
    case $place:$option in
{values}
        *:?*) ;;
{options}
    esac
    [[ $words ]] && mapfile -t COMPREPLY <<<"$words"
}}

complete -F _iommud iommud
"""

ZSH_FILE = """\
#compdef iommud
# zsh completion for iommud. {made}

_iommud() {{
    local curcontext=$curcontext state line ret=1
    local -a actions=(
{commands}
    )
    _arguments -C -S \\
{iommud}
        '(-): :->command' \\
        '(-)*:: :->arguments' && ret=0
    case $state in
        command) _describe -t commands 'iommud command' actions && ret=0 ;;
        arguments)
            case $words[1] in
{cases}
            esac
            ;;
    esac
    return ret
}}

_iommud "$@"
"""

FISH_FILE = """\
# fish completion for iommud. {made}

# Where the cursor is: `iommud`, {names} (their options), or `program`, and then that program's words so far, one a line.
function __iommud_place
    set -l words (commandline -opc)
    set -e words[1]
    set -l place iommud
    while set -q words[1]
        switch $place:$words[1]
            case {begin}
                set place $words[1]
            case {with_value}
                set -e words[1]
            case {program}:--
                set -e words[1]
                printf '%s\\n' program $words
                return
            case '{program}:-*'
            case '{program}:*'
                printf '%s\\n' program $words
                return
        end
        set -e words[1]
    end
    echo $place
end

function __iommud_is_at
    contains -- (__iommud_place)[1] $argv
end

function __iommud_program
    set -l words (__iommud_place)
    complete --do-complete=(string join ' ' -- (string escape -- $words[2..-1]) (commandline -ct))
end

complete -c iommud -f
complete -c iommud -n '__iommud_is_at program' -xa '(__iommud_program)'
complete -c iommud -n '__iommud_is_at {program}' -xa '(complete --do-complete=(commandline -ct))'
{lines}
"""


def bash() -> str:
    """completion/iommud.bash."""
    first, *named = commands()
    [program] = [command.name for command in named if command.takes_program]
    values = {
        f"{command.name}:{flag}": _words(" ".join(option.choices)) if option.choices else BASH.get(option.value)
        for command in named
        for option in command.options
        if option.value is not None
        for flag in option.flags
    }
    options = {command.name: _words(" ".join(command.flags)) for command in named}
    options["iommud"] = _words(" ".join([*(command.name for command in named), *first.flags]))
    options[program] = f"if [[ $word == -* ]]; then {options[program]}; else _iommud_program $COMP_CWORD; fi"
    return BASH_FILE.format(
        made=MADE,
        begin=" | ".join(f"iommud:{command.name}" for command in named),
        with_value=" | ".join(values),
        program=program,
        values="\n".join(f"        {place}) {code} ;;" for place, code in values.items() if code),
        options="\n".join(f"        {place}:) {code} ;;" for place, code in options.items()),
    )


def _words(words: str) -> str:
    return f"words=$(compgen -W '{words}' -- \"$word\")"


def zsh() -> str:
    """completion/_iommud."""
    first, *named = commands()
    cases = []
    for command in named:
        specs = [*map(_zsh_option, command.options)]
        specs += ["'(-):program: _command_names -e'", "'*::argument: _normal'"] if command.takes_program else []
        lines = " \\\n".join(f"                        {spec}" for spec in specs)
        cases.append(
            f"                {command.name})\n                    _arguments -S \\\n{lines} && ret=0\n                    ;;"
        )
    return ZSH_FILE.format(
        made=MADE,
        commands="\n".join(f"        {_quoted(f'{command.name}:{command.help}')}" for command in named),
        iommud="\n".join(f"        {_zsh_option(option)} \\" for option in first.options),
        cases="\n".join(cases),
    )


def _zsh_option(option: Option) -> str:
    is_last = set(option.flags) & {"-h", "--version"}
    rivals = "(- *)" if is_last else f"({' '.join([*option.flags, *option.excludes])})"
    help_ = f"[{option.help.replace('[', chr(92) + '[').replace(']', chr(92) + ']')}]"
    value = ""
    if option.value is not None:
        how = f"({' '.join(option.choices)})" if option.choices else ZSH.get(option.value, " ")
        value = f":{option.value.lower()}:{how}"
    if len(option.flags) == 1:
        return _quoted(
            f"{rivals}{option.flags[0]}{'=' if option.value is not None else ''}{help_.replace(':', chr(92) + ':')}{value}"
        )
    return f"'{rivals}'{{{','.join(option.flags)}}}{_quoted(help_.replace(':', chr(92) + ':') + value)}"


def fish() -> str:
    """completion/iommud.fish."""
    first, *named = commands()
    [program] = [command.name for command in named if command.takes_program]
    lines = [
        f"complete -c iommud -n '__iommud_is_at iommud' -xa {command.name} -d {_fish(command.help)}"
        for command in named
    ]
    lines += [_fish_option(command, option) for command in (first, *named) for option in command.options]
    return FISH_FILE.format(
        made=MADE,
        names=", ".join(f"`{command.name}`" for command in named),
        begin=" ".join(f"iommud:{command.name}" for command in named),
        with_value=" ".join(
            f"{command.name}:{flag}"
            for command in named
            for option in command.options
            if option.value is not None
            for flag in option.flags
        ),
        program=program,
        lines="\n".join(lines),
    )


def _fish_option(command: Command, option: Option) -> str:
    flags = " ".join(f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
    how = ""
    if option.value is not None:
        how = f" -xa '{' '.join(option.choices)}'" if option.choices else f" {FISH.get(option.value, '-x')}"
    return f"complete -c iommud -n '__iommud_is_at {command.name}' {flags}{how} -d {_fish(option.help)}"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


FILES = {"iommud.bash": bash, "_iommud": zsh, "iommud.fish": fish}


def main(arguments: list[str]) -> int:
    stale = [
        name for name, made in FILES.items() if not (path := DIRECTORY / name).exists() or path.read_text() != made()
    ]
    if arguments == ["--check"]:
        print(f"{' '.join(stale) or 'completion/'} {'out of date: make docs' if stale else 'is up to date'}")
        return 1 if stale else 0
    DIRECTORY.mkdir(exist_ok=True)
    for name in stale:
        (DIRECTORY / name).write_text(FILES[name]())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
