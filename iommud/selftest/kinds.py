"""The kinds of IOMMU that the devices of `--mock` can stand behind: `--iommu NAME`."""

from typing import Final

from ..iommus.kinds import CLASSES
from ..settings import MOCK

DEFAULT: Final = MOCK
NAMES: Final = (DEFAULT, *CLASSES)
