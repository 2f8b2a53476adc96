// SPDX-License-Identifier: MIT
/*
 * IOMMU_IOAS_COPY gives the memory behind a stretch of IOVA a second place: a part of an area, or
 * several that touch; in the same IOAS or in another. The stretch must be mapped without a hole.
 */
#include "client.h"

static int fd;
static uint32_t src, dst;

static void fixed(void)
{
	NEED(map_at(fd, src, MIB, 4 * PAGE, MIB) == 0);
	CHECK_OK(copy_at(fd, dst, MIB, src, MIB, 4 * PAGE), "a whole area to another IOAS");
	CHECK_OK(copy_at(fd, src, 2 * MIB, src, MIB, 4 * PAGE), "to the same IOAS");
	CHECK_OK(copy_at(fd, dst, 3 * MIB, src, MIB, PAGE), "its first page");
	CHECK_OK(copy_at(fd, dst, 4 * MIB, src, MIB + 3 * PAGE, PAGE), "its last page");
	CHECK_OK(copy_at(fd, dst, 5 * MIB, src, MIB + PAGE, 2 * PAGE), "its middle");
	CHECK_OK(copy_at(fd, dst, 6 * MIB + 1, src, MIB + 3, 5), "five odd bytes");
	CHECK_OK(copy_at(fd, dst, 7 * MIB, dst, 5 * MIB + PAGE, PAGE), "a copy's part");
	CHECK_ERR(ENOENT, unmap_at(fd, dst, 5 * MIB, PAGE), "a copy is an area of its own length");
	CHECK_OK(unmap_at(fd, dst, 5 * MIB, 2 * PAGE), "which can be unmapped");
	CHECK_OK(unmap_at(fd, src, MIB, 4 * PAGE), "unmap the source");
	CHECK_OK(copy_at(fd, src, MIB, dst, MIB, 4 * PAGE), "copy it back from a copy");
	CHECK_EQ(unmap_all(fd, dst), 7 * PAGE + 5, "bytes mapped in the one");
	CHECK_EQ(unmap_all(fd, src), 8 * PAGE, "bytes mapped in the other");
}

static void spanning(void)
{
	NEED(map_at(fd, src, MIB, 2 * PAGE, MIB) == 0);
	NEED(map_at(fd, src, 7 * MIB, 2 * PAGE, MIB + 2 * PAGE) == 0);
	NEED(map_at(fd, src, 3 * MIB, 2 * PAGE, MIB + 4 * PAGE) == 0);
	NEED(map_at(fd, src, 3 * MIB, 2 * PAGE, MIB + 7 * PAGE) == 0);
	CHECK_OK(copy_at(fd, dst, 0, src, MIB, 6 * PAGE), "three areas that touch");
	CHECK_OK(unmap_at(fd, dst, 0, 2 * PAGE), "they are three areas");
	CHECK_OK(unmap_at(fd, dst, 2 * PAGE, 2 * PAGE), "each of its length");
	CHECK_OK(unmap_at(fd, dst, 4 * PAGE, 2 * PAGE), "at its place");
	CHECK_OK(copy_at(fd, dst, 0, src, MIB + PAGE, 4 * PAGE), "from within one into another");
	CHECK_OK(unmap_at(fd, dst, 0, PAGE), "the end of the first");
	CHECK_OK(unmap_at(fd, dst, PAGE, 2 * PAGE), "all of the second");
	CHECK_OK(unmap_at(fd, dst, 3 * PAGE, PAGE), "the start of the third");
	CHECK_ERR(ENOENT, copy_at(fd, dst, 0, src, MIB, 7 * PAGE), "into a hole");
	CHECK_ERR(ENOENT, copy_at(fd, dst, 0, src, MIB + 4 * PAGE, 5 * PAGE), "across a hole");
	CHECK_ERR(ENOENT, copy_at(fd, dst, 0, src, MIB - 1, 2), "from before the first");
	CHECK_ERR(ENOENT, copy_at(fd, dst, 0, src, MIB + 8 * PAGE, PAGE + 1), "beyond the last");
	CHECK_ERR(ENOENT, copy_at(fd, dst, 0, src, 0, U64_MAX - 1), "almost all IOVA");
	CHECK_EQ(unmap_all(fd, dst), 0, "nothing stayed of the refused");
	unmap_all(fd, src);
}

static void chosen(uint64_t from, uint64_t length, uint64_t want)
{
	uint64_t iova = 0x777;

	CHECK_OK(copy_flags(fd, RW, dst, &iova, src, from, length), "%#lx bytes of %#lx", length,
		 from);
	CHECK_EQ(iova, want, "its IOVA");
	CHECK_EQ(unmap_all(fd, dst), length, "unmap it");
}

/* The address the source's first byte has decides the alignment, not its IOVA. */
static void choose(void)
{
	uint64_t iova = 0;

	NEED(map_at(fd, src, 0x10000000, 4 * MIB, PAGE) == 0);
	NEED(map_at(fd, src, 0x10001800, 2 * PAGE, 8 * MIB) == 0);
	NEED(map_at(fd, src, 0, 4 * MIB, 16 * MIB) == 0);
	chosen(PAGE, 4 * MIB, 2 * MIB);
	chosen(2 * PAGE, 2 * PAGE, PAGE);
	chosen(PAGE + MIB, 2 * MIB, MIB);
	chosen(PAGE + 2 * MIB, 2 * MIB, 2 * MIB);
	chosen(PAGE + 3, 1, PAGE + 3);
	chosen(8 * MIB, 2 * PAGE, 0x1800);
	chosen(8 * MIB + 0x800, PAGE, PAGE);
	chosen(8 * MIB + 0x801, 8, 0x1001);
	chosen(16 * MIB, 4 * MIB, 2 * MIB);
	chosen(16 * MIB, 3 * PAGE, 4 * PAGE);
	CHECK_OK(copy_flags(fd, RW, src, &iova, src, PAGE, PAGE), "to the same IOAS");
	CHECK_EQ(iova, PAGE + 4 * MIB, "above what is there");
	NEED(map_at(fd, dst, PAGE, U64_MAX - 2 * PAGE, PAGE) == 0);
	CHECK_ERR(ENOSPC, copy_flags(fd, RW, dst, &iova, src, PAGE, PAGE), "no room");
	CHECK_EQ(iova, PAGE + 4 * MIB, "dst_iova is as it was");
	unmap_all(fd, dst);
	unmap_all(fd, src);
	NEED(map_at(fd, src, PAGE, U64_MAX - 2 * PAGE, PAGE) == 0);
	CHECK_ERR(EOVERFLOW, copy_flags(fd, RW, dst, &iova, src, PAGE, U64_MAX / 2), "half of all");
	unmap_all(fd, src);
}

static void permission(void)
{
	uint64_t iova = MIB;

	NEED(map_flags(fd, src, FIXED | R, MIB, PAGE, &iova) == 0);
	iova = MIB + PAGE;
	NEED(map_flags(fd, src, FIXED | W, MIB, PAGE, &iova) == 0);
	iova = 0;
	CHECK_OK(copy_flags(fd, FIXED | R, dst, &iova, src, MIB, PAGE), "R of R");
	iova = PAGE;
	CHECK_ERR(EPERM, copy_flags(fd, FIXED | W, dst, &iova, src, MIB, PAGE), "W of R");
	CHECK_ERR(EPERM, copy_flags(fd, FIXED | RW, dst, &iova, src, MIB, PAGE), "RW of R");
	CHECK_ERR(EPERM, copy_flags(fd, RW, dst, &iova, src, MIB, PAGE), "RW of R, chosen");
	CHECK_EQ(iova, PAGE, "dst_iova is as it was");
	CHECK_OK(copy_flags(fd, FIXED | R, dst, &iova, src, MIB + PAGE, PAGE), "R of W");
	iova = 2 * PAGE;
	CHECK_OK(copy_flags(fd, FIXED | RW, dst, &iova, src, MIB + PAGE, PAGE), "RW of W");
	iova = 3 * PAGE;
	CHECK_ERR(EPERM, copy_flags(fd, FIXED | W, dst, &iova, src, MIB, 2 * PAGE), "W of R and W");
	CHECK_OK(copy_flags(fd, FIXED | R, dst, &iova, src, MIB, 2 * PAGE), "R of R and W");
	iova = 5 * PAGE;
	CHECK_OK(copy_flags(fd, FIXED | RW, dst, &iova, dst, PAGE, PAGE),
		 "RW of a copy that is R, of memory that was W");
	iova = 0;
	CHECK_ERR(EEXIST, copy_flags(fd, FIXED | W, dst, &iova, src, MIB, PAGE),
		  "an area is there, before the permission");
	CHECK_EQ(unmap_all(fd, dst), 6 * PAGE, "bytes mapped");
	/* Two areas, the second refused: the first goes too. */
	NEED(map_at(fd, src, MIB, PAGE, MIB - PAGE) == 0);
	iova = 0;
	CHECK_ERR(EPERM, copy_flags(fd, FIXED | W, dst, &iova, src, MIB - PAGE, 2 * PAGE), "W, R");
	CHECK_EQ(unmap_all(fd, dst), 0, "nothing of it stayed");
	unmap_all(fd, src);
}

static void refused(void)
{
	struct iommu_ioas_copy cmd = { .size = sizeof(cmd), .src_ioas_id = NO_ID,
				       .dst_ioas_id = NO_ID, .length = U64_MAX,
				       .dst_iova = U64_MAX, .src_iova = U64_MAX };
	unsigned int bit;

	for (bit = 3; bit < 32; bit++) {
		/* A kernel built for its selftest gives this bit a meaning. */
		if (bit == 16)
			continue;
		cmd.flags = FIXED | RW | 1U << bit;
		CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_COPY, &cmd), "1. flag bit %u", bit);
	}
	cmd.flags = 0;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_COPY, &cmd), "2. length, src_iova, dst_iova");
	cmd.length = 0;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_COPY, &cmd), "2. src_iova, dst_iova");
	cmd.src_iova = U64_MAX - 1;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_COPY, &cmd), "2. dst_iova");
	cmd.dst_iova = U64_MAX - 1;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_COPY, &cmd), "3. neither R nor W");
	cmd.flags = FIXED | RW;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_COPY, &cmd), "4. no such source");
	cmd.src_ioas_id = src;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_COPY, &cmd), "5. length 0");
	cmd.length = 3;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_COPY, &cmd), "6. the source wraps");
	cmd.src_iova = MIB;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_COPY, &cmd), "7. nothing mapped there");
	NEED(map_at(fd, src, 0x800, 2 * PAGE, MIB) == 0);
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_COPY, &cmd), "8. no such destination");
	cmd.dst_ioas_id = dst;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_COPY, &cmd), "9. the destination wraps");
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, dst, 0) == 0);
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_COPY, &cmd), "10. the length is not aligned");
	cmd.length = PAGE;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_COPY, &cmd), "11. the IOVA is not aligned");
	cmd.dst_iova = PAGE;
	NEED(map_at(fd, dst, 0, PAGE, PAGE) == 0);
	CHECK_ERR(EEXIST, call(fd, IOMMU_IOAS_COPY, &cmd), "12. an area is there");
	cmd.dst_iova = 0;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_COPY, &cmd), "13. the address is not aligned");
	cmd.flags = RW;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_COPY, &cmd), "14. nor when the IOVA is chosen");
	cmd.src_iova = MIB + 0x800;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_COPY, read_only(&cmd, sizeof(cmd))),
		  "15. dst_iova cannot be written");
	CHECK_EQ(unmap_all(fd, dst), 2 * PAGE, "but the copy is there");
	CHECK_OK(call(fd, IOMMU_IOAS_COPY, at_edge(&cmd, sizeof(cmd))), "16. no rule left");
	CHECK_EQ(unmap_all(fd, dst), PAGE, "bytes mapped");
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_COPY, at_edge(&cmd, sizeof(cmd) - 1)),
		  "the last byte cannot be read");
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, dst, 1) == 0);
	CHECK_ERR(EEXIST, copy_at(fd, src, MIB + PAGE, src, MIB, PAGE), "onto itself");
	CHECK_OK(copy_at(fd, src, MIB + 2 * PAGE, src, MIB, 2 * PAGE), "right after itself");
	CHECK_EQ(unmap_all(fd, src), 4 * PAGE, "bytes mapped");
}

int main(void)
{
	checks_begin();
	fd = open_iommu();
	src = new_ioas(fd);
	dst = new_ioas(fd);
	fixed();
	spanning();
	choose();
	permission();
	refused();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
