/* SPDX-License-Identifier: MIT */
/* Races for a vIOMMU and what stands on it. */
#ifndef RACE_VIOMMU_H
#define RACE_VIOMMU_H

#include "race_hwpt.h"

/* Nested in the vIOMMU that stands. */
static uint32_t in_viommu;

/* ---- A vIOMMU -------------------------------------------------------------------------------- */

static uint32_t new_viommu(void)
{
	uint32_t id;

	NEED(viommu_alloc(fd, standing.device, parent, NULL, 0, &id) == 0);
	return id;
}

static long move_vdevice(struct runner *r, uint32_t id)
{
	uint32_t made;
	long rc = vdevice_alloc(fd, id, r->mock.device, 100 + r->number, &made);

	if (rc == 0 && destroy(fd, made))
		return WRONG;
	return rc;
}

static long move_veventq(struct runner *r, uint32_t id)
{
	struct iommu_veventq_alloc cmd = { .size = sizeof(cmd), .viommu_id = id, .veventq_depth = 2,
					   .type = IOMMU_VEVENTQ_TYPE_SELFTEST };
	long rc = call(fd, IOMMU_VEVENTQ_ALLOC, &cmd);

	(void)r;
	if (rc)
		return rc;
	return close((int)cmd.out_veventq_fd) || destroy(fd, cmd.out_veventq_id) ? WRONG : 0;
}

static long move_hw_queue(struct runner *r, uint32_t id)
{
	struct iommu_hw_queue_alloc cmd = { .size = sizeof(cmd), .viommu_id = id,
					    .type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
					    .nesting_parent_iova = APERTURE, .length = PAGE };
	long rc = call(fd, IOMMU_HW_QUEUE_ALLOC, &cmd);

	(void)r;
	if (rc == 0 && destroy(fd, cmd.out_hw_queue_id))
		return WRONG;
	return rc;
}

static long move_invalidate_nothing(struct runner *r, uint32_t id)
{
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd), .hwpt_id = id,
		.data_type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
		.entry_len = sizeof(struct iommu_viommu_invalidate_selftest) };

	(void)r;
	return call(fd, IOMMU_HWPT_INVALIDATE, &cmd);
}

static const struct victim viommu_victim = {
	"vIOMMU", new_viommu, NULL, 0,
	{
		{ "VDEVICE_ALLOC", move_vdevice, { EEXIST } },
		{ "VEVENTQ_ALLOC", move_veventq, { EEXIST } },
		{ "HW_QUEUE_ALLOC", move_hw_queue, { EEXIST } },
		{ "HWPT_ALLOC in it", move_nested, { EINVAL } },
		{ "HWPT_INVALIDATE", move_invalidate_nothing, { EINVAL } },
	},
};

/* ---- A vDEVICE ------------------------------------------------------------------------------- */

static uint32_t new_vdevice(void)
{
	uint32_t id;

	NEED(vdevice_alloc(fd, viommu, standing.device, 7, &id) == 0);
	return id;
}

/* What is nested in the vIOMMU takes a device only while that has a number there. */
static long move_nest(struct runner *r, uint32_t id)
{
	long rc = mock_replace(fd, standing.stdev, in_viommu);

	(void)r;
	(void)id;
	if (rc == 0 && mock_replace(fd, standing.stdev, base))
		return WRONG;
	return rc;
}

/* What its number finds in the guest. */
static long move_device_cache(struct runner *r, uint32_t id)
{
	struct iommu_viommu_invalidate_selftest entry = { .vdev_id = 7, .cache_id = r->number % 4 };
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd), .hwpt_id = viommu, .data_uptr = (uintptr_t)&entry,
		.data_type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST, .entry_len = sizeof(entry),
		.entry_num = 1 };

	(void)id;
	return call(fd, IOMMU_HWPT_INVALIDATE, &cmd);
}

static const struct victim vdevice_victim = {
	"vDEVICE", new_vdevice, NULL, 0,
	{
		{ "replace", move_nest, { 0 } },
		{ "HWPT_INVALIDATE", move_device_cache, { EINVAL } },
	},
};

/* ---- An event queue: its descriptor is closed before it is destroyed ------------------------- */

static uint32_t new_veventq(void)
{
	struct iommu_veventq_alloc cmd = { .size = sizeof(cmd), .viommu_id = viommu,
					   .veventq_depth = 2,
					   .type = IOMMU_VEVENTQ_TYPE_SELFTEST };

	NEED(call(fd, IOMMU_VEVENTQ_ALLOC, &cmd) == 0);
	__atomic_store_n(&queue_fd, (int)cmd.out_veventq_fd, __ATOMIC_SEQ_CST);
	return cmd.out_veventq_id;
}

static long move_event(struct runner *r, uint32_t id)
{
	(void)r;
	(void)id;
	return trigger_vevent(fd, standing.device);
}

static const struct victim veventq_victim = {
	"event queue", new_veventq, close_queue, 0,
	{
		{ "event", move_event, { EOPNOTSUPP } },
		{ "poll", move_poll, { 0 } },
		{ "read", move_read, { EBADF } },
	},
};

/* ---- A hardware queue: one of a higher index needs it ---------------------------------------- */

static uint32_t new_hw_queue(void)
{
	struct iommu_hw_queue_alloc cmd = { .size = sizeof(cmd), .viommu_id = viommu,
					    .type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
					    .nesting_parent_iova = APERTURE, .length = PAGE };

	NEED(call(fd, IOMMU_HW_QUEUE_ALLOC, &cmd) == 0);
	return cmd.out_hw_queue_id;
}

static long move_next_queue(struct runner *r, uint32_t id)
{
	struct iommu_hw_queue_alloc cmd = { .size = sizeof(cmd), .viommu_id = viommu, .index = 1,
					    .type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
					    .nesting_parent_iova = APERTURE, .length = PAGE };
	long rc = call(fd, IOMMU_HW_QUEUE_ALLOC, &cmd);

	(void)r;
	(void)id;
	if (rc == 0 && destroy(fd, cmd.out_hw_queue_id))
		return WRONG;
	return rc;
}

static const struct victim hw_queue_victim = {
	"hardware queue", new_hw_queue, NULL, 0,
	{
		{ "the next queue", move_next_queue, { EEXIST, EIO } },
	},
};

#endif
