// SPDX-License-Identifier: MIT
/*
 * IOMMU_IOAS_UNMAP takes whole areas, any number of them, lowest first; an area that would be cut
 * ends it with ENOENT, and those already taken stay taken.
 */
#include "client.h"

static int fd;
static uint32_t ioas;

/* UNMAP, and what it says it unmapped. */
static void unmaps(uint64_t iova, uint64_t length, uint64_t want, const char *text)
{
	CHECK_OK(unmap(fd, ioas, iova, &length), "%s", text);
	CHECK_EQ(length, want, "bytes unmapped");
}

/* A refused UNMAP leaves length as it was. */
static void refuses(int error, uint64_t iova, uint64_t length, const char *text)
{
	uint64_t was = length;

	CHECK_ERR(error, unmap(fd, ioas, iova, &length), "%s", text);
	CHECK_EQ(length, was, "length is as it was");
}

static void place(uint64_t iova, uint64_t length)
{
	NEED(map_at(fd, ioas, PAGE, length, iova) == 0);
}

static void whole(void)
{
	refuses(ENOENT, 0, PAGE, "nothing there");
	refuses(ENOENT, PAGE, U64_MAX - PAGE, "nothing there up to the last byte but one");
	unmaps(0, U64_MAX, 0, "all of nothing");

	place(4 * PAGE, 2 * PAGE);
	unmaps(4 * PAGE, 2 * PAGE, 2 * PAGE, "exactly");
	refuses(ENOENT, 4 * PAGE, 2 * PAGE, "the same again");
	place(4 * PAGE, 2 * PAGE);
	unmaps(3 * PAGE, 4 * PAGE, 2 * PAGE, "more than it");
	place(4 * PAGE, 2 * PAGE);
	unmaps(0, U64_MAX - 1, 2 * PAGE, "all but two bytes");
	place(4 * PAGE, 2 * PAGE);
	unmaps(1, U64_MAX - 1, 2 * PAGE, "all but byte 0");
	place(4 * PAGE, 2 * PAGE);
	unmaps(4 * PAGE - 1, 2 * PAGE + 2, 2 * PAGE, "a byte more on either side");

	place(PAGE, PAGE);
	place(2 * PAGE, PAGE);
	place(7 * PAGE, 3);
	place(9 * PAGE, PAGE);
	unmaps(0, 8 * PAGE, 2 * PAGE + 3, "three areas with holes between");
	unmaps(0, U64_MAX, PAGE, "all: the one that is left");
	place(U64_MAX - PAGE + 1, PAGE);
	place(0, PAGE);
	unmaps(U64_MAX - PAGE + 1, PAGE, PAGE, "the last page");
	unmaps(0, PAGE, PAGE, "the first page");
	place(U64_MAX - PAGE + 1, PAGE);
	place(0, PAGE);
	unmaps(0, U64_MAX, 2 * PAGE, "all: first and last page");
	place(0, U64_MAX - PAGE);
	place(U64_MAX - PAGE, PAGE);
	unmaps(0, U64_MAX, U64_MAX, "all: almost all there is");
}

static void split(void)
{
	place(4 * PAGE, 4 * PAGE);
	refuses(ENOENT, 4 * PAGE, PAGE, "its start");
	refuses(ENOENT, 7 * PAGE, PAGE, "its end");
	refuses(ENOENT, 5 * PAGE, PAGE, "its middle");
	refuses(ENOENT, 4 * PAGE, 4 * PAGE - 1, "all but its last byte");
	refuses(ENOENT, 4 * PAGE + 1, 4 * PAGE, "all but its first byte");
	refuses(ENOENT, 0, 5 * PAGE, "from before into it");
	refuses(ENOENT, 7 * PAGE, 10 * PAGE, "from inside to after it");
	unmaps(4 * PAGE, 4 * PAGE, 4 * PAGE, "it was still there");

	place(PAGE, PAGE);
	place(2 * PAGE, 2 * PAGE);
	place(4 * PAGE, PAGE);
	refuses(ENOENT, PAGE, 2 * PAGE, "one area and half of the next");
	refuses(ENOENT, PAGE, PAGE, "the first went nonetheless");
	refuses(ENOENT, 3 * PAGE, 2 * PAGE, "half of one and all of the next");
	unmaps(4 * PAGE, PAGE, PAGE, "the next stayed, the cut one came first");
	unmaps(2 * PAGE, 2 * PAGE, 2 * PAGE, "the cut one stayed");
}

static void order(void)
{
	struct iommu_ioas_unmap cmd = { .size = sizeof(cmd), .ioas_id = NO_ID, .iova = U64_MAX,
					.length = U64_MAX }, *p;
	struct {
		struct iommu_ioas_unmap cmd;
		uint64_t tail;
	} longer = { .cmd.size = sizeof(longer) };

	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_UNMAP, &cmd), "no such IOAS, before all else");
	cmd.ioas_id = 0;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_UNMAP, &cmd), "IOAS 0");
	refuses(EOVERFLOW, U64_MAX, U64_MAX, "iova and length U64_MAX");
	refuses(EOVERFLOW, U64_MAX, 0, "iova U64_MAX");
	refuses(EOVERFLOW, 1, U64_MAX, "length U64_MAX, iova not 0");
	refuses(EINVAL, 0, 0, "length 0");
	refuses(EINVAL, U64_MAX - 1, 0, "length 0 near the end");
	refuses(EOVERFLOW, U64_MAX - 1, 3, "the range wraps");
	refuses(ENOENT, 2, U64_MAX - 1, "up to the last byte");
	refuses(EOVERFLOW, 3, U64_MAX - 1, "the range wraps by a byte");
	refuses(ENOENT, U64_MAX - 1, 2, "the last two bytes");

	place(PAGE, PAGE);
	cmd = (struct iommu_ioas_unmap){ .size = sizeof(cmd), .ioas_id = ioas, .iova = PAGE,
					 .length = PAGE };
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_UNMAP, read_only(&cmd, sizeof(cmd))),
		  "length cannot be written");
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_UNMAP, &cmd), "but the area went");
	place(PAGE, PAGE);
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_UNMAP, at_edge(&cmd, sizeof(cmd) - 1)),
		  "the last byte cannot be read");
	cmd.length = 3 * PAGE;
	p = at_edge(&cmd, sizeof(cmd));
	CHECK_OK(call(fd, IOMMU_IOAS_UNMAP, p), "at the end of a page");
	CHECK_EQ(p->length, PAGE, "bytes unmapped");
	place(PAGE, PAGE);
	longer.cmd.ioas_id = ioas;
	longer.cmd.length = U64_MAX;
	longer.tail = 1;
	CHECK_ERR(E2BIG, call(fd, IOMMU_IOAS_UNMAP, &longer), "a longer struct, not zero");
	longer.tail = 0;
	CHECK_OK(call(fd, IOMMU_IOAS_UNMAP, &longer), "a longer struct, zero");
	CHECK_EQ(longer.cmd.length, PAGE, "bytes unmapped");
}

static void many(void)
{
	unsigned int i, wrong = 0;
	uint64_t length;

	for (i = 0; i < 500; i++)
		place((uint64_t)((i * 7) % 500) * 2 * PAGE, PAGE);
	for (i = 0; i < 500; i += 2) {
		length = PAGE;
		wrong += unmap(fd, ioas, i * 2 * PAGE, &length) != 0 || length != PAGE;
	}
	CHECK_EQ(wrong, 0, "each second one of 500");
	unmaps(100 * PAGE, 200 * PAGE, 50 * PAGE, "fifty of the rest at once");
	unmaps(0, U64_MAX, 200 * PAGE, "all of the rest");
}

int main(void)
{
	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	whole();
	split();
	order();
	many();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
