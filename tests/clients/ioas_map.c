// SPDX-License-Identifier: MIT
/*
 * IOMMU_IOAS_MAP at a given IOVA, and its refusals in the order the kernel finds them. Without a
 * device nothing is pinned: the address is only remembered, so any address can be mapped. The
 * choice of an IOVA is in ioas_map_choose.c.
 */
#include "client.h"

static void fixed(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd);
	uint64_t va = (uintptr_t)new_pages(4), iova = 0x10000, length;

	CHECK_OK(map_flags(fd, ioas, FIXED | RW, va, 2 * PAGE, &iova), "readable and writeable");
	CHECK_EQ(iova, 0x10000, "iova is as it was");
	iova = 0x20000;
	CHECK_OK(map_flags(fd, ioas, FIXED | R, va, 2 * PAGE, &iova), "readable");
	iova = 0x30000;
	CHECK_OK(map_flags(fd, ioas, FIXED | W, va, 2 * PAGE, &iova), "writeable");
	CHECK_OK(map_at(fd, ioas, va, 2 * PAGE, 0), "IOVA 0, the same memory again");
	length = U64_MAX;
	CHECK_OK(unmap(fd, ioas, 0, &length), "unmap all");
	CHECK_EQ(length, 8 * PAGE, "all of it");

	CHECK_OK(map_at(fd, ioas, va, 1, 7), "one byte at an odd IOVA");
	CHECK_OK(map_at(fd, ioas, va + 3, 5, 8), "five bytes next to it");
	CHECK_OK(map_at(fd, ioas, va, 7, 0), "seven before");
	CHECK_EQ(unmap_all(fd, ioas), 13, "bytes mapped");

	CHECK_OK(map_at(fd, ioas, 0, PAGE, PAGE), "address 0");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)unmapped(), PAGE, 2 * PAGE), "nothing mapped there");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)read_only("", 1), PAGE, 3 * PAGE),
		 "read-only memory, writeable");
	CHECK_OK(map_at(fd, ioas, 0xffff800000000000, PAGE, 4 * PAGE), "a kernel address");
	CHECK_OK(map_at(fd, ioas, U64_MAX - PAGE, PAGE, 5 * PAGE), "the last page but one byte");
	CHECK_EQ(unmap_all(fd, ioas), 5 * PAGE, "bytes mapped");
	CHECK_OK(close(fd), "close");
}

static void overlap(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), other = new_ioas(fd);
	uint64_t iova = 0x10000;

	CHECK_OK(map_at(fd, ioas, PAGE, 4 * PAGE, iova), "an area");
	CHECK_ERR(EEXIST, map_at(fd, ioas, PAGE, 4 * PAGE, iova), "the same");
	CHECK_ERR(EEXIST, map_at(fd, ioas, PAGE, PAGE, iova + PAGE), "inside");
	CHECK_ERR(EEXIST, map_at(fd, ioas, PAGE, 6 * PAGE, iova - PAGE), "around");
	CHECK_ERR(EEXIST, map_at(fd, ioas, PAGE, PAGE + 1, iova - PAGE), "its first byte");
	CHECK_ERR(EEXIST, map_at(fd, ioas, PAGE, PAGE, iova + 4 * PAGE - 1), "its last byte");
	CHECK_OK(map_at(fd, ioas, PAGE, PAGE, iova - PAGE), "just before");
	CHECK_OK(map_at(fd, ioas, PAGE, PAGE, iova + 4 * PAGE), "just after");
	CHECK_OK(map_at(fd, other, PAGE, 4 * PAGE, iova), "the same in another IOAS");
	CHECK_EQ(unmap_all(fd, ioas), 6 * PAGE, "bytes mapped");
	CHECK_EQ(unmap_all(fd, other), 4 * PAGE, "bytes mapped in the other");
	CHECK_OK(close(fd), "close");
}

static void edges(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd);
	uint64_t iova = U64_MAX;

	CHECK_OK(map_at(fd, ioas, PAGE, PAGE, U64_MAX - PAGE + 1), "the last page of IOVA");
	CHECK_OK(map_at(fd, ioas, PAGE, PAGE - 1, U64_MAX - 2 * PAGE + 2), "just before it");
	CHECK_ERR(EOVERFLOW, map_at(fd, ioas, PAGE, PAGE + 1, U64_MAX - PAGE + 1),
		  "one byte beyond, on an area");
	CHECK_EQ(unmap_all(fd, ioas), 2 * PAGE - 1, "bytes mapped");
	CHECK_ERR(EOVERFLOW, map_at(fd, ioas, PAGE, 2, U64_MAX), "iova U64_MAX");
	CHECK_ERR(EOVERFLOW, map_flags(fd, ioas, RW, PAGE, PAGE, &iova),
		  "iova U64_MAX, not fixed: still looked at");
	CHECK_ERR(EOVERFLOW, map_at(fd, ioas, 0, U64_MAX, 0), "length U64_MAX");
	CHECK_OK(map_at(fd, ioas, PAGE, 1, U64_MAX - 1), "the last byte but one");
	CHECK_OK(unmap_at(fd, ioas, U64_MAX - 1, 1), "unmap it");
	CHECK_ERR(EOVERFLOW, map_at(fd, ioas, U64_MAX, 1, 0), "the address range wraps: end is 0");
	CHECK_ERR(EOVERFLOW, map_at(fd, ioas, PAGE + 1, U64_MAX - PAGE, 0),
		  "the address range wraps by a byte");
	CHECK_ERR(EOVERFLOW, map_at(fd, ioas, 2, U64_MAX - 1, 0),
		  "the address range wraps, which comes before the length is too large");
	CHECK_ERR(EOVERFLOW, map_at(fd, ioas, 2, U64_MAX - PAGE, 0),
		  "pages beyond what can be counted (Linux warns of it in its log)");
	CHECK_OK(map_at(fd, ioas, 1, U64_MAX - PAGE, 0), "pages that just can be");
	CHECK_EQ(unmap_all(fd, ioas), U64_MAX - PAGE, "bytes mapped");
	CHECK_ERR(EINVAL, map_at(fd, ioas, 0, U64_MAX - PAGE + 1, 0), "the length is too large");
	CHECK_ERR(EINVAL, map_at(fd, ioas, 0, U64_MAX - 1, 0), "the largest length not U64_MAX");
	CHECK_OK(map_at(fd, ioas, 0, U64_MAX - PAGE, 0), "the largest length");
	CHECK_ERR(EEXIST, map_at(fd, ioas, 0, 1, U64_MAX - PAGE - 1), "its last byte is taken");
	CHECK_OK(map_at(fd, ioas, 0, PAGE, U64_MAX - PAGE), "room for what is left");
	CHECK_EQ(unmap_all(fd, ioas), U64_MAX, "bytes mapped");
	CHECK_OK(map_at(fd, ioas, 0, U64_MAX - PAGE, PAGE), "the largest length at one page");
	CHECK_EQ(unmap_all(fd, ioas), U64_MAX - PAGE, "bytes mapped");
	CHECK_OK(map_at(fd, ioas, 0, U64_MAX - PAGE, PAGE + 1), "up to the last byte of IOVA");
	CHECK_EQ(unmap_all(fd, ioas), U64_MAX - PAGE, "bytes mapped");
	CHECK_ERR(EOVERFLOW, map_at(fd, ioas, 0, U64_MAX - PAGE, PAGE + 2), "one byte beyond");
	CHECK_ERR(EINVAL, map_at(fd, ioas, PAGE, 0, 0), "length 0");
	CHECK_ERR(EINVAL, map_at(fd, ioas, U64_MAX, 0, 0), "length 0 at the last address");
	CHECK_EQ(unmap_all(fd, ioas), 0, "nothing stayed");
	CHECK_OK(close(fd), "close");
}

static void flags(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), bad;
	uint64_t iova = 0;
	unsigned int bit;

	for (bit = 3; bit < 32; bit++) {
		bad = FIXED | RW | 1U << bit;
		CHECK_ERR(EOPNOTSUPP, map_flags(fd, ioas, bad, PAGE, PAGE, &iova), "flag bit %u",
			  bit);
	}
	CHECK_ERR(EINVAL, map_flags(fd, ioas, FIXED, PAGE, PAGE, &iova), "neither R nor W, fixed");
	CHECK_ERR(EINVAL, map_flags(fd, ioas, 0, PAGE, PAGE, &iova), "no flag at all");
	iova = 0;
	CHECK_OK(map_flags(fd, ioas, R, PAGE, PAGE, &iova), "R, chosen");
	CHECK_OK(map_flags(fd, ioas, W, PAGE, PAGE, &iova), "W, chosen");
	CHECK_OK(map_flags(fd, ioas, RW, PAGE, PAGE, &iova), "RW, chosen");
	CHECK_EQ(unmap_all(fd, ioas), 3 * PAGE, "bytes mapped");
	CHECK_OK(close(fd), "close");
}

/* Each row breaks its own rule and all below it. */
static void order(void)
{
	struct iommu_ioas_map cmd = { .size = sizeof(cmd), .flags = 1U << 3, .ioas_id = NO_ID,
				      .__reserved = 1, .user_va = U64_MAX, .length = U64_MAX,
				      .iova = U64_MAX };
	struct iommu_ioas_map before;
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd);

	before = cmd;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_MAP, &cmd), "1. an unknown flag");
	CHECK_TRUE(!memcmp(&cmd, &before, sizeof(cmd)), "nothing is written");
	cmd.flags = 0;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_MAP, &cmd), "1. reserved");
	cmd.__reserved = 0;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_MAP, &cmd), "2. iova U64_MAX");
	cmd.iova = U64_MAX - 1;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_MAP, &cmd), "2. length U64_MAX");
	cmd.length = U64_MAX - 1;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_MAP, &cmd), "3. neither R nor W");
	cmd.flags = FIXED | RW;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_MAP, &cmd), "4. no such IOAS");
	cmd.ioas_id = ioas;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_MAP, &cmd), "5. the address range wraps");
	cmd.user_va = 0;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_MAP, &cmd), "6. the length is too large");
	cmd.length = 3;
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0) == 0);
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_MAP, &cmd), "7. the length is not aligned");
	cmd.length = PAGE;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_MAP, &cmd), "8. the IOVA is not aligned");
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 1) == 0);
	NEED(map_at(fd, ioas, 0, PAGE, U64_MAX - PAGE + 1) == 0);
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_MAP, &cmd), "9. the IOVA range wraps");
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0) == 0);
	cmd.iova = U64_MAX - PAGE + 1;
	cmd.user_va = 1;
	CHECK_ERR(EEXIST, call(fd, IOMMU_IOAS_MAP, &cmd), "10. an area is there");
	cmd.iova = 0;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_MAP, &cmd), "11. the address is not aligned");
	cmd.user_va = 0;
	CHECK_OK(call(fd, IOMMU_IOAS_MAP, &cmd), "12. no rule left");
	CHECK_EQ(unmap_all(fd, ioas), 2 * PAGE, "bytes mapped");
	CHECK_OK(close(fd), "close");
}

static void structs(void)
{
	struct iommu_ioas_map cmd = { .size = sizeof(cmd), .flags = FIXED | RW, .user_va = PAGE,
				      .length = PAGE, .iova = PAGE }, *p;
	struct {
		struct iommu_ioas_map cmd;
		uint64_t tail;
	} longer = { .cmd.size = sizeof(longer) };
	int fd = open_iommu();

	cmd.ioas_id = new_ioas(fd);
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_MAP, read_only(&cmd, sizeof(cmd))),
		  "the struct cannot be written");
	CHECK_ERR(EEXIST, call(fd, IOMMU_IOAS_MAP, &cmd), "but the area is mapped");
	CHECK_OK(unmap_at(fd, cmd.ioas_id, PAGE, PAGE), "and can be unmapped");
	p = at_edge(&cmd, sizeof(cmd));
	CHECK_OK(call(fd, IOMMU_IOAS_MAP, p), "at the end of a page");
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_MAP, at_edge(&cmd, sizeof(cmd) - 8)),
		  "iova is not there");
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_MAP, at_edge(&cmd, 4)), "only size is there");
	cmd.size = sizeof(cmd) - 1;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_MAP, at_edge(&cmd, 4)),
		  "size is looked at before the rest");
	cmd.size = sizeof(cmd);
	longer.cmd = cmd;
	longer.cmd.size = sizeof(longer);
	longer.cmd.iova = 2 * PAGE;
	longer.tail = 1ULL << 63;
	CHECK_ERR(E2BIG, call(fd, IOMMU_IOAS_MAP, &longer), "a longer struct, not zero");
	longer.tail = 0;
	longer.cmd.flags &= ~FIXED;
	CHECK_OK(call(fd, IOMMU_IOAS_MAP, &longer), "a longer struct, zero");
	CHECK_EQ(longer.cmd.iova, 2 * PAGE, "the chosen IOVA");
	CHECK_EQ(longer.tail, 0, "the tail is as it was");
	CHECK_EQ(longer.cmd.size, sizeof(longer), "size is as it was");
	CHECK_EQ(unmap_all(fd, cmd.ioas_id), 2 * PAGE, "bytes mapped");
	CHECK_OK(close(fd), "close");
}

int main(void)
{
	checks_begin();
	fixed();
	overlap();
	edges();
	flags();
	order();
	structs();
	return checks_end();
}
