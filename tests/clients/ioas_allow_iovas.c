// SPDX-License-Identifier: MIT
/*
 * IOMMU_IOAS_ALLOW_IOVAS replaces the list of ranges from which an IOVA is chosen. It binds only
 * the choice: a given IOVA may lie outside, and areas that are there stay.
 */
#include "client.h"

static int fd;
static uint32_t ioas;

#define ALLOW(...)                                                                                 \
	allow_iovas(fd, ioas, (struct iommu_iova_range[]){ __VA_ARGS__ },                          \
		    ARRAY_LEN(((struct iommu_iova_range[]){ __VA_ARGS__ })))

static void chosen(uint64_t va, uint64_t length, uint64_t want)
{
	uint64_t iova;

	CHECK_OK(map_any(fd, ioas, va, length, &iova), "map %#lx bytes of %#lx", length, va);
	CHECK_EQ(iova, want, "its IOVA");
}

static void full(uint64_t length)
{
	uint64_t iova;

	CHECK_ERR(ENOSPC, map_any(fd, ioas, PAGE, length, &iova), "no room for %#lx bytes", length);
}

static void choice(void)
{
	CHECK_OK(ALLOW({ MIB, MIB + 4 * PAGE - 1 }), "four pages");
	chosen(PAGE, 2 * PAGE, MIB);
	full(3 * PAGE);
	chosen(PAGE, 2 * PAGE, MIB + 2 * PAGE);
	full(PAGE);
	full(1);
	CHECK_OK(map_at(fd, ioas, PAGE, PAGE, 0), "outside, given");
	CHECK_OK(map_at(fd, ioas, PAGE, 2 * PAGE, MIB - PAGE - PAGE), "before it, given");
	CHECK_EQ(unmap_all(fd, ioas), 7 * PAGE, "bytes mapped");

	CHECK_OK(ALLOW({ 3 * MIB, 3 * MIB + PAGE - 1 }, { MIB, MIB + PAGE - 1 },
		       { 2 * MIB, 2 * MIB + 8 * PAGE - 1 }), "three ranges, not in order");
	chosen(PAGE, 2 * PAGE, 2 * MIB);
	chosen(PAGE, PAGE, MIB);
	chosen(PAGE, 6 * PAGE, 2 * MIB + 2 * PAGE);
	chosen(PAGE, PAGE, 3 * MIB);
	full(PAGE);
	CHECK_EQ(unmap_all(fd, ioas), 10 * PAGE, "bytes mapped");

	CHECK_OK(ALLOW({ MIB, MIB + PAGE - 1 }, { MIB + PAGE, MIB + 2 * PAGE - 1 }),
		 "two that touch");
	chosen(PAGE, 2 * PAGE, MIB);
	CHECK_EQ(unmap_all(fd, ioas), 2 * PAGE, "used as one");

	CHECK_OK(ALLOW({ MIB + 0x801, MIB + 3 * PAGE - 1 }), "a range at an odd IOVA");
	chosen(0x10000000, PAGE, MIB + PAGE);
	chosen(0x10000801, 16, MIB + 0x801);
	chosen(0x10000001, 0x100, MIB + 0x811);
	chosen(0x10000ff8, 8, MIB + 0xff8);
	CHECK_EQ(unmap_all(fd, ioas), PAGE + 0x118, "bytes mapped");

	CHECK_OK(ALLOW({ 0, 2 * PAGE - 1 }), "the first two pages");
	chosen(PAGE, PAGE, PAGE);
	full(PAGE);
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "page 0 is not chosen");
	CHECK_OK(ALLOW({ U64_MAX - 2 * PAGE + 1, U64_MAX }), "the last two pages");
	chosen(PAGE, PAGE, U64_MAX - 2 * PAGE + 1);
	full(PAGE);
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "the last page is not chosen");
	CHECK_OK(ALLOW({ 0, PAGE - 1 }), "page 0 only");
	full(1);
	CHECK_OK(ALLOW({ U64_MAX - 1, U64_MAX }), "the last two bytes");
	full(1);
	CHECK_OK(ALLOW({ 0, U64_MAX }), "everything, by a range");
	chosen(PAGE, PAGE, PAGE);
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "bytes mapped");
	CHECK_OK(ALLOW({ MIB, 9 * MIB }), "a range with no room at the alignment");
	chosen(0x10000000, 2 * MIB, 2 * MIB);
	chosen(0x10000000, 4 * MIB, 4 * MIB);
	full(9 * MIB);
	CHECK_EQ(unmap_all(fd, ioas), 6 * MIB, "bytes mapped");
}

static void replaced(void)
{
	uint64_t iova = 0;

	CHECK_OK(ALLOW({ MIB, 2 * MIB - 1 }), "a range");
	chosen(PAGE, PAGE, MIB);
	CHECK_OK(ALLOW({ 4 * MIB, 5 * MIB - 1 }), "another, areas outside it");
	chosen(PAGE, PAGE, 4 * MIB);
	CHECK_OK(ALLOW({ 4 * MIB, 5 * MIB - 1 }), "the same again");
	chosen(PAGE, PAGE, 4 * MIB + PAGE);
	CHECK_ERR(EINVAL, ALLOW({ 6 * MIB, 7 * MIB }, { 7 * MIB, 8 * MIB }), "a refused list");
	chosen(PAGE, PAGE, 4 * MIB + 2 * PAGE);
	CHECK_OK(copy_flags(fd, RW, ioas, &iova, ioas, MIB, PAGE), "COPY chooses from it too");
	CHECK_EQ(iova, 4 * MIB + 3 * PAGE, "its IOVA");
	CHECK_OK(allow_iovas(fd, ioas, NULL, 0), "the empty list");
	chosen(PAGE, PAGE, PAGE);
	CHECK_EQ(unmap_all(fd, ioas), 6 * PAGE, "bytes mapped");
	CHECK_OK(allow_iovas(fd, ioas, unmapped(), 0), "the empty list's address is not looked at");
}

static void bad_ranges(void)
{
	struct iommu_iova_range two[2] = { { MIB, 2 * MIB }, { 3 * MIB, 4 * MIB } };
	struct iommu_iova_range three[3] = { { MIB, 2 * MIB }, { 5, 4 } };
	struct iommu_iova_range *many;
	unsigned int i;

	CHECK_ERR(EINVAL, ALLOW({ MIB, MIB - 1 }), "last before start");
	CHECK_ERR(EINVAL, ALLOW({ MIB, MIB }), "a range of one byte");
	CHECK_ERR(EINVAL, ALLOW({ 0, 0 }), "0 to 0");
	CHECK_ERR(EINVAL, ALLOW({ U64_MAX, U64_MAX }), "U64_MAX to U64_MAX");
	CHECK_OK(ALLOW({ MIB, MIB + 1 }), "a range of two bytes");
	CHECK_ERR(EINVAL, ALLOW({ MIB, 2 * MIB }, { MIB, 2 * MIB }), "twice the same");
	CHECK_ERR(EINVAL, ALLOW({ MIB, 2 * MIB }, { 2 * MIB, 3 * MIB }), "last and start are one");
	CHECK_ERR(EINVAL, ALLOW({ MIB, 9 * MIB }, { 2 * MIB, 3 * MIB }), "inside another");
	CHECK_ERR(EINVAL, ALLOW({ 2 * MIB, 3 * MIB }, { MIB, 9 * MIB }), "around another");
	CHECK_ERR(EINVAL, ALLOW({ 2 * MIB, 3 * MIB }, { 0, U64_MAX }), "all around another");
	CHECK_ERR(EINVAL, ALLOW({ MIB, 2 * MIB - 1 }, { 5, 5 }), "the second is no range");

	CHECK_ERR(EFAULT, allow_iovas(fd, ioas, NULL, 1), "a NULL list");
	CHECK_ERR(EFAULT, allow_iovas(fd, ioas, unmapped(), 1), "a list that is not there");
	CHECK_ERR(EFAULT, allow_iovas(fd, ioas, (void *)0xffff888000000000, 1), "kernel memory");
	CHECK_ERR(EFAULT, allow_iovas(fd, ioas, at_edge(two, 31), 2), "one byte is missing");
	CHECK_ERR(EFAULT, allow_iovas(fd, ioas, at_edge(two, 32), 3), "the third is missing");
	CHECK_ERR(EINVAL, allow_iovas(fd, ioas, at_edge(three, 32), 3),
		  "the second is no range: found before the third is missing");
	CHECK_ERR(EFAULT, allow_iovas(fd, ioas, at_edge(two, 32), UINT32_MAX), "4 G of them");
	CHECK_OK(allow_iovas(fd, ioas, read_only(two, 32), 2), "a list that is read-only");
	CHECK_OK(allow_iovas(fd, ioas, at_edge(two, 32), 2), "a list at the end of a page");

	many = malloc(1000 * sizeof(*many));
	NEED(many);
	for (i = 0; i < 1000; i++)
		many[i] = (struct iommu_iova_range){ (1000 - i) * MIB,
						     (1000 - i) * MIB + PAGE - 1 };
	CHECK_OK(allow_iovas(fd, ioas, many, 1000), "a thousand ranges");
	chosen(PAGE, PAGE, MIB);
	chosen(PAGE, PAGE, 2 * MIB);
	many[999] = many[500];
	CHECK_ERR(EINVAL, allow_iovas(fd, ioas, many, 1000), "the last overlaps one in the middle");
	free(many);
	unmap_all(fd, ioas);
	CHECK_OK(allow_iovas(fd, ioas, NULL, 0), "everything");
}

static void structs(void)
{
	struct iommu_iova_range range = { MIB, 2 * MIB - 1 };
	struct iommu_ioas_allow_iovas cmd = { .size = sizeof(cmd), .ioas_id = NO_ID, .num_iovas = 1,
					      .__reserved = 1 };
	struct {
		struct iommu_ioas_allow_iovas cmd;
		uint64_t tail;
	} longer = { .cmd.size = sizeof(longer) };

	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_ALLOW_IOVAS, &cmd), "1. reserved");
	cmd.__reserved = 0;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_ALLOW_IOVAS, &cmd), "2. no such IOAS");
	cmd.ioas_id = ioas;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_ALLOW_IOVAS, &cmd), "3. the list is not there");
	cmd.allowed_iovas = (uintptr_t)&range;
	CHECK_OK(call(fd, IOMMU_IOAS_ALLOW_IOVAS, read_only(&cmd, sizeof(cmd))),
		 "4. a read-only struct: nothing is written back");
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_ALLOW_IOVAS, at_edge(&cmd, sizeof(cmd) - 1)),
		  "the struct's last byte is missing");
	longer.cmd.ioas_id = ioas;
	longer.tail = 1;
	CHECK_ERR(E2BIG, call(fd, IOMMU_IOAS_ALLOW_IOVAS, &longer), "a longer struct, not zero");
	longer.tail = 0;
	CHECK_OK(call(fd, IOMMU_IOAS_ALLOW_IOVAS, &longer), "a longer struct, zero: all allowed");
	chosen(PAGE, PAGE, PAGE);
}

int main(void)
{
	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	choice();
	replaced();
	bad_ranges();
	structs();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
