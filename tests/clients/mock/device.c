// SPDX-License-Identifier: MIT
/*
 * Mock devices: which IDs they get and in which order, what a failed attach leaves (nothing), what
 * can be destroyed and what goes by itself.
 */
#include "mock.h"

static int fd;

/* The next ID that is given out, without keeping it. */
static uint32_t next_id(void)
{
	uint32_t id = new_ioas(fd);

	NEED(destroy(fd, id) == 0);
	return id;
}

static void creation(void)
{
	struct iommu_test_cmd cmd = { .size = sizeof(cmd), .op = IOMMU_TEST_OP_MOCK_DOMAIN };
	uint32_t ioas = new_ioas(fd), other = new_ioas(fd);
	struct mock a, b, c;
	unsigned int bit;

	CHECK_EQ(ioas, 1, "IOAS 1");
	for (bit = 0; bit < 32; bit++) {
		uint32_t flags = 1U << bit;

		if (flags == MOCK_FLAGS_DEVICE_NO_DIRTY || flags == MOCK_FLAGS_DEVICE_PASID)
			continue;
		CHECK_ERR(EINVAL, mock_flags(fd, NO_ID, flags, &a), "unknown flag bit %u", bit);
	}
	CHECK_ERR(ENOENT, try_mock(fd, NO_ID), "no such object");
	CHECK_ERR(ENOENT, try_mock(fd, 0), "object 0");
	CHECK_EQ(next_id(), 3, "no ID was taken");
	cmd.id = ioas;
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, read_only(&cmd, sizeof(cmd))),
		  "the struct cannot be written");
	CHECK_EQ(next_id(), 3, "no ID was taken");
	CHECK_EQ(iova_alignment(fd, ioas), 1, "and no page table stands");

	CHECK_OK(mock_domain(fd, ioas, &a), "a device");
	CHECK_EQ(a.stdev, 3, "itself");
	CHECK_EQ(a.idev, 4, "what it is bound as");
	CHECK_EQ(a.hwpt, 5, "its page table");
	CHECK_OK(mock_domain(fd, ioas, &b), "a second on the same IOAS");
	CHECK_EQ(b.stdev, 6, "itself");
	CHECK_EQ(b.idev, 7, "what it is bound as");
	CHECK_EQ(b.hwpt, 5, "the same page table");
	CHECK_OK(mock_domain(fd, a.hwpt, &c), "a third, by the page table's ID");
	CHECK_EQ(c.hwpt, 5, "the same");
	CHECK_EQ(c.stdev, 8, "itself");
	CHECK_ERR(EINVAL, try_mock(fd, a.stdev), "on a device");
	CHECK_ERR(EINVAL, try_mock(fd, a.idev), "on what it is bound as");
	CHECK_EQ(next_id(), 10, "they took no ID");
	cmd.id = other;
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, read_only(&cmd, sizeof(cmd))),
		  "on another IOAS, the struct cannot be written");
	cmd.id = ioas;
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, read_only(&cmd, sizeof(cmd))),
		  "on the same");
	CHECK_EQ(next_id(), 10, "they took no ID");
	CHECK_OK(destroy(fd, other), "the other IOAS is unused");

	CHECK_ERR(EBUSY, destroy(fd, ioas), "the IOAS is in use");
	CHECK_ERR(EBUSY, destroy(fd, a.hwpt), "the page table");
	CHECK_ERR(EBUSY, destroy(fd, a.idev), "what a device is bound as");
	CHECK_OK(destroy(fd, a.stdev), "unplug the first");
	CHECK_ERR(ENOENT, destroy(fd, a.stdev), "it is gone");
	CHECK_ERR(ENOENT, destroy(fd, a.idev), "and what it was bound as");
	CHECK_ERR(EBUSY, destroy(fd, a.hwpt), "the page table is not");
	CHECK_OK(destroy(fd, c.stdev), "unplug the third");
	CHECK_OK(destroy(fd, b.stdev), "unplug the last");
	CHECK_ERR(ENOENT, destroy(fd, a.hwpt), "the page table went with it");
	CHECK_OK(destroy(fd, ioas), "the IOAS can go");
	CHECK_EQ(next_id(), 1, "all IDs are free");
}

static void replacing(void)
{
	struct iommu_test_cmd cmd = { .size = sizeof(cmd),
				      .op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE };
	uint32_t one = new_ioas(fd), two = new_ioas(fd), pt = NO_ID;
	struct mock a, b;

	CHECK_ERR(ENOENT, mock_replace(fd, NO_ID, &pt), "no such device");
	a = new_mock(fd, one);
	CHECK_ERR(ENOENT, mock_replace(fd, a.idev, &pt), "what it is bound as is not it");
	CHECK_ERR(ENOENT, mock_replace(fd, a.stdev, &pt), "no such IOAS");
	CHECK_ERR(EINVAL, try_replace(fd, a.stdev, a.stdev), "by a device");
	CHECK_ERR(EINVAL, try_replace(fd, a.stdev, a.idev), "by what it is bound as");
	CHECK_EQ(next_id(), 6, "they took no ID");
	pt = one;
	CHECK_OK(mock_replace(fd, a.stdev, &pt), "by the same IOAS");
	CHECK_EQ(pt, a.hwpt, "the same page table");
	CHECK_OK(mock_replace(fd, a.stdev, &pt), "by the same page table");
	CHECK_EQ(pt, a.hwpt, "the same");
	pt = two;
	CHECK_OK(mock_replace(fd, a.stdev, &pt), "by the other IOAS");
	CHECK_EQ(pt, 6, "a new page table, made before the old one went");
	CHECK_EQ(next_id(), 5, "which went");
	CHECK_ERR(ENOENT, destroy(fd, a.hwpt), "by itself");
	CHECK_OK(destroy(fd, one), "the first IOAS is free");
	CHECK_ERR(EBUSY, destroy(fd, two), "the second is not");
	one = new_ioas(fd);
	CHECK_EQ(one, 1, "an IOAS");
	b = new_mock(fd, one);
	CHECK_EQ(b.stdev, 5, "another device");
	CHECK_EQ(b.hwpt, 8, "with its page table");
	pt = b.hwpt;
	CHECK_OK(mock_replace(fd, a.stdev, &pt), "the first device, by that page table's ID");
	CHECK_EQ(pt, b.hwpt, "they share it");
	CHECK_ERR(ENOENT, destroy(fd, 6), "its own went");
	CHECK_OK(destroy(fd, two), "and the second IOAS is free");
	CHECK_OK(destroy(fd, b.stdev), "unplug the second device");
	CHECK_ERR(EBUSY, destroy(fd, b.hwpt), "its page table stays, for the first");
	cmd.id = a.stdev;
	cmd.mock_domain_replace.pt_id = two = new_ioas(fd);
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, read_only(&cmd, sizeof(cmd))),
		  "the struct cannot be written");
	CHECK_OK(destroy(fd, one), "but it was replaced");
	CHECK_OK(destroy(fd, a.stdev), "unplug the first device");
	CHECK_OK(destroy(fd, two), "destroy the IOAS");
	CHECK_EQ(next_id(), 1, "all IDs are free");
}

/* What cannot be attached to leaves the device where it was. */
static void refused(void)
{
	uint32_t good = new_ioas(fd), bad = new_ioas(fd), pt;
	char *memory = new_pages(4), *hole = new_pages(4);
	struct mock a;

	memset(memory, 1, 4 * PAGE);
	NEED(munmap(hole + 2 * PAGE, PAGE) == 0);
	NEED(map_at(fd, good, (uintptr_t)memory, 4 * PAGE, BASE) == 0);
	NEED(map_at(fd, bad, (uintptr_t)memory, 4 * PAGE, BASE) == 0);
	NEED(map_at(fd, bad, (uintptr_t)hole, 4 * PAGE, BASE + MIB) == 0);
	CHECK_ERR(EFAULT, try_mock(fd, bad), "an IOAS with an area without memory");
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 0), "nothing stays pinned");
	CHECK_OK(check_refs(fd, hole, 2 * PAGE, 0), "of either area");
	CHECK_EQ(next_id(), 3, "no ID was taken");
	CHECK_EQ(iova_alignment(fd, bad), 1, "the alignment is as it was");
	a = new_mock(fd, good);
	CHECK_ERR(EFAULT, try_replace(fd, a.stdev, bad), "replace by it");
	CHECK_OK(check_map(fd, a.hwpt, BASE, 4 * PAGE, memory), "the old one is in place");
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 1), "pinned once");
	CHECK_EQ(next_id(), 6, "no ID was taken");
	CHECK_OK(unmap_at(fd, bad, BASE + MIB, 4 * PAGE), "without that area");
	pt = bad;
	CHECK_OK(mock_replace(fd, a.stdev, &pt), "it can be");
	CHECK_OK(check_map(fd, pt, BASE, 4 * PAGE, memory), "the new one shows it");
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 1), "pinned once");
	CHECK_OK(destroy(fd, a.stdev), "unplug");
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 0), "free");
	CHECK_OK(destroy(fd, good), "destroy");
	CHECK_OK(destroy(fd, bad), "destroy");
	NEED(munmap(memory, 4 * PAGE) == 0);
}

/* Two devices on two IOASes: each page is pinned for each. */
static void two_tables(void)
{
	uint32_t one = new_ioas(fd), two = new_ioas(fd);
	char *memory = new_pages(4);
	struct mock a, b;

	NEED(map_at(fd, one, (uintptr_t)memory, 4 * PAGE, BASE) == 0);
	NEED(copy_at(fd, two, BASE + MIB, one, BASE + PAGE, 2 * PAGE) == 0);
	NEED(map_at(fd, two, (uintptr_t)memory, PAGE, BASE) == 0);
	a = new_mock(fd, one);
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 1), "a device on one");
	b = new_mock(fd, two);
	CHECK_OK(check_refs(fd, memory, PAGE, 2), "page 0 has two MAPs");
	CHECK_OK(check_refs(fd, memory + PAGE, 3 * PAGE, 1), "the others one, and a copy");
	CHECK_OK(check_map(fd, b.hwpt, BASE + MIB, 2 * PAGE, memory + PAGE), "the copy");
	CHECK_OK(destroy(fd, a.stdev), "unplug the first");
	CHECK_OK(check_refs(fd, memory, 3 * PAGE, 1), "the second holds what it shows");
	CHECK_OK(check_refs(fd, memory + 3 * PAGE, PAGE, 0), "and nothing else");
	CHECK_OK(destroy(fd, b.stdev), "unplug the second");
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 0), "all are free");
	CHECK_OK(destroy(fd, one), "destroy");
	CHECK_OK(destroy(fd, two), "destroy");
	NEED(munmap(memory, 4 * PAGE) == 0);
}

static void checks_of_the_mock(void)
{
	uint32_t ioas = new_ioas(fd), i;
	char *memory = new_pages(4);
	struct mock a;

	NEED(map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, BASE) == 0);
	CHECK_ERR(ENOENT, check_map(fd, ioas, BASE, 0, memory), "MD_CHECK_MAP of an IOAS");
	CHECK_ERR(ENOENT, check_map(fd, NO_ID, BASE, 0, memory), "of nothing");
	CHECK_ERR(ENOENT, check_cache(fd, ioas, 0, 0), "DEV_CHECK_CACHE of an IOAS");
	a = new_mock(fd, ioas);
	CHECK_OK(check_map(fd, a.hwpt, BASE, 2 * PAGE, memory), "MD_CHECK_MAP");
	CHECK_OK(check_map(fd, a.hwpt, BASE + HALF, HALF, memory + HALF), "of half a page");
	CHECK_OK(check_map(fd, a.hwpt, BASE, 0, memory + PAGE), "of nothing");
	CHECK_ERR(EINVAL, check_map(fd, a.hwpt, BASE, PAGE, memory + PAGE), "of another page");
	CHECK_ERR(EINVAL, check_map(fd, a.hwpt, BASE, HALF, memory + HALF), "of another half");
	CHECK_ERR(EINVAL, check_map(fd, a.hwpt, BASE, 3 * PAGE, memory), "beyond the area");
	CHECK_ERR(EINVAL, check_map(fd, a.hwpt, BASE - PAGE, PAGE, memory), "before it");
	CHECK_ERR(EFAULT, check_map(fd, a.hwpt, BASE, 2 * PAGE, memory + 4 * PAGE), "no memory");
	CHECK_ERR(EINVAL, check_map(fd, a.hwpt, BASE + 1, PAGE, memory), "IOVA not aligned");
	CHECK_ERR(EINVAL, check_map(fd, a.hwpt, BASE, PAGE + 1, memory), "length not aligned");
	CHECK_ERR(EINVAL, check_map(fd, a.hwpt, BASE, PAGE, memory + 1), "memory not aligned");
	CHECK_ERR(EINVAL, check_map(fd, a.hwpt, BASE, -PAGE, memory), "beyond 2^64");
	CHECK_ERR(EINVAL, check_refs(fd, memory + HALF, PAGE, 1), "MD_CHECK_REFS of half a page");
	CHECK_ERR(EINVAL, check_refs(fd, memory, HALF, 1), "length not aligned");
	CHECK_ERR(EINVAL, check_refs(fd, memory, -(uint64_t)PAGE, 1), "beyond 2^64");
	CHECK_OK(check_refs(fd, memory + 4 * PAGE, 0, 1), "of nothing, where nothing is");
	CHECK_ERR(EFAULT, check_refs(fd, memory + 4 * PAGE, PAGE, 0), "no memory");
	CHECK_ERR(EIO, check_refs(fd, memory, PAGE, 0), "a page that is pinned");
	CHECK_OK(check_refs(fd, memory, 2 * PAGE, 1), "once");
	CHECK_OK(check_refs(fd, memory + 2 * PAGE, 2 * PAGE, 0), "pages that are not");
	for (i = 0; i < MOCK_DEV_CACHE_NUM; i++)
		CHECK_OK(check_cache(fd, a.idev, i, IOMMU_TEST_DEV_CACHE_DEFAULT), "slot %u", i);
	CHECK_ERR(EINVAL, check_cache(fd, a.idev, 4, IOMMU_TEST_DEV_CACHE_DEFAULT), "no slot 4");
	CHECK_ERR(EINVAL, check_cache(fd, a.idev, 0, 0), "another value");
	CHECK_ERR(ENOENT, check_cache(fd, a.stdev, 0, IOMMU_TEST_DEV_CACHE_DEFAULT), "of itself");
	CHECK_ERR(EINVAL, memory_limit(fd, 11), "a limit below 12");
	CHECK_OK(memory_limit(fd, 12), "12");
	CHECK_OK(memory_limit(fd, 65536), "65536");
	CHECK_OK(destroy(fd, a.stdev), "unplug");
	CHECK_OK(destroy(fd, ioas), "destroy");
}

/* The command itself: its size, and operations there are not. */
static void command(void)
{
	struct iommu_test_cmd cmd = { .op = IOMMU_TEST_OP_MD_CHECK_REFS };
	union {
		struct iommu_test_cmd cmd;
		char bytes[2 * sizeof(cmd)];
	} longer = { .cmd = cmd };
	static const uint32_t no_ops[] = { 0, 24, 99, UINT32_MAX };
	unsigned int i;

	cmd.size = offsetof(struct iommu_test_cmd, last) + 4;
	CHECK_OK(call(fd, IOMMU_TEST_CMD, &cmd), "the shortest");
	cmd.size--;
	CHECK_ERR(EINVAL, call(fd, IOMMU_TEST_CMD, &cmd), "a byte less");
	longer.cmd.size = sizeof(longer);
	CHECK_OK(call(fd, IOMMU_TEST_CMD, &longer), "longer, with zeros");
	longer.bytes[sizeof(longer) - 1] = 1;
	CHECK_ERR(E2BIG, call(fd, IOMMU_TEST_CMD, &longer), "with something else");
	cmd.size = sizeof(cmd);
	CHECK_OK(call(fd, IOMMU_TEST_CMD, at_edge(&cmd, sizeof(cmd))), "at the end of a page");
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, at_edge(&cmd, sizeof(cmd) - 1)), "beyond it");
	for (i = 0; i < ARRAY_LEN(no_ops); i++) {
		cmd.op = no_ops[i];
		CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_TEST_CMD, &cmd), "operation %u", cmd.op);
	}
}

/* All there is goes with the open file: devices in a state nobody would leave them in. */
static void closing(void)
{
	uint32_t one = new_ioas(fd), two = new_ioas(fd);
	char *memory = new_pages(8);
	int other = open_iommu();
	struct mock a, b;

	NEED(map_at(fd, one, (uintptr_t)memory, 4 * PAGE, BASE) == 0);
	NEED(map_at(fd, two, (uintptr_t)memory + 4 * PAGE, 4 * PAGE, BASE) == 0);
	NEED(copy_at(fd, two, BASE + MIB, one, BASE, 4 * PAGE) == 0);
	a = new_mock(fd, one);
	b = new_mock(fd, two);
	NEED(try_replace(fd, a.stdev, b.hwpt) == 0);
	NEED(try_replace(fd, b.stdev, one) == 0);
	CHECK_OK(check_refs(other, memory, 8 * PAGE, 1), "another open file counts the same pins");
	CHECK_OK(close(fd), "close all");
	CHECK_OK(close(other), "close");
	fd = open_iommu();
	CHECK_OK(check_refs(fd, memory, 8 * PAGE, 0), "nothing is pinned");
	CHECK_EQ(next_id(), 1, "a new file is empty");
	NEED(munmap(memory, 8 * PAGE) == 0);
}

#define MANY 64

/* The kernel puts off what a last close takes down, but not beyond what this process does next. */
static void many_files(void)
{
	char *memory = new_pages(4);
	int fds[MANY], i, wrong = 0;
	uint32_t ioas;

	memset(memory, 1, 4 * PAGE);
	for (i = 0; i < MANY; i++) {
		fds[i] = open_iommu();
		ioas = new_ioas(fds[i]);
		wrong += map_at(fds[i], ioas, (uintptr_t)memory, 4 * PAGE, BASE) != 0;
		wrong += try_mock(fds[i], ioas) != 0;
	}
	CHECK_EQ(wrong, 0, "as many files as devices");
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, MANY), "each pins the pages");
	for (i = 0; i < MANY; i++)
		wrong += close(fds[i]) != 0;
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 0), "all closed, none does");
	CHECK_EQ(wrong, 0, "close");
}

int main(void)
{
	checks_begin();
	fd = open_iommu();
	creation();
	replacing();
	refused();
	two_tables();
	checks_of_the_mock();
	command();
	closing();
	many_files();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
