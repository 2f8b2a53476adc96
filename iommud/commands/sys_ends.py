"""The descriptors between `iommud serve` and its process for /sys (sys_server.py). This is light,
for the broker.
"""

import os
from typing import NamedTuple


class SysfsEnds(NamedTuple):
    """`tree`: the connection to the kernel. `alive`: a pipe that ends with the broker. `needed`:
    one that ends with the process.
    """

    tree: int
    alive: int
    needed: int

    def close(self) -> None:
        """They are somebody else's."""
        for fd in self:
            os.close(fd)
