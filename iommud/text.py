"""Text from others in a line of ours: names of programs, paths, arguments.

A client chooses its own name. A line break in it would make a line that looks like ours. A terminal
would obey control characters in it, and marks that change the direction of writing would show
something else than what is written.
"""

import re
from typing import Final

# Characters that are printable by their class, and show nothing (Default_Ignorable_Code_Point of
# Unicode, but for the marks of emoji).
_INVISIBLE: Final = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0e\uffa0\U000e0100-\U000e01ef]"
)
_ESCAPES: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\"}


def escape(text: str) -> str:
    r"""`text` as one line of printable characters. Everything else, and the backslash, appears as
    Python would write it in a string.

    A byte that is no UTF-8 (surrogateescape) is `\xHH`.
    """
    if text.isprintable() and "\\" not in text and (text.isascii() or not _INVISIBLE.search(text)):
        return text
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable() and not _INVISIBLE.match(character):
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        number -= 0xDC00
    if number <= 0xFF:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= 0xFFFF else f"\\U{number:08x}"
