// SPDX-License-Identifier: MIT
/* VIOMMU_ALLOC, and page tables nested in a vIOMMU. */
#include "hwpt.h"

static long viommu(int fd, struct iommu_viommu_alloc cmd, uint32_t *id)
{
	long rc;

	cmd.size = sizeof(cmd);
	rc = call(fd, IOMMU_VIOMMU_ALLOC, &cmd);
	*id = cmd.out_viommu_id;
	return rc;
}

int main(void)
{
	struct iommu_hwpt_selftest data = { .iotlb = 3 };
	struct iommu_viommu_alloc cmd, good;
	uint32_t ioas, parent, plain, id, nested, free_id;
	struct iommu_hwpt_alloc alloc;
	struct mock mock;
	int fd;

	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	mock = new_mock(fd, ioas);
	parent = new_hwpt(fd, mock.device, ioas, PARENT);
	plain = new_hwpt(fd, mock.device, ioas, 0);
	free_id = next_id(fd);
	good = (struct iommu_viommu_alloc){ .type = IOMMU_VIOMMU_TYPE_SELFTEST,
					    .dev_id = mock.device, .hwpt_id = parent };
	cmd = good;
	cmd.flags = 1;
	cmd.dev_id = NO_ID;
	CHECK_ERR(EOPNOTSUPP, viommu(fd, cmd, &id), "flags before all else");
	cmd.flags = 0;
	cmd.type = 0;
	CHECK_ERR(EOPNOTSUPP, viommu(fd, cmd, &id), "no type, before the device");
	cmd.type = 1;
	CHECK_ERR(ENOENT, viommu(fd, cmd, &id), "no such device");
	cmd = good;
	cmd.hwpt_id = NO_ID;
	cmd.type = 1;
	CHECK_ERR(EOPNOTSUPP, viommu(fd, cmd, &id), "another's type, before the HWPT");
	cmd.type = good.type;
	CHECK_ERR(ENOENT, viommu(fd, cmd, &id), "no such HWPT");
	cmd.hwpt_id = ioas;
	CHECK_ERR(ENOENT, viommu(fd, cmd, &id), "an IOAS");
	cmd.hwpt_id = plain;
	CHECK_ERR(EINVAL, viommu(fd, cmd, &id), "no nest parent");
	cmd.hwpt_id = mock.hwpt;
	CHECK_ERR(EINVAL, viommu(fd, cmd, &id), "an automatic one");
	cmd = good;
	cmd.size = sizeof(cmd);
	CHECK_ERR(EFAULT, call(fd, IOMMU_VIOMMU_ALLOC, read_only(&cmd, sizeof(cmd))),
		  "the ID cannot be written");
	CHECK_EQ(next_id(fd), free_id, "none of them took an ID");

	cmd.__reserved = 1;
	CHECK_OK(viommu(fd, cmd, &id), "__reserved is not looked at");
	CHECK_EQ(id, free_id, "its ID");
	CHECK_ERR(EBUSY, destroy(fd, parent), "it holds its parent");
	CHECK_ERR(EINVAL, mock_replace(fd, mock.stdev, id), "nothing to attach to");
	alloc = (struct iommu_hwpt_alloc){ .dev_id = mock.device, .pt_id = id,
					   .data_type = SELFTEST, .data_len = sizeof(data),
					   .data_uptr = (uintptr_t)&data };
	alloc.flags = PARENT;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, alloc), "a parent in a vIOMMU");
	alloc.flags = 0;
	alloc.data_len = 0;
	alloc.data_type = 0;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, alloc), "no data");
	alloc.data_len = sizeof(data);
	alloc.data_type = SELFTEST + 1;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, alloc), "unknown data");
	alloc.data_type = SELFTEST;
	CHECK_OK(alloc_cmd(fd, alloc, &nested), "a page table nested in it");
	CHECK_OK(check_iotlb(fd, nested, 3, 3), "has a cache");
	CHECK_ERR(EBUSY, destroy(fd, id), "and holds the vIOMMU");
	CHECK_ERR(ENOENT, mock_replace(fd, mock.stdev, nested), "the device is not in the vIOMMU");
	CHECK_OK(destroy(fd, nested), "destroy it");
	CHECK_OK(destroy(fd, id), "then the vIOMMU");
	CHECK_OK(destroy(fd, parent), "then the parent");
	CHECK_OK(close(fd), "close");
	return checks_end();
}
