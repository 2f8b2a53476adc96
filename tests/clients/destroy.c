// SPDX-License-Identifier: MIT
/* IOMMU_DESTROY: an ID goes once, and only an ID that is there. */
#include "client.h"

int main(void)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd) };
	struct {
		struct iommu_destroy cmd;
		uint64_t tail;
	} longer = { .cmd.size = sizeof(longer) };
	uint32_t first, second, third;
	int fd, other;

	checks_begin();
	fd = open_iommu();
	other = open_iommu();
	first = new_ioas(fd);
	second = new_ioas(fd);
	third = new_ioas(fd);

	CHECK_ERR(ENOENT, destroy(fd, 0), "ID 0 is no object");
	CHECK_ERR(ENOENT, destroy(fd, third + 1), "an ID not given out yet");
	CHECK_ERR(ENOENT, destroy(fd, UINT32_MAX), "the largest ID");
	CHECK_ERR(ENOENT, destroy(fd, (uint32_t)INT32_MAX), "the largest ID the kernel gives out");
	CHECK_ERR(ENOENT, destroy(fd, 1U << 31), "the first ID it never gives out");
	CHECK_ERR(ENOENT, destroy(other, first), "an ID of another open file");

	CHECK_OK(destroy(fd, second), "an IOAS");
	CHECK_ERR(ENOENT, destroy(fd, second), "the same again");
	CHECK_OK(destroy(fd, first), "its neighbour below");
	CHECK_OK(destroy(fd, third), "its neighbour above");

	first = new_ioas(fd);
	CHECK_OK(map_at(fd, first, PAGE, PAGE, 0), "map an area");
	CHECK_OK(map_at(fd, first, PAGE, PAGE, 16 * PAGE), "map another");
	second = new_ioas(fd);
	CHECK_OK(copy_at(fd, second, 0, first, 0, PAGE), "copy one to a second IOAS");
	CHECK_OK(destroy(fd, first), "an IOAS with areas, one copied elsewhere");
	CHECK_ERR(ENOENT, unmap_at(fd, first, 0, PAGE), "it is gone for UNMAP");
	CHECK_ERR(ENOENT, map_at(fd, first, PAGE, PAGE, 0), "and for MAP");
	CHECK_EQ(unmap_all(fd, second), PAGE, "the copy stayed");
	CHECK_OK(destroy(fd, second), "the second IOAS");

	cmd.id = new_ioas(fd);
	CHECK_OK(call(fd, IOMMU_DESTROY, read_only(&cmd, sizeof(cmd))),
		 "a struct that cannot be written: nothing is written back");
	CHECK_ERR(ENOENT, destroy(fd, cmd.id), "and the object is gone");

	cmd.id = new_ioas(fd);
	CHECK_OK(call(fd, IOMMU_DESTROY, at_edge(&cmd, sizeof(cmd))), "at the end of a page");
	longer.cmd.id = new_ioas(fd);
	longer.tail = 1;
	CHECK_ERR(E2BIG, call(fd, IOMMU_DESTROY, &longer), "a longer struct, not zero");
	longer.tail = 0;
	CHECK_OK(call(fd, IOMMU_DESTROY, &longer), "a longer struct, zero: the object was there");
	CHECK_EQ(longer.cmd.size, sizeof(longer), "size is as it was");

	CHECK_OK(close(other), "close");
	CHECK_OK(close(fd), "close");
	return checks_end();
}
