/* SPDX-License-Identifier: MIT */
/* A race for an IOAS, which shows its own ID by where its IOVAs begin. */
#ifndef RACE_IOAS_H
#define RACE_IOAS_H

#include "race.h"

#define MARK(id) (APERTURE + (uint64_t)(id) * PAGE)
#define LAST ((uint64_t)MOCK_APERTURE_LAST)

static uint32_t marked_ioas(void)
{
	uint32_t id = new_ioas(fd);
	struct iommu_test_cmd cmd = { .id = id, .add_reserved = { .length = MARK(id) } };

	NEED(test_cmd(fd, IOMMU_TEST_OP_ADD_RESERVED, &cmd) == 0);
	return id;
}

static long move_iova_ranges(struct runner *r, uint32_t id)
{
	struct iommu_iova_range ranges[64] = { 0 };
	struct iommu_ioas_iova_ranges cmd = { .size = sizeof(cmd), .ioas_id = id, .num_iovas = 64,
					      .allowed_iovas = (uintptr_t)ranges };
	long rc = call(fd, IOMMU_IOAS_IOVA_RANGES, &cmd);

	(void)r;
	/* A new one of the same ID may not be marked yet, with or without a device. */
	if (rc == 0 && ranges[0].start != MARK(id) && ranges[0].start != 0 &&
	    ranges[0].start != APERTURE)
		return WRONG;
	return rc;
}

static long move_allow_iovas(struct runner *r, uint32_t id)
{
	struct iommu_iova_range range = { MARK(id), LAST };

	(void)r;
	return allow_iovas(fd, id, &range, 1);
}

static long move_map(struct runner *r, uint32_t id)
{
	uint64_t iova = MARK(id) + (100 + r->number) * PAGE;
	long rc = map_at(fd, id, (uintptr_t)r->memory, PAGE, iova);

	if (rc == 0)
		unmap_at(fd, id, iova, PAGE);
	return rc;
}

static long move_map_file(struct runner *r, uint32_t id)
{
	uint64_t iova = MARK(id) + (200 + r->number) * PAGE;
	long rc = map_file_at(fd, id, memfd, 0, PAGE, iova);

	if (rc == 0)
		unmap_at(fd, id, iova, PAGE);
	return rc;
}

static long move_unmap(struct runner *r, uint32_t id)
{
	uint64_t length = U64_MAX;

	(void)r;
	return unmap(fd, id, 0, &length);
}

static long move_copy_to(struct runner *r, uint32_t id)
{
	uint64_t iova = MARK(id) + (300 + r->number) * PAGE;
	long rc = copy_at(fd, id, iova, base, APERTURE, PAGE);

	if (rc == 0)
		unmap_at(fd, id, iova, PAGE);
	return rc;
}

static long move_copy_from(struct runner *r, uint32_t id)
{
	uint64_t to = APERTURE + (400 + r->number) * PAGE, from = MARK(id) + (500 + r->number) * PAGE;
	long rc;

	map_at(fd, id, (uintptr_t)r->memory, PAGE, from);
	rc = copy_at(fd, base, to, id, from, PAGE);
	if (rc == 0)
		unmap_at(fd, base, to, PAGE);
	unmap_at(fd, id, from, PAGE);
	return rc;
}

static long move_option(struct runner *r, uint32_t id)
{
	(void)r;
	return option_set(fd, IOMMU_OPTION_HUGE_PAGES, id, 1);
}

static long move_hwpt_alloc(struct runner *r, uint32_t id)
{
	uint32_t hwpt;
	long rc = hwpt_alloc(fd, r->mock.device, id, 0, &hwpt);

	if (rc == 0 && destroy(fd, hwpt))
		return WRONG;
	return rc;
}

static long move_attach_new_device(struct runner *r, uint32_t id)
{
	struct mock mock;
	long rc = mock_flags(fd, id, 0, &mock);

	(void)r;
	if (rc == 0 && destroy(fd, mock.stdev))
		return WRONG;
	return rc;
}

static long move_replace(struct runner *r, uint32_t id)
{
	long rc = mock_replace(fd, r->mock.stdev, id);

	if (rc == 0 && mock_replace(fd, r->mock.stdev, base))
		return WRONG;
	return rc;
}

static long move_access(struct runner *r, uint32_t id)
{
	struct iommu_test_cmd cmd = { .id = id };
	long rc = test_cmd(fd, IOMMU_TEST_OP_CREATE_ACCESS, &cmd);

	(void)r;
	if (rc == 0 && close((int)cmd.create_access.out_access_fd))
		return WRONG;
	return rc;
}

static long access_to(struct runner *r, uint32_t id)
{
	struct iommu_test_cmd cmd = { .id = (uint32_t)r->access, .access_replace_ioas = { id } };

	return test_cmd(fd, IOMMU_TEST_OP_ACCESS_REPLACE_IOAS, &cmd);
}

static long move_access_replace(struct runner *r, uint32_t id)
{
	long rc = access_to(r, id);

	if (rc == 0 && access_to(r, base))
		return WRONG;
	return rc;
}

static long move_add_reserved(struct runner *r, uint32_t id)
{
	struct iommu_test_cmd cmd = { .id = id, .add_reserved = {
		.start = LAST + 1 + r->number * PAGE, .length = PAGE } };

	return test_cmd(fd, IOMMU_TEST_OP_ADD_RESERVED, &cmd);
}

/* No device here is without an IOMMU, so it ends with EOPNOTSUPP. */
static long move_physical(struct runner *r, uint32_t id)
{
	struct iommu_ioas_noiommu_get_pa cmd = { .size = sizeof(cmd), .ioas_id = id, .length = PAGE,
						 .iova = MARK(id) + (600 + r->number) * PAGE };
	long rc;

	map_at(fd, id, (uintptr_t)r->memory, PAGE, cmd.iova);
	rc = call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd);
	unmap_at(fd, id, cmd.iova, PAGE);
	return rc == -EOPNOTSUPP ? 0 : rc;
}

/* The IOAS that VFIO's ioctls act on, and of none again. */
static long move_compat(struct runner *r, uint32_t id)
{
	struct iommu_vfio_ioas set = { .size = sizeof(set), .ioas_id = id,
				       .op = IOMMU_VFIO_IOAS_SET };
	struct iommu_vfio_ioas clear = { .size = sizeof(clear), .op = IOMMU_VFIO_IOAS_CLEAR };
	long rc = call(fd, IOMMU_VFIO_IOAS, &set);

	(void)r;
	if (rc == 0 && call(fd, IOMMU_VFIO_IOAS, &clear))
		return WRONG;
	return rc;
}

static const struct victim ioas_victim = {
	"IOAS", marked_ioas, NULL, 0,
	{
		{ "IOAS_IOVA_RANGES", move_iova_ranges, { 0 } },
		{ "IOAS_ALLOW_IOVAS", move_allow_iovas, { EADDRINUSE } },
		{ "IOAS_MAP", move_map, { EINVAL } },
		{ "IOAS_MAP_FILE", move_map_file, { EINVAL } },
		{ "IOAS_UNMAP", move_unmap, { 0 } },
		{ "IOAS_COPY to it", move_copy_to, { EINVAL } },
		{ "IOAS_COPY from it", move_copy_from, { 0 } },
		{ "OPTION", move_option, { 0 } },
		{ "VFIO_IOAS", move_compat, { 0 } },
		{ "HWPT_ALLOC", move_hwpt_alloc, { EINVAL, EADDRINUSE } },
		{ "a new device", move_attach_new_device, { EINVAL, EADDRINUSE } },
		{ "replace", move_replace, { EINVAL, EADDRINUSE } },
		{ "a new access", move_access, { EADDRINUSE } },
		{ "access replace", move_access_replace, { EADDRINUSE } },
		{ "add reserved", move_add_reserved, { 0 } },
		{ "IOAS_NOIOMMU_GET_PA", move_physical, { 0 } },
	},
};

#endif
