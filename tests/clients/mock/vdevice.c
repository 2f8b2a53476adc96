// SPDX-License-Identifier: MIT
/* VDEVICE_ALLOC, what goes with a device, attachments below a vIOMMU, its devices' caches. */
#include "viommu.h"

#define ENTRY sizeof(struct iommu_viommu_invalidate_selftest)
#define KIND IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST
#define ALL IOMMU_TEST_INVALIDATE_FLAG_ALL
#define DEFAULT IOMMU_TEST_DEV_CACHE_DEFAULT
#define MANY (4 * MIB / ENTRY + 1)

static void allocation(void)
{
	struct guest g = new_guest();
	uint32_t first = next_id(g.fd), id, other;
	struct iommu_vdevice_alloc cmd = { .size = sizeof(cmd), .viommu_id = g.viommu,
					   .dev_id = g.mock.device, .virt_id = 7 };
	struct mock second = new_mock(g.fd, g.ioas);

	NEED(destroy(g.fd, second.stdev) == 0);
	CHECK_ERR(ENOENT, try_vdevice(g.fd, NO_ID, NO_ID, 7), "no such vIOMMU");
	CHECK_ERR(ENOENT, try_vdevice(g.fd, g.parent, g.mock.device, 7), "a HWPT");
	CHECK_ERR(ENOENT, try_vdevice(g.fd, g.viommu, NO_ID, 7), "no such device");
	CHECK_ERR(ENOENT, try_vdevice(g.fd, g.viommu, g.mock.stdev, 7), "the mock itself");
	CHECK_ERR(EFAULT, call(g.fd, IOMMU_VDEVICE_ALLOC, read_only(&cmd, sizeof(cmd))),
		  "the ID cannot be written");
	CHECK_EQ(next_id(g.fd), first, "none of them took an ID");

	CHECK_OK(vdevice_alloc(g.fd, g.viommu, g.mock.device, ~0ULL, &id), "the largest number");
	CHECK_EQ(id, first, "its ID");
	CHECK_ERR(EBUSY, destroy(g.fd, g.viommu), "it holds its vIOMMU");
	CHECK_ERR(EBUSY, destroy(g.fd, g.mock.device), "nobody may destroy a device");
	CHECK_ERR(EEXIST, try_vdevice(g.fd, g.viommu, g.mock.device, 8), "a second of a device");
	second = new_mock(g.fd, g.ioas);
	CHECK_ERR(EEXIST, try_vdevice(g.fd, g.viommu, second.device, ~0ULL), "a number twice");
	CHECK_OK(vdevice_alloc(g.fd, g.viommu, second.device, 0, &other), "number 0");
	CHECK_OK(destroy(g.fd, id), "destroy the first");
	CHECK_OK(vdevice_alloc(g.fd, g.viommu, g.mock.device, ~0ULL, &id), "the number again");
	CHECK_OK(destroy(g.fd, id), "destroy it");
	CHECK_OK(destroy(g.fd, other), "destroy the other");
	CHECK_OK(destroy(g.fd, g.viommu), "then the vIOMMU");
	NEED(close(g.fd) == 0);
}

static void tombstone(void)
{
	struct guest g = new_guest();
	uint32_t id, after, again;
	uint64_t mode = 1;

	NEED(vdevice_alloc(g.fd, g.viommu, g.mock.device, 0x99, &id) == 0);
	CHECK_OK(destroy(g.fd, g.mock.stdev), "a device that has a vDEVICE goes");
	CHECK_ERR(ENOENT, destroy(g.fd, id), "its vDEVICE is gone");
	after = next_id(g.fd);
	CHECK_OK(after == id, "its ID is not taken again soon");
	CHECK_EQ(after, g.mock.stdev, "the device's are");
	g.mock = new_mock(g.fd, g.ioas);
	NEED(vdevice_alloc(g.fd, g.viommu, g.mock.device, 0x99, &again) == 0);
	CHECK_OK(again == id, "a new vDEVICE of the same number has another ID");
	CHECK_OK(destroy(g.fd, again), "which can be destroyed");
	NEED(destroy(g.fd, g.mock.stdev) == 0 && destroy(g.fd, g.viommu) == 0 &&
	     destroy(g.fd, g.parent) == 0 && destroy(g.fd, g.ioas) == 0);
	CHECK_ERR(have_capability(CAP_SYS_RESOURCE) ? EBUSY : EPERM,
		  option(g.fd, 0, IOMMU_OPTION_RLIMIT_MODE, IOMMU_OPTION_OP_SET, &mode),
		  "the context is not empty: an ID is still taken");
	NEED(close(g.fd) == 0);

	g = new_guest();
	NEED(vdevice_alloc(g.fd, g.viommu, g.mock.device, 0x99, &id) == 0);
	CHECK_OK(close(g.fd), "close with all of it");
}

static void attachment(void)
{
	struct guest g = new_guest();
	uint32_t nested = new_nested(g.fd, g.mock.device, g.viommu, 0, 3);
	uint32_t other, below, id;

	NEED(viommu_alloc(g.fd, g.mock.device, g.parent, NULL, 0, &other) == 0);
	below = new_nested(g.fd, g.mock.device, other, 0, 3);
	CHECK_ERR(ENOENT, mock_replace(g.fd, g.mock.stdev, nested), "the guest lacks the device");
	CHECK_ERR(ENOENT, trigger_vevent(g.fd, g.mock.device), "nobody to tell of events");
	NEED(vdevice_alloc(g.fd, g.viommu, g.mock.device, 0x99, &id) == 0);
	CHECK_ERR(ENOENT, mock_replace(g.fd, g.mock.stdev, below), "not in this vIOMMU");
	CHECK_OK(mock_replace(g.fd, g.mock.stdev, nested), "but in this one");
	CHECK_ERR(ENOENT, mock_replace(g.fd, g.mock.stdev, below), "as before");
	CHECK_ERR(EOPNOTSUPP, trigger_vevent(g.fd, g.mock.device), "nobody reads events");
	CHECK_OK(destroy(g.fd, id), "the vDEVICE may go while the device is attached");
	CHECK_ERR(EOPNOTSUPP, trigger_vevent(g.fd, g.mock.device), "it goes on to report");
	CHECK_OK(mock_replace(g.fd, g.mock.stdev, g.ioas), "off the guest");
	CHECK_ERR(ENOENT, trigger_vevent(g.fd, g.mock.device), "nobody to tell");
	NEED(vdevice_alloc(g.fd, g.viommu, g.mock.device, 0, &id) == 0);
	CHECK_OK(mock_replace(g.fd, g.mock.stdev, nested), "the guest's number is 0");
	CHECK_ERR(ENOENT, trigger_vevent(g.fd, g.mock.device), "the mock takes 0 for none");
	CHECK_OK(destroy(g.fd, g.mock.stdev), "the device goes, attached as it is");
	CHECK_ERR(ENOENT, destroy(g.fd, id), "its vDEVICE went with it");
	CHECK_OK(destroy(g.fd, nested), "the page table is free");
	CHECK_OK(destroy(g.fd, g.viommu), "and the vIOMMU");
	NEED(close(g.fd) == 0);
}

static long invalidate(int fd, uint32_t viommu, uint32_t type, const void *entries,
		       uint32_t length, uint32_t count, uint32_t *done)
{
	struct iommu_hwpt_invalidate cmd = { .size = sizeof(cmd), .hwpt_id = viommu,
					     .data_uptr = (uintptr_t)entries, .data_type = type,
					     .entry_len = length, .entry_num = count };
	long rc = call(fd, IOMMU_HWPT_INVALIDATE, &cmd);

	*done = cmd.entry_num;
	return rc;
}

static void caches(void)
{
	struct guest g = new_guest();
	struct iommu_viommu_invalidate_selftest e[3] = { { 0, 0x99, 1 }, { 0, 0x99, 3 },
							 { 0, 0x99, CACHES } };
	struct iommu_viommu_invalidate_selftest all[2] = { { ALL, 0x99, 0 }, { 0, 0x98, 0 } };
	struct {
		struct iommu_viommu_invalidate_selftest entry;
		uint32_t more;
	} longer[2] = { { { 0, 0x99, 0 }, 0 }, { { 0, 0x99, 2 }, 0 } };
	uint32_t id, done, type = KIND;
	char *edge = at_edge(e, 2 * ENTRY);

	NEED(vdevice_alloc(g.fd, g.viommu, g.mock.device, 0x99, &id) == 0);
	CHECK_OK(invalidate(g.fd, g.viommu, type, NULL, 0, 0, &done), "nothing");
	CHECK_ERR(EINVAL, invalidate(g.fd, g.viommu, 0, NULL, 0, 0, &done), "of another type");
	CHECK_ERR(EINVAL, invalidate(g.fd, g.viommu, 0, e, ENTRY, 1, &done), "type before entry");
	CHECK_ERR(EINVAL, invalidate(g.fd, g.viommu, type, NULL, ENTRY, 1, &done), "nowhere");
	CHECK_ERR(EINVAL, invalidate(g.fd, g.viommu, type, e, 0, 1, &done), "no length");
	CHECK_ERR(EINVAL, invalidate(g.fd, g.viommu, type, e, PAGE + 1, 1, &done), "too long");
	CHECK_ERR(EFAULT, invalidate(g.fd, g.viommu, type, edge, ENTRY, 3, &done),
		  "the last cannot be read");
	CHECK_EQ(done, 0, "so nothing is done");
	CHECK_OK(check_cache(g.fd, g.mock.device, 1, DEFAULT), "nothing at all");
	CHECK_ERR(EINVAL, invalidate(g.fd, g.viommu, type, e, ENTRY, 3, &done), "no such entry");
	CHECK_EQ(done, 2, "those before it are done");
	CHECK_OK(check_cache(g.fd, g.mock.device, 1, 0), "the first");
	CHECK_OK(check_cache(g.fd, g.mock.device, 3, 0), "the second");
	CHECK_OK(check_cache(g.fd, g.mock.device, 0, DEFAULT), "no other");
	CHECK_OK(invalidate(g.fd, g.viommu, type, longer, sizeof(longer[0]), 1, &done), "longer");
	CHECK_EQ(done, 1, "is done");
	longer[1].more = 1;
	CHECK_ERR(E2BIG, invalidate(g.fd, g.viommu, type, longer, sizeof(longer[0]), 2, &done),
		  "longer, and not zero there");
	CHECK_EQ(done, 0, "nothing is done");
	CHECK_ERR(EINVAL, invalidate(g.fd, g.viommu, type, all, ENTRY, 2, &done), "no such device");
	CHECK_EQ(done, 1, "but the one before");
	CHECK_OK(check_cache(g.fd, g.mock.device, 2, 0), "which meant all");
	all[0].flags = ALL | 2;
	CHECK_ERR(EOPNOTSUPP, invalidate(g.fd, g.viommu, type, all, ENTRY, 1, &done), "flags");
	CHECK_ERR(ENOMEM, invalidate(g.fd, g.viommu, 0, all, ENTRY, MANY, &done), "too many");
	CHECK_EQ(done, MANY, "the count is not told then");
	NEED(destroy(g.fd, id) == 0);
	all[0].flags = ALL;
	CHECK_ERR(EINVAL, invalidate(g.fd, g.viommu, type, all, ENTRY, 1, &done), "device gone");
	NEED(close(g.fd) == 0);
}

int main(void)
{
	checks_begin();
	allocation();
	tombstone();
	attachment();
	caches();
	return checks_end();
}
