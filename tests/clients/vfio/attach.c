// SPDX-License-Identifier: MIT
/* ATTACH_IOMMUFD_PT and DETACH_IOMMUFD_PT: their structs, what they take, and what they change. */
#include "device.h"

#define PASID VFIO_DEVICE_ATTACH_PASID

static long hwpt_alloc(int iommufd, uint32_t dev, uint32_t pt, uint32_t *id)
{
	struct iommu_hwpt_alloc cmd = { .size = sizeof(cmd), .dev_id = dev, .pt_id = pt };
	long rc = call(iommufd, IOMMU_HWPT_ALLOC, &cmd);

	*id = cmd.out_hwpt_id;
	return rc;
}

static void structs(int device, uint32_t ioas)
{
	uint32_t sizes[] = { 0, 7, 8, 11 }, pt, i;
	char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct vfio_device_attach_iommufd_pt cmd = { .argsz = sizeof(cmd), .pt_id = ioas };

	heading("structs");
	NEED(page != MAP_FAILED && munmap(page + PAGE, PAGE) == 0);
	SAY(call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, NULL), "attach of NULL");
	SAY(call(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, NULL), "detach of NULL");
	for (i = 0; i < ARRAY_LEN(sizes); i++) {
		pt = ioas;
		SAY(attach_flags(device, sizes[i], 0, &pt, 0), "attach, argsz %u", sizes[i]);
	}
	SAY(detach_flags(device, 0, 0, 0), "detach, argsz 0");
	SAY(detach_flags(device, 7, 0, 0), "detach, argsz 7");
	SAY(detach_flags(device, 8, 0, 0), "detach of what is not attached");
	SAY(detach_flags(device, ~0U, 0, 0), "detach, argsz -1");
	pt = ioas;
	SAY(attach_flags(device, 12, 2, &pt, 0), "attach, unknown flag");
	SAY(attach_flags(device, 12, ~0U, &pt, 0), "attach, all flags");
	SAY(attach_flags(device, 11, 2, &pt, 0), "attach, argsz before flags");
	SAY(attach_flags(device, 12, PASID, &pt, 0), "attach, PASID without room");
	SAY(detach_flags(device, 8, 2, 0), "detach, unknown flag");
	SAY(detach_flags(device, 8, 1, 0), "detach, PASID without room");
	cmd.flags = PASID;
	memcpy(page + PAGE - 12, &cmd, 12);
	SAY(call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, page + PAGE - 12), "attach, PASID beyond the page");
	memcpy(page + PAGE - 8, &cmd, 8);
	SAY(call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, page + PAGE - 8), "attach, the ID beyond the page");
	SAY(call(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, page + PAGE - 8), "detach, PASID beyond the page");
	SAY(call(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, page + PAGE - 4), "detach, flags beyond the page");
	cmd.flags = 0;
	memcpy(page, &cmd, sizeof(cmd));
	NEED(mprotect(page, PAGE, PROT_READ) == 0);
	SAY(call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, page), "attach, a struct that cannot be written");
	pt = ioas;
	SAY(attach_flags(device, 12, 0, &pt, 0), "it was detached again");
	SAY(detach(device), "detach");
	munmap(page, PAGE);
}

static void objects(int device, int iommufd, uint32_t id, uint32_t ioas)
{
	uint32_t other = new_ioas(iommufd), pt, first, hwpt, second;

	heading("objects");
	SAY(attach(device, 0), "0");
	SAY(attach(device, ~0U), "-1");
	SAY(attach(device, 4711), "no such ID");
	SAY(attach(device, id), "the device itself");
	pt = ioas;
	SAY(attach_flags(device, 12, 0, &pt, 0), "an IOAS");
	SAY(pt != ioas, "a HWPT comes back");
	first = pt;
	pt = ioas;
	SAY(attach_flags(device, 16, 0, &pt, 7), "the same once more");
	SAY(pt == first, "the same HWPT comes back");
	SAY(attach(device, first), "the HWPT");
	SAY(destroy(iommufd, first), "destroy of the HWPT");
	SAY(destroy(iommufd, ioas), "destroy of the IOAS");
	pt = other;
	SAY(attach_flags(device, 12, 0, &pt, 0), "another IOAS, in place of it");
	SAY(pt != first, "with a HWPT of its own");
	SAY(destroy(iommufd, first), "the first HWPT is gone");
	SAY(attach(device, 4711), "no such ID");
	SAY(attach(device, id), "the device itself");
	SAY(destroy(iommufd, pt), "it is where it was");
	SAY(destroy(iommufd, other), "and so is its IOAS");
	SAY(detach(device), "detach");
	SAY(detach(device), "detach once more");
	SAY(destroy(iommufd, pt), "the HWPT is gone");

	NEED(hwpt_alloc(iommufd, id, ioas, &hwpt) == 0 && hwpt_alloc(iommufd, id, other, &second) == 0);
	pt = hwpt;
	SAY(attach_flags(device, 12, 0, &pt, 0), "a HWPT of a client's");
	SAY(pt == hwpt, "it comes back");
	SAY(destroy(iommufd, hwpt), "destroy of it");
	SAY(attach(device, second), "a second one in place of it");
	SAY(destroy(iommufd, hwpt), "destroy of the first");
	SAY(destroy(iommufd, second), "destroy of the second");
	SAY(attach(device, ioas), "an IOAS in place of it");
	SAY(destroy(iommufd, second), "destroy of the second");
	SAY(detach(device), "detach");
	SAY(destroy(iommufd, other), "destroy of the second IOAS");
}

static void pasids(int device, int iommufd, uint32_t ioas)
{
	uint32_t numbers[] = { 0, 1, 2, 1023, (1 << 20) - 1, 1 << 20, INT_MAX, ~0U }, pt, i;

	heading("PASIDs, which it has not");
	for (i = 0; i < ARRAY_LEN(numbers); i++) {
		pt = ioas;
		SAY(attach_flags(device, 16, PASID, &pt, numbers[i]), "attach PASID %#x", numbers[i]);
		SAY(pt == ioas, "the ID is as it was");
		SAY(detach_flags(device, 12, 1, numbers[i]), "detach PASID %#x", numbers[i]);
	}
	SAY(attach(device, ioas), "attach");
	pt = ioas;
	SAY(attach_flags(device, 16, PASID, &pt, 1), "attach PASID 1");
	pt = 4711;
	SAY(attach_flags(device, 16, PASID, &pt, 1), "attach PASID 1 to what is not there");
	SAY(attach_flags(device, 16, PASID, &pt, 1 << 20), "attach a large PASID to what is not there");
	SAY(detach(device), "detach");
	SAY(destroy(iommufd, ioas), "nothing is left of it");
}

static void mapped(int device, int iommufd)
{
	uint32_t ioas = new_ioas(iommufd), other = new_ioas(iommufd);
	void *page = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	heading("with mappings");
	NEED(page != MAP_FAILED);
	SAY(map_at(iommufd, ioas, (uintptr_t)page, 16 * PAGE, 16 * MIB), "map");
	SAY(attach(device, ioas), "attach");
	SAY(map_at(iommufd, ioas, (uintptr_t)page, PAGE, 0xfee00000), "map where interrupts go");
	SAY(map_at(iommufd, ioas, (uintptr_t)page, PAGE, 0xfeefffff & ~(PAGE - 1)), "at its end");
	SAY(map_at(iommufd, ioas, (uintptr_t)page, PAGE, 0xfef00000), "beyond");
	SAY(map_at(iommufd, other, (uintptr_t)page, PAGE, 0xfee01000), "the same in another IOAS");
	SAY(attach(device, other), "attach to that");
	SAY(destroy(iommufd, ioas), "the device has not moved");
	SAY(detach(device), "detach");
	SAY(attach(device, other), "attach to that");
	SAY(map_at(iommufd, ioas, (uintptr_t)page, PAGE, 0xfee00000), "map when nobody reserves it");
	SAY(destroy(iommufd, ioas), "destroy");
	SAY(destroy(iommufd, other), "destroy of the other");
}

int main(int argc, char **argv)
{
	int device, iommufd;
	uint32_t id, ioas;

	begin(argc, argv);
	device = open_device();
	iommufd = open_its_iommu();
	NEED(bind_device(device, iommufd, &id) == 0);
	ioas = new_ioas(iommufd);
	structs(device, ioas);
	objects(device, iommufd, id, ioas);
	pasids(device, iommufd, ioas);
	mapped(device, iommufd);
	return 0;
}
