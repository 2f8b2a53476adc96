// SPDX-License-Identifier: MIT
/*
 * VFIO's container above a device behind a VT-d: the sizes of its pages, what can be reached, and
 * whether its DMA is coherent. What the hardware has is read from its own registers.
 */
#include "../vfio.h"

#include "kinds.h"

#define BOTH (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)
#define SIZE_2M (1UL << 21)
#define SIZE_1G (1UL << 30)

static struct iommu_hw_info_vtd vtd;
static bool first_stage;

static uint64_t page_sizes(void)
{
	if (first_stage)
		return PAGE | SIZE_2M | (vtd.cap_reg >> 56 & 1 ? SIZE_1G : 0);
	return PAGE | (vtd.cap_reg >> 34 & 1 ? SIZE_2M : 0) | (vtd.cap_reg >> 35 & 1 ? SIZE_1G : 0);
}

static void check_info(int fd, uint32_t ioas)
{
	struct {
		struct vfio_iommu_type1_info info;
		struct vfio_iommu_type1_info_dma_avail avail;
		uint32_t fill;
		struct vfio_iommu_type1_info_cap_iova_range ranges;
		struct vfio_iova_range range[8];
	} all = { .info.argsz = sizeof(all) };
	struct iommu_iova_range ranges[8];
	uint32_t count = ARRAY_LEN(ranges), i;
	uint64_t alignment;

	CHECK_OK(call(fd, VFIO_IOMMU_GET_INFO, &all), "info");
	CHECK_EQ(all.info.iova_pgsizes, page_sizes(), "page sizes");
	NEED(iova_ranges(fd, ioas, ranges, &count, &alignment) == 0);
	CHECK_EQ(all.ranges.nr_iovas, count, "as many ranges as IOAS_IOVA_RANGES has");
	for (i = 0; i < count; i++)
		CHECK_TRUE(all.range[i].start == ranges[i].start &&
			   all.range[i].end == ranges[i].last, "range %u", i);
}

int main(void)
{
	struct iommu_hw_info cmd = { 0 };
	struct device device;
	uint64_t memory = (uintptr_t)new_pages(4), size = PAGE;
	uint32_t ioas;
	int fd;

	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	NEED(set_compat(fd, ioas) == 0);
	CHECK_OK(map_dma(fd, memory, 0, PAGE, 0), "neither readable nor writeable, without a device");
	CHECK_OK(unmap_dma(fd, 0, &size, 0), "unmap");
	CHECK_OK(ask(fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "TYPE1");
	device = new_device(fd, ioas);
	NEED(hw_info(fd, &cmd, device.id, &vtd, sizeof(vtd)) == 0);
	first_stage = vtd.ecap_reg >> 43 & 1 && vtd.ecap_reg >> 47 & 1;
	check_info(fd, ioas);
	CHECK_EQ((uint64_t)ask(fd, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU), vtd.ecap_reg >> 7 & 1,
		 "coherent by snoop control");
	CHECK_ERR(EINVAL, map_dma(fd, memory, 0, PAGE, 0), "neither readable nor writeable");
	CHECK_OK(map_dma(fd, memory, 0, PAGE, VFIO_DMA_MAP_FLAG_READ), "readable");
	CHECK_OK(map_dma(fd, memory, PAGE, PAGE, VFIO_DMA_MAP_FLAG_WRITE), "writeable");
	CHECK_ERR(EINVAL, map_dma(fd, memory, 0xfee00000, PAGE, BOTH), "interrupts");
	CHECK_OK(map_dma(fd, memory, 8 * PAGE, 4 * PAGE, BOTH), "both");
	CHECK_OK(unmap_dma(fd, 9 * PAGE, &size, 0), "a page of it");
	CHECK_EQ(size, PAGE, "one");
	CHECK_EQ(unmap_all(fd, ioas), 5 * PAGE, "the rest");
	close(fd);
	return checks_end();
}
