// SPDX-License-Identifier: MIT
/*
 * DESTROY against every other command on the same object, from 8 threads. Nobody ever acts on
 * another object than the one that was named, and all can be destroyed afterwards.
 */
#include "race_device.h"
#include "race_viommu.h"

static void set_up(void)
{
	unsigned int i;

	fd = open_iommu();
	memfd = memfd_create("race", MFD_CLOEXEC);
	NEED(memfd >= 0 && ftruncate(memfd, PAGE) == 0);
	page = new_pages(1);
	base = new_ioas(fd);
	NEED(map_at(fd, base, (uintptr_t)page, PAGE, APERTURE) == 0);
	standing = new_mock(fd, base);
	parent = new_hwpt(fd, standing.device, base, PARENT);
	NEED(viommu_alloc(fd, standing.device, parent, NULL, 0, &viommu) == 0);
	for_pasids = new_hwpt(fd, standing.device, base, PASID);
	for (i = 0; i < RUNNERS; i++) {
		struct iommu_test_cmd cmd = { .id = base };

		NEED(test_cmd(fd, IOMMU_TEST_OP_CREATE_ACCESS, &cmd) == 0);
		runners[i].mock = new_mock(fd, base);
		NEED(mock_flags(fd, for_pasids, MOCK_FLAGS_DEVICE_PASID, &runners[i].pasids) == 0);
		runners[i].number = i;
		runners[i].access = (int)cmd.create_access.out_access_fd;
		runners[i].memory = new_pages(1);
	}
}

/* All that stands can be destroyed: nothing is in use by anything that has gone. */
static void take_down(void)
{
	unsigned int i;

	for (i = 0; i < RUNNERS; i++) {
		CHECK_OK(close(runners[i].access), "access %u", i);
		CHECK_OK(destroy(fd, runners[i].mock.stdev), "device %u", i);
		CHECK_OK(destroy(fd, runners[i].pasids.stdev), "device with PASIDs %u", i);
	}
	CHECK_OK(destroy(fd, for_pasids), "the HWPT for PASIDs");
	CHECK_OK(destroy(fd, viommu), "the vIOMMU");
	CHECK_OK(destroy(fd, parent), "the nest parent");
	CHECK_OK(destroy(fd, standing.stdev), "the device");
	CHECK_EQ(unmap_all(fd, base), PAGE, "only what was mapped at the start is");
	CHECK_OK(destroy(fd, base), "the IOAS");
	NEED(close(fd) == 0 && close(memfd) == 0);
}

int main(void)
{
	uint32_t vdevice;

	checks_begin();
	set_up();
	race(&ioas_victim);
	race(&hwpt_victim);
	race(&pasid_victim);
	race(&nested_victim);
	race(&fault_victim);
	race(&device_victim);
	race(&viommu_victim);
	in_viommu = new_nested(fd, standing.device, viommu, 0, IOTLB);
	race(&vdevice_victim);
	NEED(vdevice_alloc(fd, viommu, standing.device, 7, &vdevice) == 0);
	NEED(mock_replace(fd, standing.stdev, in_viommu) == 0);
	race(&veventq_victim);
	NEED(mock_replace(fd, standing.stdev, base) == 0);
	NEED(destroy(fd, vdevice) == 0 && destroy(fd, in_viommu) == 0);
	race(&hw_queue_victim);
	take_down();
	return checks_end();
}
