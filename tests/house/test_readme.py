"""README.md names what there is."""

import re

from tests.house.options import commands
from tests.support import ROOT

TEXT = (ROOT / "README.md").read_text()


def test_its_table_has_every_option_of_both_commands() -> None:
    run, serve = (set(command.flags) for command in commands()[1:])
    wanted = (run & serve) - {"-h", "--help"}
    table = set(re.findall(r"(?m)^\| `(--[\w-]+)", TEXT))
    assert table == wanted, (
        f"README.md, Options of both: missing {sorted(wanted - table)}, too many {sorted(table - wanted)}"
    )
