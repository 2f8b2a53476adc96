// SPDX-License-Identifier: MIT
/* RESET, PCI_HOT_RESET_INFO and PCI_HOT_RESET, of a function that cannot be reset by itself nor by its bus. */
#include "device.h"

static long hot_info(int device, uint32_t argsz, struct vfio_pci_hot_reset_info *info)
{
	memset(info, 0xa5, 64);
	info->argsz = argsz;
	return call(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, info);
}

static long hot(int device, uint32_t argsz, uint32_t flags, uint32_t count, int fd)
{
	struct {
		struct vfio_pci_hot_reset reset;
		int32_t fds[4];
	} cmd = { .reset = { .argsz = argsz, .flags = flags, .count = count }, .fds = { fd, fd, fd, fd } };

	return call(device, VFIO_DEVICE_PCI_HOT_RESET, &cmd);
}

int main(int argc, char **argv)
{
	union {
		struct vfio_pci_hot_reset_info info;
		char room[64];
	} info;
	uint32_t sizes[] = { 0, 11, 12, 19, 20, 64 }, i;
	int iommufd, device;

	begin(argc, argv);
	device = bound(&iommufd);
	heading("reset");
	SAY(call(device, VFIO_DEVICE_RESET, NULL), "reset");
	SAY(call(device, VFIO_DEVICE_RESET, &info), "with an argument");
	heading("hot reset info");
	SAY(call(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, NULL), "NULL");
	for (i = 0; i < ARRAY_LEN(sizes); i++) {
		SAY(hot_info(device, sizes[i], &info.info), "argsz %u", sizes[i]);
		SAY((long)info.info.argsz, "argsz");
		SAY((long)info.info.flags, "flags");
		SAY((long)info.info.count, "count");
	}
	heading("hot reset");
	SAY(call(device, VFIO_DEVICE_PCI_HOT_RESET, NULL), "NULL");
	for (i = 0; i < ARRAY_LEN(sizes); i++)
		SAY(hot(device, sizes[i], 0, 0, -1), "argsz %u", sizes[i]);
	SAY(hot(device, 12, 1, 0, -1), "flags 1");
	SAY(hot(device, 16, 0, 1, -1), "a group -1");
	SAY(hot(device, 16, 0, 1, device), "a group that is none");
	SAY(hot(device, 20, 0, 2, device), "two");
	SAY(hot(device, 16, 0, ~0U, device), "very many");
	return 0;
}
