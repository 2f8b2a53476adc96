"""IDs that a driver was told to take, by new_id: a pattern for devices that are not in its own
table.

Ref: v7.3 drivers/pci/pci-driver.c new_id_store, remove_id_store, pci_match_one_id
"""

import re
from dataclasses import dataclass, fields
from errno import EINVAL
from typing import Final

from ..errors import IoctlError
from .function import Identity

ANY: Final = 0xFFFFFFFF
_BEFORE_DATA: Final = 6  # numbers, each of 32 bits
_WORD: Final = re.compile(r"\s*(?:0[xX])?([0-9a-fA-F]{1,16})")


@dataclass(frozen=True, slots=True)
class DynamicId:
    """One pattern. ANY matches all; of `class_code` the bits of `class_mask` count."""

    vendor: int
    device: int
    subvendor: int = ANY
    subdevice: int = ANY
    class_code: int = 0
    class_mask: int = 0
    driver_data: int | None = None  # a number for the driver itself; None: not said

    @classmethod
    def parse(cls, text: str) -> "DynamicId":
        """`1234 11e8`, and up to five numbers more, all hexadecimal. EINVAL: fewer than two."""
        found: list[int] = []
        at = 0
        while len(found) < len(fields(cls)) and (word := _WORD.match(text, at)):
            number = int(word[1], 16)
            found.append(number if len(found) == _BEFORE_DATA else number & ANY)
            at = word.end()
        if len(found) < 2:
            raise IoctlError(EINVAL, f"{text!r} is not a vendor and a device, as 1234 11e8")
        return cls(*found)

    def matches(self, identity: Identity) -> bool:
        """Whether it matches this device."""
        return self.covers(
            DynamicId(
                identity.vendor,
                identity.device,
                identity.subsystem_vendor,
                identity.subsystem_device,
                identity.class_code,
            )
        )

    def covers(self, other: "DynamicId") -> bool:
        """Whether it matches what `other` says of a device."""
        return (
            self.vendor in (ANY, other.vendor)
            and self.device in (ANY, other.device)
            and self.subvendor in (ANY, other.subvendor)
            and self.subdevice in (ANY, other.subdevice)
            and not (self.class_code ^ other.class_code) & self.class_mask
        )

    def names(self, other: "DynamicId") -> bool:
        """Whether this, as given to remove_id, is about `other`."""
        return (
            (self.vendor, self.device) == (other.vendor, other.device)
            and self.subvendor in (ANY, other.subvendor)
            and self.subdevice in (ANY, other.subdevice)
            and not (self.class_code ^ other.class_code) & self.class_mask
        )
