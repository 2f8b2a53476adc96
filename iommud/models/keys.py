"""What can be said of a model on the command line: `--device edu,dma_mask=0xffffffff`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a model's own. `read` makes a value of the text, or raises ValueError that says
    what is allowed. `form` and `what` are for people. `is_path`: of a file.
    """

    read: Callable[[str], object]
    form: str
    what: str
    is_path: bool = False


Keys = Mapping[str, Key]


def number(least: int, most: int) -> Callable[[str], int]:
    """Reads a whole number, decimal or with 0x, from `least` to `most`."""

    def read(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            value = least - 1
        if not least <= value <= most:
            raise ValueError(f"a whole number from {least:#x} to {most:#x}, not {text!r}")
        return value

    return read


def one_of(values: Mapping[str, object]) -> Callable[[str], object]:
    """Reads one of some words; its value."""

    def read(text: str) -> object:
        if text not in values:
            raise ValueError(f"{' or '.join(values)}, not {text!r}")
        return values[text]

    return read


def switch(text: str) -> bool:
    """Reads on or off."""
    if text not in ("on", "off"):
        raise ValueError(f"on or off, not {text!r}")
    return text == "on"


def text(most: int) -> Callable[[str], str]:
    """Reads words: at most `most` characters of ASCII that can be printed."""

    def read(text: str) -> str:
        if not (1 <= len(text) <= most and text.isascii() and text.isprintable()):
            raise ValueError(f"1 to {most} characters of ASCII, not {text!r}")
        return text

    return read


def milliseconds(most: int) -> Callable[[str], float]:
    """Reads a time in whole milliseconds, and makes seconds of it."""

    def read(text: str) -> float:
        if not (text.isascii() and text.isdigit()) or len(text) > 9 or int(text) > most:
            raise ValueError(f"milliseconds, from 0 to {most}, not {text!r}")
        return int(text) / 1000

    return read
