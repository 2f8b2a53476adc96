// SPDX-License-Identifier: MIT
/*
 * ACCESS_PAGES pins what an access is to work on, page by page, across areas; DESTROY_ACCESS_PAGES
 * undoes one of them. A page is pinned once by one MAP, however often it is asked for.
 */
#include "mock.h"

static int fd, access_fd;
static uint32_t ioas;
static char *memory;

#define PAGES 8UL

static long pin_flags(uint64_t iova, uint64_t length, const void *seen, uint32_t flags)
{
	uint32_t item = 0x5555;
	long rc = access_pages(fd, access_fd, iova, length, seen, flags, &item);

	if (rc == 0)
		NEED(unpin(fd, access_fd, item) == 0);
	else
		NEED(item == 0x5555 || item == 0);
	return rc;
}

/* Each call is wrong in all the ways that come later, too. */
static void order(void)
{
	struct iommu_test_cmd cmd = { .size = sizeof(cmd), .op = IOMMU_TEST_OP_ACCESS_PAGES,
				      .id = NO_ID, .access_pages = { .iova = U64_MAX,
				      .length = LARGEST_ACCESS + 1, .flags = 2 } };
	int plain = new_access(fd, ioas, 0), elsewhere;
	uint32_t empty = new_ioas(fd);
	uint32_t *flags = &cmd.access_pages.flags;
	__aligned_u64 *iova = &cmd.access_pages.iova, *length = &cmd.access_pages.length;
	unsigned int bit;

	CHECK_ERR(ENOMEM, call(fd, IOMMU_TEST_CMD, &cmd), "1. more than 16 MiB");
	*length = 0;
	for (bit = 1; bit < 32; bit++) {
		if (1U << bit == MOCK_FLAGS_ACCESS_SYZ)
			continue;
		*flags = 1U << bit;
		CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_TEST_CMD, &cmd), "2. flag bit %u", bit);
	}
	*flags = WRITE;
	CHECK_ERR(EBADFD, call(fd, IOMMU_TEST_CMD, &cmd), "3. no access descriptor");
	cmd.id = (uint32_t)plain;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_TEST_CMD, &cmd), "4. an access that does not pin");
	cmd.id = (uint32_t)access_fd;
	CHECK_ERR(EINVAL, call(fd, IOMMU_TEST_CMD, &cmd), "5. length 0");
	*length = 2;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_TEST_CMD, &cmd), "6. beyond 2^64");
	*iova = 100;
	CHECK_ERR(ENOENT, call(fd, IOMMU_TEST_CMD, &cmd), "7. nothing is mapped");
	*iova = BASE + 100;
	*length = (PAGES + 1) * PAGE;
	CHECK_ERR(EINVAL, call(fd, IOMMU_TEST_CMD, &cmd), "8. does not begin on a page");
	*iova = BASE;
	CHECK_ERR(EPERM, call(fd, IOMMU_TEST_CMD, &cmd), "9. a page that may not be written");
	*flags = 0;
	*length = (PAGES + 1) * PAGE;
	CHECK_ERR(ENOENT, call(fd, IOMMU_TEST_CMD, &cmd), "10. a gap after mapped pages");
	*length = PAGES * PAGE;
	cmd.access_pages.uptr = (uintptr_t)memory + PAGE;
	CHECK_ERR(EBADE, call(fd, IOMMU_TEST_CMD, &cmd), "11. other pages");
	cmd.access_pages.uptr = (uintptr_t)unmapped();
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, &cmd), "12. no pages");
	cmd.access_pages.uptr = (uintptr_t)memory;
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, read_only(&cmd, sizeof(cmd))),
		  "13. the struct cannot be written");
	CHECK_OK(check_refs(fd, memory, PAGES * PAGE, 0), "all of them left nothing pinned");
	CHECK_OK(call(fd, IOMMU_TEST_CMD, &cmd), "right at last");
	CHECK_EQ(cmd.access_pages.out_access_pages_id, 1,
		 "the number that could not be told is not given again");
	CHECK_OK(check_refs(fd, memory, PAGES * PAGE, 1), "pinned once");
	CHECK_OK(unpin(fd, access_fd, 1), "unpin");
	CHECK_ERR(ENOENT, unpin(fd, access_fd, 1), "twice");
	CHECK_ERR(ENOENT, unpin(fd, access_fd, 7), "never given");
	CHECK_ERR(ENOENT, unpin(fd, plain, 0), "of an access that does not pin");
	elsewhere = new_access(fd, empty, PINS);
	CHECK_ERR(ENOENT, pin(fd, elsewhere, BASE, PAGE), "of an access on another IOAS");
	NEED(close(plain) == 0 && close(elsewhere) == 0);
}

/* How often each page is pinned: once, as long as anybody needs it. */
static void counting(void)
{
	uint32_t a, b, c, d;
	struct mock mock;

	CHECK_OK(access_pages(fd, access_fd, BASE, 4 * PAGE, memory, 0, &a), "pin pages 0-3");
	CHECK_OK(access_pages(fd, access_fd, BASE + 2 * PAGE, 4 * PAGE, memory + 2 * PAGE, 0, &b),
		 "pin pages 2-5");
	CHECK_OK(access_pages(fd, access_fd, BASE, 4 * PAGE, memory, 0, &c), "pin 0-3 again");
	CHECK_OK(access_pages(fd, access_fd, BASE + PAGE, 100, memory + PAGE, 0, &d),
		 "pin 100 bytes of page 1");
	CHECK_OK(check_refs(fd, memory, 6 * PAGE, 1), "pages 0-5 are pinned once each");
	CHECK_OK(check_refs(fd, memory + 6 * PAGE, 2 * PAGE, 0), "the others not");
	CHECK_ERR(EIO, check_refs(fd, memory, 6 * PAGE, 0), "not 0 times");
	CHECK_ERR(EIO, check_refs(fd, memory, 6 * PAGE, 2), "nor twice");
	CHECK_ERR(EIO, check_refs(fd, memory, 7 * PAGE, 1), "nor page 6");
	mock = new_mock(fd, ioas);
	CHECK_OK(check_refs(fd, memory, PAGES * PAGE, 1), "with a page table: still once, all");
	CHECK_OK(check_map(fd, mock.hwpt, BASE, PAGES * PAGE, memory), "it shows them");
	CHECK_OK(unpin(fd, access_fd, a), "unpin the first");
	CHECK_OK(unpin(fd, access_fd, d), "unpin the bytes");
	CHECK_OK(destroy(fd, mock.stdev), "unplug the device");
	CHECK_OK(check_refs(fd, memory, 6 * PAGE, 1), "0-5 are pinned by the others");
	CHECK_OK(check_refs(fd, memory + 6 * PAGE, 2 * PAGE, 0), "6-7 are not any more");
	CHECK_OK(unpin(fd, access_fd, c), "unpin the third");
	CHECK_OK(check_refs(fd, memory, 2 * PAGE, 0), "0-1 are free");
	CHECK_OK(check_refs(fd, memory + 2 * PAGE, 4 * PAGE, 1), "2-5 are not");
	CHECK_OK(unpin(fd, access_fd, b), "unpin the last");
	CHECK_OK(check_refs(fd, memory, PAGES * PAGE, 0), "all are free");
}

/* The same memory through two MAPs is pinned twice; through a COPY, once. */
static void two_ways(void)
{
	uint32_t a, b, c;

	NEED(map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, BASE + MIB) == 0);
	NEED(copy_at(fd, ioas, BASE + 2 * MIB, ioas, BASE + MIB, 2 * PAGE) == 0);
	CHECK_OK(access_pages(fd, access_fd, BASE + MIB, 2 * PAGE, memory, 0, &a), "pin one MAP");
	CHECK_OK(access_pages(fd, access_fd, BASE + 2 * MIB, 2 * PAGE, memory, 0, &b),
		 "pin its copy");
	CHECK_OK(check_refs(fd, memory, 2 * PAGE, 1), "one pin each");
	CHECK_OK(access_pages(fd, access_fd, BASE, PAGE, memory, 0, &c), "pin the other MAP");
	CHECK_OK(check_refs(fd, memory, PAGE, 2), "two pins");
	CHECK_OK(check_refs(fd, memory + PAGE, PAGE, 1), "one on the next page");
	CHECK_OK(unpin(fd, access_fd, a), "unpin the MAP");
	CHECK_OK(check_refs(fd, memory, PAGE, 2), "the copy has it");
	CHECK_OK(unpin(fd, access_fd, b), "unpin the copy");
	CHECK_OK(check_refs(fd, memory, PAGE, 1), "the other MAP has it");
	CHECK_OK(unpin(fd, access_fd, c), "unpin it");
	CHECK_OK(check_refs(fd, memory, 2 * PAGE, 0), "free");
	NEED(unmap_at(fd, ioas, BASE + MIB, 2 * PAGE) == 0);
	NEED(unmap_at(fd, ioas, BASE + 2 * MIB, 2 * PAGE) == 0);
}

/* Areas that touch: a range may span them; what an earlier one refuses comes before a gap. */
static void several_areas(void)
{
	uint64_t at = BASE + MIB;
	char *hole = new_pages(1);
	uint32_t item;

	NEED(map_at(fd, ioas, (uintptr_t)memory + 4 * PAGE, 2 * PAGE, at) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, at + 2 * PAGE) == 0);
	CHECK_OK(access_pages(fd, access_fd, at + PAGE, 2 * PAGE, NULL, 0, &item),
		 "pin a page of each");
	CHECK_OK(check_refs(fd, memory + 5 * PAGE, PAGE, 1), "the first's second");
	CHECK_OK(check_refs(fd, memory, PAGE, 1), "the second's first");
	CHECK_OK(check_refs(fd, memory + PAGE, 4 * PAGE, 0), "no other");
	CHECK_OK(unpin(fd, access_fd, item), "unpin both");
	CHECK_OK(check_refs(fd, memory, PAGES * PAGE, 0), "free");
	CHECK_ERR(EBADE, pin_flags(at + PAGE, 2 * PAGE, memory + 5 * PAGE, 0),
		  "what is seen at one address is not both");

	NEED(map_at(fd, ioas, (uintptr_t)hole + PAGE, PAGE, at + 4 * PAGE) == 0);
	CHECK_ERR(EFAULT, pin_flags(at, 5 * PAGE, NULL, 0), "no memory behind the third");
	CHECK_OK(check_refs(fd, memory, PAGES * PAGE, 0), "the others were unpinned");
	CHECK_ERR(EFAULT, pin_flags(at, 6 * PAGE, NULL, 0), "that comes before a gap");
	CHECK_ERR(ENOENT, pin_flags(at - PAGE, 6 * PAGE, NULL, 0), "a gap first");
	NEED(unmap_at(fd, ioas, at, 5 * PAGE) == 0);
	NEED(munmap(hole, PAGE) == 0);
}

/* Half pages: a range may end anywhere, but areas within it must end on a page of the memory. */
static void alignment(void)
{
	uint64_t at = BASE + MIB, iova = at;
	uint32_t own = new_ioas(fd);
	int a;

	NEED(map_at(fd, own, (uintptr_t)memory, PAGE + HALF, at) == 0);
	CHECK_ERR(EADDRINUSE, try_access(fd, own, PINS), "an area that is no whole pages");
	CHECK_OK(try_access(fd, own, 0), "which an access that does not pin does not mind");
	NEED(unmap_at(fd, own, at, PAGE + HALF) == 0);
	NEED(map_at(fd, own, (uintptr_t)memory + HALF, PAGE, at) == 0);
	CHECK_ERR(EADDRINUSE, try_access(fd, own, PINS), "one that begins within a page");
	NEED(unmap_at(fd, own, at, PAGE) == 0);
	NEED(map_at(fd, own, (uintptr_t)memory, PAGE, at + HALF) == 0);
	CHECK_ERR(EADDRINUSE, try_access(fd, own, PINS), "one at half a page's IOVA");
	NEED(unmap_at(fd, own, at + HALF, PAGE) == 0);
	CHECK_EQ(iova_alignment(fd, own), 1, "the alignment is 1");
	a = new_access(fd, own, PINS);
	CHECK_EQ(iova_alignment(fd, own), PAGE, "with an access that pins it is a page");
	CHECK_ERR(EINVAL, map_at(fd, own, (uintptr_t)memory, HALF, at), "no half page then");
	CHECK_ERR(EINVAL, map_at(fd, own, (uintptr_t)memory, PAGE, at + HALF), "nor to half");
	CHECK_ERR(EINVAL, map_at(fd, own, (uintptr_t)memory + HALF, PAGE, at), "nor from half");
	CHECK_OK(map_flags(fd, own, RW, (uintptr_t)memory, PAGE, &iova), "a page");
	CHECK_EQ(iova, PAGE, "at the lowest page");
	CHECK_OK(close(a), "close");
	a = new_access(fd, own, 0);
	CHECK_EQ(iova_alignment(fd, own), 1, "without it 1 again");
	CHECK_OK(close(a), "close");
	a = open_iommu();
	NEED(close(a) == 0);
	CHECK_OK(destroy(fd, own), "destroy");
	CHECK_ERR(EINVAL, pin_flags(BASE + 1, PAGE, NULL, 0), "from byte 1 on");
	CHECK_ERR(EINVAL, pin_flags(BASE + HALF, PAGE, NULL, 0), "from half a page on");
	CHECK_OK(pin_flags(BASE, 1, memory, 0), "one byte");
	CHECK_OK(pin_flags(BASE + PAGE, PAGE + 1, memory + PAGE, 0), "a page and a byte");
}

/* What MAP allowed decides what may be pinned. */
static void permission(void)
{
	uint64_t at = BASE + MIB, iova = at;
	char *own = new_pages(3);

	NEED(mprotect(own + PAGE, PAGE, PROT_READ) == 0);
	NEED(map_flags(fd, ioas, FIXED | R, (uintptr_t)own, PAGE, &iova) == 0);
	iova = at + PAGE;
	NEED(map_flags(fd, ioas, FIXED | W, (uintptr_t)own, PAGE, &iova) == 0);
	CHECK_OK(pin_flags(at, PAGE, own, 0), "read what is readable");
	CHECK_ERR(EPERM, pin_flags(at, PAGE, own, WRITE), "write it");
	CHECK_ERR(EPERM, pin_flags(at + PAGE, PAGE, own, 0), "read what is writeable");
	CHECK_OK(pin_flags(at + PAGE, PAGE, own, WRITE), "write it");
	CHECK_ERR(EPERM, pin_flags(at, 2 * PAGE, NULL, 0), "both, to read");
	CHECK_ERR(EPERM, pin_flags(at, 3 * PAGE, NULL, 0), "before a gap");
	NEED(unmap_at(fd, ioas, at, 2 * PAGE) == 0);
	/* The mapping's protection counts when it is pinned, as MAP will have it. */
	NEED(map_at(fd, ioas, (uintptr_t)own, 3 * PAGE, at) == 0);
	CHECK_ERR(EFAULT, pin_flags(at, 3 * PAGE, NULL, 0),
		  "to read a page that cannot be written, mapped writeable");
	CHECK_OK(pin_flags(at, PAGE, own, 0), "the page before it");
	NEED(mprotect(own + PAGE, PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK_OK(pin_flags(at, 3 * PAGE, own, WRITE), "with the protection lifted");
	NEED(mprotect(own + PAGE, PAGE, PROT_NONE) == 0);
	CHECK_ERR(EFAULT, pin_flags(at, 3 * PAGE, NULL, 0), "PROT_NONE");
	CHECK_OK(check_refs(fd, own, PAGE, 0), "nothing stayed");
	NEED(unmap_at(fd, ioas, at, 3 * PAGE) == 0 && munmap(own, 3 * PAGE) == 0);
}

/* The fuzzers' way to name an IOVA: the n-th area, and an offset. */
static void nth_area(void)
{
	uint32_t item;

	NEED(map_at(fd, ioas, (uintptr_t)memory + 4 * PAGE, 2 * PAGE, BASE + MIB) == 0);
	CHECK_OK(access_pages(fd, access_fd, 2 | (uint64_t)PAGE << 32, PAGE, memory + 5 * PAGE,
			      MOCK_FLAGS_ACCESS_SYZ, &item), "a page into the third area");
	CHECK_OK(unpin(fd, access_fd, item), "unpin");
	CHECK_ERR(ENOENT, access_pages(fd, access_fd, 3, PAGE, NULL, MOCK_FLAGS_ACCESS_SYZ, &item),
		  "there is no fourth");
	NEED(unmap_at(fd, ioas, BASE + MIB, 2 * PAGE) == 0);
}

int main(void)
{
	uint64_t iova;
	char *last;

	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	memory = new_pages(PAGES);
	memset(memory, 1, PAGES * PAGE);
	last = memory + (PAGES - 1) * PAGE;
	/* The last page is not writeable. */
	NEED(map_at(fd, ioas, (uintptr_t)memory, (PAGES - 1) * PAGE, BASE) == 0);
	iova = BASE + (PAGES - 1) * PAGE;
	NEED(map_flags(fd, ioas, FIXED | R, (uintptr_t)last, PAGE, &iova) == 0);
	access_fd = new_access(fd, ioas, PINS);
	order();
	counting();
	two_ways();
	several_areas();
	alignment();
	permission();
	nth_area();
	CHECK_OK(close(access_fd), "close the access");
	CHECK_OK(close(fd), "close");
	return checks_end();
}
