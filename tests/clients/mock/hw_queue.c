// SPDX-License-Identifier: MIT
/* HW_QUEUE_ALLOC, and what it holds. */
#include "viommu.h"

#define KIND IOMMU_HW_QUEUE_TYPE_SELFTEST

static long alloc(int fd, struct iommu_hw_queue_alloc cmd, uint32_t *id)
{
	long rc;

	cmd.size = sizeof(cmd);
	rc = call(fd, IOMMU_HW_QUEUE_ALLOC, &cmd);
	*id = cmd.out_hw_queue_id;
	return rc;
}

static long try(int fd, struct iommu_hw_queue_alloc cmd)
{
	uint32_t id;

	return alloc(fd, cmd, &id);
}

static void refusals(void)
{
	struct guest g = new_guest();
	struct iommu_hw_queue_alloc good = { .size = sizeof(good), .viommu_id = g.viommu,
					     .type = KIND, .nesting_parent_iova = APERTURE,
					     .length = PAGE }, cmd = good;
	char *p = new_pages(2);
	uint32_t first;

	NEED(map_at(g.fd, g.ioas, (uintptr_t)p, PAGE, APERTURE) == 0);
	NEED(map_flags(g.fd, g.ioas, IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_FIXED_IOVA,
		       (uintptr_t)p + PAGE, PAGE, &(uint64_t){ APERTURE + 4 * PAGE }) == 0);
	first = next_id(g.fd);
	cmd.flags = 1;
	cmd.length = 0;
	CHECK_ERR(EOPNOTSUPP, try(g.fd, cmd), "flags, before the length");
	cmd.flags = 0;
	cmd.type = IOMMU_HW_QUEUE_TYPE_DEFAULT;
	CHECK_ERR(EOPNOTSUPP, try(g.fd, cmd), "no type");
	cmd.type = 1;
	cmd.viommu_id = NO_ID;
	CHECK_ERR(EINVAL, try(g.fd, cmd), "length 0, before the vIOMMU");
	cmd.length = PAGE;
	cmd.nesting_parent_iova = ~0ULL - PAGE + 2;
	CHECK_ERR(EOVERFLOW, try(g.fd, cmd), "beyond the end");
	cmd.nesting_parent_iova = APERTURE;
	CHECK_ERR(ENOENT, try(g.fd, cmd), "no such vIOMMU");
	cmd.viommu_id = g.viommu;
	CHECK_ERR(EOPNOTSUPP, try(g.fd, cmd), "another's type");
	cmd = good;
	cmd.index = IOMMU_TEST_HW_QUEUE_MAX;
	cmd.nesting_parent_iova = APERTURE + PAGE;
	CHECK_ERR(ENOENT, try(g.fd, cmd), "nothing there, before the index");
	cmd.nesting_parent_iova = APERTURE;
	cmd.length = PAGE + 1;
	CHECK_ERR(ENOENT, try(g.fd, cmd), "one byte too long");
	cmd.nesting_parent_iova = APERTURE + 1;
	cmd.length = PAGE;
	CHECK_ERR(ENOENT, try(g.fd, cmd), "one byte too far");
	cmd.nesting_parent_iova = APERTURE + 4 * PAGE;
	CHECK_ERR(EPERM, try(g.fd, cmd), "an area that cannot be read");
	cmd.nesting_parent_iova = 0;
	cmd.length = ~0ULL;
	CHECK_ERR(ERANGE, try(g.fd, cmd), "more pages than can be counted");
	cmd.length = 1ULL << 62;
	CHECK_ERR(ENOMEM, try(g.fd, cmd), "more pages than can be listed");
	cmd = good;
	cmd.index = IOMMU_TEST_HW_QUEUE_MAX;
	CHECK_ERR(EINVAL, try(g.fd, cmd), "no such index");
	cmd.index = 1;
	CHECK_ERR(EIO, try(g.fd, cmd), "the one before it is not there");
	CHECK_ERR(EFAULT, call(g.fd, IOMMU_HW_QUEUE_ALLOC, read_only(&good, sizeof(good))),
		  "the ID cannot be written");
	CHECK_EQ(next_id(g.fd), first, "none of them took an ID");
	CHECK_OK(unmap_at(g.fd, g.ioas, APERTURE, PAGE), "or holds anything");
	NEED(close(g.fd) == 0);
}

static void holds(void)
{
	struct guest g = new_guest();
	struct iommu_hw_queue_alloc cmd = { .viommu_id = g.viommu, .type = KIND,
					    .nesting_parent_iova = APERTURE, .length = PAGE };
	char *p = new_pages(3);
	uint32_t first, second, free_id, ioas = new_ioas(g.fd);

	NEED(map_at(g.fd, g.ioas, (uintptr_t)p, 2 * PAGE, APERTURE) == 0);
	NEED(map_at(g.fd, g.ioas, (uintptr_t)p + 2 * PAGE, PAGE, APERTURE + 2 * PAGE) == 0);
	free_id = next_id(g.fd);
	CHECK_OK(alloc(g.fd, cmd, &first), "a queue");
	CHECK_EQ(first, free_id, "its ID");
	CHECK_EQ(next_id(g.fd), free_id + 2, "and one for its access");
	CHECK_ERR(EBUSY, destroy(g.fd, free_id + 1), "which nobody may destroy");
	CHECK_ERR(EEXIST, try(g.fd, cmd), "the index is taken");
	CHECK_ERR(EBUSY, destroy(g.fd, g.viommu), "it holds its vIOMMU");
	CHECK_ERR(EBUSY, unmap_at(g.fd, g.ioas, APERTURE, 2 * PAGE), "what it lies in stays mapped");
	CHECK_ERR(EBUSY, unmap_at(g.fd, g.ioas, APERTURE, PAGE), "EBUSY before ENOENT");
	CHECK_OK(copy_at(g.fd, ioas, 0, g.ioas, APERTURE, PAGE), "it can be copied");
	CHECK_OK(unmap_at(g.fd, ioas, 0, PAGE), "and the copy unmapped");
	CHECK_OK(unmap_at(g.fd, g.ioas, APERTURE + 2 * PAGE, PAGE), "and so what is beside it");
	cmd.index = 1;
	cmd.nesting_parent_iova = APERTURE + PAGE + 8;
	cmd.length = PAGE - 8;
	CHECK_OK(alloc(g.fd, cmd, &second), "a second, in the middle of a page");
	CHECK_ERR(EBUSY, destroy(g.fd, first), "the first holds the second");
	CHECK_OK(destroy(g.fd, second), "destroy the second");
	CHECK_ERR(EBUSY, unmap_at(g.fd, g.ioas, APERTURE, 2 * PAGE), "the area is still held");
	CHECK_OK(destroy(g.fd, first), "then the first");
	CHECK_EQ(next_id(g.fd), free_id, "all their IDs are free");
	CHECK_OK(unmap_at(g.fd, g.ioas, APERTURE, 2 * PAGE), "so is the area");
	CHECK_OK(destroy(g.fd, g.viommu), "and the vIOMMU");
	NEED(close(g.fd) == 0);
}

static void closing(void)
{
	struct guest g = new_guest();
	struct iommu_hw_queue_alloc cmd = { .viommu_id = g.viommu, .type = KIND,
					    .nesting_parent_iova = APERTURE, .length = PAGE };
	char *p = new_pages(1);
	uint32_t id;

	NEED(map_at(g.fd, g.ioas, (uintptr_t)p, PAGE, APERTURE) == 0 && alloc(g.fd, cmd, &id) == 0);
	cmd.index = 1;
	NEED(alloc(g.fd, cmd, &id) == 0);
	CHECK_OK(close(g.fd), "close with all of it");
}

int main(void)
{
	checks_begin();
	refusals();
	holds();
	closing();
	return checks_end();
}
