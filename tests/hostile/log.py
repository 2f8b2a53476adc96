"""What a daemon's log may look like, whatever clients are called and however often they are
refused.
"""

import re

from tests.hostile.attacks import Attack

LINES_A_SECOND = 200  # for all clients of an attack together
MOST_SHOWN = 3
# One line of it: of printable characters, and either the daemon's own or on one client, whose name
# is followed by its number.
_PRINTABLE = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]"
LINE = re.compile(rf"(iommud: {_PRINTABLE}+|{_PRINTABLE}*\[\d+\]: [A-Z0-9_]+: {_PRINTABLE}+)\n")
LEFT_OUT = b"left out"


def is_line(line: bytes) -> bool:
    """Whether this is a line as the daemon writes them."""
    try:
        return bool(LINE.fullmatch(line.decode()))
    except UnicodeDecodeError:
        return False


def faults_of_log(lines: list[bytes], attack: Attack, seconds: float) -> list[str]:
    """What is wrong with all that the daemon said."""
    faults = [f"the log has {line!r}" for line in lines if not is_line(line)]
    faults[MOST_SHOWN:] = [f"and {len(faults) - MOST_SHOWN} more such lines"] if len(faults) > MOST_SHOWN else []
    if attack.name == "flood" and not attack.unread and not any(LEFT_OUT in line for line in lines):
        faults.append("the log does not say that anything was left out")
    # Some time goes by before and after, and what was left out may be said later.
    most = LINES_A_SECOND * (seconds + 2)
    if len(lines) > most:
        faults.append(f"the log has {len(lines)} lines of {seconds:.0f} s of {attack}")
    return faults
