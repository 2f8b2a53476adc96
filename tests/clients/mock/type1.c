// SPDX-License-Identifier: MIT
/*
 * type1 [PATH]: what a userspace driver does when it starts, by VFIO's documentation: it checks what
 * the container can do, attaches its group, sets the IOMMU, takes its device, asks for the IOVAs it
 * may use, maps a ring and a thousand buffers, and takes all of it down. PATH: the container, else
 * /dev/vfio/vfio.
 *
 * Where VFIO has no group, the kernel's mock device stands in: a program that makes the compat IOAS
 * itself and puts that device on it does what VFIO does for a group and its device.
 */
#include "../vfio.h"

#include "mock.h"

#include <glob.h>
#include <sys/resource.h>

#define RING (256 * PAGE)
#define BUFFER PAGE /* in all less than the usual RLIMIT_MEMLOCK, 8 MiB */
#define BUFFERS 1000
#define BOTH (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)

/* linux/vfio.h, of groups. */
#define GROUP_GET_STATUS _IO(VFIO_TYPE, VFIO_BASE + 3)
#define GROUP_SET_CONTAINER _IO(VFIO_TYPE, VFIO_BASE + 4)
#define GROUP_GET_DEVICE_FD _IO(VFIO_TYPE, VFIO_BASE + 6)
#define GROUP_VIABLE 1

struct group_status {
	uint32_t argsz, flags;
};

/* The last part of the first path that matches, or NULL. */
static const char *first_name(const char *pattern)
{
	static char name[64];
	glob_t paths;

	if (glob(pattern, 0, NULL, &paths))
		return NULL;
	snprintf(name, sizeof(name), "%s", strrchr(paths.gl_pathv[0], '/') + 1);
	globfree(&paths);
	return name;
}

/* Attaches VFIO's first group. Returns its descriptor, and its device's name; -1: there is none. */
static int attach_group(int container, char device[64])
{
	struct group_status status = { .argsz = sizeof(status) };
	const char *number = first_name("/dev/vfio/[0-9]*");
	char path[128];
	int group;

	if (!number) {
		CHECK_OK(set_compat(container, new_ioas(container)), "what a group would make");
		return -1;
	}
	snprintf(path, sizeof(path), "/dev/vfio/%s", number);
	printf("# group %s\n", path);
	group = open(path, O_RDWR | O_CLOEXEC);
	NEED(group >= 0);
	NEED(call(group, GROUP_GET_STATUS, &status) == 0 && status.flags & GROUP_VIABLE);
	CHECK_OK(call(group, GROUP_SET_CONTAINER, &container), "attach the group");
	snprintf(path, sizeof(path), "/sys/kernel/iommu_groups/%s/devices/*", number);
	number = first_name(path);
	NEED(number);
	strcpy(device, number);
	return group;
}

/* With VFIO a device gets to the container's page table when its descriptor is asked for. */
static int take_device(int container, int group, const char *name)
{
	int device = -1;

	if (group < 0) {
		CHECK_OK(try_mock(container, 1), "what a device would do");
	} else {
		device = ioctl(group, GROUP_GET_DEVICE_FD, name);
		CHECK_OK(device < 0 ? -errno : 0, "the group's device");
	}
	return device;
}

/* Capabilities are found by their offset; returns the one of this kind. */
static void *capability(struct vfio_iommu_type1_info *info, uint16_t id)
{
	struct vfio_info_cap_header *header;
	uint32_t at;

	for (at = info->cap_offset; at; at = header->next) {
		header = (void *)((char *)info + at);
		if (header->id == id)
			return header;
	}
	return NULL;
}

/* The struct again, with as much room as all of it takes. */
static struct vfio_iommu_type1_info *whole_info(int container)
{
	struct vfio_iommu_type1_info first = { .argsz = sizeof(first) }, *info;

	CHECK_OK(call(container, VFIO_IOMMU_GET_INFO, &first), "info");
	CHECK_TRUE(first.flags & VFIO_IOMMU_INFO_PGSIZES, "with page sizes");
	CHECK_TRUE(first.flags & VFIO_IOMMU_INFO_CAPS, "and capabilities");
	CHECK_EQ(first.cap_offset, 0, "for which there was no room");
	info = calloc(1, first.argsz);
	NEED(info);
	info->argsz = first.argsz;
	CHECK_OK(call(container, VFIO_IOMMU_GET_INFO, info), "info, and the capabilities");
	CHECK_EQ(info->argsz, first.argsz, "as much as before");
	return info;
}

/* Where everything can be placed. */
static uint64_t first_iova(struct vfio_iommu_type1_info *info, uint64_t length)
{
	struct vfio_iommu_type1_info_cap_iova_range *ranges =
		capability(info, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE);
	uint32_t i;

	NEED(ranges);
	for (i = 0; i < ranges->nr_iovas; i++) {
		printf("# IOVAs %#llx to %#llx\n", (unsigned long long)ranges->iova_ranges[i].start,
		       (unsigned long long)ranges->iova_ranges[i].end);
		if (ranges->iova_ranges[i].end - ranges->iova_ranges[i].start >= length)
			return ranges->iova_ranges[i].start;
	}
	NEED(!"no range is long enough");
	return 0;
}

static void start_up(int container, unsigned long kind)
{
	struct vfio_iommu_type1_info_dma_avail *avail;
	struct vfio_iommu_type1_info *info;
	char *ring = new_pages(RING / PAGE), *buffers = new_pages(BUFFERS * BUFFER / PAGE);
	unsigned int i, mapped = 0, gone = 0;
	uint64_t iova, size;
	uint32_t compat_ioas = 0;
	int group, device;
	char name[64];

	CHECK_EQ((uint64_t)ask(container, VFIO_GET_API_VERSION, 0), VFIO_API_VERSION, "version");
	CHECK_EQ((uint64_t)ask(container, VFIO_CHECK_EXTENSION, kind), 1, "the kind is there");
	CHECK_ERR(ENODEV, ask(container, VFIO_SET_IOMMU, kind), "set it? not without a group");
	group = attach_group(container, name);
	CHECK_OK(compat(container, IOMMU_VFIO_IOAS_GET, &compat_ioas), "now there is an IOAS");
	CHECK_EQ(compat_ioas, 1, "the first object");
	CHECK_OK(ask(container, VFIO_SET_IOMMU, kind), "set it");
	device = take_device(container, group, name);
	info = whole_info(container);
	printf("# page sizes %#llx\n", (unsigned long long)info->iova_pgsizes);
	CHECK_TRUE(info->iova_pgsizes & PAGE, "pages of the system's size");
	avail = capability(info, VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL);
	CHECK_TRUE(avail && avail->avail > BUFFERS, "enough mappings");
	iova = first_iova(info, RING + BUFFERS * BUFFER);
	CHECK_OK(map_dma(container, (uintptr_t)ring, iova, RING, BOTH), "the ring");
	for (i = 0; i < BUFFERS; i++)
		mapped += map_dma(container, (uintptr_t)buffers + i * BUFFER,
				  iova + RING + i * BUFFER, BUFFER, BOTH) == 0;
	CHECK_EQ(mapped, BUFFERS, "the buffers");
	CHECK_ERR(EEXIST, map_dma(container, (uintptr_t)ring, iova, PAGE, BOTH), "not twice");
	for (i = 0; i < BUFFERS; i += 2) {
		size = BUFFER;
		gone += unmap_dma(container, iova + RING + i * BUFFER, &size, 0) == 0 &&
			size == BUFFER;
	}
	CHECK_EQ(gone, BUFFERS / 2, "every other buffer goes");
	size = PAGE;
	if (kind == VFIO_TYPE1_IOMMU) {
		CHECK_OK(unmap_dma(container, iova + PAGE, &size, 0), "a page of the ring");
		CHECK_EQ(size, PAGE, "one");
	} else {
		CHECK_ERR(ENOENT, unmap_dma(container, iova + PAGE, &size, 0), "the ring is one");
		CHECK_EQ(size, 0, "nothing");
	}
	size = 0;
	if (ask(container, VFIO_CHECK_EXTENSION, VFIO_UNMAP_ALL) == 1)
		CHECK_OK(unmap_dma(container, 0, &size, VFIO_DMA_UNMAP_FLAG_ALL), "all");
	CHECK_EQ(size, RING + BUFFERS / 2 * BUFFER - (kind == VFIO_TYPE1_IOMMU ? PAGE : 0),
		 "all that was left");
	free(info);
	if (group >= 0) {
		NEED(close(device) == 0);
		NEED(close(group) == 0);
	}
	munmap(ring, RING);
	munmap(buffers, BUFFERS * BUFFER);
}

/* A container with a device that pins as many pages as it is told to; they stay pinned. */
static long pin_in_container(const char *path, uint64_t pages)
{
	int container = open(path, O_RDWR | O_CLOEXEC);

	NEED(container >= 0);
	NEED(set_compat(container, new_ioas(container)) == 0);
	NEED(try_mock(container, 1) == 0);
	return map_dma(container, (uintptr_t)new_pages(pages), BASE, pages * PAGE, BOTH);
}

/* The limit is each process's own on VFIO's path, and all processes' of a user on IOMMUFD's. */
static void limits(const char *path, bool own)
{
	struct rlimit limit = { 4 * PAGE, 4 * PAGE };

	drop_capability(CAP_IPC_LOCK);
	NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	CHECK_ERR(ENOMEM, pin_in_container(path, 5), "a page too many");
	CHECK_OK(pin_in_container(path, 4), "as many as allowed");
	CHECK_ERR(ENOMEM, pin_in_container(path, 1), "then no more");
	IN_CHILD(check_rc(pin_in_container(path, 4), own ? 0 : -ENOMEM, __FILE__, __LINE__,
			  "in another process"));
}

int main(int argc, char **argv)
{
	static const unsigned long kinds[] = { VFIO_TYPE1v2_IOMMU, VFIO_TYPE1_IOMMU };
	const char *path = argc > 1 ? argv[1] : "/dev/vfio/vfio";
	unsigned int i;
	uint64_t mode;
	int container;

	checks_begin();
	for (i = 0; i < ARRAY_LEN(kinds); i++) {
		container = open(path, O_RDWR | O_CLOEXEC);
		NEED(container >= 0);
		mode = option_get(container, IOMMU_OPTION_RLIMIT_MODE, 0);
		CHECK_EQ(mode, argc == 1, "pins count against the process on VFIO's own path");
		start_up(container, kinds[i]);
		CHECK_OK(close(container), "close");
	}
	if (!first_name("/dev/vfio/[0-9]*"))
		IN_CHILD(limits(path, argc == 1));
	return checks_end();
}
