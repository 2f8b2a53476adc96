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

/* ---- DESTROY against DESTROY ------------------------------------------------------------------ */

#define DUELS 200

static pthread_barrier_t start, end;

static void *duel(void *arg)
{
	unsigned int *count = arg, i;
	long rc;

	for (i = 0; i < DUELS; i++) {
		pthread_barrier_wait(&start);
		rc = destroy(fd, target);
		count[rc == 0 ? 0 : rc == -ENOENT || rc == -EBUSY ? 1 : 2]++;
		pthread_barrier_wait(&end);
	}
	return NULL;
}

/* Of all that destroy one object at the same time, one does. */
static void duels(void)
{
	unsigned int counts[RUNNERS][3] = { 0 }, sums[3] = { 0 }, i, left = 0;
	pthread_t threads[RUNNERS];

	NEED(pthread_barrier_init(&start, NULL, RUNNERS + 1) == 0);
	NEED(pthread_barrier_init(&end, NULL, RUNNERS + 1) == 0);
	for (i = 0; i < RUNNERS; i++)
		NEED(pthread_create(&threads[i], NULL, duel, counts[i]) == 0);
	for (i = 0; i < DUELS; i++) {
		target = i & 1 ? new_ioas(fd) : new_hwpt(fd, standing.device, base, 0);
		pthread_barrier_wait(&start);
		pthread_barrier_wait(&end);
		left += destroy(fd, target) != -ENOENT;
	}
	for (i = 0; i < RUNNERS; i++)
		NEED(pthread_join(threads[i], NULL) == 0);
	for (i = 0; i < RUNNERS * 3; i++)
		sums[i % 3] += counts[i / 3][i % 3];
	CHECK_EQ(sums[0], DUELS, "of all who destroy an object at the same time one does");
	CHECK_EQ(sums[2], 0, "the others find it gone, or going");
	CHECK_EQ(left, 0, "and it is gone");
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
	duels();
	take_down();
	return checks_end();
}
