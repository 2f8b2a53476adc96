// SPDX-License-Identifier: MIT
/*
 * The group of a device without an IOMMU.
 *
 *     noiommu_group ADDRESS       of an edu
 */
#include "groups.h"

static const char *address;

static void whole(void)
{
	int group, container = open_container(), device, iommu = open_its_iommu();
	uint32_t i, ioas = new_ioas(iommu);
	struct iommu_vfio_ioas set = { .size = sizeof(set), .op = IOMMU_VFIO_IOAS_SET, .ioas_id = ioas };
	uint8_t memory[PAGE] __attribute__((aligned(4096)));

	heading("from open to reset");
	SAY(strncmp(group_of(address), "/dev/vfio/noiommu-", 18), "its name");
	group = open(group_of(address), O_RDWR);
	SAY(group < 0 ? -errno : 0, "open");
	SAY(told(open(group_of(address), O_RDWR)), "again");
	SAY(group_status(group), "status");
	SAY(device_fd(group, address), "the device, without a container");
	for (i = 0; i < 12; i++)
		SAY(call(container, VFIO_CHECK_EXTENSION, (void *)(uintptr_t)i), "extension %u before", i);
	SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "SET_IOMMU before");
	SAY(set_container(group, container), "SET_CONTAINER");
	for (i = 0; i < 12; i++)
		SAY(call(container, VFIO_CHECK_EXTENSION, (void *)(uintptr_t)i), "extension %u", i);
	SAY(set_iommu(container, VFIO_TYPE1_IOMMU), "SET_IOMMU of type1");
	SAY(set_iommu(container, VFIO_TYPE1v2_IOMMU), "SET_IOMMU of type1v2");
	SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "SET_IOMMU of none");
	SAY(compat_ioas(container), "its IOAS");
	SAY(map_dma(container, memory, 0, PAGE), "map");
	SAY(unmap_dma(container, 0, PAGE), "unmap");
	SAY(group_status(group), "status");
	SAY(take_device(group, address, &device), "the device");
	SAY(device_identity(device), "it is");
	SAY(device_flags(device), "flags");
	SAY(get(device, CONFIG, 4, 2), "command register");
	enable(device, true);
	SAY(get(device, BAR0, EDU_ID, 4), "its register says");
	put(device, BAR0, EDU_LIVENESS, 4, 1);
	SAY(get(device, BAR0, EDU_LIVENESS, 4), "and takes");
	SAY(edu_factorial(device, 5), "and computes");
	SAY(call(device, VFIO_DEVICE_RESET, NULL), "reset");
	SAY(attach(device, ioas), "attach");
	close(device);
	SAY(call(container, IOMMU_IOAS_ALLOC, &(struct iommu_ioas_alloc){ .size = 12 }), "an IOAS in the container");
	SAY(take_device(group, address, &device), "the device");
	SAY(unset_container(group), "unset");
	SAY(device_identity(device), "it is");
	close(device);
	SAY(call(iommu, IOMMU_VFIO_IOAS, &set), "an iommufd with a compat IOAS");
	SAY(set_container(group, iommu), "is no container for it");
	close(iommu);
	iommu = open_its_iommu();
	SAY(set_container(group, iommu), "another is");
	ioas = new_ioas(iommu);
	set.ioas_id = ioas;
	SAY(call(iommu, IOMMU_VFIO_IOAS, &set), "which gets a compat IOAS then");
	SAY(device_fd(group, address), "the device");
	SAY(clear_ioas(iommu), "and loses it");
	SAY(take_device(group, address, &device), "the device");
	close(device);
	close(group);
	close(container);
	close(iommu);
}

static void own_file(void)
{
	int group, iommu = open_its_iommu(), device = open_to(file_of(address));
	uint32_t id;

	heading("its own file");
	group = open_to(group_of(address));
	SAY(bind_device(device, iommu, &id), "bind while the group is open");
	close(group);
	SAY(bind_device(device, iommu, &id), "bind when it is closed");
	SAY(told(open(group_of(address), O_RDWR)), "the group");
	close(device);
	close(iommu);
}

static void without_capability(void)
{
	int group = open_to(group_of(address)), container = open_container(), device;

	heading("CAP_SYS_RAWIO");
	SAY(capability(CAP_SYS_RAWIO, false), "without it");
	SAY(told(open(file_of(address), O_RDWR)), "open of the device's file");
	SAY(set_container(group, container), "SET_CONTAINER");
	SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "SET_IOMMU");
	SAY(device_fd(group, address), "the device");
	SAY(capability(CAP_SYS_RAWIO, true), "with it");
	SAY(take_device(group, address, &device), "the device");
	SAY(capability(CAP_SYS_RAWIO, false), "without it");
	SAY(device_identity(device), "it is");
	SAY(take_device(group, address, &group), "the device again");
	close(group);
	close(device);
	SAY(told(open(group_of(address), O_RDWR)), "open of the group, which is open");
	SAY(capability(CAP_SYS_RAWIO, true), "with it");
	close(container);
}

int main(int argc, char **argv)
{
	checks_begin();
	setvbuf(stdout, NULL, _IOLBF, 0);
	NEED(argc > 1);
	address = argv[1];
	whole();
	own_file();
	without_capability();
	return 0;
}
