/* SPDX-License-Identifier: MIT */
/* A race for a device. */
#ifndef RACE_DEVICE_H
#define RACE_DEVICE_H

#include "race_hwpt.h"

/* ---- A mock device: what is named is its binding, one ID further ----------------------------- */

static uint32_t bound;

static uint32_t mock_device(void)
{
	struct mock mock = new_mock(fd, base);

	__atomic_store_n(&bound, mock.device, __ATOMIC_SEQ_CST);
	return mock.stdev;
}

static uint32_t binding(void)
{
	return __atomic_load_n(&bound, __ATOMIC_SEQ_CST);
}

static long move_hw_info(struct runner *r, uint32_t id)
{
	struct iommu_test_hw_info info = { 0 };
	struct iommu_hw_info cmd = { .size = sizeof(cmd), .dev_id = binding(),
				     .data_len = sizeof(info), .data_uptr = (uintptr_t)&info };
	long rc = call(fd, IOMMU_GET_HW_INFO, &cmd);

	(void)r;
	(void)id;
	if (rc == 0 && info.test_reg != IOMMU_HW_INFO_SELFTEST_REGVAL)
		return WRONG;
	return rc;
}

static long move_hwpt_for_it(struct runner *r, uint32_t id)
{
	uint32_t hwpt;
	long rc = hwpt_alloc(fd, binding(), base, 0, &hwpt);

	(void)r;
	(void)id;
	if (rc == 0 && destroy(fd, hwpt))
		return WRONG;
	return rc;
}

static long move_viommu_for_it(struct runner *r, uint32_t id)
{
	uint32_t made;
	long rc = viommu_alloc(fd, binding(), parent, NULL, 0, &made);

	(void)r;
	(void)id;
	if (rc == 0 && destroy(fd, made))
		return WRONG;
	return rc;
}

/* When the device goes, so does its vDEVICE: its ID stays behind, and names nothing. */
static long move_vdevice_for_it(struct runner *r, uint32_t id)
{
	uint32_t made;
	long rc = vdevice_alloc(fd, viommu, binding(), 100 + r->number, &made), gone;

	(void)id;
	if (rc)
		return rc;
	gone = destroy(fd, made);
	return gone && gone != -ENOENT ? WRONG : 0;
}

static long move_iopf(struct runner *r, uint32_t id)
{
	struct iommu_test_cmd cmd = { .trigger_iopf = { .dev_id = binding(), .pasid = UINT32_MAX,
							.grpid = r->number } };

	(void)id;
	return test_cmd(fd, IOMMU_TEST_OP_TRIGGER_IOPF, &cmd);
}

static long move_check_cache(struct runner *r, uint32_t id)
{
	(void)id;
	return check_cache(fd, binding(), r->number % 4, IOMMU_TEST_DEV_CACHE_DEFAULT);
}

static long move_it(struct runner *r, uint32_t id)
{
	(void)r;
	return mock_replace(fd, id, base);
}

static const struct victim device_victim = {
	"device", mock_device, NULL, 200,
	{
		{ "GET_HW_INFO", move_hw_info, { 0 } },
		{ "HWPT_ALLOC", move_hwpt_for_it, { 0 } },
		{ "VIOMMU_ALLOC", move_viommu_for_it, { 0 } },
		{ "page fault", move_iopf, { 0 } },
		{ "check cache", move_check_cache, { 0 } },
		{ "replace", move_it, { EINVAL } },
		{ "VDEVICE_ALLOC", move_vdevice_for_it, { EEXIST } },
	},
};

#endif
