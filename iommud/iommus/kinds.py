"""The kinds of IOMMU, by name. The module of a kind is loaded when the first IOMMU of that kind is
made; whoever asks only for the names loads none.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..engine.device.iommu import Iommu

# The module here, and the class in it, which is made with `dirty_tracking=`.
CLASSES: Final[Mapping[str, tuple[str, str]]] = {
    "vtd": ("vtd", "VtdIommu"),
    "smmuv3": ("smmuv3", "Smmuv3"),
    "amd": ("amd", "AmdIommu"),
    "none": ("noiommu", "NoIommu"),
}


def new_iommu(kind: str, *, dirty_tracking: bool = True) -> "Iommu":
    """A new IOMMU of this kind. `dirty_tracking`: whether it can track what DMA writes."""
    module, name = CLASSES[kind]
    made: Iommu = getattr(import_module(f"{__package__}.{module}"), name)(dirty_tracking=dirty_tracking)
    return made
