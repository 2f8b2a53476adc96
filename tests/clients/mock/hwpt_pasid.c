// SPDX-License-Identifier: MIT
/* PASIDs of mock devices: attach, replace and detach, each by itself, and the rules between them. */
#include "hwpt.h"

static int fd;
static struct mock mock;

static long attach(uint32_t stdev, uint32_t pasid, uint32_t pt)
{
	struct iommu_test_cmd cmd = { .id = stdev, .pasid_attach = { .pasid = pasid, .pt_id = pt } };

	return test_cmd(fd, IOMMU_TEST_OP_PASID_ATTACH, &cmd);
}

static long replace(uint32_t stdev, uint32_t pasid, uint32_t pt)
{
	struct iommu_test_cmd cmd = { .id = stdev, .pasid_replace = { .pasid = pasid, .pt_id = pt } };

	return test_cmd(fd, IOMMU_TEST_OP_PASID_REPLACE, &cmd);
}

static long detach(uint32_t stdev, uint32_t pasid)
{
	struct iommu_test_cmd cmd = { .id = stdev, .pasid_detach = { .pasid = pasid } };

	return test_cmd(fd, IOMMU_TEST_OP_PASID_DETACH, &cmd);
}

static long is_on(uint32_t pasid, uint32_t hwpt)
{
	struct iommu_test_cmd cmd = { .id = mock.stdev,
				      .pasid_check = { .pasid = pasid, .hwpt_id = hwpt } };

	return test_cmd(fd, IOMMU_TEST_OP_PASID_CHECK_HWPT, &cmd);
}

static void refused(uint32_t ioas, uint32_t compat, uint32_t plain)
{
	struct mock without = new_mock(fd, ioas);
	struct iommu_test_cmd cmd = { .size = sizeof(cmd), .op = IOMMU_TEST_OP_PASID_ATTACH,
				      .id = mock.stdev,
				      .pasid_attach = { .pasid = 9, .pt_id = compat } };

	CHECK_ERR(ENOENT, attach(mock.device, 1, compat), "the device's ID is not the mock's");
	CHECK_ERR(ENOENT, replace(NO_ID, 1, compat), "no such mock device");
	CHECK_ERR(ENOENT, detach(NO_ID, 1), "no such mock device");
	CHECK_ERR(ENOENT, attach(mock.stdev, 1, NO_ID), "no such HWPT");
	CHECK_ERR(EINVAL, attach(mock.stdev, 1, mock.device), "a device as the HWPT");
	CHECK_ERR(EINVAL, attach(mock.stdev, 1, plain), "a HWPT without PASIDs");
	CHECK_ERR(EINVAL, attach(mock.stdev, 1, ioas), "an IOAS: its HWPTs have none");
	CHECK_ERR(EINVAL, attach(mock.stdev, 1, compat), "the device's own HWPT has none");
	CHECK_OK(mock_replace(fd, mock.stdev, compat), "move the device to one that has");
	CHECK_ERR(EINVAL, attach(mock.stdev, 1U << 20, compat), "the first PASID too much");
	CHECK_ERR(EINVAL, attach(mock.stdev, ~0U, compat), "the last");
	CHECK_OK(attach(mock.stdev, (1U << 20) - 1, compat), "the last of the device");
	CHECK_OK(detach(mock.stdev, (1U << 20) - 1), "detach");
	CHECK_OK(detach(mock.stdev, (1U << 20) - 1), "again: nothing");
	CHECK_ERR(EBUSY, attach(mock.stdev, 0, compat), "PASID 0 is the device's own DMA");
	CHECK_OK(mock_replace(fd, without.stdev, compat), "a device without PASIDs");
	CHECK_ERR(EINVAL, attach(without.stdev, 1, compat), "has none");
	CHECK_ERR(EINVAL, replace(mock.stdev, 1, compat), "nothing to replace");
	CHECK_ERR(EINVAL, replace(mock.stdev, 1, ioas), "nor by an IOAS");
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, read_only(&cmd, sizeof(cmd))),
		  "the ID cannot be written");
	CHECK_OK(is_on(9, 0), "it was detached again");
	CHECK_ERR(EINVAL, is_on(9, compat), "so it is not on that");
	CHECK_ERR(EINVAL, is_on(9, ioas), "nor on an IOAS");
	CHECK_ERR(ENOENT, is_on(9, NO_ID), "nor on nothing");
	CHECK_OK(is_on(0, compat), "the device itself is");
	CHECK_ERR(EINVAL, is_on(0, 0), "so there is something");
	NEED(destroy(fd, without.stdev) == 0);
}

static void attached(uint32_t ioas, uint32_t compat, uint32_t plain, uint32_t nested)
{
	CHECK_OK(attach(mock.stdev, 5, compat), "attach");
	CHECK_OK(is_on(5, compat), "it is on it");
	CHECK_ERR(EBUSY, attach(mock.stdev, 5, compat), "twice");
	CHECK_ERR(EBUSY, attach(mock.stdev, 5, nested), "to another");
	CHECK_ERR(EBUSY, attach(mock.stdev, 5, ioas), "to none that would do");
	CHECK_OK(attach(mock.stdev, 6, compat), "another PASID to the same");
	CHECK_OK(attach(mock.stdev, 7, nested), "a third to a nested one");
	CHECK_ERR(EBUSY, destroy(fd, nested), "which is in use");
	CHECK_ERR(EINVAL, mock_replace(fd, mock.stdev, plain), "the device keeps to HWPTs with PASIDs");
	CHECK_ERR(EINVAL, mock_replace(fd, mock.stdev, ioas), "so no automatic one");
	CHECK_OK(is_on(0, compat), "it stayed where it was");
	CHECK_OK(mock_replace(fd, mock.stdev, nested), "any with PASIDs will do");
	CHECK_OK(replace(mock.stdev, 6, nested), "replace");
	CHECK_OK(replace(mock.stdev, 6, nested), "by the same");
	CHECK_OK(is_on(6, nested), "it moved");
	CHECK_OK(is_on(5, compat), "another PASID did not");
	CHECK_ERR(EINVAL, replace(mock.stdev, 5, ioas), "replace by an IOAS");
	CHECK_ERR(EINVAL, replace(mock.stdev, 5, plain), "by one without PASIDs");
	CHECK_ERR(EBUSY, destroy(fd, compat), "in use by one PASID");
	CHECK_OK(detach(mock.stdev, 5), "detach it");
	CHECK_OK(mock_replace(fd, mock.stdev, compat), "back");
	CHECK_OK(detach(mock.stdev, 6), "detach");
	CHECK_OK(detach(mock.stdev, 7), "detach");
	CHECK_OK(mock_replace(fd, mock.stdev, ioas), "without PASIDs any HWPT will do");
}

/* PASID 1024 fails every other time. */
static void failing(uint32_t compat, uint32_t other)
{
	NEED(mock_replace(fd, mock.stdev, compat) == 0);
	CHECK_OK(attach(mock.stdev, 1024, compat), "attach");
	CHECK_ERR(ENOMEM, replace(mock.stdev, 1024, other), "the next fails");
	CHECK_OK(is_on(1024, compat), "and changes nothing");
	CHECK_OK(replace(mock.stdev, 1024, other), "the third does not");
	CHECK_ERR(EBUSY, destroy(fd, other), "it is in use");
	CHECK_OK(detach(mock.stdev, 1024), "detach");
	CHECK_OK(attach(mock.stdev, 1024, other), "after which it starts over");
	CHECK_OK(detach(mock.stdev, 1024), "detach");
	CHECK_OK(destroy(fd, other), "no user is left");
}

int main(void)
{
	uint32_t ioas, compat, plain, parent, nested;

	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	NEED(mock_flags(fd, ioas, MOCK_FLAGS_DEVICE_PASID, &mock) == 0);
	compat = new_hwpt(fd, mock.device, ioas, PASID);
	plain = new_hwpt(fd, mock.device, ioas, 0);
	parent = new_hwpt(fd, mock.device, ioas, PARENT);
	nested = new_nested(fd, mock.device, parent, PASID, 1);
	refused(ioas, compat, plain);
	attached(ioas, compat, plain, nested);
	failing(compat, nested);
	CHECK_OK(close(fd), "close");
	return checks_end();
}
