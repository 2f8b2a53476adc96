// SPDX-License-Identifier: MIT
/*
 * VFIO's container with devices: page sizes, when TYPE1 can still be set, and what an unmap of TYPE1
 * may cut: not what an access has pinned, not what a page table shows by large pages.
 */
#include "../vfio.h"

#include "mock.h"

#define BOTH (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)
#define PAGES 8

static char *memory;

struct container {
	int fd;
	uint32_t ioas;
	struct mock mock;
};

/* A context whose compat IOAS has a device; the kind is not set. */
static struct container new_container(void)
{
	struct container c = { .fd = open_iommu() };

	c.ioas = new_ioas(c.fd);
	NEED(set_compat(c.fd, c.ioas) == 0);
	c.mock = new_mock(c.fd, c.ioas);
	return c;
}

static long unmap_page(int fd, uint64_t iova)
{
	uint64_t size = PAGE;
	long rc = unmap_dma(fd, iova, &size, 0);

	return rc ? rc : size == PAGE ? 0 : 1;
}

static void page_sizes(void)
{
	struct vfio_iommu_type1_info info = { .argsz = sizeof(info) };
	struct container c = new_container();

	CHECK_OK(call(c.fd, VFIO_IOMMU_GET_INFO, &info), "info");
	CHECK_TRUE(info.iova_pgsizes & PAGE, "pages");
	CHECK_EQ(info.iova_pgsizes & (PAGE - 1), 0, "nothing smaller, though the mock has it");
	CHECK_TRUE(info.argsz > sizeof(info), "capabilities");
	CHECK_EQ((uint64_t)ask(c.fd, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU), 0,
		 "the mock does not make its DMA coherent");
	CHECK_OK(close(c.fd), "close");
}

static void too_late(void)
{
	struct container c = new_container();

	CHECK_OK(map_dma(c.fd, (uintptr_t)memory, BASE, PAGES * PAGE, BOTH), "map");
	CHECK_ERR(EINVAL, ask(c.fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "TYPE1 with areas shown");
	CHECK_OK(ask(c.fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "TYPE1v2");
	CHECK_ERR(ENOENT, unmap_page(c.fd, BASE + PAGE), "so nothing is cut");
	CHECK_OK(check_map(c.fd, c.mock.hwpt, BASE, PAGES * PAGE, memory), "all is still there");
	CHECK_OK(close(c.fd), "close");
}

static void cut(void)
{
	struct container c = new_container();
	unsigned int i;

	CHECK_OK(ask(c.fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "TYPE1");
	CHECK_OK(map_dma(c.fd, (uintptr_t)memory, BASE, PAGES * PAGE, BOTH), "map");
	CHECK_OK(check_refs(c.fd, memory, PAGES * PAGE, 1), "each page is pinned");
	CHECK_OK(unmap_page(c.fd, BASE + 3 * PAGE), "one of the middle");
	CHECK_OK(check_map(c.fd, c.mock.hwpt, BASE, 3 * PAGE, memory), "below is shown");
	CHECK_OK(check_map(c.fd, c.mock.hwpt, BASE + 4 * PAGE, 4 * PAGE, memory + 4 * PAGE),
		 "above is shown");
	CHECK_ERR(EINVAL, check_map(c.fd, c.mock.hwpt, BASE + 3 * PAGE, PAGE, memory + 3 * PAGE),
		  "it is not");
	for (i = 0; i < PAGES; i++)
		CHECK_OK(check_refs(c.fd, memory + i * PAGE, PAGE, i != 3), "pins of page %u", i);
	CHECK_OK(unmap_page(c.fd, BASE + 7 * PAGE), "the last");
	CHECK_OK(check_refs(c.fd, memory + 7 * PAGE, PAGE, 0), "is let go");
	CHECK_ERR(ENOENT, unmap_at(c.fd, c.ioas, BASE, 2 * PAGE), "IOAS_UNMAP cuts nothing");
	CHECK_OK(destroy(c.fd, c.mock.stdev), "the device goes");
	CHECK_OK(check_refs(c.fd, memory, PAGES * PAGE, 0), "and all pins");
	c.mock = new_mock(c.fd, c.ioas);
	CHECK_OK(check_refs(c.fd, memory, 3 * PAGE, 1), "a new one pins the halves");
	CHECK_OK(check_map(c.fd, c.mock.hwpt, BASE + 4 * PAGE, 3 * PAGE, memory + 4 * PAGE),
		 "and shows them");
	CHECK_OK(close(c.fd), "close");
}

static void pinned(void)
{
	struct container c = new_container();
	uint32_t item;
	int access;

	CHECK_OK(ask(c.fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "TYPE1");
	CHECK_OK(map_dma(c.fd, (uintptr_t)memory, BASE, PAGES * PAGE, BOTH), "map");
	access = new_access(c.fd, c.ioas, PINS);
	CHECK_OK(access_pages(c.fd, access, BASE, PAGE, memory, 0, &item), "pin");
	CHECK_ERR(EINVAL, unmap_page(c.fd, BASE + 3 * PAGE), "a pinned area is not cut");
	CHECK_OK(unpin(c.fd, access, item), "unpin");
	CHECK_OK(unmap_page(c.fd, BASE + 3 * PAGE), "then it is");
	CHECK_OK(access_pages(c.fd, access, BASE + 4 * PAGE, PAGE, memory + 4 * PAGE, 0, &item),
		 "pin of the upper half");
	CHECK_OK(unmap_page(c.fd, BASE + PAGE), "the lower can be cut");
	CHECK_OK(unpin(c.fd, access, item), "unpin");
	CHECK_OK(close(access), "close the access");
	CHECK_OK(close(c.fd), "close");
}

/* The first IOVA of an area is never where it is cut: what begins there is taken whole, or not. */
static void one_page_off(void)
{
	struct container c = new_container();
	uint64_t size = 1;

	CHECK_OK(ask(c.fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "TYPE1");
	CHECK_OK(map_dma(c.fd, (uintptr_t)memory, BASE, 2 * PAGE, BOTH), "map");
	CHECK_ERR(ENOENT, unmap_dma(c.fd, BASE, &size, 0), "one byte: no cut, and not all of it");
	CHECK_EQ(size, 0, "nothing was unmapped");
	CHECK_OK(close(c.fd), "close");
}

/* Rewritten by both ways of speaking: an area of IOAS_MAP is cut like one of VFIO's. */
static void mixed(void)
{
	struct container c = new_container();
	uint32_t other = new_ioas(c.fd);

	CHECK_OK(ask(c.fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU), "TYPE1");
	CHECK_OK(map_at(c.fd, c.ioas, (uintptr_t)memory, 4 * PAGE, BASE), "IOAS_MAP");
	CHECK_OK(copy_at(c.fd, other, 0, c.ioas, BASE, 4 * PAGE), "IOAS_COPY");
	CHECK_OK(unmap_page(c.fd, BASE + PAGE), "VFIO's unmap");
	CHECK_EQ(unmap_all(c.fd, other), 4 * PAGE, "the copy is whole");
	CHECK_EQ(unmap_all(c.fd, c.ioas), 3 * PAGE, "the rest");
	CHECK_OK(close(c.fd), "close");
}

int main(void)
{
	int file;

	checks_begin();
	memory = shared_pages(PAGES, &file);
	fill(memory, PAGES * PAGE, 1);
	page_sizes();
	too_late();
	cut();
	pinned();
	one_page_off();
	mixed();
	close(file);
	return checks_end();
}
