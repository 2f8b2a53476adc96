// SPDX-License-Identifier: MIT
/*
 * Memory that its mapping does not say can be read: with PROT_WRITE alone (which every processor can read all the same), with PROT_EXEC
 * alone (x86 can, without protection keys), with PROT_NONE. Loads and copies of the process's own go by the processor; pins of pages that
 * are there as well, those of pages that are not by the mapping. And guard regions, which no mapping shows.
 */
#include "mock.h"

#define PAGES 2UL
#define LENGTH (PAGES * PAGE)
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif

static int fd;
static uint32_t ioas;
static struct mock mock;
static char copy[LENGTH];

static char *new_area(int prot, int how, uint64_t length)
{
	char *at = mmap(NULL, length, prot, how | MAP_ANONYMOUS, -1, 0);

	NEED(at != MAP_FAILED);
	return at;
}

/* `touched` bytes of it were written to. */
static char *touched_area(int prot, int how, uint64_t touched)
{
	char *at = new_area(PROT_READ | PROT_WRITE, how, LENGTH);

	memset(at, 1, touched);
	NEED(mprotect(at, LENGTH, prot) == 0);
	return at;
}

/* MAP while a device is there. */
static long pinned(uint32_t flags, const char *at, uint64_t length)
{
	uint64_t iova = BASE;
	long rc = map_flags(fd, ioas, FIXED | flags, (uintptr_t)at, length, &iova);

	if (!rc)
		NEED(unmap_at(fd, ioas, BASE, length) == 0);
	return rc;
}

/* What is expected: 0, or EFAULT. */
struct expected {
	int untouched_r, untouched_rw, touched_r, half_r, touched_rw; /* pins */
	int alloc, loads;				 /* a struct that is written back; arrays and buffers that are read */
	int other_1, other_2;				 /* as another process reads, one page and two */
};

static void structs(const char *name, int prot, int how, const struct expected *e)
{
	struct iommu_ioas_alloc *alloc = (void *)touched_area(PROT_READ | PROT_WRITE, how, 0);
	struct iommu_iova_range *range = (void *)touched_area(PROT_READ | PROT_WRITE, how, 0);
	struct iommu_ioas_allow_iovas allow = { .size = sizeof(allow), .ioas_id = new_ioas(fd), .num_iovas = 1,
						.allowed_iovas = (uintptr_t)range };

	alloc->size = sizeof(*alloc);
	*range = (struct iommu_iova_range){ .start = 0x1000, .last = 0x1fff };
	NEED(mprotect(alloc, LENGTH, prot) == 0 && mprotect(range, LENGTH, prot) == 0);
	CHECK_ERR(e->alloc, call(fd, IOMMU_IOAS_ALLOC, alloc), "%s: a struct", name);
	CHECK_ERR(e->loads, call(fd, IOMMU_IOAS_ALLOW_IOVAS, &allow), "%s: an array", name);
}

static void pins(const char *name, int prot, int how, const struct expected *e)
{
	char *at;
	uint64_t iova = BASE;

	CHECK_ERR(e->untouched_r, pinned(R, new_area(prot, how, LENGTH), LENGTH), "%s: READABLE, no page there", name);
	CHECK_ERR(e->untouched_rw, pinned(RW, new_area(prot, how, LENGTH), LENGTH), "%s: and WRITEABLE", name);
	CHECK_ERR(e->touched_r, pinned(R, touched_area(prot, how, LENGTH), LENGTH), "%s: READABLE", name);
	CHECK_ERR(e->half_r, pinned(R, touched_area(prot, how, PAGE), LENGTH), "%s: READABLE, one page of two", name);
	CHECK_ERR(e->touched_rw, pinned(RW, touched_area(prot, how, LENGTH), LENGTH), "%s: and WRITEABLE", name);
	at = touched_area(PROT_READ | PROT_WRITE, how, LENGTH);
	NEED(map_flags(fd, ioas, FIXED | R, (uintptr_t)at, LENGTH, &iova) == 0 && mprotect(at, LENGTH, prot) == 0);
	CHECK_ERR(e->loads, check_map(fd, mock.hwpt, BASE, LENGTH, at), "%s: MD_CHECK_MAP", name);
	NEED(unmap_at(fd, ioas, BASE, LENGTH) == 0);
}

static void accesses(const char *name, int prot, int how, const struct expected *e)
{
	uint32_t remembered = new_ioas(fd);
	int access = new_access(fd, remembered, 0);
	char *at = touched_area(prot, how, LENGTH), *plain = new_area(PROT_READ | PROT_WRITE, MAP_PRIVATE, LENGTH);
	uint64_t iova = BASE, beside = BASE + 16 * PAGE;

	NEED(map_flags(fd, remembered, FIXED | R, (uintptr_t)at, LENGTH, &iova) == 0);
	NEED(map_at(fd, remembered, (uintptr_t)plain, LENGTH, beside) == 0);
	CHECK_ERR(e->loads, access_rw(fd, access, BASE, PAGE, copy, 0), "%s: an access reads a page", name);
	CHECK_TRUE(e->loads || copy[PAGE - 1] == 1, "%s: that one", name);
	CHECK_ERR(e->loads, access_rw(fd, access, BASE, LENGTH, copy, 0), "%s: two", name);
	CHECK_ERR(e->other_1, access_rw(fd, access, BASE, PAGE, copy, SLOW), "%s: one, as another process", name);
	CHECK_ERR(e->other_2, access_rw(fd, access, BASE, LENGTH, copy, SLOW), "%s: two, as another process", name);
	CHECK_ERR(e->loads, access_rw(fd, access, beside, LENGTH, at, WRITE), "%s: and writes what is there", name);
	CHECK_TRUE(e->loads || plain[LENGTH - 1] == 1, "%s: all of it", name);
	close(access);
}

static void each(const char *name, int prot, int how, const struct expected *e)
{
	structs(name, prot, how, e);
	pins(name, prot, how, e);
	accesses(name, prot, how, e);
}

static void guarded(const char *name, int how, bool touched, uint32_t flags)
{
	char *at = new_area(PROT_READ | PROT_WRITE, how, 4 * PAGE);

	if (touched)
		memset(at, 1, 4 * PAGE);
	NEED(madvise(at + PAGE, PAGE, MADV_GUARD_INSTALL) == 0);
	CHECK_ERR(EFAULT, pinned(flags, at, 4 * PAGE), "%s memory with a guard region", name);
	CHECK_ERR(EFAULT, pinned(flags, at + PAGE, PAGE), "%s: the guard region alone", name);
	CHECK_OK(pinned(flags, at + 2 * PAGE, 2 * PAGE), "%s: behind it", name);
	NEED(madvise(at + PAGE, PAGE, MADV_GUARD_REMOVE) == 0);
	CHECK_OK(pinned(flags, at, 4 * PAGE), "%s: when it is gone", name);
}

static void guards(void)
{
	char *at = new_area(PROT_READ | PROT_WRITE, MAP_PRIVATE, 4 * PAGE);
	struct iommu_ioas_alloc *alloc = (void *)(at + PAGE - sizeof(*alloc));
	uint32_t remembered = new_ioas(fd);
	uint64_t iova = BASE;
	int touched, access = new_access(fd, remembered, 0);

	if (madvise(at + PAGE, PAGE, MADV_GUARD_INSTALL) != 0)
		return; /* before Linux 6.13 */
	for (touched = 0; touched < 2; touched++) {
		guarded("private", MAP_PRIVATE, touched, R);
		guarded("private", MAP_PRIVATE, touched, RW);
		guarded("shared", MAP_SHARED, touched, R);
		guarded("shared", MAP_SHARED, touched, RW);
	}
	alloc->size = sizeof(*alloc);
	CHECK_OK(call(fd, IOMMU_IOAS_ALLOC, alloc), "a struct right before a guard region");
	alloc->size = sizeof(*alloc) + 4;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_ALLOC, alloc), "that reaches into it");
	alloc->size = 1 << 23;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_ALLOC, alloc), "far beyond it");
	NEED(map_flags(fd, remembered, FIXED | RW, (uintptr_t)at, 4 * PAGE, &iova) == 0);
	CHECK_ERR(EFAULT, try_mock(fd, remembered), "a device comes to memory with a guard region");
	CHECK_ERR(EFAULT, access_rw(fd, access, BASE, 2 * PAGE, copy, 0), "an access reads it");
	CHECK_OK(access_rw(fd, access, BASE, PAGE, copy, 0), "and what is before");
	NEED(madvise(at + PAGE, PAGE, MADV_GUARD_REMOVE) == 0);
	CHECK_OK(try_mock(fd, remembered), "a device comes when it is gone");
	close(access);
}

static bool can_only_be_run(void)
{
#ifdef __x86_64__
	return system("grep -qw ospke /proc/cpuinfo") == 0;
#else
	return true;
#endif
}

int main(void)
{
	static const struct expected none = { EFAULT, EFAULT, EFAULT, EFAULT, EFAULT, EFAULT, EFAULT, EFAULT, EFAULT };
	static const struct expected w = { EFAULT, 0, 0, EFAULT, 0, 0, 0, EFAULT, 0 };
	static const struct expected x = { EFAULT, EFAULT, 0, EFAULT, EFAULT, EFAULT, 0, EFAULT, 0 };
	static const struct expected x_shared = { EFAULT, EFAULT, EFAULT, EFAULT, EFAULT, EFAULT, 0, EFAULT, EFAULT };

	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	mock = new_mock(fd, ioas);
	each("private, PROT_NONE", PROT_NONE, MAP_PRIVATE, &none);
	each("shared, PROT_NONE", PROT_NONE, MAP_SHARED, &none);
	each("private, PROT_WRITE", PROT_WRITE, MAP_PRIVATE, &w);
	each("shared, PROT_WRITE", PROT_WRITE, MAP_SHARED, &w);
	if (!can_only_be_run()) {
		each("private, PROT_EXEC", PROT_EXEC, MAP_PRIVATE, &x);
		each("shared, PROT_EXEC", PROT_EXEC, MAP_SHARED, &x_shared);
	}
	guards();
	return checks_end();
}
