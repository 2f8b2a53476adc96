"""Assembles instructions, and says what bytes each became."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from tempfile import TemporaryDirectory

_LISTED = re.compile(r"^ +(\d+) [0-9a-f]{4} ([0-9A-F ]+?) *(?:\t.*)?$")


def assemble(lines: Sequence[str]) -> list[bytes]:
    """Each line is one instruction in Intel's syntax."""
    with TemporaryDirectory() as place:
        source = f"{place}/all.s"
        with open(source, "w", encoding="ascii") as file:
            file.write(".intel_syntax noprefix\n" + "\n".join(lines) + "\n")
        command = [shutil.which("as") or "as", "--listing-lhs-width=4", "-aln", "-o", f"{place}/all.o", source]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = [b""] * len(lines)
    for line in listing.splitlines():
        if match := _LISTED.match(line):
            found[int(match[1]) - 2] = bytes.fromhex(match[2].replace(" ", ""))
    assert all(found), "an instruction has no bytes"
    return found
