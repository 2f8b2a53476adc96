/* SPDX-License-Identifier: MIT */
/* The mock device's operations, each one ioctl that returns 0 or -errno, as in ../client.h. */
#ifndef MOCK_H
#define MOCK_H

#include "../client.h"


#include <iommud/iommufd_test.h>

#define PINS MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES
#define SLOW MOCK_ACCESS_RW_SLOW_PATH
#define WRITE MOCK_ACCESS_RW_WRITE
#define BASE ((uint64_t)MOCK_APERTURE_START)
#define TOP ((uint64_t)MOCK_APERTURE_LAST + 1)
#define HALF ((uint64_t)MOCK_PAGE_SIZE)
#define LARGEST_ACCESS (16 * MIB)

/* The three IDs of a mock device. */
struct mock {
	uint32_t stdev, hwpt, idev;
};

static inline long test_cmd(int fd, uint32_t op, uint32_t id, struct iommu_test_cmd *cmd)
{
	cmd->size = sizeof(*cmd);
	cmd->op = op;
	cmd->id = id;
	return call(fd, IOMMU_TEST_CMD, cmd);
}

static inline long add_reserved(int fd, uint32_t ioas, uint64_t start, uint64_t length)
{
	struct iommu_test_cmd cmd = { .add_reserved = { .start = start, .length = length } };

	return test_cmd(fd, IOMMU_TEST_OP_ADD_RESERVED, ioas, &cmd);
}

static inline long mock_flags(int fd, uint32_t pt, uint32_t flags, struct mock *mock)
{
	struct iommu_test_cmd cmd = { .mock_domain_flags = { .dev_flags = flags } };
	long rc = test_cmd(fd, IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS, pt, &cmd);

	*mock = (struct mock){ cmd.mock_domain_flags.out_stdev_id,
			       cmd.mock_domain_flags.out_hwpt_id,
			       cmd.mock_domain_flags.out_idev_id };
	return rc;
}

static inline long mock_domain(int fd, uint32_t pt, struct mock *mock)
{
	struct iommu_test_cmd cmd = { 0 };
	long rc = test_cmd(fd, IOMMU_TEST_OP_MOCK_DOMAIN, pt, &cmd);

	*mock = (struct mock){ cmd.mock_domain.out_stdev_id, cmd.mock_domain.out_hwpt_id,
			       cmd.mock_domain.out_idev_id };
	return rc;
}

/* The errno alone. */
static inline long try_mock(int fd, uint32_t pt)
{
	struct mock mock;

	return mock_domain(fd, pt, &mock);
}

/* A device the test cannot do without. */
static inline struct mock new_mock(int fd, uint32_t pt)
{
	struct mock mock;

	NEED(mock_domain(fd, pt, &mock) == 0);
	return mock;
}

/* *pt: where to, in; the HWPT it is on then, out. */
static inline long mock_replace(int fd, uint32_t stdev, uint32_t *pt)
{
	struct iommu_test_cmd cmd = { .mock_domain_replace = { .pt_id = *pt } };
	long rc = test_cmd(fd, IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, stdev, &cmd);

	*pt = cmd.mock_domain_replace.pt_id;
	return rc;
}

static inline long try_replace(int fd, uint32_t stdev, uint32_t pt)
{
	return mock_replace(fd, stdev, &pt);
}

static inline long check_map(int fd, uint32_t hwpt, uint64_t iova, uint64_t length,
			     const void *memory)
{
	struct iommu_test_cmd cmd = { .check_map = { .iova = iova, .length = length,
						     .uptr = (uintptr_t)memory } };

	return test_cmd(fd, IOMMU_TEST_OP_MD_CHECK_MAP, hwpt, &cmd);
}

static inline long check_refs(int fd, const void *memory, uint64_t length, uint32_t refs)
{
	struct iommu_test_cmd cmd = { .check_refs = { .length = length, .uptr = (uintptr_t)memory,
						      .refs = refs } };

	return test_cmd(fd, IOMMU_TEST_OP_MD_CHECK_REFS, 0, &cmd);
}

static inline long check_cache(int fd, uint32_t idev, uint32_t slot, uint32_t value)
{
	struct iommu_test_cmd cmd = { .check_dev_cache = { .id = slot, .cache = value } };

	return test_cmd(fd, IOMMU_TEST_OP_DEV_CHECK_CACHE, idev, &cmd);
}

static inline long memory_limit(int fd, uint32_t limit)
{
	struct iommu_test_cmd cmd = { .memory_limit = { .limit = limit } };

	return test_cmd(fd, IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT, 0, &cmd);
}

static inline long create_access(int fd, uint32_t ioas, uint32_t flags, int *access)
{
	struct iommu_test_cmd cmd = { .create_access = { .out_access_fd = -1, .flags = flags } };
	long rc = test_cmd(fd, IOMMU_TEST_OP_CREATE_ACCESS, ioas, &cmd);

	*access = (int)cmd.create_access.out_access_fd;
	return rc;
}

static inline int new_access(int fd, uint32_t ioas, uint32_t flags)
{
	int access;

	NEED(create_access(fd, ioas, flags, &access) == 0);
	return access;
}

static inline long try_access(int fd, uint32_t ioas, uint32_t flags)
{
	int access;
	long rc = create_access(fd, ioas, flags, &access);

	if (rc == 0)
		close(access);
	return rc;
}

static inline long access_pages(int fd, int access, uint64_t iova, uint64_t length,
				const void *memory, uint32_t flags, uint32_t *item)
{
	struct iommu_test_cmd cmd = { .access_pages = { .flags = flags, .iova = iova,
							.length = length,
							.uptr = (uintptr_t)memory } };
	long rc = test_cmd(fd, IOMMU_TEST_OP_ACCESS_PAGES, access, &cmd);

	*item = cmd.access_pages.out_access_pages_id;
	return rc;
}

/* Pins without comparing; the errno alone. */
static inline long pin(int fd, int access, uint64_t iova, uint64_t length)
{
	uint32_t item;

	return access_pages(fd, access, iova, length, NULL, 0, &item);
}

static inline long unpin(int fd, int access, uint32_t item)
{
	struct iommu_test_cmd cmd = { .destroy_access_pages = { .access_pages_id = item } };

	return test_cmd(fd, IOMMU_TEST_OP_DESTROY_ACCESS_PAGES, access, &cmd);
}

static inline long access_rw(int fd, int access, uint64_t iova, uint64_t length, const void *memory,
			     uint32_t flags)
{
	struct iommu_test_cmd cmd = { .access_rw = { .iova = iova, .length = length,
						     .uptr = (uintptr_t)memory, .flags = flags } };

	return test_cmd(fd, IOMMU_TEST_OP_ACCESS_RW, access, &cmd);
}

static inline long access_replace(int fd, int access, uint32_t ioas)
{
	struct iommu_test_cmd cmd = { .access_replace_ioas = { .ioas_id = ioas } };

	return test_cmd(fd, IOMMU_TEST_OP_ACCESS_REPLACE_IOAS, access, &cmd);
}

/* Pages that can be shared, and the file they are of. */
static inline char *shared_pages(size_t count, int *file)
{
	char *p;

	*file = memfd_create("mock", MFD_CLOEXEC);
	NEED(*file >= 0 && ftruncate(*file, (off_t)(count * PAGE)) == 0);
	p = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
	NEED(p != MAP_FAILED);
	return p;
}

/* Bytes that tell where they are, and which `round` wrote them. */
static inline void fill(void *memory, size_t length, unsigned int round)
{
	unsigned char *p = memory;
	size_t i;

	for (i = 0; i < length; i++)
		p[i] = (unsigned char)((i ^ i >> 8 ^ i >> 16) * 31 + round * 101 + 7);
}

/* How many bytes are not what fill() puts there. */
static inline size_t differing(const void *memory, size_t length, unsigned int round)
{
	const unsigned char *p = memory;
	size_t i, found = 0;

	for (i = 0; i < length; i++)
		found += p[i] != (unsigned char)((i ^ i >> 8 ^ i >> 16) * 31 + round * 101 + 7);
	return found;
}

#endif
