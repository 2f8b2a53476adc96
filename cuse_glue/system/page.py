"""The size of a page of this machine."""

import mmap
from typing import Final

PAGE_SIZE: Final = mmap.PAGESIZE  # bytes
