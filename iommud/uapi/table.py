"""The one table: a row for each ioctl of Linux 7.3's IOMMUFD.

A row names the ioctl, its struct and the last field that a caller of the oldest version supplied; number, size and min_size come from
the header (`include/linux/iommufd.h`), so a struct that grows changes nothing here. `flags` and `zero` are there only where the
kernel checks them before all else; where it looks at an object first, the handler checks.

From these rows come the dispatcher, the size tests, the fuzz test and the list of ioctls in the docs. The handler of a row is found
in `iommud/ops` under the row's name.

Ref: v7.3 main.c iommufd_ioctl_ops
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import cffi

from .header import const, ffi, offset_end, struct_size

CMD_BASE: Final = const("IOMMUFD_CMD_BASE")
TEST_NUMBER: Final = const("IOMMU_TEST_CMD") & 0xFF


@dataclass(frozen=True, slots=True)
class Row:
    """One ioctl. Sizes in bytes."""

    name: str
    struct: str
    number: int
    size: int
    min_size: int
    pointer: cffi.FFI.CType
    flags: tuple[str, int] | None = None
    zero: tuple[str, ...] = ()


def op(name: str, struct: str, *, last: str, flags: int | None = None, zero: tuple[str, ...] = ()) -> Row:
    """A row. `flags`: the bits known of the field of that name; `zero`: fields that must be 0. Else EOPNOTSUPP."""
    return Row(
        name=name,
        struct=struct,
        number=const(f"IOMMU_{name}"),
        size=struct_size(struct),
        min_size=offset_end(struct, last),
        pointer=ffi.typeof(f"struct {struct} *"),
        flags=None if flags is None else ("flags", flags),
        zero=zero,
    )


_MAP_FLAGS: Final = (
    const("IOMMU_IOAS_MAP_FIXED_IOVA") | const("IOMMU_IOAS_MAP_WRITEABLE") | const("IOMMU_IOAS_MAP_READABLE")
)

ROWS: Final = (
    op("DESTROY", "iommu_destroy", last="id"),
    op("IOAS_ALLOC", "iommu_ioas_alloc", last="out_ioas_id", flags=0),
    op("IOAS_ALLOW_IOVAS", "iommu_ioas_allow_iovas", last="allowed_iovas", zero=("__reserved",)),
    op("IOAS_COPY", "iommu_ioas_copy", last="src_iova", flags=_MAP_FLAGS),
    op("IOAS_IOVA_RANGES", "iommu_ioas_iova_ranges", last="out_iova_alignment", zero=("__reserved",)),
    op("IOAS_MAP", "iommu_ioas_map", last="iova", flags=_MAP_FLAGS, zero=("__reserved",)),
    op("IOAS_UNMAP", "iommu_ioas_unmap", last="length"),
    op("OPTION", "iommu_option", last="val64", zero=("__reserved",)),
    op("VFIO_IOAS", "iommu_vfio_ioas", last="__reserved"),
    op("HWPT_ALLOC", "iommu_hwpt_alloc", last="__reserved"),
    op("GET_HW_INFO", "iommu_hw_info", last="__reserved"),
    op("HWPT_SET_DIRTY_TRACKING", "iommu_hwpt_set_dirty_tracking", last="__reserved"),
    op("HWPT_GET_DIRTY_BITMAP", "iommu_hwpt_get_dirty_bitmap", last="data"),
    op("HWPT_INVALIDATE", "iommu_hwpt_invalidate", last="__reserved"),
    op("FAULT_QUEUE_ALLOC", "iommu_fault_alloc", last="out_fault_fd"),
    op("IOAS_MAP_FILE", "iommu_ioas_map_file", last="iova", flags=_MAP_FLAGS),
    op("VIOMMU_ALLOC", "iommu_viommu_alloc", last="out_viommu_id"),
    op("VDEVICE_ALLOC", "iommu_vdevice_alloc", last="virt_id"),
    op("IOAS_CHANGE_PROCESS", "iommu_ioas_change_process", last="__reserved"),
    op("VEVENTQ_ALLOC", "iommu_veventq_alloc", last="out_veventq_fd"),
    op("HW_QUEUE_ALLOC", "iommu_hw_queue_alloc", last="length"),
    op("IOAS_NOIOMMU_GET_PA", "iommu_ioas_noiommu_get_pa", last="out_phys"),
)

# The mock device's command, there only with --mock. Between it and the last row lie numbers without a row.
TEST_ROW: Final = op("TEST_CMD", "iommu_test_cmd", last="last")

BY_NUMBER: Final[Mapping[int, Row]] = {row.number & 0xFF: row for row in ROWS}
LAST_NUMBER: Final = max(BY_NUMBER)
