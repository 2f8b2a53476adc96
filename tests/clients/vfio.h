/* SPDX-License-Identifier: MIT */
/* VFIO's container ioctls, each a helper that returns its result or -errno, as in client.h. */
#ifndef VFIO_H
#define VFIO_H

#include "client.h"

#include <linux/vfio.h>

#define MAP_SIZE sizeof(struct vfio_iommu_type1_dma_map)
#define UNMAP_SIZE offsetof(struct vfio_iommu_type1_dma_unmap, data)

/* An ioctl that takes a number. */
static inline long ask(int fd, unsigned long number, unsigned long value)
{
	int rc = ioctl(fd, number, value);

	return rc < 0 ? -errno : rc;
}

/* VFIO_IOAS with one of its ops; *id goes in, and comes out. */
static inline long compat(int fd, uint16_t op, uint32_t *id)
{
	struct iommu_vfio_ioas cmd = { .size = sizeof(cmd), .ioas_id = *id, .op = op };
	long rc = call(fd, IOMMU_VFIO_IOAS, &cmd);

	*id = cmd.ioas_id;
	return rc;
}

static inline long set_compat(int fd, uint32_t id)
{
	return compat(fd, IOMMU_VFIO_IOAS_SET, &id);
}

static inline long map_dma(int fd, uint64_t vaddr, uint64_t iova, uint64_t size, uint32_t flags)
{
	struct vfio_iommu_type1_dma_map cmd = { .argsz = MAP_SIZE, .flags = flags, .vaddr = vaddr,
						.iova = iova, .size = size };

	return call(fd, VFIO_IOMMU_MAP_DMA, &cmd);
}

/* *size: the range in, what was unmapped out. */
static inline long unmap_dma(int fd, uint64_t iova, uint64_t *size, uint32_t flags)
{
	struct vfio_iommu_type1_dma_unmap cmd = { .argsz = UNMAP_SIZE, .flags = flags, .iova = iova,
						  .size = *size };
	long rc = call(fd, VFIO_IOMMU_UNMAP_DMA, &cmd);

	*size = cmd.size;
	return rc;
}

#endif
