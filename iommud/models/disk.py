"""What every model of a disk lets people say of its bytes, which `Slot.storage` gives it."""

from typing import Final

from .keys import Key, Keys, one_of, switch

MOST: Final = 1 << 60  # bytes
_SECTOR: Final = 512
_UNITS: Final = {"K": 10, "M": 20, "G": 30, "T": 40}


def size(text: str) -> int:
    """Reads bytes: a whole number, which K, M, G or T (powers of 1024) may follow. ValueError."""
    digits, shift = (text[:-1], _UNITS[text[-1].upper()]) if text and text[-1].upper() in _UNITS else (text, 0)
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 19:
        raise ValueError(f"bytes, as 64M or 1G, not {text!r}")
    found = int(digits) << shift
    if not _SECTOR <= found <= MOST or found % _SECTOR:
        raise ValueError(f"a multiple of {_SECTOR} bytes, up to 2^60, not {text!r}")
    return found


def path(text: str) -> str:
    """Reads a path. ValueError: it is empty, or has a zero byte."""
    if not text or "\0" in text:
        raise ValueError(f"a path, not {text!r}")
    return text


KEYS: Final[Keys] = {
    "file": Key(
        path,
        "PATH",
        "a raw file or a block device with its bytes (default: memory, which is lost in the end)",
        is_path=True,
    ),
    "size": Key(size, "BYTES", "how large it is: 64M, 1G (default: as the file); a smaller file grows, or is made"),
    "readonly": Key(switch, "on|off", "nothing can be written (default: off)"),
    "lba": Key(one_of({"512": 512, "4096": 4096}), "512|4096", "bytes of a block (default: 512)"),
}


def why_failed(error: OSError) -> str:
    """What an error of the disk means, for people."""
    return error.strerror or str(error)
