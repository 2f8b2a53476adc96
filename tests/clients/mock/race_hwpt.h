/* SPDX-License-Identifier: MIT */
/* Races for page tables and what their faults go to. */
#ifndef RACE_HWPT_H
#define RACE_HWPT_H

#include "race_ioas.h"

#include <poll.h>

#define IOTLB 0x1234

/* ---- HWPT: a nest parent with dirty tracking on the standing IOAS ---------------------------- */

static uint32_t parent_hwpt(void)
{
	return new_hwpt(fd, standing.device, base, PARENT | DIRTY);
}

static long move_check_map(struct runner *r, uint32_t id)
{
	(void)r;
	return check_map(fd, id, APERTURE, page, PAGE);
}

static long move_track(struct runner *r, uint32_t id)
{
	struct iommu_hwpt_set_dirty_tracking cmd = { .size = sizeof(cmd), .hwpt_id = id,
						     .flags = r->number & 1 };

	return call(fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &cmd);
}

static long move_bitmap(struct runner *r, uint32_t id)
{
	struct iommu_hwpt_get_dirty_bitmap cmd = {
		.size = sizeof(cmd), .hwpt_id = id, .iova = APERTURE, .length = PAGE,
		.page_size = MOCK_PAGE, .data = (uintptr_t)r->memory };

	return call(fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd);
}

static long move_nested(struct runner *r, uint32_t id)
{
	struct iommu_hwpt_selftest data = { .iotlb = IOTLB };
	uint32_t hwpt;
	long rc = hwpt_alloc_fault(fd, r->mock.device, id, 0, 0, &data, &hwpt);

	if (rc == 0 && (check_iotlb(fd, hwpt, 0, IOTLB) || destroy(fd, hwpt)))
		return WRONG;
	return rc;
}

static long move_viommu(struct runner *r, uint32_t id)
{
	uint32_t made;
	long rc = viommu_alloc(fd, r->mock.device, id, NULL, 0, &made);

	if (rc == 0 && destroy(fd, made))
		return WRONG;
	return rc;
}

static uint32_t pasid_hwpt(void)
{
	return new_hwpt(fd, standing.device, base, PASID);
}

static long move_pasid(struct runner *r, uint32_t id)
{
	struct iommu_test_cmd attach = { .id = r->pasids.stdev, .pasid_attach = { 5, id } };
	struct iommu_test_cmd detach = { .id = r->pasids.stdev, .pasid_detach = { 5 } };
	long rc = test_cmd(fd, IOMMU_TEST_OP_PASID_ATTACH, &attach);

	if (rc == 0 && test_cmd(fd, IOMMU_TEST_OP_PASID_DETACH, &detach))
		return WRONG;
	return rc;
}

/* From the one, and back to it. */
static long move_pasid_replace(struct runner *r, uint32_t id)
{
	struct iommu_test_cmd attach = { .id = r->pasids.stdev, .pasid_attach = { 6, for_pasids } };
	struct iommu_test_cmd replace = { .id = r->pasids.stdev, .pasid_replace = { 6, id } };
	struct iommu_test_cmd detach = { .id = r->pasids.stdev, .pasid_detach = { 6 } };
	long rc;

	NEED(test_cmd(fd, IOMMU_TEST_OP_PASID_ATTACH, &attach) == 0);
	rc = test_cmd(fd, IOMMU_TEST_OP_PASID_REPLACE, &replace);
	return test_cmd(fd, IOMMU_TEST_OP_PASID_DETACH, &detach) ? WRONG : rc;
}

static const struct victim hwpt_victim = {
	"HWPT", parent_hwpt, NULL, 0,
	{
		{ "check map", move_check_map, { 0 } },
		{ "HWPT_SET_DIRTY_TRACKING", move_track, { 0 } },
		{ "HWPT_GET_DIRTY_BITMAP", move_bitmap, { EINVAL } },
		{ "HWPT_ALLOC in it", move_nested, { EINVAL } },
		{ "VIOMMU_ALLOC", move_viommu, { 0 } },
		{ "a new device", move_attach_new_device, { EINVAL } },
		{ "replace", move_replace, { EINVAL } },
	},
};

static const struct victim pasid_victim = {
	"HWPT for PASIDs", pasid_hwpt, NULL, 0,
	{
		{ "attach and detach", move_pasid, { EINVAL } },
		{ "replace", move_pasid_replace, { EINVAL } },
	},
};

/* ---- A nested HWPT --------------------------------------------------------------------------- */

static uint32_t nested_hwpt(void)
{
	return new_nested(fd, standing.device, parent, 0, IOTLB);
}

static long move_check_iotlb(struct runner *r, uint32_t id)
{
	long rc = check_iotlb(fd, id, r->number % 4, IOTLB);

	return rc == -EINVAL ? check_iotlb(fd, id, r->number % 4, 0) : rc;
}

static long move_invalidate(struct runner *r, uint32_t id)
{
	struct iommu_hwpt_invalidate_selftest entry = { .iotlb_id = r->number % 4 };
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd), .hwpt_id = id, .data_uptr = (uintptr_t)&entry,
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST, .entry_len = sizeof(entry),
		.entry_num = 1 };

	return call(fd, IOMMU_HWPT_INVALIDATE, &cmd);
}

static const struct victim nested_victim = {
	"nested HWPT", nested_hwpt, NULL, 0,
	{
		{ "check IOTLB", move_check_iotlb, { EINVAL } },
		{ "HWPT_INVALIDATE", move_invalidate, { EINVAL } },
		{ "a new device", move_attach_new_device, { EINVAL } },
		{ "replace", move_replace, { EINVAL } },
	},
};

/* ---- A fault queue: its descriptor is closed before it is destroyed -------------------------- */

static int queue_fd = -1;

static uint32_t fault_queue(void)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };

	NEED(call(fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd) == 0);
	__atomic_store_n(&queue_fd, (int)cmd.out_fault_fd, __ATOMIC_SEQ_CST);
	return cmd.out_fault_id;
}

static void close_queue(void)
{
	NEED(close(__atomic_exchange_n(&queue_fd, -1, __ATOMIC_SEQ_CST)) == 0);
}

static long move_hwpt_with_faults(struct runner *r, uint32_t id)
{
	uint32_t hwpt;
	long rc = hwpt_alloc_fault(fd, r->mock.device, base, FAULT, id, NULL, &hwpt);

	if (rc == 0 && destroy(fd, hwpt))
		return WRONG;
	return rc;
}

/* The number may be another descriptor's by now: only that it answers is of interest. */
static long move_poll(struct runner *r, uint32_t id)
{
	struct pollfd ask = { __atomic_load_n(&queue_fd, __ATOMIC_SEQ_CST), POLLIN, 0 };

	(void)r;
	(void)id;
	return poll(&ask, 1, 0) < 0 ? -errno : 0;
}

static long move_read(struct runner *r, uint32_t id)
{
	long rc = read(__atomic_load_n(&queue_fd, __ATOMIC_SEQ_CST), r->memory, 40);

	(void)id;
	return rc < 0 ? -errno : 0;
}

static const struct victim fault_victim = {
	"fault queue", fault_queue, close_queue, 0,
	{
		{ "HWPT_ALLOC", move_hwpt_with_faults, { 0 } },
		{ "poll", move_poll, { 0 } },
		{ "read", move_read, { EBADF } },
	},
};

#endif
