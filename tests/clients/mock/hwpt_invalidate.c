// SPDX-License-Identifier: MIT
/* HWPT_INVALIDATE: entry_num says on every path how many entries were dealt with. */
#include "hwpt.h"

#define INVALIDATE IOMMU_HWPT_INVALIDATE_DATA_SELFTEST
#define ENTRY sizeof(struct iommu_hwpt_invalidate_selftest)
#define MOST (1U << 19)

static int fd;
static uint32_t parent, nested;

/* Checks the result and what entry_num became. */
static void check(long want, uint32_t done, struct iommu_hwpt_invalidate cmd, const char *text)
{
	long rc;

	cmd.size = sizeof(cmd);
	rc = call(fd, IOMMU_HWPT_INVALIDATE, &cmd);
	check_rc(rc, want, __FILE__, __LINE__, "%s", text);
	CHECK_EQ(cmd.entry_num, done, "%s: entries dealt with", text);
}

static struct iommu_hwpt_invalidate array(const void *entries, uint32_t count)
{
	return (struct iommu_hwpt_invalidate){ .hwpt_id = nested, .data_type = INVALIDATE,
					       .data_uptr = (uintptr_t)entries,
					       .entry_len = ENTRY, .entry_num = count };
}

static void fill(void)
{
	NEED(destroy(fd, nested) == 0);
	nested = new_nested(fd, 3, parent, 0, 0xbeef);
}

static void refused(void)
{
	struct iommu_hwpt_invalidate_selftest entries[2] = { 0 };
	struct iommu_hwpt_invalidate cmd = array(entries, 2);

	cmd.__reserved = 1;
	cmd.hwpt_id = NO_ID;
	cmd.entry_len = 0;
	check(-EOPNOTSUPP, 0, cmd, "__reserved before all else");
	cmd.__reserved = 0;
	check(-EINVAL, 0, cmd, "no length, before the HWPT");
	cmd.entry_len = PAGE + 1;
	check(-EINVAL, 0, cmd, "more than a page");
	cmd.entry_len = PAGE;
	cmd.data_uptr = 0;
	check(-EINVAL, 0, cmd, "no address");
	cmd.data_uptr = (uintptr_t)entries;
	cmd.entry_num = MOST + 1;
	check(-EINVAL, 0, cmd, "too many");
	cmd.entry_num = MOST;
	check(-ENOENT, 0, cmd, "as many as may be, of no HWPT");
	cmd = array(NULL, 0);
	cmd.entry_len = ~0U;
	cmd.hwpt_id = NO_ID;
	check(-ENOENT, 0, cmd, "an empty array needs neither address nor length");
	cmd.hwpt_id = parent;
	check(-EINVAL, 0, cmd, "a parent");
	cmd.hwpt_id = 1;
	check(-EINVAL, 0, cmd, "an IOAS");
	cmd.hwpt_id = 3;
	check(-EINVAL, 0, cmd, "a device");

	cmd = array(entries, 1);
	cmd.data_type++;
	cmd.entry_len = 1;
	check(-EINVAL, 0, cmd, "another type");
	cmd.entry_num = 0;
	check(-EINVAL, 0, cmd, "another type, of an empty array too");
	cmd.data_type--;
	check(0, 0, cmd, "an empty array");
	cmd = array(unmapped(), 1);
	cmd.entry_len = ENTRY - 1;
	check(-EINVAL, 0, cmd, "short entries, before they are read");
	cmd.entry_len = ENTRY + 1;
	check(-EINVAL, 0, cmd, "long entries");
	cmd.entry_len = ENTRY;
	check(-EFAULT, 0, cmd, "entries that are not there");
	cmd.data_uptr = -4ULL;
	check(-EFAULT, 0, cmd, "at the end of all addresses");
	CHECK_OK(check_iotlb(fd, nested, 0, 0xbeef), "nothing was invalidated");
}

static void half_way(void)
{
	struct iommu_hwpt_invalidate_selftest entries[5] = {
		{ .iotlb_id = 1 }, { .iotlb_id = 1 }, { .iotlb_id = 3 }, { .iotlb_id = 2 },
		{ .flags = IOMMU_TEST_INVALIDATE_FLAG_ALL },
	};
	struct iommu_hwpt_invalidate cmd;

	check(0, 2, array(entries, 2), "the same one twice");
	CHECK_OK(check_iotlb(fd, nested, 1, 0), "is invalid");
	CHECK_OK(check_iotlb(fd, nested, 3, 0xbeef), "others are not");
	entries[3].iotlb_id = 4;
	check(-EINVAL, 3, array(entries, 5), "no such cache entry");
	CHECK_OK(check_iotlb(fd, nested, 3, 0), "what came before is done");
	CHECK_OK(check_iotlb(fd, nested, 0, 0xbeef), "what came after is not");
	entries[3].flags = 2;
	check(-EOPNOTSUPP, 3, array(entries, 5), "unknown flags, before the cache entry");
	entries[3] = (struct iommu_hwpt_invalidate_selftest){ .flags = 1, .iotlb_id = 4 };
	check(-EINVAL, 3, array(entries, 5), "no such cache entry, with the flag for all too");
	entries[3].iotlb_id = 3;
	check(0, 4, array(entries, 4), "all");
	CHECK_OK(check_iotlb(fd, nested, 0, 0), "are invalid");

	fill();
	entries[0].iotlb_id = 2;
	check(-EFAULT, 1, array((char *)at_edge(entries, ENTRY), 2), "one of two is there");
	CHECK_OK(check_iotlb(fd, nested, 2, 0), "it is done");
	check(-EFAULT, 1, array((char *)at_edge(entries, ENTRY + 4), 2), "one and a half");
	entries[0].iotlb_id = 9;
	check(-EINVAL, 0, array((char *)at_edge(entries, ENTRY), 2), "a wrong one before the end");

	cmd = array(entries, 1);
	cmd.size = sizeof(cmd);
	entries[0].iotlb_id = 3;
	CHECK_ERR(EFAULT, call(fd, IOMMU_HWPT_INVALIDATE, read_only(&cmd, sizeof(cmd))),
		  "the count cannot be written");
	CHECK_OK(check_iotlb(fd, nested, 3, 0), "done all the same");
	cmd.__reserved = 1;
	CHECK_ERR(EFAULT, call(fd, IOMMU_HWPT_INVALIDATE, read_only(&cmd, sizeof(cmd))),
		  "it comes before every other error");
}

static void many(void)
{
	struct iommu_hwpt_invalidate_selftest *entries;
	uint32_t i;

	entries = mmap(NULL, MOST * ENTRY + PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	NEED(entries != MAP_FAILED);
	for (i = 0; i < MOST; i++)
		entries[i].iotlb_id = 1;
	check(0, 4096, array(entries, 4096), "4096");
	fill();
	entries[20000].iotlb_id = 2;
	check(0, MOST, array(entries, MOST), "as many as may be");
	CHECK_OK(check_iotlb(fd, nested, 1, 0), "the one");
	CHECK_OK(check_iotlb(fd, nested, 2, 0), "and the other");
	CHECK_OK(check_iotlb(fd, nested, 0, 0xbeef), "not the third");
	entries[MOST - 1].flags = 2;
	check(-EOPNOTSUPP, MOST - 1, array(entries, MOST), "the last is wrong");
	NEED(munmap((char *)entries + 50 * PAGE, PAGE) == 0);
	check(-EFAULT, 50 * PAGE / ENTRY, array(entries, MOST), "a hole");
}

int main(void)
{
	struct mock mock;

	checks_begin();
	fd = open_iommu();
	mock = new_mock(fd, new_ioas(fd));
	NEED(mock.device == 3);
	parent = new_hwpt(fd, mock.device, 1, PARENT);
	nested = new_nested(fd, mock.device, parent, 0, 0xbeef);
	refused();
	half_way();
	many();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
