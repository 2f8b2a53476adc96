/* SPDX-License-Identifier: MIT */
/* Every command of Linux 7.3: its number, its struct's size, and the shortest struct it takes. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "client.h"

#define END_OF(type, member) (offsetof(type, member) + sizeof(((type *)0)->member))
#define COMMAND(name, type, last)                                                                  \
	{ #name, IOMMU_##name, sizeof(struct type), END_OF(struct type, last) }

/* LARGEST is the largest of the sizes. */
#define LARGEST 64

static const struct command {
	const char *name;
	unsigned int number;
	uint32_t size;
	uint32_t min_size;
} commands[] = {
	COMMAND(DESTROY, iommu_destroy, id),
	COMMAND(IOAS_ALLOC, iommu_ioas_alloc, out_ioas_id),
	COMMAND(IOAS_ALLOW_IOVAS, iommu_ioas_allow_iovas, allowed_iovas),
	COMMAND(IOAS_COPY, iommu_ioas_copy, src_iova),
	COMMAND(IOAS_IOVA_RANGES, iommu_ioas_iova_ranges, out_iova_alignment),
	COMMAND(IOAS_MAP, iommu_ioas_map, iova),
	COMMAND(IOAS_UNMAP, iommu_ioas_unmap, length),
	COMMAND(OPTION, iommu_option, val64),
	COMMAND(VFIO_IOAS, iommu_vfio_ioas, __reserved),
	COMMAND(HWPT_ALLOC, iommu_hwpt_alloc, __reserved),
	COMMAND(GET_HW_INFO, iommu_hw_info, __reserved),
	COMMAND(HWPT_SET_DIRTY_TRACKING, iommu_hwpt_set_dirty_tracking, __reserved),
	COMMAND(HWPT_GET_DIRTY_BITMAP, iommu_hwpt_get_dirty_bitmap, data),
	COMMAND(HWPT_INVALIDATE, iommu_hwpt_invalidate, __reserved),
	COMMAND(FAULT_QUEUE_ALLOC, iommu_fault_alloc, out_fault_fd),
	COMMAND(IOAS_MAP_FILE, iommu_ioas_map_file, iova),
	COMMAND(VIOMMU_ALLOC, iommu_viommu_alloc, out_viommu_id),
	COMMAND(VDEVICE_ALLOC, iommu_vdevice_alloc, virt_id),
	COMMAND(IOAS_CHANGE_PROCESS, iommu_ioas_change_process, __reserved),
	COMMAND(VEVENTQ_ALLOC, iommu_veventq_alloc, out_veventq_fd),
	COMMAND(HW_QUEUE_ALLOC, iommu_hw_queue_alloc, length),
	COMMAND(IOAS_NOIOMMU_GET_PA, iommu_ioas_noiommu_get_pa, out_phys),
};

#endif
