// SPDX-License-Identifier: MIT
/*
 * ACCESS_RW copies between a buffer of the caller and what is mapped, any bytes, across areas. What
 * is copied before something is refused stays copied; a read tells the caller nothing then.
 */
#include "mock.h"

static int fd, access_fd;
static uint32_t ioas;
static char *memory;

#define PAGES 4UL
#define LENGTH (PAGES * PAGE)

static long rw(uint64_t iova, uint64_t length, const void *buffer, uint32_t flags)
{
	return access_rw(fd, access_fd, iova, length, buffer, flags);
}

static void order(void)
{
	struct iommu_test_cmd cmd = { .size = sizeof(cmd), .op = IOMMU_TEST_OP_ACCESS_RW,
				      .id = NO_ID, .access_rw = { .iova = U64_MAX,
				      .length = LARGEST_ACCESS + 1, .flags = 2 } };
	uint32_t *flags = &cmd.access_rw.flags;
	__aligned_u64 *iova = &cmd.access_rw.iova, *length = &cmd.access_rw.length;
	char buffer[64];
	unsigned int bit;

	cmd.access_rw.uptr = (uintptr_t)unmapped();
	CHECK_ERR(ENOMEM, call(fd, IOMMU_TEST_CMD, &cmd), "1. more than 16 MiB");
	*length = 2;
	for (bit = 1; bit < 32; bit++) {
		if (bit == 2 || 1U << bit == MOCK_FLAGS_ACCESS_SYZ)
			continue;
		*flags = 1U << bit;
		CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_TEST_CMD, &cmd), "2. flag bit %u", bit);
	}
	*flags = WRITE;
	CHECK_ERR(EBADFD, call(fd, IOMMU_TEST_CMD, &cmd), "3. no access descriptor");
	cmd.id = (uint32_t)access_fd;
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, &cmd), "4. a buffer that cannot be read");
	*length = LARGEST_ACCESS;
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, &cmd), "   also a large one");
	cmd.access_rw.uptr = (uintptr_t)buffer;
	*length = 0;
	CHECK_ERR(EINVAL, call(fd, IOMMU_TEST_CMD, &cmd), "5. length 0");
	cmd.access_rw.uptr = (uintptr_t)unmapped();
	CHECK_ERR(EINVAL, call(fd, IOMMU_TEST_CMD, &cmd), "   whatever the buffer");
	*flags = 0;
	CHECK_ERR(EINVAL, call(fd, IOMMU_TEST_CMD, &cmd), "   in both directions");
	*length = 2;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_TEST_CMD, &cmd), "6. beyond 2^64");
	*iova = BASE - 1;
	CHECK_ERR(ENOENT, call(fd, IOMMU_TEST_CMD, &cmd), "7. not mapped");
	*iova = BASE;
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, &cmd), "8. a buffer that cannot be written");
	cmd.access_rw.uptr = (uintptr_t)buffer;
	CHECK_OK(call(fd, IOMMU_TEST_CMD, &cmd), "right at last");
	CHECK_OK(call(fd, IOMMU_TEST_CMD, read_only(&cmd, sizeof(cmd))), "nothing is written back");
}

static void sizes(uint32_t flags)
{
	static const uint64_t lengths[] = { 1, 2, 7, 63, 64, 511, HALF, PAGE - 1, PAGE, PAGE + 1,
					    2 * PAGE, 3 * PAGE + 5 };
	static const uint64_t starts[] = { 0, 1, 5, HALF - 1, HALF, PAGE - 1 };
	char *buffer = new_pages(PAGES), *want = new_pages(PAGES);
	unsigned int i, j, wrong = 0, round = 1;

	for (i = 0; i < ARRAY_LEN(starts); i++) {
		for (j = 0; j < ARRAY_LEN(lengths); j++) {
			uint64_t start = starts[i], length = lengths[j];

			if (start + length > LENGTH)
				continue;
			fill(memory, LENGTH, ++round);
			memset(buffer, 0x5a, LENGTH);
			wrong += rw(BASE + start, length, buffer + start, flags) != 0;
			wrong += memcmp(buffer + start, memory + start, length) != 0;
			wrong += start && buffer[start - 1] != 0x5a;
			wrong += start + length < LENGTH && buffer[start + length] != 0x5a;
			fill(want, LENGTH, round);
			fill(want + start, length, ++round);
			fill(buffer, length, round);
			wrong += rw(BASE + start, length, buffer, flags | WRITE) != 0;
			wrong += memcmp(memory, want, LENGTH) != 0;
		}
	}
	CHECK_EQ(wrong, 0, "bytes at all offsets, each compared, %s", flags ? "slow" : "fast");
	/* A buffer that ends where memory ends. */
	fill(memory, LENGTH, 1);
	CHECK_OK(rw(BASE, 100, buffer + LENGTH - 100, flags), "read to the end of a buffer");
	CHECK_EQ(differing(buffer + LENGTH - 100, 100, 1), 0, "its bytes");
	CHECK_ERR(EFAULT, rw(BASE, 101, buffer + LENGTH - 100, flags), "one byte too far");
	CHECK_OK(rw(BASE, 100, buffer + LENGTH - 100, flags | WRITE), "write from its end");
	CHECK_ERR(EFAULT, rw(BASE, 101, buffer + LENGTH - 100, flags | WRITE), "one byte too far");
	CHECK_EQ(differing(memory, LENGTH, 1), 0, "nothing else was written");
	NEED(munmap(buffer, LENGTH) == 0 && munmap(want, LENGTH) == 0);
}

/* To and from itself: the buffer is what is mapped. */
static void itself(void)
{
	fill(memory, LENGTH, 1);
	CHECK_OK(rw(BASE, PAGE, memory + PAGE, 0), "read a page into the next");
	CHECK_EQ(differing(memory + PAGE, PAGE, 1), 0, "it is there");
	CHECK_OK(rw(BASE + 2 * PAGE, 2 * PAGE, memory, SLOW | WRITE), "write two to the others");
	CHECK_TRUE(!memcmp(memory, memory + 2 * PAGE, 2 * PAGE), "they are there");
}

static void several_areas(uint32_t flags)
{
	uint64_t at = BASE + MIB, iova = at + 3 * PAGE;
	char *own = new_pages(6), *buffer = new_pages(6);

	/* Backwards, so that what touches there does not touch here. */
	NEED(map_at(fd, ioas, (uintptr_t)own + 3 * PAGE, PAGE, at) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)own + 1, 2 * PAGE - 1, at + PAGE) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)own, 1, at + 3 * PAGE - 1) == 0);
	NEED(map_flags(fd, ioas, FIXED | R, (uintptr_t)own + 4 * PAGE, PAGE, &iova) == 0);
	iova += PAGE;
	NEED(map_flags(fd, ioas, FIXED | W, (uintptr_t)own + 5 * PAGE, PAGE, &iova) == 0);
	fill(buffer, 3 * PAGE, 5);
	CHECK_OK(rw(at, 3 * PAGE, buffer, flags | WRITE), "write across three areas");
	CHECK_TRUE(!memcmp(own + 3 * PAGE, buffer, PAGE), "the first");
	CHECK_TRUE(!memcmp(own + 1, buffer + PAGE, 2 * PAGE - 1), "the second, which is odd");
	CHECK_TRUE(own[0] == buffer[3 * PAGE - 1], "the third, a byte");
	memset(buffer, 0, 3 * PAGE);
	CHECK_OK(rw(at, 3 * PAGE, buffer, flags), "read across them");
	CHECK_EQ(differing(buffer, 3 * PAGE, 5), 0, "the same");

	fill(buffer, 6 * PAGE, 6);
	CHECK_ERR(EPERM, rw(at, 4 * PAGE, buffer, flags | WRITE), "the last is not writeable");
	CHECK_TRUE(!memcmp(own + 3 * PAGE, buffer, PAGE), "the first was written");
	CHECK_TRUE(own[0] == buffer[3 * PAGE - 1], "up to the last");
	memset(buffer, 0x11, 6 * PAGE);
	CHECK_OK(rw(at, 4 * PAGE, buffer, flags), "read all four");
	memset(buffer, 0x11, 6 * PAGE);
	CHECK_ERR(EPERM, rw(at, 5 * PAGE, buffer, flags), "the fifth is not readable");
	CHECK_TRUE(buffer[0] == 0x11 && !memcmp(buffer, buffer + 1, 5 * PAGE - 1),
		   "the buffer is as it was");
	CHECK_OK(rw(at + 4 * PAGE, PAGE, buffer, flags | WRITE), "but writeable");
	fill(buffer, 3 * PAGE, 7);
	CHECK_ERR(ENOENT, rw(at + 4 * PAGE, PAGE + 1, buffer, flags | WRITE), "into a gap");
	CHECK_TRUE(!memcmp(own + 5 * PAGE, buffer, PAGE), "what came before it was written");
	CHECK_ERR(ENOENT, rw(at - 1, PAGE, buffer, flags | WRITE), "from a gap");
	CHECK_EQ(differing(own + 3 * PAGE, PAGE, 6), 0, "nothing was written");
	NEED(unmap_at(fd, ioas, at, 5 * PAGE) == 0);
	NEED(munmap(own, 6 * PAGE) == 0 && munmap(buffer, 6 * PAGE) == 0);
}

/* Nothing is held: what is there now counts, as for the process itself. */
static void no_memory(uint32_t flags)
{
	uint64_t at = BASE + MIB;
	char *own = new_pages(3), *buffer = new_pages(3);

	fill(own, 3 * PAGE, 1);
	fill(buffer, 3 * PAGE, 2);
	NEED(map_at(fd, ioas, (uintptr_t)own, 3 * PAGE, at) == 0);
	NEED(munmap(own + 2 * PAGE, PAGE) == 0);
	CHECK_ERR(EFAULT, rw(at + 2 * PAGE, 4, buffer, flags), "read what is unmapped");
	CHECK_ERR(EFAULT, rw(at + 2 * PAGE, 4, buffer, flags | WRITE), "write it");
	CHECK_ERR(EFAULT, rw(at, 3 * PAGE, buffer, flags), "read up to it");
	CHECK_EQ(differing(buffer, 3 * PAGE, 2), 0, "the buffer is as it was");
	NEED(mprotect(own + PAGE, PAGE, PROT_READ) == 0);
	CHECK_OK(rw(at + PAGE, 4, buffer, flags), "read what is read-only");
	CHECK_ERR(EFAULT, rw(at + PAGE, 4, buffer, flags | WRITE), "write it");
	CHECK_ERR(EFAULT, rw(at + PAGE - 2, 4, buffer, flags | WRITE), "up to it");
	CHECK_OK(rw(at, 4, buffer, flags | WRITE), "write before it");
	/* Slow, two pages are pinned for the moment, as MAP wanted them: writeable. */
	CHECK_ERR((flags & SLOW) ? EFAULT : 0, rw(at + PAGE - 2, 4, buffer, flags),
		  "read a writeable and a read-only page");
	NEED(mprotect(own + PAGE, PAGE, PROT_NONE) == 0);
	CHECK_ERR(EFAULT, rw(at + PAGE, 4, buffer, flags), "read PROT_NONE");
	NEED(mprotect(own + PAGE, PAGE, PROT_WRITE) == 0);
	CHECK_OK(rw(at + PAGE, 4, buffer, flags | WRITE), "write PROT_WRITE");
	NEED(unmap_at(fd, ioas, at, 3 * PAGE) == 0 && munmap(own, 2 * PAGE) == 0);
	/* MAP wanted no write: no write by ACCESS_RW. */
	own = new_pages(2);
	NEED(map_flags(fd, ioas, FIXED | R, (uintptr_t)own, 2 * PAGE, &at) == 0);
	CHECK_ERR(EPERM, rw(at, 4, buffer, flags | WRITE), "write what was mapped readable");
	NEED(mprotect(own, 2 * PAGE, PROT_READ) == 0);
	CHECK_OK(rw(at, 2 * PAGE, buffer, flags), "read it, read-only");
	CHECK_TRUE(buffer[0] == 0 && !memcmp(buffer, buffer + 1, 2 * PAGE - 1), "it was zeros");
	NEED(unmap_at(fd, ioas, at, 2 * PAGE) == 0);
	NEED(munmap(own, 2 * PAGE) == 0 && munmap(buffer, 3 * PAGE) == 0);
}

/* The largest there is, and one from another process into its memory. */
static void large(uint32_t flags, bool held)
{
	char *own = new_pages(LARGEST_ACCESS / PAGE), *buffer = new_pages(LARGEST_ACCESS / PAGE);
	uint64_t at = BASE + LARGEST_ACCESS;

	NEED(map_at(fd, ioas, (uintptr_t)own, LARGEST_ACCESS, at) == 0);
	fill(buffer, LARGEST_ACCESS, 3);
	CHECK_OK(rw(at, LARGEST_ACCESS, buffer, flags | WRITE), "write 16 MiB");
	CHECK_EQ(differing(own, LARGEST_ACCESS, 3), 0, "all its bytes");
	memset(buffer, 0, LARGEST_ACCESS);
	CHECK_OK(rw(at, LARGEST_ACCESS, buffer, flags), "read them");
	CHECK_EQ(differing(buffer, LARGEST_ACCESS, 3), 0, "all its bytes");
	CHECK_ERR(ENOMEM, rw(at, LARGEST_ACCESS + 1, buffer, flags), "one more");
	CHECK_ERR(ENOENT, rw(at + 1, LARGEST_ACCESS, buffer, flags), "16 MiB, a byte too far");
	if (!held) {
		NEED(mprotect(own + LARGEST_ACCESS - PAGE, PAGE, PROT_NONE) == 0);
		memset(buffer, 0, LARGEST_ACCESS);
		CHECK_ERR(EFAULT, rw(at, LARGEST_ACCESS, buffer, flags), "without the last page");
		CHECK_TRUE(buffer[0] == 0 && !memcmp(buffer, buffer + 1, LARGEST_ACCESS - 1),
			   "the buffer is as it was");
	}
	NEED(unmap_at(fd, ioas, at, LARGEST_ACCESS) == 0);
	NEED(munmap(own, LARGEST_ACCESS) == 0 && munmap(buffer, LARGEST_ACCESS) == 0);
}

/* The buffer is the caller's; what is mapped is the mapper's. */
static void other_process(void)
{
	char *buffer = new_pages(PAGES), got[8];

	fill(memory, LENGTH, 1);
	memcpy(buffer, "parent", 7);
	IN_CHILD({
		fill(memory, LENGTH, 2);
		CHECK_OK(rw(BASE, LENGTH, buffer, 0), "a child reads");
		CHECK_EQ(differing(buffer, LENGTH, 1), 0, "the parent's memory");
		memset(buffer, 0, LENGTH);
		CHECK_OK(rw(BASE, LENGTH, buffer, SLOW), "slowly");
		CHECK_EQ(differing(buffer, LENGTH, 1), 0, "the same");
		CHECK_OK(rw(BASE + PAGE, 6, "child", WRITE), "and writes");
		CHECK_EQ(differing(memory, LENGTH, 2), 0, "its own is as it was");
		CHECK_OK(rw(BASE + 2 * PAGE - 3, 6, "child", WRITE), "across a page");
		CHECK_EQ(differing(memory, LENGTH, 2), 0, "its own is as it was");
	});
	CHECK_TRUE(!strcmp(buffer, "parent"), "the parent's buffer is as it was");
	CHECK_TRUE(!strcmp(memory + PAGE, "child"), "the parent has what the child wrote");
	CHECK_TRUE(!strcmp(memory + 2 * PAGE - 3, "child"), "across a page, too");
	CHECK_OK(rw(BASE + PAGE, 6, got, SLOW), "read it back");
	CHECK_TRUE(!strcmp(got, "child"), "the same");
}

static void nth_area(void)
{
	char got[8];

	fill(memory, LENGTH, 4);
	NEED(map_at(fd, ioas, (uintptr_t)memory + PAGE, PAGE, BASE + MIB) == 0);
	CHECK_OK(rw(1 | 5ULL << 32, 8, got, MOCK_FLAGS_ACCESS_SYZ), "the second area, 5 bytes in");
	CHECK_TRUE(!memcmp(got, memory + PAGE + 5, 8), "its bytes");
	CHECK_ERR(ENOENT, rw(2, 8, got, MOCK_FLAGS_ACCESS_SYZ), "there is no third");
	NEED(unmap_at(fd, ioas, BASE + MIB, PAGE) == 0);
}

int main(void)
{
	struct mock mock;
	int i;

	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	memory = new_pages(PAGES);
	NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE) == 0);
	access_fd = new_access(fd, ioas, 0);
	order();
	for (i = 0; i < 2; i++) {
		sizes(i ? SLOW : 0);
		several_areas(i ? SLOW : 0);
		no_memory(i ? SLOW : 0);
		large(i ? SLOW : 0, false);
	}
	itself();
	other_process();
	nth_area();
	printf("# with a device, which holds the pages\n");
	mock = new_mock(fd, ioas);
	sizes(0);
	sizes(SLOW);
	itself();
	other_process();
	large(SLOW, true);
	CHECK_OK(check_refs(fd, memory, LENGTH, 1), "held by the device alone");
	CHECK_OK(destroy(fd, mock.stdev), "unplug it");
	CHECK_OK(check_refs(fd, memory, LENGTH, 0), "ACCESS_RW leaves nothing pinned");
	CHECK_OK(close(access_fd), "close the access");
	CHECK_OK(close(fd), "close");
	return checks_end();
}
