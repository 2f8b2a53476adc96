"""VFIO's ioctls, as Linux 7.3 answers them on /dev/iommu and /dev/vfio/vfio: a row for each that it knows.

Their numbers lie outside IOMMUFD's table, and so do their rules: the struct's size is in argsz, which must reach `min_size`; what lies
beyond is not looked at. A row without a struct takes its argument as a number. The handler is in iommud/ops/vfio.py.

Ref: v7.3 vfio_compat.c iommufd_vfio_ioctl
"""

from collections.abc import Mapping
from typing import Final

from .header import const, ffi, offset_end, struct_size
from .table import BY_NUMBER, TEST_ROW, Row


def _op(name: str, struct: str, last: str) -> Row:
    size = struct_size(struct)
    return Row(f"VFIO_{name}", struct, const(f"VFIO_{name}"), size, offset_end(struct, last), ffi.typeof(f"struct {struct} *"))


VFIO_ROWS: Final = (
    _op("IOMMU_GET_INFO", "vfio_iommu_type1_info", "iova_pgsizes"),
    _op("IOMMU_MAP_DMA", "vfio_iommu_type1_dma_map", "size"),
    _op("IOMMU_UNMAP_DMA", "vfio_iommu_type1_dma_unmap", "size"),
)
VFIO_BY_NUMBER: Final[Mapping[int, Row]] = {row.number: row for row in VFIO_ROWS}
# Those that take a number, by theirs.
VFIO_WITHOUT_STRUCT: Final[Mapping[int, str]] = {
    const(name): name for name in ("VFIO_GET_API_VERSION", "VFIO_CHECK_EXTENSION", "VFIO_SET_IOMMU")
}


def name_of(cmd: int) -> str:
    """The name of an ioctl of either table, for people."""
    row = BY_NUMBER.get(cmd & 0xFF)
    if row is not None and row.number == cmd:
        return f"IOMMU_{row.name}"
    if cmd == TEST_ROW.number:
        return "IOMMU_TEST_CMD"
    return VFIO_BY_NUMBER[cmd].name if cmd in VFIO_BY_NUMBER else VFIO_WITHOUT_STRUCT.get(cmd, f"ioctl {cmd:#x}")
