/* SPDX-License-Identifier: MIT */
/* Page tables by hand: what the hwpt_*.c clients share. */
#ifndef HWPT_H
#define HWPT_H

#include "table.h"

#define PARENT IOMMU_HWPT_ALLOC_NEST_PARENT
#define DIRTY IOMMU_HWPT_ALLOC_DIRTY_TRACKING
#define FAULT IOMMU_HWPT_FAULT_ID_VALID
#define PASID IOMMU_HWPT_ALLOC_PASID
#define SELFTEST IOMMU_HWPT_DATA_SELFTEST

/* What is asked for is in cmd, but for its size; the ID comes out. */
static inline long alloc_cmd(int fd, struct iommu_hwpt_alloc cmd, uint32_t *id)
{
	long rc;

	cmd.size = sizeof(cmd);
	rc = call(fd, IOMMU_HWPT_ALLOC, &cmd);
	*id = cmd.out_hwpt_id;
	return rc;
}

/* The same, for whom the ID does not matter. */
static inline long try_alloc(int fd, struct iommu_hwpt_alloc cmd)
{
	uint32_t id;

	return alloc_cmd(fd, cmd, &id);
}

static inline uint32_t new_hwpt(int fd, uint32_t device, uint32_t pt, uint32_t flags)
{
	uint32_t id;

	NEED(hwpt_alloc(fd, device, pt, flags, &id) == 0);
	return id;
}

/* One nested in parent, its cache filled with iotlb. */
static inline uint32_t new_nested(int fd, uint32_t device, uint32_t parent, uint32_t flags,
				  uint32_t iotlb)
{
	struct iommu_hwpt_selftest data = { .iotlb = iotlb };
	uint32_t id;

	NEED(hwpt_alloc_fault(fd, device, parent, flags, 0, &data, &id) == 0);
	return id;
}

static inline long check_iotlb(int fd, uint32_t hwpt, uint32_t entry, uint32_t value)
{
	struct iommu_test_cmd cmd = { .id = hwpt, .check_iotlb = { .id = entry, .iotlb = value } };

	return test_cmd(fd, IOMMU_TEST_OP_MD_CHECK_IOTLB, &cmd);
}

static inline long check_map(int fd, uint32_t hwpt, uint64_t iova, const void *p, uint64_t length)
{
	struct iommu_test_cmd cmd = { .id = hwpt, .check_map = { .iova = iova, .length = length,
								 .uptr = (uintptr_t)p } };

	return test_cmd(fd, IOMMU_TEST_OP_MD_CHECK_MAP, &cmd);
}

/* The lowest ID that is free. */
static inline uint32_t next_id(int fd)
{
	uint32_t id = new_ioas(fd);

	NEED(destroy(fd, id) == 0);
	return id;
}

#endif
