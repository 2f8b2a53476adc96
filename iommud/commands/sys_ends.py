"""The descriptors between `iommud serve` and its process for /sys (sys_server.py). This imports no
engine, for the broker.
"""

import os
from typing import NamedTuple


class SysfsEnds(NamedTuple):
    """`tree`: the connection to the kernel. `alive`: a pipe that ends with the broker. `needed`:
    one that ends with the process for /sys.
    """

    tree: int
    alive: int
    needed: int

    def close(self) -> None:
        """Close ours; another process has its own."""
        for fd in self:
            os.close(fd)
