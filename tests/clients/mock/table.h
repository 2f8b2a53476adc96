/* SPDX-License-Identifier: MIT */
/*
 * Mock devices (CONFIG_IOMMUFD_TEST) and page tables for them. Each helper is one
 * ioctl and returns 0 or -errno.
 */
#ifndef TABLE_H
#define TABLE_H

#include "../client.h"

#include <iommud/iommufd_test.h>

#define MOCK_PAGE 2048UL
#define APERTURE 0x1000000UL

static inline long test_cmd(int fd, uint32_t op, struct iommu_test_cmd *cmd)
{
	cmd->size = sizeof(*cmd);
	cmd->op = op;
	return call(fd, IOMMU_TEST_CMD, cmd);
}

struct mock {
	uint32_t stdev;
	uint32_t device;
	uint32_t hwpt;
};

/* A mock device attached to pt. */
static inline long mock_flags(int fd, uint32_t pt, uint32_t flags, struct mock *mock)
{
	struct iommu_test_cmd cmd = { .id = pt, .mock_domain_flags = { .dev_flags = flags } };
	long rc = test_cmd(fd, IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, &cmd);

	mock->stdev = cmd.mock_domain_flags.out_stdev_id;
	mock->device = cmd.mock_domain_flags.out_idev_id;
	mock->hwpt = cmd.mock_domain_flags.out_hwpt_id;
	return rc;
}

static inline struct mock new_mock(int fd, uint32_t pt)
{
	struct mock mock;

	NEED(mock_flags(fd, pt, 0, &mock) == 0);
	return mock;
}

static inline long mock_replace(int fd, uint32_t stdev, uint32_t pt)
{
	struct iommu_test_cmd cmd = { .id = stdev, .mock_domain_replace = { .pt_id = pt } };

	return test_cmd(fd, IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, &cmd);
}

static inline long hwpt_alloc_fault(int fd, uint32_t device, uint32_t pt, uint32_t flags,
				    uint32_t fault, const struct iommu_hwpt_selftest *data,
				    uint32_t *id)
{
	struct iommu_hwpt_alloc cmd = { .size = sizeof(cmd), .flags = flags, .dev_id = device,
					.pt_id = pt, .fault_id = fault };
	long rc;

	if (data) {
		cmd.data_type = IOMMU_HWPT_DATA_SELFTEST;
		cmd.data_len = sizeof(*data);
		cmd.data_uptr = (uintptr_t)data;
	}
	rc = call(fd, IOMMU_HWPT_ALLOC, &cmd);
	*id = cmd.out_hwpt_id;
	return rc;
}

static inline long hwpt_alloc(int fd, uint32_t device, uint32_t pt, uint32_t flags, uint32_t *id)
{
	return hwpt_alloc_fault(fd, device, pt, flags, 0, NULL, id);
}

#endif
