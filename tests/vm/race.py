"""`race.py COMMAND NAME`: `iommud serve --cuse NAME`, with a rival that is there just when it has
looked and found the name free.

COMMAND is run at that moment. This is the one place where nobody from outside could be so punctual.
"""

import os
import subprocess
import sys
from typing import Any

from iommud.commands import cli, cuse_place

opened = os.open
rival = ""


def open_late(path: Any, *arguments: Any, **more: Any) -> int:
    """os.open, but that the rival comes before the session's own descriptor."""
    if path == cuse_place.CUSE_DEVICE:
        subprocess.run(rival, shell=True, check=True)
    return opened(path, *arguments, **more)


def main() -> None:
    """Serve."""
    global rival
    rival, name = sys.argv[1:]
    cuse_place.os.open = open_late  # type: ignore[attr-defined]
    sys.argv[1:] = ["serve", "--cuse", name]
    cli.main()


if __name__ == "__main__":
    main()
