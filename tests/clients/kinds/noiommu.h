/* SPDX-License-Identifier: MIT */
/* A device without an IOMMU, and its physical addresses. */
#ifndef NOIOMMU_H
#define NOIOMMU_H

#include "kinds.h"

#define CAP_RAWIO 17
#define DETACH_PT _IO(';', 120)
#define SEEN 64UL /* pages */

/* *length: how many bytes are asked for, in; how many lie together from *phys on, out. */
static inline long get_pa(int fd, uint32_t ioas, uint64_t iova, uint64_t *length, uint64_t *phys)
{
	struct iommu_ioas_noiommu_get_pa cmd = { .size = sizeof(cmd), .ioas_id = ioas,
						 .iova = iova, .length = *length,
						 .out_phys = *phys };
	long rc = call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd);

	*length = cmd.length;
	*phys = cmd.out_phys;
	return rc;
}

/* The errno alone. */
static inline long try_pa(int fd, uint32_t ioas, uint64_t iova)
{
	uint64_t length = PAGE, phys = 0;

	return get_pa(fd, ioas, iova, &length, &phys);
}

static inline uint64_t pa(int fd, uint32_t ioas, uint64_t iova)
{
	uint64_t length = 1, phys = 0;

	NEED(get_pa(fd, ioas, iova, &length, &phys) == 0 && length == 1);
	return phys;
}

/* Attach the device, or move it; *pt: where to, in; the page table, out. */
static inline long attach_to(int fd, const struct device *device, uint32_t *pt)
{
	struct kinds_attach_pt cmd = { .argsz = sizeof(cmd), .pt_id = *pt };
	struct iommu_test_cmd mock = { .id = device->handle,
				       .mock_domain_replace = { .pt_id = *pt } };
	long rc;

	if (device->vfio)
		rc = call((int)device->handle, KINDS_ATTACH_PT, &cmd);
	else
		rc = test_cmd(fd, IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, &mock);
	*pt = device->vfio ? cmd.pt_id : mock.mock_domain_replace.pt_id;
	return rc;
}

/* A device on ioas, and its page table. */
static inline struct device device_on(int fd, uint32_t ioas, uint32_t *hwpt)
{
	struct device device;
	struct mock mock;

	*hwpt = ioas;
	if (vfio_device(fd, &device)) {
		NEED(attach_to(fd, &device, hwpt) == 0);
		return device;
	}
	NEED(mock_flags(fd, ioas, 0, &mock) == 0);
	*hwpt = mock.hwpt;
	return (struct device){ mock.device, mock.stdev, false };
}

/* ATTACH_PT of a PASID, where nothing but VFIO's own will do. */
static inline long vfio_pasid(const struct device *device, uint32_t pasid, uint32_t pt)
{
	struct {
		uint32_t argsz, flags, pt_id, pasid;
	} cmd = { sizeof(cmd), 1, pt, pasid };

	return call((int)device->handle, KINDS_ATTACH_PT, &cmd);
}

/* The page is pinned so often. */
static inline long check_refs(int fd, const void *memory, uint32_t refs)
{
	struct iommu_test_cmd cmd = { .check_refs = { .length = PAGE, .uptr = (uintptr_t)memory,
						      .refs = refs } };

	return test_cmd(fd, IOMMU_TEST_OP_MD_CHECK_REFS, &cmd);
}

/* Without CAP_SYS_RAWIO there is no such device; then there is nothing more to check. */
static inline bool not_to_be_had(void)
{
	int fd = open_iommu();

	if (!have_capability(CAP_RAWIO))
		CHECK_ERR(EPERM, try_pa(fd, new_ioas(fd), 0), "no CAP_SYS_RAWIO, no address");
	NEED(close(fd) == 0);
	return !have_capability(CAP_RAWIO);
}

/* Detached, unbound, gone. */
static inline void unplug(int fd, const struct device *device)
{
	if (device->vfio)
		NEED(close((int)device->handle) == 0);
	else
		NEED(destroy(fd, device->handle) == 0);
}

#endif
