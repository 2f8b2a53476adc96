// SPDX-License-Identifier: MIT
/*
 * The group of a device without an IOMMU, in VFIO's own container.
 *
 *     type1_noiommu ADDRESS       of an edu
 */
#include "type1.h"

static const char *address;

static void extensions(int container, const char *when)
{
	uint32_t i;

	for (i = 0; i < 12; i++)
		SAY(call(container, VFIO_CHECK_EXTENSION, (void *)(uintptr_t)i), "extension %u %s", i, when);
}

static void whole(void)
{
	int group, container = open_container(), device, iommu = open_its_iommu(), again;
	uint8_t memory[PAGE] __attribute__((aligned(4096)));
	union info info;
	unsigned int nr;

	heading("from open to reset");
	SAY(strncmp(group_of(address), "/dev/vfio/noiommu-", 18), "its name");
	group = open(group_of(address), O_RDWR);
	SAY(group < 0 ? -errno : 0, "open");
	SAY(group_status(group), "status");
	SAY(device_fd(group, address), "the device, without a container");
	extensions(container, "alone");
	SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "SET_IOMMU without a group");
	SAY(set_container(group, container), "SET_CONTAINER");
	extensions(container, "with a group");
	SAY(device_fd(group, address), "the device, without a driver");
	SAY(map_dma(container, memory, 0, PAGE), "map, without a driver");
	SAY(set_iommu(container, V1), "SET_IOMMU of type1");
	SAY(set_iommu(container, V2), "SET_IOMMU of type1v2");
	SAY(set_iommu(container, VFIO_UNMAP_ALL), "SET_IOMMU of UNMAP_ALL");
	SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "SET_IOMMU of none");
	SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "again");
	extensions(container, "with a driver");
	SAY(map_dma(container, memory, 0, PAGE), "map");
	SAY(taken_out(container, 0, PAGE), "unmap");
	SAY(get_info(container, 1000, &info), "GET_INFO");
	SAY(start_tracking(container), "DIRTY_PAGES");
	for (nr = 3; nr < 12; nr++)
		SAY(call(container, _IO(VFIO_TYPE, VFIO_BASE + nr), NULL), "number %u", nr);
	SAY(group_status(group), "status");
	SAY(take_device(group, address, &device), "the device");
	SAY(take_device(group, address, &again), "once more");
	SAY(device_identity(device), "it is");
	SAY(device_flags(device), "flags");
	enable(device, true);
	put(device, BAR0, EDU_LIVENESS, 4, 1);
	SAY(get(device, BAR0, EDU_LIVENESS, 4), "its register takes");
	SAY(attach(device, 1), "attach");
	SAY(unset_container(group), "unset, while it is open");
	close(again);
	SAY(unset_container(group), "while it is open once");
	close(group);
	SAY(told(open(group_of(address), O_RDWR)), "the group is closed; open it");
	SAY(get(device, BAR0, EDU_LIVENESS, 4), "its register has");
	close(device);
	group = open(group_of(address), O_RDWR);
	SAY(group < 0 ? -errno : 0, "when the device is closed");
	extensions(container, "alone again");
	SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "SET_IOMMU without a group");
	SAY(set_container(group, iommu), "/dev/iommu is a container for it");
	SAY(take_device(group, address, &device), "the device there");
	SAY(unset_container(group), "unset");
	close(device);
	close(group);
	close(iommu);
	close(container);
}

static void without_capability(void)
{
	int group = open_to(group_of(address)), container = open_container(), other = open_container();

	heading("without CAP_SYS_RAWIO");
	NEED(set_container(group, container) == 0);
	IN_CHILD({
		drop_capability(CAP_SYS_RAWIO);
		SAY(told(open(group_of(address), O_RDWR)), "the group");
		SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "SET_IOMMU");
		SAY(set_iommu(container, V1), "SET_IOMMU of type1");
		SAY(unset_container(group), "unset");
		SAY(set_container(group, other), "SET_CONTAINER");
	});
	NEED(set_container(group, container) == 0);
	SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "SET_IOMMU, with it");
	IN_CHILD({
		int device;

		drop_capability(CAP_SYS_RAWIO);
		SAY(take_device(group, address, &device), "the device");
		SAY(device_fd(group, "nothing"), "no device");
	});
	close(group);
	close(container);
	close(other);
}

int main(int argc, char **argv)
{
	checks_begin();
	NEED(argc > 1);
	address = argv[1];
	whole();
	without_capability();
	return 0;
}
