// SPDX-License-Identifier: MIT
/* HWPT_ALLOC on an IOAS: every refusal and its place in the order, and how long one lives. */
#include "hwpt.h"

static void refused(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), bit, id, free_id;
	struct mock mock = new_mock(fd, ioas), plain;
	struct iommu_hwpt_selftest data = { .iotlb = 1 }, odd = { .pagetable_type = 2 };
	struct iommu_hwpt_alloc good = { .dev_id = mock.device, .pt_id = ioas }, cmd;

	NEED(mock_flags(fd, ioas, MOCK_FLAGS_DEVICE_NO_DIRTY, &plain) == 0);
	free_id = next_id(fd);

	cmd = good;
	cmd.__reserved = 1;
	cmd.dev_id = NO_ID;
	cmd.data_len = 1;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "__reserved before all else");
	cmd.__reserved = 0;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "length without a type, before the device");
	cmd.data_len = 0;
	cmd.data_type = SELFTEST;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "type without a length, before the device");
	cmd.data_type = 0;
	cmd.pt_id = NO_ID;
	CHECK_ERR(ENOENT, try_alloc(fd, cmd), "no such device, before pt_id");
	cmd.dev_id = ioas;
	CHECK_ERR(ENOENT, try_alloc(fd, cmd), "an IOAS as the device");
	cmd.dev_id = mock.stdev;
	CHECK_ERR(ENOENT, try_alloc(fd, cmd), "the mock's own ID as the device");
	cmd.dev_id = mock.device;
	cmd.flags = ~0U;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "no such pt_id, before the flags");
	cmd.pt_id = mock.device;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "a device as pt_id");
	cmd.pt_id = mock.stdev;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "a mock device as pt_id");
	cmd = good;
	for (bit = 4; bit < 32; bit++) {
		cmd.flags = 1U << bit;
		CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "flag bit %u", bit);
	}
	cmd.flags = PARENT | FAULT;
	cmd.fault_id = NO_ID;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "a parent with faults, before the fault's ID");
	cmd.flags = FAULT;
	CHECK_ERR(ENOENT, try_alloc(fd, cmd), "no such fault queue");
	cmd.fault_id = ioas;
	CHECK_ERR(ENOENT, try_alloc(fd, cmd), "an IOAS as the fault queue");
	cmd.flags = DIRTY;
	cmd.dev_id = plain.device;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "dirty tracking of a device without it");

	cmd = good;
	cmd.data_type = SELFTEST + 1;
	cmd.data_len = 3;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "unknown data, before its length");
	cmd.data_type = SELFTEST;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "too short, before it is read");
	cmd.data_len = sizeof(data) + 1;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "too long");
	cmd.data_len = ~0U;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "much too long");
	cmd.data_len = sizeof(data);
	CHECK_ERR(EFAULT, try_alloc(fd, cmd), "data at 0");
	cmd.data_uptr = (uintptr_t)unmapped() - 4;
	CHECK_ERR(EFAULT, try_alloc(fd, cmd), "half of the data");
	cmd.data_uptr = ~0ULL;
	CHECK_ERR(EFAULT, try_alloc(fd, cmd), "data at the end of all addresses");
	cmd.data_uptr = (uintptr_t)&odd;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "no such kind of table");

	cmd = good;
	cmd.size = sizeof(cmd);
	CHECK_ERR(EFAULT, call(fd, IOMMU_HWPT_ALLOC, read_only(&cmd, sizeof(cmd))),
		  "the ID cannot be written");
	CHECK_EQ(next_id(fd), free_id, "none of them took an ID");

	cmd.data_type = SELFTEST;
	cmd.data_len = 4;
	cmd.data_uptr = (uintptr_t)at_edge(&data, 4);
	CHECK_OK(alloc_cmd(fd, cmd, &id), "the oldest data there is");
	CHECK_EQ(id, free_id, "its ID");
	CHECK_OK(destroy(fd, id), "destroy it");
	cmd.data_len = 7;
	cmd.data_uptr = (uintptr_t)&data;
	CHECK_OK(alloc_cmd(fd, cmd, &id), "data of 7 bytes");
	CHECK_OK(destroy(fd, id), "destroy it");
	cmd = good;
	cmd.__reserved2 = 1;
	cmd.fault_id = NO_ID;
	CHECK_OK(alloc_cmd(fd, cmd, &id), "__reserved2 and an unused fault_id are not looked at");
	cmd.flags = PARENT | DIRTY | PASID;
	CHECK_OK(alloc_cmd(fd, cmd, &id), "all flags that go together");
	CHECK_OK(close(fd), "close");
}

/* In the IOAS's way, as a new device would be. */
static void does_not_fit(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), other = new_ioas(fd), free_id, id;
	struct mock mock = new_mock(fd, ioas);
	char *page = new_pages(1);

	free_id = next_id(fd);
	NEED(map_at(fd, other, (uintptr_t)page, PAGE, 0) == 0);
	CHECK_ERR(EADDRINUSE, hwpt_alloc(fd, mock.device, other, 0, &id), "out of the aperture");
	NEED(unmap_all(fd, other) == PAGE);
	NEED(map_at(fd, other, (uintptr_t)page, 1024, APERTURE) == 0);
	CHECK_ERR(EADDRINUSE, hwpt_alloc(fd, mock.device, other, 0, &id), "off the alignment");
	NEED(unmap_all(fd, other) == 1024);
	NEED(map_at(fd, other, PAGE, PAGE, APERTURE) == 0);
	CHECK_ERR(EFAULT, hwpt_alloc(fd, mock.device, other, 0, &id), "memory that is not there");
	CHECK_EQ(next_id(fd), free_id, "none of them took an ID");
	CHECK_EQ(iova_alignment(fd, other), 1, "nor left its alignment");
	CHECK_OK(destroy(fd, other), "nor a user of the IOAS");
	CHECK_OK(close(fd), "close");
}

static void lifetime(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), other = new_ioas(fd), first, second, id;
	struct mock mock = new_mock(fd, ioas);
	char *pages = new_pages(2);

	NEED(map_at(fd, other, (uintptr_t)pages, PAGE, APERTURE) == 0);
	first = new_hwpt(fd, mock.device, other, 0);
	second = new_hwpt(fd, mock.device, other, PASID);
	CHECK_EQ(iova_alignment(fd, other), MOCK_PAGE, "the IOAS has its alignment");
	CHECK_OK(check_map(fd, first, APERTURE, pages, PAGE), "it shows what was mapped before");
	NEED(map_at(fd, other, (uintptr_t)pages + PAGE, PAGE, APERTURE + PAGE) == 0);
	CHECK_OK(check_map(fd, first, APERTURE, pages, 2 * PAGE), "and what is mapped later");
	CHECK_OK(check_map(fd, second, APERTURE, pages, 2 * PAGE), "the other one too");
	CHECK_ERR(EBUSY, destroy(fd, other), "the IOAS is in use");
	CHECK_OK(mock_replace(fd, mock.stdev, first), "a device moves to it");
	CHECK_ERR(ENOENT, destroy(fd, mock.hwpt), "the automatic one is gone");
	CHECK_ERR(EBUSY, destroy(fd, first), "destroy it in use");
	CHECK_OK(mock_replace(fd, mock.stdev, other), "the device moves to the IOAS");
	CHECK_OK(check_map(fd, first, APERTURE, pages, PAGE), "it stays when its last device goes");
	CHECK_ERR(ENOENT, check_map(fd, ioas, APERTURE, pages, PAGE), "an IOAS is none");
	CHECK_OK(destroy(fd, first), "destroy it");
	CHECK_ERR(ENOENT, destroy(fd, first), "it is gone");
	id = new_hwpt(fd, mock.device, ioas, 0);
	CHECK_EQ(id, first, "its ID is the lowest free one");
	CHECK_OK(destroy(fd, mock.stdev), "the device it was made for goes");
	CHECK_OK(check_map(fd, second, APERTURE, pages, PAGE), "the page tables stay");
	CHECK_OK(destroy(fd, second), "destroy it");
	CHECK_EQ(iova_alignment(fd, other), 1, "the last one takes the alignment with it");
	CHECK_OK(destroy(fd, other), "the IOAS is free");
	CHECK_OK(close(fd), "close with one left");
}

/* A device that comes to an IOAS never gets one that was made by hand. */
static void never_picked(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), other = new_ioas(fd), by_hand;
	struct mock mock = new_mock(fd, ioas), more;

	by_hand = new_hwpt(fd, mock.device, other, 0);
	more = new_mock(fd, other);
	CHECK_TRUE(more.hwpt != by_hand, "an automatic one of its own");
	CHECK_OK(mock_flags(fd, by_hand, 0, &more), "a new device right on the one by hand");
	CHECK_EQ(more.hwpt, by_hand, "is on it");
	CHECK_OK(destroy(fd, more.stdev), "and goes");
	CHECK_OK(destroy(fd, by_hand), "which does not take it along");
	CHECK_OK(close(fd), "close");
}

static void kinds(void)
{
	struct iommu_hwpt_selftest huge = { .pagetable_type = MOCK_IOMMUPT_HUGE };
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), other = new_ioas(fd), count = 2, hwpt, tracked;
	struct mock mock = new_mock(fd, ioas), plain;
	struct iommu_iova_range ranges[2];
	uint64_t alignment;

	CHECK_OK(hwpt_alloc_fault(fd, mock.device, other, 0, 0, &huge, &hwpt), "huge pages");
	NEED(iova_ranges(fd, other, ranges, &count, &alignment) == 0);
	CHECK_EQ(count, 1, "one range");
	CHECK_EQ(ranges[0].start, 0, "from 0");
	CHECK_EQ(ranges[0].last, (1ULL << 38) - 1, "as far as three levels go");
	CHECK_EQ(alignment, PAGE, "its smallest page");
	CHECK_OK(mock_replace(fd, mock.stdev, hwpt), "attach to it");

	NEED(mock_flags(fd, ioas, MOCK_FLAGS_DEVICE_NO_DIRTY, &plain) == 0);
	tracked = new_hwpt(fd, mock.device, ioas, DIRTY);
	CHECK_ERR(EINVAL, mock_replace(fd, plain.stdev, tracked), "replace without dirty tracking");
	CHECK_ERR(EINVAL, mock_flags(fd, tracked, MOCK_FLAGS_DEVICE_NO_DIRTY, &plain),
		  "attach without it");
	CHECK_OK(mock_replace(fd, mock.stdev, tracked), "with it");
	CHECK_OK(close(fd), "close");
}

int main(void)
{
	checks_begin();
	refused();
	does_not_fit();
	lifetime();
	never_picked();
	kinds();
	return checks_end();
}
