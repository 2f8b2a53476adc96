// SPDX-License-Identifier: MIT
/*
 * IOMMU_IOAS_MAP where the kernel chooses the IOVA: the lowest place that is aligned as the address
 * is (so that large pages can be used), at most to the length rounded up to a power of two and to
 * 2 MiB, never in the first or last page. The choice is part of what programs see, so it is tested
 * to the byte, with the kernel's peculiarities at addresses that are not page aligned.
 */
#include "client.h"

static int fd;
static uint32_t ioas;

/* Maps, and checks the IOVA; the area stays. */
static void chosen(uint64_t va, uint64_t length, uint64_t want)
{
	uint64_t iova;

	CHECK_OK(map_any(fd, ioas, va, length, &iova), "map %#lx bytes of %#lx", length, va);
	CHECK_EQ(iova, want, "its IOVA");
}

/* The same in an empty IOAS. */
static void alone(uint64_t va, uint64_t length, uint64_t want)
{
	chosen(va, length, want);
	CHECK_EQ(unmap_all(fd, ioas), length, "unmap it");
}

static void refused(uint64_t va, uint64_t length, int error, const char *text)
{
	uint64_t iova;

	CHECK_ERR(error, map_any(fd, ioas, va, length, &iova), "%s", text);
	CHECK_EQ(iova, 0, "iova is as it was");
}

static void alignment(void)
{
	alone(0x10000000, PAGE, PAGE);
	alone(0x10000000, 2 * PAGE, 2 * PAGE);
	alone(0x10000000, 3 * PAGE, 4 * PAGE);
	alone(0x10000000, 1, PAGE);
	alone(0x10000000, PAGE + 1, 2 * PAGE);
	alone(0x10001000, 16 * PAGE, PAGE);
	alone(0x10002000, 16 * PAGE, 2 * PAGE);
	alone(0x10008000, 16 * PAGE, 8 * PAGE);
	alone(0x10010000, 16 * PAGE, 16 * PAGE);
	alone(0x10020000, 16 * PAGE, 16 * PAGE);
	alone(0x10000000, MIB, MIB);
	alone(0x10000000, 2 * MIB, 2 * MIB);
	alone(0x10000000, 2 * MIB - PAGE, 2 * MIB);
	alone(0x10000000, 4 * MIB, 2 * MIB);
	alone(0x10000000, 1ULL << 30, 2 * MIB);
	alone(0x10100000, 4 * MIB, MIB);
	alone(1ULL << 40, 1ULL << 40, 2 * MIB);
	alone(0, PAGE, PAGE);
	alone(0, 2 * MIB, 2 * MIB);
	alone(0, 3 * PAGE, 4 * PAGE);
	alone(1ULL << 63, 4 * MIB, 2 * MIB);
}

static void odd_addresses(void)
{
	alone(0x10000800, PAGE, 0x1800);
	alone(0x10000001, PAGE, 0x1001);
	alone(0x10000fff, PAGE, 0x1fff);
	alone(0x10000fff, 1, 0x1fff);
	alone(0x10000800, 2 * MIB, 0x1800);
	alone(0x10003800, 3, 0x1800);

	/* Above an area that ends inside a page, the offset is or-ed in. */
	NEED(map_at(fd, ioas, PAGE, 0x1902, 0) == 0);
	chosen(0x10000801, PAGE, 0x1903);
	chosen(0x10000800, PAGE, 0x3800);
	chosen(0x10000001, 2, 0x2903);
	unmap_all(fd, ioas);
	NEED(map_at(fd, ioas, PAGE, 0x10, PAGE) == 0);
	chosen(0x10000ff0, 0x10, 0x1ff0);
	chosen(0x10000ff0, 0x10, 0x2ff0);
	chosen(0x10000010, 0x10, 0x1010);
	unmap_all(fd, ioas);
}

static void holes(void)
{
	/* 1 [2 3] 4 [5 6 7] 8 9 10 [11 ... */
	NEED(map_at(fd, ioas, PAGE, 2 * PAGE, 2 * PAGE) == 0);
	NEED(map_at(fd, ioas, PAGE, 3 * PAGE, 5 * PAGE) == 0);
	NEED(map_at(fd, ioas, PAGE, PAGE, 11 * PAGE) == 0);
	chosen(0x10001000, 2 * PAGE, 8 * PAGE);
	chosen(0x10001000, PAGE, PAGE);
	chosen(0x10001000, PAGE, 4 * PAGE);
	chosen(0x10001000, PAGE, 10 * PAGE);
	chosen(0x10001000, PAGE, 12 * PAGE);
	chosen(0x10000000, 4 * PAGE, 16 * PAGE);
	chosen(0x10001000, 3 * PAGE, 13 * PAGE);
	chosen(0x10001000, PAGE, 20 * PAGE);
	CHECK_OK(unmap_at(fd, ioas, 5 * PAGE, 3 * PAGE), "a hole of three pages");
	chosen(0x10000000, 2 * PAGE, 6 * PAGE);
	chosen(0x10000000, 2 * PAGE, 22 * PAGE);
	chosen(0x10000000, PAGE, 5 * PAGE);
	unmap_all(fd, ioas);

	/* A hole of one byte is passed over, and a hole filled to its last byte is not. */
	NEED(map_at(fd, ioas, PAGE, PAGE - 1, PAGE) == 0);
	NEED(map_at(fd, ioas, PAGE, PAGE, 2 * PAGE) == 0);
	NEED(map_at(fd, ioas, PAGE, PAGE, 4 * PAGE) == 0);
	chosen(1, 1, 3 * PAGE + 1);
	unmap_all(fd, ioas);

	/* Page 0 is never chosen, though it can be asked for. */
	NEED(map_at(fd, ioas, PAGE, U64_MAX - 2 * PAGE, PAGE) == 0);
	refused(PAGE, PAGE, ENOSPC, "only page 0 and the last one are free");
	CHECK_OK(map_at(fd, ioas, PAGE, PAGE, 0), "page 0 by name");
	unmap_all(fd, ioas);
}

static void top(void)
{
	uint64_t half = 1ULL << 63;

	NEED(map_at(fd, ioas, 0, half, 0) == 0);
	NEED(map_at(fd, ioas, 0, half - 3 * PAGE, half) == 0);
	chosen(0x10001000, 2 * PAGE - 1, U64_MAX - 3 * PAGE + 1);
	unmap_all(fd, ioas);
	NEED(map_at(fd, ioas, 0, half, 0) == 0);
	NEED(map_at(fd, ioas, 0, half - 3 * PAGE, half) == 0);
	chosen(0x10001000, 2 * PAGE, U64_MAX - 3 * PAGE + 1);
	refused(0x10001000, PAGE, ENOSPC, "the last page is never chosen");
	unmap_all(fd, ioas);
	NEED(map_at(fd, ioas, 0, half, 0) == 0);
	NEED(map_at(fd, ioas, 0, half - 3 * PAGE, half) == 0);
	refused(0x10001000, 2 * PAGE + 1, ENOSPC, "nor its second byte");
	unmap_all(fd, ioas);
}

static void too_large(void)
{
	refused(PAGE, U64_MAX / 2, EOVERFLOW, "half of all IOVA");
	refused(0, U64_MAX / 2 + PAGE, EOVERFLOW, "more than half");
	refused(0, U64_MAX - PAGE + 1, EINVAL, "a length MAP refuses anyway");
	refused(PAGE, 0, EINVAL, "length 0");
	alone(PAGE, U64_MAX / 2 - 1, PAGE);
	alone(0, U64_MAX / 2 - 1, 2 * MIB);
	NEED(map_at(fd, ioas, PAGE, PAGE, 1ULL << 62) == 0);
	chosen(PAGE, 1ULL << 62, (1ULL << 62) + PAGE);
	refused(PAGE, U64_MAX / 2 - 1, ENOSPC, "no hole that large");
	unmap_all(fd, ioas);
}

/* Without large pages the alignment the address allows must be a page at least. */
static void page_alignment(void)
{
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0) == 0);
	alone(0x10000000, 2 * MIB, 2 * MIB);
	alone(0x10001000, 2 * PAGE, PAGE);
	alone(0, PAGE, PAGE);
	refused(0x10000800, PAGE, EINVAL, "an address not aligned to a page");
	refused(0x10000000, PAGE + 1, EINVAL, "a length not aligned to a page");
	refused(0x10000000, U64_MAX / 2 + 1, EOVERFLOW, "half of all IOVA, page aligned");
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 1) == 0);
	alone(0x10000800, PAGE, 0x1800);
}

static void iova_in(void)
{
	uint64_t iova = 0x123456;

	CHECK_OK(map_flags(fd, ioas, RW, PAGE, PAGE, &iova), "the iova given is not a wish");
	CHECK_EQ(iova, PAGE, "its IOVA");
	unmap_all(fd, ioas);
}

int main(void)
{
	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	alignment();
	odd_addresses();
	holes();
	top();
	too_large();
	page_alignment();
	iova_in();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
