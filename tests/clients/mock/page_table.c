// SPDX-License-Identifier: MIT
/*
 * What a page table adds to an IOAS's rules: it reaches some IOVAs only, has pages of 2 KiB, and
 * memory must be there when it is mapped. What cannot be shown is refused whole.
 */
#include "mock.h"

static int fd;
static uint32_t ioas;

static void ranges_are(uint32_t count, uint64_t start, uint64_t last, uint64_t alignment)
{
	struct iommu_iova_range ranges[4];
	uint32_t room = ARRAY_LEN(ranges);
	uint64_t found;

	CHECK_OK(iova_ranges(fd, ioas, ranges, &room, &found), "IOVA_RANGES");
	CHECK_EQ(room, count, "ranges");
	CHECK_EQ(ranges[0].start, start, "the first begins");
	CHECK_EQ(ranges[0].last, last, "and ends");
	CHECK_EQ(found, alignment, "alignment");
}

static void apertures(void)
{
	struct iommu_iova_range all = { BASE, TOP - 1 }, low = { 0, BASE }, high = { TOP - 1, TOP };
	char *memory = new_pages(2);
	uint64_t iova;
	struct mock mock;

	ranges_are(1, 0, U64_MAX, 1);
	mock = new_mock(fd, ioas);
	ranges_are(1, BASE, TOP - 1, HALF);
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE - PAGE), "below");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, BASE - PAGE), "half below");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory, PAGE, TOP), "above");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, TOP - PAGE), "half above");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, PAGE, TOP - PAGE), "the last page");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, HALF, BASE), "the first half page");
	CHECK_OK(map_any(fd, ioas, (uintptr_t)memory, HALF, &iova), "where it likes");
	CHECK_EQ(iova, BASE + HALF, "within its reach");
	CHECK_OK(map_any(fd, ioas, (uintptr_t)memory + HALF, HALF, &iova), "the other half");
	CHECK_EQ(iova, BASE + 3 * HALF, "as far into a page as the memory");
	CHECK_ERR(EADDRINUSE, allow_iovas(fd, ioas, &low, 1), "allow what it cannot reach");
	CHECK_ERR(EADDRINUSE, allow_iovas(fd, ioas, &high, 1), "above");
	CHECK_OK(allow_iovas(fd, ioas, &all, 1), "all it can");
	CHECK_OK(allow_iovas(fd, ioas, NULL, 0), "no limits");
	unmap_all(fd, ioas);
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	ranges_are(1, 0, U64_MAX, 1);
	CHECK_OK(allow_iovas(fd, ioas, &low, 1), "without it everything is allowed");
	CHECK_ERR(EADDRINUSE, try_mock(fd, ioas), "then it cannot come");
	CHECK_OK(allow_iovas(fd, ioas, &all, 1), "within its reach");
	mock = new_mock(fd, ioas);
	CHECK_OK(allow_iovas(fd, ioas, NULL, 0), "no limits");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	NEED(munmap(memory, 2 * PAGE) == 0);
}

/* Areas that stand where a page table cannot show them keep the device out. */
static void in_the_way(void)
{
	static const struct {
		uint64_t va, length, iova;
		const char *text;
	} odd[] = {
		{ 0, PAGE, BASE - PAGE, "an area below its reach" },
		{ 0, PAGE, 0, "at 0" },
		{ 0, PAGE, TOP, "above" },
		{ 0, PAGE - 1, BASE, "an odd length" },
		{ 1, PAGE, BASE, "an odd address" },
		{ 0, PAGE, BASE + 1, "an odd IOVA" },
		{ 0, 512, BASE, "512 bytes" },
	};
	char *memory = new_pages(3);
	struct mock mock;
	uint32_t other = new_ioas(fd);
	unsigned int i;

	mock = new_mock(fd, other);
	for (i = 0; i < ARRAY_LEN(odd); i++) {
		NEED(map_at(fd, ioas, (uintptr_t)memory + odd[i].va, odd[i].length,
			    odd[i].iova) == 0);
		CHECK_ERR(EADDRINUSE, try_mock(fd, ioas), "%s", odd[i].text);
		CHECK_ERR(EADDRINUSE, try_replace(fd, mock.stdev, ioas), "and by a replace");
		CHECK_EQ(unmap_all(fd, ioas), odd[i].length, "it is there");
	}
	ranges_are(1, 0, U64_MAX, 1);
	CHECK_OK(check_refs(fd, memory, 3 * PAGE, 0), "nothing was pinned");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory + HALF, PAGE, BASE + HALF), "halves");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory + HALF, 3 * HALF, BASE + 2 * PAGE), "others");
	CHECK_OK(try_replace(fd, mock.stdev, ioas), "are no matter");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	CHECK_EQ(unmap_all(fd, ioas), PAGE + 3 * HALF, "unmap");
	CHECK_OK(destroy(fd, other), "destroy");
	NEED(munmap(memory, 3 * PAGE) == 0);
}

/* Every alignment there is, each checked in the page table, half page by half page. */
static void alignments(void)
{
	char *memory = new_pages(8);
	uint64_t va, length, iova, wrong = 0;
	struct mock mock = new_mock(fd, ioas);

	for (va = 0; va < 4 * HALF; va += HALF) {
		for (length = HALF; length <= 8 * HALF; length += HALF) {
			for (iova = BASE; iova <= BASE + 3 * HALF; iova += HALF) {
				wrong += map_at(fd, ioas, (uintptr_t)memory + va, length,
						iova) != 0;
				wrong += check_map(fd, mock.hwpt, iova, length, memory + va) != 0;
				wrong += check_refs(fd, memory + va / PAGE * PAGE,
						    (va + length + PAGE - 1) / PAGE * PAGE -
						    va / PAGE * PAGE, 1) != 0;
				wrong += check_map(fd, mock.hwpt, iova + length, HALF, memory) !=
					-EINVAL;
				wrong += unmap_at(fd, ioas, iova, length) != 0;
			}
		}
	}
	CHECK_EQ(wrong, 0, "half pages at all places");
	CHECK_OK(check_refs(fd, memory, 8 * PAGE, 0), "none is pinned");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE + 1), "an odd IOVA");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory + 1, PAGE, BASE), "an odd address");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory, PAGE + 1, BASE), "an odd length");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE), "an area");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory, 1, BASE), "the length comes first");
	CHECK_ERR(EEXIST, map_at(fd, ioas, (uintptr_t)memory + 1, PAGE, BASE),
		  "then what is there, then the address");
	CHECK_ERR(EINVAL, copy_at(fd, ioas, BASE + MIB, ioas, BASE, 1), "a copy of a byte");
	CHECK_ERR(EINVAL, copy_at(fd, ioas, BASE + MIB, ioas, BASE + 1, HALF), "from within");
	CHECK_OK(copy_at(fd, ioas, BASE + MIB, ioas, BASE + HALF, HALF), "a half page");
	CHECK_OK(check_map(fd, mock.hwpt, BASE + MIB, HALF, memory + HALF), "it shows");
	CHECK_OK(check_refs(fd, memory, PAGE, 1), "pinned once");
	CHECK_OK(unmap_at(fd, ioas, BASE, PAGE), "unmap the original");
	CHECK_OK(check_refs(fd, memory, PAGE, 1), "the copy has it");
	unmap_all(fd, ioas);
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	NEED(munmap(memory, 8 * PAGE) == 0);
}

/* With a page table MAP pins, or fails and leaves nothing. */
static void no_memory(void)
{
	char *memory = new_pages(4), *read_only_page, *kernel = (char *)0xffff888000000000;
	struct mock mock = new_mock(fd, ioas);
	uint64_t iova = BASE, chosen;
	int file = memfd_create("short", MFD_CLOEXEC);

	memset(memory, 1, 4 * PAGE);
	CHECK_ERR(EFAULT, map_at(fd, ioas, (uintptr_t)memory, 5 * PAGE, BASE), "one page too far");
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 0), "the others are not pinned");
	CHECK_ERR(EINVAL, check_map(fd, mock.hwpt, BASE, PAGE, memory), "nor shown");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, 4 * PAGE, BASE), "the IOVA is free");
	CHECK_OK(unmap_at(fd, ioas, BASE, 4 * PAGE), "unmap");
	CHECK_ERR(EFAULT, map_at(fd, ioas, (uintptr_t)memory, 8 * MIB, BASE), "far too far");
	CHECK_ERR(EFAULT, map_at(fd, ioas, (uintptr_t)kernel, PAGE, BASE), "the kernel's memory");
	CHECK_ERR(EFAULT, map_at(fd, ioas, 0, PAGE, BASE), "page 0");
	CHECK_ERR(EFAULT, map_any(fd, ioas, (uintptr_t)memory, 5 * PAGE, &chosen), "chosen IOVA");
	NEED(mprotect(memory + PAGE, PAGE, PROT_READ) == 0);
	read_only_page = memory + PAGE;
	CHECK_ERR(EFAULT, map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, BASE), "a read-only page");
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 0), "nothing is pinned");
	CHECK_OK(map_flags(fd, ioas, FIXED | R, (uintptr_t)memory, 2 * PAGE, &iova), "to read");
	CHECK_OK(check_map(fd, mock.hwpt, BASE, 2 * PAGE, memory), "it shows");
	CHECK_OK(unmap_at(fd, ioas, BASE, 2 * PAGE), "unmap");
	NEED(mprotect(read_only_page, PAGE, PROT_NONE) == 0);
	CHECK_ERR(EFAULT, map_flags(fd, ioas, FIXED | R, (uintptr_t)memory, 2 * PAGE, &iova),
		  "PROT_NONE");
	NEED(mprotect(read_only_page, PAGE, PROT_WRITE) == 0);
	CHECK_OK(map_flags(fd, ioas, FIXED | W, (uintptr_t)memory, 2 * PAGE, &iova),
		 "PROT_WRITE, to write");
	CHECK_OK(unmap_at(fd, ioas, BASE, 2 * PAGE), "unmap");

	NEED(file >= 0 && ftruncate(file, PAGE + 1904) == 0);
	CHECK_OK(map_file_at(fd, ioas, file, 0, PAGE, BASE), "a file's first page");
	CHECK_OK(unmap_at(fd, ioas, BASE, PAGE), "unmap");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, file, 0, 2 * PAGE, BASE), "the page it ends in");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, file, PAGE, HALF, BASE), "its first half");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, file, 8 * PAGE, PAGE, BASE), "far beyond");
	NEED(ftruncate(file, 2 * PAGE) == 0);
	CHECK_OK(map_file_at(fd, ioas, file, 0, 2 * PAGE, BASE), "a file that has grown");
	CHECK_OK(unmap_at(fd, ioas, BASE, 2 * PAGE), "unmap");
	NEED(close(file) == 0);
	file = open("/dev/null", O_RDWR);
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, file, 0, PAGE, BASE), "/dev/null");
	NEED(close(file) == 0);
	file = open("/proc/self/exe", O_RDONLY);
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, file, 0, PAGE, BASE), "a program");
	NEED(close(file) == 0);
	unmap_all(fd, ioas);
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	NEED(munmap(memory, 4 * PAGE) == 0);
}

static void reserved(void)
{
	struct iommu_iova_range range = { BASE, BASE + PAGE };
	char *memory = new_pages(1);
	struct mock mock;

	CHECK_ERR(EINVAL, add_reserved(fd, NO_ID, U64_MAX, 0), "length 0");
	CHECK_ERR(EOVERFLOW, add_reserved(fd, NO_ID, U64_MAX, 2), "beyond 2^64");
	CHECK_ERR(ENOENT, add_reserved(fd, NO_ID, U64_MAX, 1), "no such IOAS");
	NEED(map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE) == 0);
	CHECK_ERR(EADDRINUSE, add_reserved(fd, ioas, BASE + PAGE - 1, 1), "where an area is");
	CHECK_OK(add_reserved(fd, ioas, BASE + PAGE, PAGE), "next to it");
	CHECK_OK(add_reserved(fd, ioas, BASE + PAGE, 2 * PAGE), "again, and more");
	CHECK_ERR(EADDRINUSE, allow_iovas(fd, ioas, &range, 1), "allow what is reserved");
	range.last = BASE + PAGE - 1;
	CHECK_OK(allow_iovas(fd, ioas, &range, 1), "what is not");
	CHECK_ERR(EADDRINUSE, add_reserved(fd, ioas, BASE, 1), "reserve what is allowed, mapped");
	unmap_all(fd, ioas);
	CHECK_ERR(EADDRINUSE, add_reserved(fd, ioas, BASE, 1), "reserve what is allowed");
	CHECK_OK(allow_iovas(fd, ioas, NULL, 0), "no limits");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE + 2 * PAGE), "map there");
	ranges_are(2, 0, BASE + PAGE - 1, 1);
	mock = new_mock(fd, ioas);
	ranges_are(2, BASE, BASE + PAGE - 1, HALF);
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	ranges_are(2, 0, BASE + PAGE - 1, 1);
	CHECK_OK(add_reserved(fd, ioas, 0, U64_MAX), "almost everything");
	CHECK_ERR(ENOSPC, map_any(fd, ioas, (uintptr_t)memory, PAGE, &(uint64_t){ 0 }), "no room");
	NEED(munmap(memory, PAGE) == 0);
}

static void huge_pages(void)
{
	char *memory = new_pages(2);
	struct mock mock = new_mock(fd, ioas);
	uint64_t iova = BASE;

	CHECK_OK(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0), "off, with a page table");
	CHECK_EQ(iova_alignment(fd, ioas), PAGE, "single pages");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory, HALF, BASE), "no halves");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE + HALF), "nor to halves");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE), "a page");
	CHECK_OK(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0), "off again");
	CHECK_OK(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 1), "on");
	CHECK_EQ(iova_alignment(fd, ioas), HALF, "halves");
	CHECK_ERR(EINVAL, option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0), "off, with an area");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, HALF, BASE + PAGE), "a half");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	CHECK_ERR(EADDRINUSE, option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0), "off, with halves");
	CHECK_OK(unmap_at(fd, ioas, BASE + PAGE, HALF), "unmap it");
	CHECK_OK(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0), "off");
	mock = new_mock(fd, ioas);
	CHECK_EQ(iova_alignment(fd, ioas), PAGE, "single pages, with a page table");
	CHECK_OK(check_map(fd, mock.hwpt, BASE, PAGE, memory), "it shows");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	CHECK_OK(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 1), "on");
	CHECK_OK(map_flags(fd, ioas, RW, (uintptr_t)memory, 1, &iova), "a byte");
	unmap_all(fd, ioas);
	NEED(munmap(memory, 2 * PAGE) == 0);
}

static void fresh(void (*test)(void))
{
	fd = open_iommu();
	ioas = new_ioas(fd);
	test();
	CHECK_OK(close(fd), "close");
}

int main(void)
{
	checks_begin();
	fresh(apertures);
	fresh(in_the_way);
	fresh(alignments);
	fresh(no_memory);
	fresh(reserved);
	fresh(huge_pages);
	return checks_end();
}
