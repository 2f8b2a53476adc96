/* SPDX-License-Identifier: MIT */
/*
 * VFIO's groups as a driver sees them. Devices are named by their addresses; /sys tells the rest.
 */
#ifndef GROUPS_H
#define GROUPS_H

#include "device.h"

#include <dirent.h>

#define CONTAINER "/dev/vfio/vfio"

/* What /dev/vfio has for the group of the device at this address. */
static inline const char *group_of(const char *address)
{
	static char paths[8][64];
	static unsigned int next;
	char *path = paths[next++ % ARRAY_LEN(paths)], link[128], target[128];
	ssize_t length;

	snprintf(link, sizeof(link), "/sys/bus/pci/devices/%s/iommu_group", address);
	length = readlink(link, target, sizeof(target) - 1);
	NEED(length > 0);
	target[length] = 0;
	snprintf(path, 64, "/dev/vfio/%s", strrchr(target, '/') + 1);
	if (access(path, F_OK))
		snprintf(path, 64, "/dev/vfio/noiommu-%s", strrchr(target, '/') + 1);
	return path;
}

/* The device's own file. */
static inline const char *file_of(const char *address)
{
	static char paths[8][64];
	static unsigned int next;
	char *path = paths[next++ % ARRAY_LEN(paths)], directory[128];
	struct dirent *entry;
	DIR *found;

	snprintf(directory, sizeof(directory), "/sys/bus/pci/devices/%s/vfio-dev", address);
	found = opendir(directory);
	NEED(found);
	do {
		entry = readdir(found);
		NEED(entry);
	} while (entry->d_name[0] == '.');
	snprintf(path, 64, "/dev/vfio/devices/%.30s", entry->d_name);
	closedir(found);
	return path;
}

static inline int open_to(const char *path)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	NEED(fd >= 0);
	return fd;
}

static inline int open_container(void)
{
	return open_to(CONTAINER);
}

/* The flags, or -errno. */
static inline long group_status(int group)
{
	struct vfio_group_status cmd = { .argsz = sizeof(cmd), .flags = 0xff };
	long rc = call(group, VFIO_GROUP_GET_STATUS, &cmd);

	return rc ? rc : cmd.flags;
}

static inline long set_container(int group, int container)
{
	return call(group, VFIO_GROUP_SET_CONTAINER, &container);
}

static inline long unset_container(int group)
{
	return call(group, VFIO_GROUP_UNSET_CONTAINER, NULL);
}

/* A descriptor, or -errno. */
static inline long device_fd(int group, const char *name)
{
	return call(group, VFIO_GROUP_GET_DEVICE_FD, name);
}

/* 0 and a descriptor, or -errno. */
static inline long take_device(int group, const char *name, int *device)
{
	long rc = device_fd(group, name);

	*device = (int)rc;
	return rc < 0 ? rc : 0;
}

/* The compat IOAS of a container, or -errno. */
static inline long compat_ioas(int container)
{
	struct iommu_vfio_ioas cmd = { .size = sizeof(cmd), .op = IOMMU_VFIO_IOAS_GET };
	long rc = call(container, IOMMU_VFIO_IOAS, &cmd);

	return rc ? rc : cmd.ioas_id;
}

static inline long clear_ioas(int container)
{
	struct iommu_vfio_ioas cmd = { .size = sizeof(cmd), .op = IOMMU_VFIO_IOAS_CLEAR };

	return call(container, IOMMU_VFIO_IOAS, &cmd);
}

static inline long set_iommu(int container, unsigned long kind)
{
	return call(container, VFIO_SET_IOMMU, (void *)kind);
}

static inline long map_dma(int container, const void *memory, uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_map cmd = { .argsz = sizeof(cmd), .vaddr = (uintptr_t)memory, .iova = iova, .size = size,
						.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE };

	return call(container, VFIO_IOMMU_MAP_DMA, &cmd);
}

static inline long unmap_dma(int container, uint64_t iova, uint64_t size)
{
	struct vfio_iommu_type1_dma_unmap cmd = { .argsz = sizeof(cmd), .iova = iova, .size = size };

	return call(container, VFIO_IOMMU_UNMAP_DMA, &cmd);
}

/* Give a capability up, or have it again. */
static inline long capability(unsigned int which, bool on)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	NEED(syscall(SYS_capget, &header, data) == 0);
	data[0].effective &= ~(1U << which);
	if (on)
		data[0].effective |= 1U << which;
	return told(syscall(SYS_capset, &header, data));
}

/* What it is, or -errno. */
static inline long device_identity(int device)
{
	uint32_t identity = 0;
	long rc = told(pread(device, &identity, 4, AT(CONFIG, 0)));

	return rc == 4 ? (long)identity : rc;
}

static inline long device_flags(int device)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	long rc = call(device, VFIO_DEVICE_GET_INFO, &info);

	return rc ? rc : info.flags;
}

/* Whether four bytes of `memory`, which devices see at MIB, get into the device and back, behind
 * themselves. Each time they are others. */
static inline bool does_dma(int device, uint32_t *memory)
{
	static uint32_t value = 0x1000;

	memory[0] = ++value;
	memory[1] = 0;
	enable(device, true);
	edu_dma(device, MIB, EDU_BUFFER, 4, 0);
	edu_dma(device, EDU_BUFFER, MIB + 4, 4, EDU_TO_MEMORY);
	return memory[1] == value;
}

#endif
