// SPDX-License-Identifier: MIT
/* IOMMU_IOAS_ALLOC: the lowest free ID from 1 on, and nothing stays of a failed one. */
#include "client.h"

static void ids(void)
{
	int fd = open_iommu(), other = open_iommu();
	uint32_t id;
	unsigned int i;

	for (i = 1; i <= 5; i++) {
		CHECK_OK(ioas_alloc(fd, &id), "allocate the %u.", i);
		CHECK_EQ(id, i, "its ID");
	}
	CHECK_OK(ioas_alloc(other, &id), "allocate in another open file");
	CHECK_EQ(id, 1, "which counts for itself");

	CHECK_OK(destroy(fd, 4), "destroy 4");
	CHECK_OK(destroy(fd, 2), "destroy 2");
	CHECK_OK(ioas_alloc(fd, &id), "allocate");
	CHECK_EQ(id, 2, "the lowest free ID first");
	CHECK_OK(ioas_alloc(fd, &id), "allocate");
	CHECK_EQ(id, 4, "then the next hole");
	CHECK_OK(ioas_alloc(fd, &id), "allocate");
	CHECK_EQ(id, 6, "then the end");
	CHECK_OK(destroy(fd, 6), "destroy the last");
	CHECK_OK(ioas_alloc(fd, &id), "allocate");
	CHECK_EQ(id, 6, "its ID is used again at once");
	for (i = 1; i <= 6; i++)
		CHECK_OK(destroy(fd, i), "destroy %u", i);
	CHECK_OK(ioas_alloc(fd, &id), "allocate in the empty file");
	CHECK_EQ(id, 1, "from 1 again");
	CHECK_OK(close(fd), "close");
	CHECK_OK(close(other), "close");
}

static void refused(void)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) }, *p;
	struct {
		struct iommu_ioas_alloc cmd;
		uint32_t tail[5];
	} longer = { .cmd.size = sizeof(longer) };
	int fd = open_iommu();
	unsigned int bit;
	uint32_t id;

	for (bit = 0; bit < 32; bit++) {
		cmd.flags = 1U << bit;
		cmd.out_ioas_id = 0x1234;
		CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_ALLOC, &cmd), "flag bit %u", bit);
		CHECK_EQ(cmd.out_ioas_id, 0x1234, "nothing is written");
	}
	cmd.flags = 0;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_ALLOC, read_only(&cmd, sizeof(cmd))),
		  "the ID cannot be written");
	CHECK_OK(ioas_alloc(fd, &id), "allocate");
	CHECK_EQ(id, 1, "the failed one took no ID");

	cmd.out_ioas_id = 99;
	CHECK_OK(call(fd, IOMMU_IOAS_ALLOC, &cmd), "out_ioas_id is not looked at");
	CHECK_EQ(cmd.out_ioas_id, 2, "only written");
	p = at_edge(&cmd, sizeof(cmd));
	CHECK_OK(call(fd, IOMMU_IOAS_ALLOC, p), "at the end of a page");
	CHECK_EQ(p->out_ioas_id, 3, "the ID");
	p = (void *)(new_pages(2) + PAGE - 5);
	memcpy(p, &cmd, sizeof(cmd));
	CHECK_OK(call(fd, IOMMU_IOAS_ALLOC, p), "across pages, at an odd address");
	memcpy(&cmd, p, sizeof(cmd));
	CHECK_EQ(cmd.out_ioas_id, 4, "the ID");

	CHECK_OK(call(fd, IOMMU_IOAS_ALLOC, &longer), "a longer struct with a zero tail");
	CHECK_EQ(longer.cmd.out_ioas_id, 5, "the ID");
	CHECK_EQ(longer.tail[0], 0, "the tail is as it was");
	longer.tail[4] = 1U << 31;
	CHECK_ERR(E2BIG, call(fd, IOMMU_IOAS_ALLOC, &longer), "a tail that is not zero");
	longer.cmd.flags = 1;
	CHECK_ERR(E2BIG, call(fd, IOMMU_IOAS_ALLOC, &longer), "the tail comes before the flags");
	CHECK_OK(close(fd), "close");
}

static void many(void)
{
	int fd = open_iommu();
	uint32_t id = 0;
	unsigned int i, wrong = 0;

	for (i = 1; i <= 300; i++)
		wrong += ioas_alloc(fd, &id) != 0 || id != i;
	CHECK_EQ(wrong, 0, "300 IOAS in order");
	for (i = 2; i <= 300; i += 2)
		wrong += destroy(fd, i) != 0;
	for (i = 2; i <= 300; i += 2)
		wrong += ioas_alloc(fd, &id) != 0 || id != i;
	CHECK_EQ(wrong, 0, "each second one again, in order");
	CHECK_OK(close(fd), "close with 300 IOAS standing");
}

int main(void)
{
	checks_begin();
	ids();
	refused();
	many();
	return checks_end();
}
