"""How much of an expansion ROM's window is filled: its images, one after another, each of which
says how long it is.

Ref: v7.3 drivers/pci/rom.c pci_get_rom_size; PCI Firmware 3.3 5.1
"""

from typing import Final

_SECTOR: Final = 512
_HEADER: Final = 0x1A  # bytes of an image's header
_POINTER: Final = 0x18
_STRUCT: Final = 0x18  # bytes of the data structure, at least


def image_size(rom: bytes) -> int:
    """Bytes of the images; 0: it does not begin with one."""
    window = max(1 << (len(rom) - 1).bit_length(), 2048) if rom else 0
    at = 0
    while at + _HEADER <= window and rom[at : at + 2] == b"\x55\xaa":
        data = at + int.from_bytes(rom[at + _POINTER : at + _POINTER + 2], "little")
        if not _valid(rom, data, window):
            break
        length = int.from_bytes(rom[data + 0x10 : data + 0x12], "little") * _SECTOR
        last = rom[data + 0x15] & 0x80
        if not length:
            break
        at += length
        if last:
            break
    return min(at, window)


def _valid(rom: bytes, data: int, window: int) -> bool:
    length = int.from_bytes(rom[data + 0x0A : data + 0x0C], "little")
    return data % 4 == 0 and rom[data : data + 4] == b"PCIR" and _STRUCT <= length < 0xFFFF and data + length <= window
