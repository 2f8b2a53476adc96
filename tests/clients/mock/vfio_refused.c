// SPDX-License-Identifier: MIT
/*
 * What VFIO's container refuses on account of a device, of what else stands on its IOAS, or of
 * limits. Where TYPE1 would cut an area, that is refused first, and nothing tells a size.
 */
#include "../vfio.h"

#include "viommu.h"

#include <sys/resource.h>

#define BOTH (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)

static long unmap_page(int fd, uint64_t iova, uint64_t *size)
{
	*size = PAGE;
	return unmap_dma(fd, iova, size, 0);
}

/* Only an IOAS can be the compat IOAS, and a DESTROY that is refused leaves it what it is. */
static void another_object(void)
{
	struct guest g = new_guest();
	uint32_t id = 0;

	CHECK_OK(set_compat(g.fd, g.ioas), "SET");
	CHECK_ERR(ENOENT, set_compat(g.fd, g.parent), "to a page table");
	CHECK_ERR(ENOENT, set_compat(g.fd, g.mock.device), "to a device");
	CHECK_ERR(ENOENT, set_compat(g.fd, g.viommu), "to a vIOMMU");
	CHECK_OK(compat(g.fd, IOMMU_VFIO_IOAS_GET, &id), "GET");
	CHECK_EQ(id, g.ioas, "the IOAS still");
	CHECK_ERR(EBUSY, destroy(g.fd, g.ioas), "devices are on it");
	CHECK_OK(compat(g.fd, IOMMU_VFIO_IOAS_GET, &id), "GET");
	CHECK_EQ(id, g.ioas, "the IOAS still");
	CHECK_OK(close(g.fd), "close");
}

static void map_refused(void)
{
	struct guest g = new_guest();
	uint64_t memory = (uintptr_t)new_pages(2);

	NEED(set_compat(g.fd, g.ioas) == 0);
	CHECK_ERR(EINVAL, map_dma(g.fd, memory, 0, PAGE, BOTH), "where no device reaches");
	CHECK_ERR(EINVAL, map_dma(g.fd, memory, APERTURE + 512, PAGE, BOTH), "an IOVA off the page");
	CHECK_ERR(EINVAL, map_dma(g.fd, memory, APERTURE, 512, BOTH), "a size off the page");
	CHECK_ERR(EINVAL, map_dma(g.fd, memory + 512, APERTURE, PAGE, BOTH), "memory off the page");
	CHECK_ERR(EFAULT, map_dma(g.fd, (uintptr_t)unmapped(), APERTURE, PAGE, BOTH), "no memory");
	CHECK_ERR(EINVAL, map_dma(g.fd, memory, APERTURE, PAGE, 0), "neither readable nor writeable");
	CHECK_ERR(EFAULT, map_dma(g.fd, (uintptr_t)unmapped(), APERTURE, PAGE, 0), "memory comes first");
	CHECK_EQ(unmap_all(g.fd, g.ioas), 0, "nothing is left of them");
	CHECK_OK(close(g.fd), "close");
}

/* What is neither readable nor writeable can stand in an IOAS as long as no page table does. */
static void no_access(void)
{
	uint64_t memory = (uintptr_t)new_pages(1);
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), other = new_ioas(fd);
	struct mock mock;

	NEED(set_compat(fd, ioas) == 0);
	CHECK_OK(map_dma(fd, memory, APERTURE, PAGE, 0), "without a page table");
	CHECK_ERR(EINVAL, mock_flags(fd, ioas, 0, &mock), "which then cannot come");
	CHECK_ERR(EPERM, copy_at(fd, other, APERTURE, ioas, APERTURE, PAGE), "nor a writeable copy");
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "unmap");
	CHECK_OK(mock_flags(fd, ioas, 0, &mock), "now it can");
	CHECK_OK(close(fd), "close");
}

static void limited(void)
{
	struct rlimit limit = { PAGE, PAGE };
	struct guest g = new_guest();
	uint64_t memory = (uintptr_t)new_pages(2), size;

	NEED(set_compat(g.fd, g.ioas) == 0);
	drop_capability(CAP_IPC_LOCK);
	NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	CHECK_ERR(ENOMEM, map_dma(g.fd, memory, APERTURE, 2 * PAGE, BOTH), "more than may be pinned");
	CHECK_OK(map_dma(g.fd, memory, APERTURE, PAGE, BOTH), "as much as may be");
	CHECK_ERR(ENOMEM, map_dma(g.fd, memory + PAGE, APERTURE + PAGE, PAGE, BOTH), "one more");
	CHECK_OK(unmap_page(g.fd, APERTURE, &size), "unmap");
	CHECK_OK(map_dma(g.fd, memory + PAGE, APERTURE + PAGE, PAGE, BOTH), "gives it back");
	CHECK_OK(close(g.fd), "close");
}

/* A hardware queue holds the area it lies in: whole, and uncut. */
static void locked(void)
{
	struct guest g = new_guest();
	struct iommu_hw_queue_alloc cmd = { .size = sizeof(cmd), .viommu_id = g.viommu,
					    .type = IOMMU_HW_QUEUE_TYPE_SELFTEST,
					    .nesting_parent_iova = APERTURE, .length = PAGE };
	uint64_t memory = (uintptr_t)new_pages(3), size;

	NEED(set_compat(g.fd, g.ioas) == 0);
	NEED(ask(g.fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU) == 0);
	CHECK_OK(map_dma(g.fd, memory, APERTURE, 2 * PAGE, BOTH), "map");
	CHECK_OK(map_dma(g.fd, memory + 2 * PAGE, APERTURE + 2 * PAGE, PAGE, BOTH), "behind");
	CHECK_OK(call(g.fd, IOMMU_HW_QUEUE_ALLOC, &cmd), "a hardware queue");
	CHECK_ERR(EINVAL, unmap_page(g.fd, APERTURE, &size), "it is not cut");
	CHECK_EQ(size, PAGE, "size is as it was");
	size = 2 * PAGE;
	CHECK_ERR(EBUSY, unmap_dma(g.fd, APERTURE, &size, 0), "nor unmapped");
	CHECK_EQ(size, 0, "nothing was");
	size = 0;
	CHECK_ERR(EBUSY, unmap_dma(g.fd, 0, &size, VFIO_DMA_UNMAP_FLAG_ALL), "nor with all");
	CHECK_EQ(size, 0, "nothing was");
	CHECK_OK(destroy(g.fd, cmd.out_hw_queue_id), "the queue goes");
	CHECK_OK(unmap_dma(g.fd, 0, &size, VFIO_DMA_UNMAP_FLAG_ALL), "then all");
	CHECK_EQ(size, 3 * PAGE, "was unmapped");
	CHECK_OK(close(g.fd), "close");
}

static void dma_buf(void)
{
	struct iommu_test_cmd get = { .dmabuf_get = { .length = 2 * PAGE, .open_flags = O_CLOEXEC } };
	struct guest g = new_guest();
	int buffer = dup(g.fd);
	uint64_t size;
	long rc;

	/* The real kernel's mock opens it, and answers 0 instead of its number: the lowest free. */
	NEED(buffer >= 0 && close(buffer) == 0);
	rc = test_cmd(g.fd, IOMMU_TEST_OP_DMABUF_GET, &get);
	NEED(rc == 0 || rc == buffer);
	NEED(set_compat(g.fd, g.ioas) == 0);
	NEED(ask(g.fd, VFIO_SET_IOMMU, VFIO_TYPE1_IOMMU) == 0);
	CHECK_OK(map_file_at(g.fd, g.ioas, buffer, 0, 2 * PAGE, APERTURE), "a dma-buf");
	CHECK_ERR(EOPNOTSUPP, unmap_page(g.fd, APERTURE, &size), "is not cut");
	CHECK_EQ(size, PAGE, "size is as it was");
	CHECK_ERR(EOPNOTSUPP, unmap_page(g.fd, APERTURE + PAGE, &size), "from its other end either");
	size = 2 * PAGE;
	CHECK_OK(unmap_dma(g.fd, APERTURE, &size, 0), "whole");
	CHECK_EQ(size, 2 * PAGE, "it goes");
	close(buffer);
	CHECK_OK(close(g.fd), "close");
}

int main(void)
{
	checks_begin();
	another_object();
	map_refused();
	no_access();
	locked();
	dma_buf();
	IN_CHILD(limited());
	return checks_end();
}
