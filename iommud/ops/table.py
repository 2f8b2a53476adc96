"""The one table: a row for each ioctl of Linux 7.3's IOMMUFD, by name.

The dispatcher, the tests of sizes, the fuzz test and docs/ioctls.md are made from these rows.
VFIO's rows are in vfio.py, that of the kernel's test driver is in selftest/command.py.

Ref: v7.3 main.c iommufd_ioctl_ops
"""

from typing import Final

from ..uapi.header import const
from . import dirty, fault, hw_info, hwpt, ioas, noiommu, objects, option, veventq, vfio, viommu
from .row import op

_MAP: Final = const("IOMMU_IOAS_MAP_FIXED_IOVA") | const("IOMMU_IOAS_MAP_WRITEABLE") | const("IOMMU_IOAS_MAP_READABLE")
_DIRTY: Final = const("IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR")
_TRACK: Final = const("IOMMU_HWPT_DIRTY_TRACKING_ENABLE")
_INFO: Final = const("IOMMU_HW_INFO_FLAG_INPUT_TYPE")
_R: Final = ("__reserved",)

ROWS: Final = (
    op("DESTROY", objects.destroy, "iommu_destroy", last="id"),
    op("FAULT_QUEUE_ALLOC", fault.fault_queue_alloc, "iommu_fault_alloc", last="out_fault_fd", flags=0),
    op("GET_HW_INFO", hw_info.get_hw_info, "iommu_hw_info", last="__reserved", flags=_INFO, zero=_R),
    op("HWPT_ALLOC", hwpt.hwpt_alloc, "iommu_hwpt_alloc", last="__reserved", zero=_R),
    op(
        "HWPT_GET_DIRTY_BITMAP",
        dirty.hwpt_get_dirty_bitmap,
        "iommu_hwpt_get_dirty_bitmap",
        last="data",
        flags=_DIRTY,
        zero=_R,
    ),
    op("HWPT_INVALIDATE", hwpt.hwpt_invalidate, "iommu_hwpt_invalidate", last="__reserved"),
    op(
        "HWPT_SET_DIRTY_TRACKING",
        dirty.hwpt_set_dirty_tracking,
        "iommu_hwpt_set_dirty_tracking",
        last="__reserved",
        flags=_TRACK,
    ),
    op("HW_QUEUE_ALLOC", viommu.hw_queue_alloc, "iommu_hw_queue_alloc", last="length", flags=0),
    op("IOAS_ALLOC", ioas.ioas_alloc, "iommu_ioas_alloc", last="out_ioas_id", flags=0),
    op("IOAS_ALLOW_IOVAS", ioas.ioas_allow_iovas, "iommu_ioas_allow_iovas", last="allowed_iovas", zero=_R),
    op("IOAS_CHANGE_PROCESS", ioas.ioas_change_process, "iommu_ioas_change_process", last="__reserved", zero=_R),
    op("IOAS_COPY", ioas.ioas_copy, "iommu_ioas_copy", last="src_iova", flags=_MAP),
    op("IOAS_IOVA_RANGES", ioas.ioas_iova_ranges, "iommu_ioas_iova_ranges", last="out_iova_alignment", zero=_R),
    op("IOAS_MAP", ioas.ioas_map, "iommu_ioas_map", last="iova", flags=_MAP, zero=_R),
    op("IOAS_MAP_FILE", ioas.ioas_map_file, "iommu_ioas_map_file", last="iova", flags=_MAP),
    op("IOAS_NOIOMMU_GET_PA", noiommu.ioas_noiommu_get_pa, "iommu_ioas_noiommu_get_pa", last="out_phys"),
    op("IOAS_UNMAP", ioas.ioas_unmap, "iommu_ioas_unmap", last="length"),
    op("OPTION", option.option, "iommu_option", last="val64", zero=_R),
    op("VDEVICE_ALLOC", viommu.vdevice_alloc, "iommu_vdevice_alloc", last="virt_id"),
    op("VEVENTQ_ALLOC", veventq.veventq_alloc, "iommu_veventq_alloc", last="out_veventq_fd", flags=0, zero=_R),
    op("VFIO_IOAS", vfio.vfio_ioas, "iommu_vfio_ioas", last="__reserved", zero=_R),
    op("VIOMMU_ALLOC", viommu.viommu_alloc, "iommu_viommu_alloc", last="out_viommu_id", flags=0),
)
