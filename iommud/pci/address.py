"""Where a function is: segment, bus, device and function, written 0000:e0:00.0."""

import re
from dataclasses import dataclass

_FORM = re.compile(r"(?:([0-9a-f]{4}):)?([0-9a-f]{2}):([0-9a-f]{2})\.([0-7])", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """`segment` is what Linux calls the domain; `device` 0 to 31, `function` 0 to 7."""

    segment: int = 0
    bus: int = 0xE0
    device: int = 0
    function: int = 0

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`0000:e0:00.0`, or `e0:00.0` in segment 0. ValueError, with a sentence."""
        found = _FORM.fullmatch(text)
        if found is None or int(found[3], 16) > 31:
            raise ValueError(
                f"{text!r} is not where a PCI device can be: 0000:e0:00.0 is segment, bus, device (00 to 1f) and function"
            )
        return cls(int(found[1] or "0", 16), int(found[2], 16), int(found[3], 16), int(found[4]))

    def __str__(self) -> str:
        return f"{self.segment:04x}:{self.bus:02x}:{self.device:02x}.{self.function}"
