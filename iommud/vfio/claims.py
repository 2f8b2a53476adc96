"""The names under which hosts claim and count (Share) what a group of VFIO's is to all of them.
This is light: the broker of `serve` imports it, and no engine.
"""

from ..engine.memory.share import Everywhere


def open_group(number: int) -> Everywhere:
    """The file of a group, for the host that has it open."""
    return Everywhere(f"the file of group {number}")


def bound_by_files(number: int) -> Everywhere:
    """Devices of a group that are bound by their own files."""
    return Everywhere(f"devices of group {number} by their own files")
