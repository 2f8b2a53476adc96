/* SPDX-License-Identifier: MIT */
/* VFIO's own container, and what it maps. */
#ifndef TYPE1_H
#define TYPE1_H

#include "groups.h"

#include <sys/prctl.h>
#include <sys/resource.h>

#define BOTH (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)
#define V1 VFIO_TYPE1_IOMMU
#define V2 VFIO_TYPE1v2_IOMMU

/* A container with this group in it, and a driver. */
static inline int new_type1(int group, unsigned long kind)
{
	int container = open_container();

	NEED(set_container(group, container) == 0);
	NEED(set_iommu(container, kind) == 0);
	return container;
}

static inline long map_as(int container, const void *memory, uint64_t iova, uint64_t size, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map cmd = { .argsz = sizeof(cmd), .vaddr = (uintptr_t)memory, .iova = iova,
						.size = size, .flags = flags };

	return call(container, VFIO_IOMMU_MAP_DMA, &cmd);
}

/* The bytes unmapped, or -errno; what `size` is after an errno goes into *left. */
static inline long unmap_as(int container, uint64_t iova, uint64_t size, uint32_t flags, uint64_t *left)
{
	struct vfio_iommu_type1_dma_unmap cmd = { .argsz = sizeof(cmd), .iova = iova, .size = size, .flags = flags };
	long rc = call(container, VFIO_IOMMU_UNMAP_DMA, &cmd);

	*left = cmd.size;
	return rc ? rc : (long)cmd.size;
}

static inline long taken_out(int container, uint64_t iova, uint64_t size)
{
	uint64_t left;

	return unmap_as(container, iova, size, 0, &left);
}

static inline long unmap_everything(int container)
{
	uint64_t left;

	return unmap_as(container, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL, &left);
}

/* An unmap that tells what was dirty. */
static inline long unmap_dirty(int container, uint64_t iova, uint64_t size, uint64_t page, uint64_t room, void *data)
{
	union {
		struct vfio_iommu_type1_dma_unmap cmd;
		char room[sizeof(struct vfio_iommu_type1_dma_unmap) + sizeof(struct vfio_bitmap)];
	} all = { .cmd = { .argsz = sizeof(all), .iova = iova, .size = size,
			   .flags = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP } };
	struct vfio_bitmap bitmap = { .pgsize = page, .size = room, .data = data };
	long rc;

	memcpy(all.cmd.data, &bitmap, sizeof(bitmap));
	rc = call(container, VFIO_IOMMU_UNMAP_DMA, &all);
	return rc ? rc : (long)all.cmd.size;
}

static inline long dirty(int container, uint32_t argsz, uint32_t flags)
{
	struct vfio_iommu_type1_dirty_bitmap cmd = { .argsz = argsz, .flags = flags };

	return call(container, VFIO_IOMMU_DIRTY_PAGES, &cmd);
}

static inline long start_tracking(int container)
{
	return dirty(container, 8, VFIO_IOMMU_DIRTY_PAGES_FLAG_START);
}

static inline long stop_tracking(int container)
{
	return dirty(container, 8, VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP);
}

static inline long get_dirty_size(int container, uint32_t argsz, uint64_t iova, uint64_t size, uint64_t page,
				  uint64_t room, void *data)
{
	struct {
		struct vfio_iommu_type1_dirty_bitmap cmd;
		struct vfio_iommu_type1_dirty_bitmap_get range;
	} all = { .cmd = { .argsz = argsz, .flags = VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP },
		  .range = { .iova = iova, .size = size, .bitmap = { .pgsize = page, .size = room, .data = data } } };

	return call(container, VFIO_IOMMU_DIRTY_PAGES, &all);
}

static inline long get_dirty(int container, uint64_t iova, uint64_t size, uint64_t page, uint64_t room, void *data)
{
	return get_dirty_size(container, 48, iova, size, page, room, data);
}

/* The struct and what is behind it. */
union info {
	struct vfio_iommu_type1_info head;
	char room[1024];
};

static inline long get_info(int container, uint32_t argsz, union info *info)
{
	memset(info, 0x5a, sizeof(*info));
	info->head.argsz = argsz;
	return call(container, VFIO_IOMMU_GET_INFO, info);
}

static inline struct vfio_info_cap_header *capability_of(union info *info, uint16_t id)
{
	struct vfio_info_cap_header *header;
	uint32_t at;

	for (at = info->head.cap_offset; at; at = header->next) {
		header = (void *)(info->room + at);
		if (header->id == id)
			return header;
	}
	return NULL;
}

/* How many mappings can still be made, or -errno. */
static inline long available(int container)
{
	union info info;
	long rc = get_info(container, sizeof(info), &info);
	struct vfio_iommu_type1_info_dma_avail *found;

	if (rc)
		return rc;
	found = (void *)capability_of(&info, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
	NEED(found);
	return found->avail;
}

static inline char *shared_pages(size_t count)
{
	char *pages = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	NEED(pages != MAP_FAILED);
	return pages;
}

#endif
