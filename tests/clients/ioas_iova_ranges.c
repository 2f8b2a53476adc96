// SPDX-License-Identifier: MIT
/*
 * IOMMU_IOAS_IOVA_RANGES: without a device all IOVA is usable, in one range, at any alignment.
 * Neither areas nor the allowed ranges change that.
 */
#include "client.h"

static int fd;
static uint32_t ioas;

static void answer(void)
{
	struct iommu_iova_range ranges[4];
	uint64_t alignment, iova = 0;
	uint32_t count = 4;

	memset(ranges, 0x5a, sizeof(ranges));
	CHECK_OK(iova_ranges(fd, ioas, ranges, &count, &alignment), "room for four");
	CHECK_EQ(count, 1, "one range");
	CHECK_EQ(ranges[0].start, 0, "from 0");
	CHECK_EQ(ranges[0].last, U64_MAX, "to the end");
	CHECK_EQ(ranges[1].start, 0x5a5a5a5a5a5a5a5a, "no more is written");
	CHECK_EQ(alignment, 1, "any alignment");
	count = 1;
	CHECK_OK(iova_ranges(fd, ioas, ranges, &count, &alignment), "room for one");
	CHECK_EQ(count, 1, "one range");

	count = 0;
	alignment = 99;
	CHECK_ERR(EMSGSIZE, iova_ranges(fd, ioas, NULL, &count, &alignment), "room for none");
	CHECK_EQ(count, 1, "the room needed");
	CHECK_EQ(alignment, 1, "alignment is written nonetheless");
	count = 0;
	CHECK_ERR(EMSGSIZE, iova_ranges(fd, ioas, unmapped(), &count, &alignment),
		  "an array that is not there is not looked at without room");
	count = UINT32_MAX;
	CHECK_OK(iova_ranges(fd, ioas, ranges, &count, &alignment), "more room than memory");
	CHECK_EQ(count, 1, "one range");
	count = 2;
	CHECK_OK(iova_ranges(fd, ioas, at_edge(ranges, sizeof(ranges[0])), &count, &alignment),
		 "only what is written must be there");

	ranges[0] = (struct iommu_iova_range){ MIB, 2 * MIB - 1 };
	CHECK_OK(allow_iovas(fd, ioas, ranges, 1), "allow a part");
	CHECK_OK(map_any(fd, ioas, PAGE, PAGE, &iova), "map");
	count = 4;
	CHECK_OK(iova_ranges(fd, ioas, ranges, &count, &alignment), "all is usable still");
	CHECK_EQ(count, 1, "one range");
	CHECK_EQ(ranges[0].start, 0, "from 0");
	CHECK_EQ(ranges[0].last, U64_MAX, "to the end");
	CHECK_OK(allow_iovas(fd, ioas, NULL, 0), "allow all again");
	unmap_all(fd, ioas);

	CHECK_OK(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0), "no large pages");
	CHECK_EQ(iova_alignment(fd, ioas), PAGE, "alignment is a page");
	CHECK_OK(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 1), "large pages");
	CHECK_EQ(iova_alignment(fd, ioas), 1, "any alignment");
}

static void refused(void)
{
	struct iommu_iova_range range = { 5, 6 }, *array;
	struct iommu_ioas_iova_ranges cmd = { .size = sizeof(cmd), .ioas_id = NO_ID,
					      .num_iovas = 1, .__reserved = 1,
					      .allowed_iovas = (uintptr_t)unmapped(),
					      .out_iova_alignment = 77 };
	struct {
		struct iommu_ioas_iova_ranges cmd;
		uint64_t tail;
	} longer = { .cmd.size = sizeof(longer) };
	unsigned int bit;

	for (bit = 0; bit < 32; bit += 31) {
		cmd.__reserved = 1U << bit;
		CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_IOVA_RANGES, &cmd), "1. reserved");
	}
	cmd.__reserved = 0;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_IOVA_RANGES, &cmd), "2. no such IOAS");
	cmd.ioas_id = ioas;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_IOVA_RANGES, &cmd), "3. the array is not there");
	CHECK_EQ(cmd.num_iovas, 1, "num_iovas is as it was");
	CHECK_EQ(cmd.out_iova_alignment, 77, "alignment is as it was");
	array = read_only(&range, sizeof(range));
	cmd.allowed_iovas = (uintptr_t)array;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_IOVA_RANGES, &cmd), "3. the array is read-only");
	cmd.allowed_iovas = (uintptr_t)at_edge(&range, sizeof(range) - 1);
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_IOVA_RANGES, &cmd), "3. its last byte is missing");
	cmd.allowed_iovas = 0xffff888000000000;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_IOVA_RANGES, &cmd), "3. a kernel address");
	cmd.allowed_iovas = U64_MAX;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_IOVA_RANGES, &cmd), "3. the last address");
	cmd.allowed_iovas = (uintptr_t)&range;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_IOVA_RANGES, read_only(&cmd, sizeof(cmd))),
		  "4. the struct cannot be written");
	CHECK_EQ(range.last, U64_MAX, "the array was, before");
	cmd.num_iovas = 0;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_IOVA_RANGES, read_only(&cmd, sizeof(cmd))),
		  "4. which comes before EMSGSIZE");
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_IOVA_RANGES, at_edge(&cmd, sizeof(cmd) - 1)),
		  "the struct's last byte is missing");
	longer.cmd.ioas_id = ioas;
	longer.cmd.num_iovas = 1;
	longer.cmd.allowed_iovas = (uintptr_t)&range;
	CHECK_OK(call(fd, IOMMU_IOAS_IOVA_RANGES, &longer), "a longer struct, zero");
	CHECK_EQ(longer.cmd.out_iova_alignment, 1, "alignment");
	longer.tail = 1ULL << 32;
	CHECK_ERR(E2BIG, call(fd, IOMMU_IOAS_IOVA_RANGES, &longer), "a longer struct, not zero");
}

int main(void)
{
	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	answer();
	refused();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
