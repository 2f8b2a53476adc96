// SPDX-License-Identifier: MIT
/* Nested page tables: what may be a parent, who holds whom, and devices attached to them. */
#include "hwpt.h"

static void refused(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), parent, plain, nested, bit, free_id;
	struct iommu_hwpt_selftest data = { .iotlb = 7 };
	struct mock mock = new_mock(fd, ioas);
	struct iommu_hwpt_alloc good = { .dev_id = mock.device, .data_type = SELFTEST,
					 .data_len = sizeof(data), .data_uptr = (uintptr_t)&data };
	struct iommu_hwpt_alloc cmd;

	parent = new_hwpt(fd, mock.device, ioas, PARENT);
	plain = new_hwpt(fd, mock.device, ioas, 0);
	nested = new_nested(fd, mock.device, parent, 0, 1);
	good.pt_id = parent;
	free_id = next_id(fd);

	cmd = good;
	cmd.pt_id = plain;
	for (bit = 0; bit < 32; bit++) {
		cmd.flags = 1U << bit;
		if (cmd.flags & (FAULT | PASID))
			continue;
		CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "flag bit %u, before the parent", bit);
	}
	cmd.flags = 0;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "not made as a parent");
	cmd.data_type = SELFTEST + 1;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "before the data");
	cmd = good;
	cmd.pt_id = mock.hwpt;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "an automatic one as the parent");
	cmd.pt_id = nested;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "a nested one as the parent");
	cmd = good;
	cmd.data_type = 0;
	cmd.data_len = 0;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "no data");
	cmd.pt_id = plain;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "no data, before the parent");
	cmd = good;
	cmd.data_type = SELFTEST + 1;
	cmd.data_len = 1;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "unknown data");
	cmd.data_type = SELFTEST;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "short data");
	cmd.data_len = 9;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "long data");
	cmd = good;
	cmd.data_uptr = (uintptr_t)unmapped();
	CHECK_ERR(EFAULT, try_alloc(fd, cmd), "data that is not there");
	cmd = good;
	cmd.flags = FAULT;
	cmd.fault_id = NO_ID;
	CHECK_ERR(ENOENT, try_alloc(fd, cmd), "no such fault queue");
	cmd.flags = 0;
	cmd.size = sizeof(cmd);
	CHECK_ERR(EFAULT, call(fd, IOMMU_HWPT_ALLOC, read_only(&cmd, sizeof(cmd))),
		  "the ID cannot be written");
	CHECK_EQ(next_id(fd), free_id, "none of them took an ID");
	CHECK_OK(destroy(fd, nested), "destroy the nested one");
	CHECK_OK(destroy(fd, parent), "none of them holds the parent");
	CHECK_OK(close(fd), "close");
}

static void lifetime(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), other = new_ioas(fd), parent, first, second, i;
	struct mock mock = new_mock(fd, ioas), more;

	parent = new_hwpt(fd, mock.device, other, PARENT);
	first = new_nested(fd, mock.device, parent, 0, 0x1111);
	second = new_nested(fd, mock.device, parent, PASID, 0x2222);
	for (i = 0; i < 4; i++)
		CHECK_OK(check_iotlb(fd, first, i, 0x1111), "cache entry %u", i);
	CHECK_OK(check_iotlb(fd, second, 0, 0x2222), "each has its own");
	CHECK_ERR(EINVAL, check_iotlb(fd, second, 0, 0x1111), "another value");
	CHECK_ERR(EINVAL, check_iotlb(fd, second, 4, 0x2222), "no such entry");
	CHECK_ERR(ENOENT, check_iotlb(fd, parent, 0, 0), "a parent has none");
	CHECK_ERR(ENOENT, check_map(fd, first, 0, NULL, 0), "and the nested one no mappings");

	CHECK_ERR(EBUSY, destroy(fd, parent), "the parent is in use");
	CHECK_OK(mock_replace(fd, mock.stdev, first), "a device moves to the nested one");
	CHECK_ERR(ENOENT, destroy(fd, mock.hwpt), "its old one is gone");
	CHECK_ERR(EBUSY, destroy(fd, first), "the nested one is in use");
	CHECK_OK(mock_replace(fd, mock.stdev, first), "moving there again changes nothing");
	CHECK_OK(mock_replace(fd, mock.stdev, second), "the device moves on");
	CHECK_OK(destroy(fd, first), "the nested one stayed and can go");
	CHECK_OK(mock_flags(fd, second, 0, &more), "a new device right on the nested one");
	CHECK_EQ(more.hwpt, second, "it is on it");
	CHECK_OK(destroy(fd, mock.stdev), "the first device goes");
	CHECK_ERR(EBUSY, destroy(fd, second), "the other is there");
	CHECK_OK(destroy(fd, more.stdev), "it goes too");
	CHECK_OK(destroy(fd, second), "the nested one was not automatic");
	CHECK_OK(destroy(fd, parent), "nor the parent");
	CHECK_OK(destroy(fd, other), "and the IOAS is free");
	CHECK_OK(close(fd), "close");
}

static void left_at_close(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), parent;
	struct mock mock = new_mock(fd, ioas);

	parent = new_hwpt(fd, mock.device, ioas, PARENT);
	NEED(mock_replace(fd, mock.stdev, new_nested(fd, mock.device, parent, 0, 1)) == 0);
	new_nested(fd, mock.device, parent, 0, 1);
	CHECK_OK(close(fd), "close with all of it there");
	fd = open_iommu();
	CHECK_EQ(new_ioas(fd), 1, "another file is empty");
	CHECK_OK(close(fd), "close");
}

int main(void)
{
	checks_begin();
	refused();
	lifetime();
	left_at_close();
	return checks_end();
}
