// SPDX-License-Identifier: MIT
/* VIOMMU_ALLOC with data, and the mapping that it is for. hwpt_viommu.c has the rest. */
#include "viommu.h"

#define LEAST 8

static long map(int fd, uint64_t offset, size_t length)
{
	return try_mmap(fd, length, PROT_READ | PROT_WRITE, MAP_SHARED, offset);
}

static long with(struct guest *g, struct iommu_viommu_selftest *data, uint32_t length, uint32_t *id)
{
	return viommu_alloc(g->fd, g->mock.device, g->parent, data, length, id);
}

static void data_struct(void)
{
	struct guest g = new_guest();
	struct iommu_viommu_selftest data = { .in_data = 0xbeef };
	uint32_t first = next_id(g.fd), id;
	char longer[sizeof(data) + 1] = { 0 };

	CHECK_ERR(EINVAL, with(&g, &data, LEAST - 1, &id), "too short");
	CHECK_ERR(EINVAL, with(&g, (void *)longer, sizeof(longer), &id), "too long, zero or not");
	CHECK_ERR(EFAULT, with(&g, unmapped(), sizeof(data), &id), "nowhere");
	CHECK_ERR(EFAULT, with(&g, read_only(&data, sizeof(data)), sizeof(data), &id), "no answer");
	CHECK_EQ(next_id(g.fd), first, "none of them took an ID");
	CHECK_OK(with(&g, &data, LEAST, &id), "the shortest");
	CHECK_EQ(data.out_data, 0xbeefU, "is answered");
	CHECK_EQ(data.out_mmap_length, 0UL, "as far as it goes");
	CHECK_OK(destroy(g.fd, id), "destroy it");
	CHECK_OK(with(&g, &data, sizeof(data), &id), "the whole");
	CHECK_EQ(data.out_mmap_length, 2 * PAGE, "two pages can be mapped");
	CHECK_OK(data.out_mmap_offset % PAGE, "at a page");
	CHECK_OK(data.out_mmap_offset == 0, "that is not the first");
	CHECK_OK(close(g.fd), "close");
}

static void mapping(void)
{
	struct guest g = new_guest(), other = new_guest();
	struct iommu_viommu_selftest data = { .in_data = 0xbeef }, second = { .in_data = 0xcafe };
	uint32_t id, its;
	uint32_t *p, *q;

	NEED(with(&g, &data, sizeof(data), &id) == 0);
	NEED(with(&other, &second, sizeof(second), &its) == 0);
	p = mmap(NULL, data.out_mmap_length, PROT_READ | PROT_WRITE, MAP_SHARED, g.fd,
		 (off_t)data.out_mmap_offset);
	NEED(p != MAP_FAILED);
	CHECK_EQ(*p, 0xbeefU, "what the device wrote");
	q = mmap(NULL, second.out_mmap_length, PROT_READ | PROT_WRITE, MAP_SHARED, other.fd,
		 (off_t)second.out_mmap_offset);
	NEED(q != MAP_FAILED);
	CHECK_EQ(*q, 0xcafeU, "another context has another");
	CHECK_EQ(p[PAGE / 4], 0U, "the second page");
	CHECK_ERR(EBUSY, destroy(g.fd, id), "DESTROY while it is mapped");
	p[PAGE / 4] = 77;
	NEED(munmap(p, data.out_mmap_length) == 0);
	p = mmap(NULL, data.out_mmap_length, PROT_READ, MAP_SHARED, g.fd,
		 (off_t)data.out_mmap_offset);
	NEED(p != MAP_FAILED);
	CHECK_EQ(p[PAGE / 4], 77U, "what was written is there the next time");
	CHECK_EQ(*p, 0xbeefU, "and the rest as it was");
	NEED(munmap(p, data.out_mmap_length) == 0);
	CHECK_OK(destroy(g.fd, id), "DESTROY when it is not mapped");
	NEED(close(other.fd) == 0);
	CHECK_EQ(*q, 0xcafeU, "a mapping keeps the context");
	NEED(munmap(q, second.out_mmap_length) == 0 && close(g.fd) == 0);
}

static void other_ranges(void)
{
	struct guest g = new_guest(), other = new_guest();
	struct iommu_viommu_selftest data = { .in_data = 0xbeef };
	uint64_t offset;
	uint32_t id;

	NEED(with(&g, &data, sizeof(data), &id) == 0);
	offset = data.out_mmap_offset;
	CHECK_ERR(ENXIO, map(g.fd, 0, PAGE), "the first page of the file");
	CHECK_ERR(ENXIO, map(g.fd, offset + 2 * PAGE, PAGE), "what lies behind a range");
	CHECK_ERR(ENXIO, map(g.fd, offset - PAGE, 2 * PAGE), "what lies before it");
	CHECK_ERR(ENXIO, map(g.fd, offset, 3 * PAGE), "in one mapping with it");
	CHECK_ERR(ENXIO, map(g.fd, offset, PAGE), "its first page alone");
	CHECK_ERR(ENXIO, map(g.fd, offset + PAGE, PAGE), "its second page alone");
	CHECK_OK(map(g.fd, offset, PAGE + 1), "a part of its second page is all of it");
	CHECK_ERR(EPERM, try_mmap(g.fd, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, offset),
		  "to run it");
	CHECK_ERR(EINVAL, try_mmap(g.fd, 2 * PAGE, PROT_READ, MAP_PRIVATE, offset), "a copy of it");
	CHECK_ERR(ENXIO, map(other.fd, offset + PAGE, 2 * PAGE), "another context's");
	CHECK_OK(map(g.fd, offset, 2 * PAGE), "the range itself");
	NEED(destroy(g.fd, id) == 0);
	CHECK_ERR(ENXIO, map(g.fd, offset, 2 * PAGE), "a range that is gone");
	NEED(close(g.fd) == 0 && close(other.fd) == 0);
}

int main(void)
{
	checks_begin();
	data_struct();
	mapping();
	other_ranges();
	return checks_end();
}
