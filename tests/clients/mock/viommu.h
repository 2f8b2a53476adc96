/* SPDX-License-Identifier: MIT */
/* What stands on a vIOMMU: what viommu.c, vdevice.c, veventq.c and hw_queue.c share. */
#ifndef VIOMMU_H
#define VIOMMU_H

#include "hwpt.h"

#define CACHES (MOCK_DEV_CACHE_ID_MAX + 1)

/* A context with an IOAS, a device on it, a nest parent, and a vIOMMU on that. */
struct guest {
	int fd;
	uint32_t ioas, parent, viommu;
	struct mock mock;
};

static inline long result(long rc)
{
	return rc < 0 ? -errno : rc;
}

static inline long viommu_alloc(int fd, uint32_t device, uint32_t hwpt, const void *data,
				uint32_t length, uint32_t *id)
{
	struct iommu_viommu_alloc cmd = { .size = sizeof(cmd), .type = IOMMU_VIOMMU_TYPE_SELFTEST,
					  .dev_id = device, .hwpt_id = hwpt, .data_len = length,
					  .data_uptr = (uintptr_t)data };
	long rc = call(fd, IOMMU_VIOMMU_ALLOC, &cmd);

	*id = cmd.out_viommu_id;
	return rc;
}

static inline struct guest new_guest(void)
{
	struct guest guest = { .fd = open_iommu() };

	guest.ioas = new_ioas(guest.fd);
	guest.mock = new_mock(guest.fd, guest.ioas);
	guest.parent = new_hwpt(guest.fd, guest.mock.device, guest.ioas, PARENT);
	NEED(viommu_alloc(guest.fd, guest.mock.device, guest.parent, NULL, 0, &guest.viommu) == 0);
	return guest;
}

static inline long vdevice_alloc(int fd, uint32_t viommu, uint32_t device, uint64_t virt_id,
				 uint32_t *id)
{
	struct iommu_vdevice_alloc cmd = { .size = sizeof(cmd), .viommu_id = viommu,
					   .dev_id = device, .virt_id = virt_id };
	long rc = call(fd, IOMMU_VDEVICE_ALLOC, &cmd);

	*id = cmd.out_vdevice_id;
	return rc;
}

static inline long try_vdevice(int fd, uint32_t viommu, uint32_t device, uint64_t virt_id)
{
	uint32_t id;

	return vdevice_alloc(fd, viommu, device, virt_id, &id);
}

static inline long trigger_vevent(int fd, uint32_t device)
{
	struct iommu_test_cmd cmd = { .trigger_vevent = { .dev_id = device } };

	return test_cmd(fd, IOMMU_TEST_OP_TRIGGER_VEVENT, &cmd);
}

static inline long check_cache(int fd, uint32_t device, uint32_t slot, uint32_t value)
{
	struct iommu_test_cmd cmd = { .id = device, .check_dev_cache = { slot, value } };

	return test_cmd(fd, IOMMU_TEST_OP_DEV_CHECK_CACHE, &cmd);
}

#endif
