// SPDX-License-Identifier: MIT
/*
 * VFIO's container on /dev/iommu without a device: what each ioctl answers before and after there is
 * a compat IOAS, its argsz rules, and every errno that needs no page table.
 */
#include "vfio.h"

#define BOTH (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)
#define EXTENSIONS 24

static int fd;

static void questions(void)
{
	static const unsigned long there[] = { VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_UNMAP_ALL,
					       VFIO_NOIOMMU_IOMMU };
	unsigned long i, j;

	CHECK_EQ((uint64_t)ask(fd, VFIO_GET_API_VERSION, 0), VFIO_API_VERSION, "API version");
	CHECK_EQ((uint64_t)ask(fd, VFIO_GET_API_VERSION, 77), VFIO_API_VERSION,
		 "the argument is not looked at");
	CHECK_ERR(ENODEV, ask(fd, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU), "CC without an IOAS");
	for (i = 0; i < EXTENSIONS; i++) {
		if (i == VFIO_DMA_CC_IOMMU)
			continue;
		for (j = 0; j < ARRAY_LEN(there) && there[j] != i; j++)
			;
		CHECK_EQ((uint64_t)ask(fd, VFIO_CHECK_EXTENSION, i), j < ARRAY_LEN(there),
			 "extension %lu", i);
	}
	CHECK_EQ((uint64_t)ask(fd, VFIO_CHECK_EXTENSION, 1UL << 32 | 1), 0, "a long number");
}

static void nothing_to_act_on(void)
{
	struct vfio_iommu_type1_info info = { .argsz = sizeof(info) };
	uint64_t size = PAGE;
	uint32_t id = 5;

	CHECK_ERR(ENODEV, ask(fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "TYPE1 without a group");
	CHECK_ERR(ENODEV, ask(fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "TYPE1v2 without a group");
	CHECK_ERR(EINVAL, ask(fd, VFIO_SET_IOMMU, VFIO_NOIOMMU_IOMMU), "no device without an IOMMU");
	CHECK_ERR(EINVAL, ask(fd, VFIO_SET_IOMMU, 0), "no kind");
	CHECK_ERR(EINVAL, ask(fd, VFIO_SET_IOMMU, VFIO_UNMAP_ALL), "an extension, but no kind");
	CHECK_ERR(EINVAL, ask(fd, VFIO_SET_IOMMU, 1UL << 32 | 1), "a long number");
	CHECK_ERR(ENODEV, call(fd, VFIO_IOMMU_GET_INFO, &info), "info of nothing");
	CHECK_EQ(info.argsz, sizeof(info), "argsz is as it was");
	CHECK_ERR(ENODEV, map_dma(fd, 0, 0, PAGE, BOTH), "map");
	CHECK_ERR(ENODEV, map_dma(fd, 0, 0, 0, 0), "nobody asks for the size before");
	CHECK_ERR(ENODEV, unmap_dma(fd, 0, &size, 0), "unmap");
	CHECK_EQ(size, PAGE, "size is as it was");
	CHECK_ERR(ENODEV, unmap_dma(fd, 0, &size, VFIO_DMA_UNMAP_FLAG_ALL),
		  "nor that all goes with no size");
	CHECK_ERR(ENODEV, compat(fd, IOMMU_VFIO_IOAS_GET, &id), "VFIO_IOAS GET");
	CHECK_OK(compat(fd, IOMMU_VFIO_IOAS_CLEAR, &id), "VFIO_IOAS CLEAR");
	CHECK_ERR(ENOENT, compat(fd, IOMMU_VFIO_IOAS_SET, &id), "SET to what is not there");
	CHECK_ERR(ENOENT, set_compat(fd, 0), "SET to 0");
	CHECK_ERR(EOPNOTSUPP, compat(fd, 3, &id), "an unknown op");
}

static void numbers(void)
{
	unsigned long nr;

	CHECK_ERR(ENOTTY, call(fd, VFIO_IOMMU_DIRTY_PAGES, NULL), "dirty pages");
	for (nr = 3; nr < 24; nr++)
		if (nr < 12 || (nr > 14 && nr != 17))
			CHECK_ERR(ENOTTY, call(fd, _IO(VFIO_TYPE, VFIO_BASE + nr), NULL),
				  "number %lu", nr);
	CHECK_ERR(ENOTTY, call(fd, _IOW(VFIO_TYPE, VFIO_BASE + 13, uint64_t), new_pages(1)),
		  "a number with a size");
}

/* EFAULT before all, then argsz and flags, before it matters whether there is an IOAS. */
static void structs(int error)
{
	struct vfio_iommu_type1_info info = { .argsz = 15 };
	struct vfio_iommu_type1_dma_map map = { .argsz = MAP_SIZE - 1, .size = PAGE };
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = UNMAP_SIZE - 1, .size = PAGE };
	uint64_t size = 0;

	CHECK_ERR(EFAULT, call(fd, VFIO_IOMMU_GET_INFO, unmapped()), "info from nowhere");
	CHECK_ERR(EFAULT, call(fd, VFIO_IOMMU_MAP_DMA, unmapped()), "map from nowhere");
	CHECK_ERR(EFAULT, call(fd, VFIO_IOMMU_UNMAP_DMA, unmapped()), "unmap from nowhere");
	CHECK_ERR(EINVAL, call(fd, VFIO_IOMMU_GET_INFO, &info), "info, argsz 15");
	CHECK_ERR(EINVAL, call(fd, VFIO_IOMMU_MAP_DMA, &map), "map, argsz too small");
	CHECK_ERR(EINVAL, call(fd, VFIO_IOMMU_UNMAP_DMA, &unmap), "unmap, argsz too small");
	map.argsz = 0x10000;
	CHECK_ERR(error, call(fd, VFIO_IOMMU_MAP_DMA, at_edge(&map, MAP_SIZE)),
		  "what lies beyond is not read");
	CHECK_ERR(EINVAL, map_dma(fd, 0, 0, PAGE, BOTH | VFIO_DMA_MAP_FLAG_VADDR), "new vaddr");
	CHECK_ERR(EINVAL, map_dma(fd, 0, 0, PAGE, 1U << 31), "unknown flag of map");
	CHECK_ERR(EINVAL, unmap_dma(fd, 0, &size, VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP),
		  "unmap and tell what is dirty");
	CHECK_ERR(EINVAL, unmap_dma(fd, 0, &size, VFIO_DMA_UNMAP_FLAG_VADDR), "unmap the vaddr");
	CHECK_ERR(EINVAL, unmap_dma(fd, 0, &size, 1U << 31), "unknown flag of unmap");
}

static void compat_ioas(void)
{
	struct iommu_vfio_ioas reserved = { .size = sizeof(reserved), .__reserved = 1 };
	struct iommu_vfio_ioas get = { .size = sizeof(get), .op = IOMMU_VFIO_IOAS_GET }, set = get;
	uint32_t first = new_ioas(fd), second = new_ioas(fd), id = 0;

	set.op = IOMMU_VFIO_IOAS_SET;
	set.ioas_id = first;
	CHECK_OK(call(fd, IOMMU_VFIO_IOAS, read_only(&set, sizeof(set))), "SET, which tells nothing");
	CHECK_ERR(EFAULT, call(fd, IOMMU_VFIO_IOAS, read_only(&get, sizeof(get))), "GET tells the ID");
	CHECK_OK(compat(fd, IOMMU_VFIO_IOAS_GET, &id), "GET");
	CHECK_EQ(id, first, "what was set");
	CHECK_OK(set_compat(fd, second), "SET to another");
	CHECK_OK(compat(fd, IOMMU_VFIO_IOAS_GET, &id), "GET");
	CHECK_EQ(id, second, "the other");
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_VFIO_IOAS, &reserved), "__reserved");
	CHECK_OK(destroy(fd, second), "it can be destroyed");
	CHECK_ERR(ENODEV, compat(fd, IOMMU_VFIO_IOAS_GET, &id), "and is forgotten");
	CHECK_EQ(new_ioas(fd), second, "the next IOAS of its ID");
	CHECK_ERR(ENODEV, compat(fd, IOMMU_VFIO_IOAS_GET, &id), "is another");
	CHECK_OK(set_compat(fd, first), "SET");
	CHECK_OK(compat(fd, IOMMU_VFIO_IOAS_CLEAR, &id), "CLEAR");
	CHECK_ERR(ENODEV, ask(fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "nothing is left");
	CHECK_OK(set_compat(fd, first), "SET");
	CHECK_EQ((uint64_t)ask(fd, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU), 1,
		 "no page table is incoherent");
}

static void mappings(void)
{
	char *memory = new_pages(4);
	uint64_t va = (uintptr_t)memory, size;
	uint32_t id = 0;

	NEED(compat(fd, IOMMU_VFIO_IOAS_GET, &id) == 0);
	CHECK_OK(ask(fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "TYPE1v2");
	CHECK_OK(map_dma(fd, va, 16 * PAGE, 4 * PAGE, BOTH), "map");
	CHECK_ERR(EEXIST, map_dma(fd, va, 19 * PAGE, PAGE, BOTH), "over it");
	CHECK_ERR(EINVAL, map_dma(fd, va, 32 * PAGE, 0, BOTH), "nothing");
	CHECK_OK(map_dma(fd, va, 32 * PAGE, PAGE, 0), "neither readable nor writeable");
	CHECK_ERR(EOVERFLOW, map_dma(fd, va, U64_MAX - PAGE + 1, 2 * PAGE, BOTH), "beyond the end");
	CHECK_ERR(EOVERFLOW, map_dma(fd, U64_MAX - PAGE + 1, 0, 2 * PAGE, BOTH), "memory beyond it");
	CHECK_EQ(unmap_all(fd, id), 5 * PAGE, "IOAS_UNMAP unmaps what VFIO mapped");
	NEED(map_at(fd, id, va, 4 * PAGE, 16 * PAGE) == 0);
	size = 2 * PAGE;
	CHECK_ERR(ENOENT, unmap_dma(fd, 16 * PAGE, &size, 0), "v2 cuts nothing");
	CHECK_EQ(size, 0, "nothing was unmapped");
	size = 0;
	CHECK_ERR(EINVAL, unmap_dma(fd, 16 * PAGE, &size, 0), "no size");
	size = U64_MAX;
	CHECK_ERR(EOVERFLOW, unmap_dma(fd, 16 * PAGE, &size, 0), "beyond the end");
	CHECK_EQ(size, 0, "which is told, too");
	size = PAGE;
	CHECK_OK(unmap_dma(fd, 64 * PAGE, &size, 0), "where nothing is");
	CHECK_EQ(size, 0, "nothing was unmapped");
	NEED(map_at(fd, id, va, PAGE, 8 * PAGE) == 0);
	size = 10 * PAGE;
	CHECK_ERR(ENOENT, unmap_dma(fd, 8 * PAGE, &size, 0), "one whole, one in part");
	CHECK_EQ(size, PAGE, "the whole one is gone");
	size = PAGE;
	CHECK_ERR(EINVAL, unmap_dma(fd, 0, &size, VFIO_DMA_UNMAP_FLAG_ALL), "all, and a size");
	CHECK_EQ(size, PAGE, "size is as it was");
	size = 0;
	CHECK_ERR(EINVAL, unmap_dma(fd, PAGE, &size, VFIO_DMA_UNMAP_FLAG_ALL), "all, and an IOVA");
	CHECK_OK(unmap_dma(fd, 0, &size, VFIO_DMA_UNMAP_FLAG_ALL), "all");
	CHECK_EQ(size, 4 * PAGE, "what there was");
	size = 0;
	CHECK_OK(unmap_dma(fd, 0, &size, VFIO_DMA_UNMAP_FLAG_ALL), "all of nothing");
	NEED(map_at(fd, id, va, PAGE, 8 * PAGE) == 0);
	{
		struct vfio_iommu_type1_dma_unmap cmd = { .argsz = UNMAP_SIZE, .iova = 8 * PAGE,
							  .size = PAGE };

		CHECK_ERR(EFAULT, call(fd, VFIO_IOMMU_UNMAP_DMA, read_only(&cmd, UNMAP_SIZE)),
			  "nowhere to tell the size");
		cmd.size = 0;
		CHECK_ERR(EFAULT, call(fd, VFIO_IOMMU_UNMAP_DMA, read_only(&cmd, UNMAP_SIZE)),
			  "nor that it was none");
	}
	CHECK_EQ(unmap_all(fd, id), 0, "but it was unmapped");
}

/* The cuts come before anybody looks at the range, and stay when it is refused. */
static void cut_and_refused(uint32_t id, uint64_t va)
{
	uint64_t size = 0;

	CHECK_OK(map_dma(fd, va, 0, 8 * PAGE, BOTH), "eight pages");
	CHECK_ERR(EINVAL, unmap_dma(fd, 2 * PAGE, &size, 0), "no size, but a cut below page 2");
	CHECK_OK(unmap_at(fd, id, 0, 2 * PAGE), "so there is an area of two pages");
	size = U64_MAX - 12 * PAGE + 1;
	CHECK_ERR(EOVERFLOW, unmap_dma(fd, 16 * PAGE, &size, 0), "a last IOVA that wraps");
	CHECK_EQ(size, 0, "nothing was unmapped");
	CHECK_OK(unmap_at(fd, id, 2 * PAGE, 2 * PAGE), "but cut where it came out");
	CHECK_EQ(unmap_all(fd, id), 4 * PAGE, "the rest");
}

/* TYPE1 of old unmaps the middle of what was mapped. */
static void first_version(void)
{
	uint64_t va = (uintptr_t)new_pages(8), size;
	uint32_t id = 0, other;
	unsigned int i;

	NEED(compat(fd, IOMMU_VFIO_IOAS_GET, &id) == 0);
	NEED(map_at(fd, id, va + 512, PAGE, 16 * PAGE + 512) == 0);
	CHECK_ERR(EADDRINUSE, ask(fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "an area is off a page");
	CHECK_EQ(unmap_all(fd, id), PAGE, "then it goes");
	CHECK_OK(ask(fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "TYPE1");
	CHECK_OK(ask(fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "once more");
	CHECK_OK(ask(fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "TYPE1v2 does not undo it");
	CHECK_OK(map_dma(fd, va, 0, 8 * PAGE, BOTH), "eight pages at 0");
	size = PAGE;
	CHECK_OK(unmap_dma(fd, 3 * PAGE, &size, 0), "one of the middle");
	CHECK_EQ(size, PAGE, "one");
	size = PAGE;
	CHECK_OK(unmap_dma(fd, 0, &size, 0), "the first");
	CHECK_EQ(size, PAGE, "one");
	size = 2 * PAGE;
	CHECK_OK(unmap_dma(fd, 2 * PAGE, &size, 0), "half a hole");
	CHECK_EQ(size, PAGE, "one");
	other = new_ioas(fd);
	CHECK_OK(copy_at(fd, other, 0, id, 4 * PAGE, 4 * PAGE), "the upper half is an area still");
	CHECK_ERR(ENOENT, copy_at(fd, other, 8 * PAGE, id, 3 * PAGE, 2 * PAGE), "with a hole below");
	size = 100;
	CHECK_ERR(EINVAL, unmap_dma(fd, 5 * PAGE, &size, 0), "off the page");
	CHECK_EQ(size, 100, "size is as it was");
	size = PAGE;
	CHECK_ERR(EINVAL, unmap_dma(fd, 5 * PAGE + 1, &size, 0), "an IOVA off the page");
	for (i = 4; i < 8; i++) {
		size = PAGE;
		CHECK_OK(unmap_dma(fd, i * PAGE, &size, 0), "page %u", i);
	}
	CHECK_EQ(unmap_all(fd, id), PAGE, "page 1 is left");
	cut_and_refused(id, va);
}

static void info(void)
{
	struct {
		struct vfio_iommu_type1_info info;
		struct vfio_iommu_type1_info_dma_avail avail;
		uint32_t fill;
		struct vfio_iommu_type1_info_cap_iova_range ranges;
		struct vfio_iova_range range[2];
	} all = { 0 };
	const size_t whole = offsetof(typeof(all), range) + sizeof(all.range[0]);
	size_t size;

	for (size = 16; size <= sizeof(all); size += 4) {
		memset(&all, 0xee, sizeof(all));
		all.info.argsz = (uint32_t)size;
		CHECK_OK(call(fd, VFIO_IOMMU_GET_INFO, &all), "room for %zu bytes", size);
		CHECK_EQ(all.info.argsz, whole, "what all of it takes");
		CHECK_EQ(all.info.flags, VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS, "flags");
		CHECK_EQ(all.info.iova_pgsizes, ~(PAGE - 1), "page sizes");
		CHECK_EQ(all.info.cap_offset, size < 20 ? 0xeeeeeeee : size < whole ? 0 :
			 sizeof(all.info), "where the capabilities begin");
		CHECK_EQ(all.avail.avail, size < 36 ? 0xeeeeeeee : UINT32_MAX, "mappings to be had");
		CHECK_EQ(all.avail.header.next, size < 36 ? 0xeeeeeeee : size < 40 ? 0 : 40, "next");
		CHECK_EQ(all.ranges.nr_iovas, size < whole ? 0xeeeeeeee : 1, "ranges");
		CHECK_EQ(all.range[0].end, size < whole ? 0xeeeeeeeeeeeeeeee : U64_MAX, "last IOVA");
	}
	CHECK_EQ(all.avail.header.id, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, "the first capability");
	CHECK_EQ(all.avail.header.version, 1, "its version");
	CHECK_EQ(all.ranges.header.id, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, "the second");
	CHECK_EQ(all.ranges.header.next, 0, "is the last");
	all.info.argsz = UINT32_MAX;
	CHECK_OK(call(fd, VFIO_IOMMU_GET_INFO, &all), "room for more than there is");
	CHECK_EQ(all.info.argsz, whole, "what all of it takes");
	all.info.argsz = 16;
	CHECK_OK(call(fd, VFIO_IOMMU_GET_INFO, at_edge(&all, 16)), "the oldest struct and no more");
	CHECK_ERR(EFAULT, call(fd, VFIO_IOMMU_GET_INFO, read_only(&all, 16)), "nowhere to write");
	all.info.argsz = sizeof(all);
	CHECK_ERR(EFAULT, call(fd, VFIO_IOMMU_GET_INFO, at_edge(&all, 24)), "room that is not there");
}

int main(void)
{
	uint64_t all = 0;

	checks_begin();
	fd = open_iommu();
	questions();
	nothing_to_act_on();
	numbers();
	structs(ENODEV);
	compat_ioas();
	structs(0);
	NEED(unmap_dma(fd, 0, &all, VFIO_DMA_UNMAP_FLAG_ALL) == 0 && all == PAGE);
	mappings();
	first_version();
	info();
	close(fd);
	return checks_end();
}
