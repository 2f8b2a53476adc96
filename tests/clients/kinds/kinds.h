/* SPDX-License-Identifier: MIT */
/*
 * A device behind an IOMMU of some kind: the first that VFIO has to give, else one of the test
 * ioctl's. Each helper is one ioctl and returns 0 or -errno.
 */
#ifndef KINDS_H
#define KINDS_H

#include "../mock/hwpt.h"

#include <glob.h>

/* linux/vfio.h, which older systems have without these. */
#define KINDS_BIND_IOMMUFD _IO(';', 118)
#define KINDS_ATTACH_PT _IO(';', 119)

struct kinds_bind_iommufd {
	uint32_t argsz, flags;
	int32_t iommufd;
	uint32_t out_devid;
};

struct kinds_attach_pt {
	uint32_t argsz, flags, pt_id;
};

/* Bound to an open /dev/iommu. handle: the test ioctl's ID of it, or VFIO's descriptor. */
struct device {
	uint32_t id, handle;
	bool vfio;
};

/* Attach it, or move it, to an IOAS or a HWPT. */
static inline long attach(int fd, const struct device *device, uint32_t pt)
{
	struct kinds_attach_pt cmd = { .argsz = sizeof(cmd), .pt_id = pt };

	if (!device->vfio)
		return mock_replace(fd, device->handle, pt);
	return call((int)device->handle, KINDS_ATTACH_PT, &cmd);
}

/* The next that nobody has bound yet. */
static inline bool vfio_device(int fd, struct device *device)
{
	struct kinds_bind_iommufd cmd = { .argsz = sizeof(cmd), .iommufd = fd };
	bool found = false;
	glob_t paths;
	size_t i;
	int file;

	if (glob("/dev/vfio/devices/*vfio*", 0, NULL, &paths))
		return false;
	for (i = 0; i < paths.gl_pathc && !found; i++) {
		file = open(paths.gl_pathv[i], O_RDWR | O_CLOEXEC);
		if (file < 0)
			continue;
		found = call(file, KINDS_BIND_IOMMUFD, &cmd) == 0;
		if (found)
			*device = (struct device){ cmd.out_devid, (uint32_t)file, true };
		else
			close(file);
	}
	globfree(&paths);
	return found;
}

/* A device of the test ioctl's, with MOCK_FLAGS_DEVICE_*. */
static inline long flagged_device(int fd, uint32_t pt, uint32_t flags, struct device *device)
{
	struct mock mock;
	long rc = mock_flags(fd, pt, flags, &mock);

	*device = (struct device){ mock.device, mock.stdev, false };
	return rc;
}

/* Whatever device there is, attached to pt. */
static inline struct device new_device(int fd, uint32_t pt)
{
	struct device device;

	if (vfio_device(fd, &device))
		NEED(attach(fd, &device, pt) == 0);
	else
		NEED(flagged_device(fd, pt, 0, &device) == 0);
	return device;
}

static inline long hw_info(int fd, struct iommu_hw_info *cmd, uint32_t device, void *data,
			   uint32_t room)
{
	cmd->size = sizeof(*cmd);
	cmd->dev_id = device;
	cmd->data_uptr = (uintptr_t)data;
	cmd->data_len = room;
	return call(fd, IOMMU_GET_HW_INFO, cmd);
}

/* By what type of data this IOMMU tells of itself. */
static inline uint32_t kind_of(int fd, uint32_t device)
{
	struct iommu_hw_info cmd = { 0 };

	NEED(hw_info(fd, &cmd, device, NULL, 0) == 0);
	return cmd.out_data_type;
}

/* Every other type is refused, its own and none are taken, and the data goes as far as the room. */
static inline void check_hw_info(int fd, uint32_t device, uint32_t type, uint32_t length)
{
	struct iommu_hw_info cmd = { .flags = IOMMU_HW_INFO_FLAG_INPUT_TYPE };
	unsigned char whole[64], part[64];
	uint32_t i;

	for (i = 0; i < 8; i++) {
		cmd.in_data_type = i;
		if (i == 0 || i == type)
			CHECK_OK(hw_info(fd, &cmd, device, NULL, 0), "told by type %u", i);
		else
			CHECK_ERR(EOPNOTSUPP, hw_info(fd, &cmd, device, unmapped(), 8),
				  "not told by type %u", i);
	}
	cmd = (struct iommu_hw_info){ .in_data_type = 7 };
	memset(whole, 0xff, sizeof(whole));
	CHECK_OK(hw_info(fd, &cmd, device, whole, sizeof(whole)), "a type that is not meant");
	CHECK_EQ(cmd.out_data_type, type, "its type");
	CHECK_EQ(cmd.data_len, length, "the data's length");
	for (i = length; i < sizeof(whole) && !whole[i]; i++)
		;
	CHECK_EQ(i, sizeof(whole), "zeros behind it");
	memset(part, 0xff, sizeof(part));
	CHECK_OK(hw_info(fd, &cmd, device, part, length - 3), "less room");
	CHECK_EQ(cmd.data_len, length, "its own length");
	CHECK_EQ(memcmp(part, whole, length - 3), 0, "as much of it as fits");
	CHECK_EQ(part[length - 3], 0xff, "no more");
	CHECK_ERR(EFAULT, hw_info(fd, &cmd, device, unmapped(), length), "no room after all");
}

/* What a plain page table refuses whatever the hardware: nothing here is made. */
static inline void check_alloc_refused(int fd, uint32_t device, uint32_t ioas, uint32_t type)
{
	struct iommu_hwpt_alloc good = { .dev_id = device, .pt_id = ioas }, cmd;
	uint32_t bit, free_id = next_id(fd);
	uint64_t data[8] = { 0 };

	for (bit = 4; bit < 32; bit++) {
		cmd = good;
		cmd.flags = 1U << bit;
		CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "flag bit %u", bit);
	}
	cmd = good;
	cmd.data_type = type;
	cmd.data_len = 0;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "a type without data");
	cmd.data_type = 0;
	cmd.data_len = 8;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "data without a type");
	cmd.data_type = type;
	cmd.data_len = sizeof(data);
	cmd.data_uptr = (uintptr_t)data;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "data for a table that shows an IOAS");
	cmd.data_uptr = (uintptr_t)unmapped();
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "which is not looked at");
	cmd = good;
	cmd.flags = PARENT | FAULT;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "a parent has no faults");
	cmd.flags = FAULT;
	cmd.fault_id = NO_ID;
	CHECK_ERR(ENOENT, try_alloc(fd, cmd), "no such fault queue");
	CHECK_EQ(next_id(fd), free_id, "nothing took an ID");
}

/* The IOVAs that a client may use are these, from start to last each. */
static inline void check_iovas(int fd, uint32_t ioas, const struct iommu_iova_range *want,
			       uint32_t count, const char *text)
{
	struct iommu_iova_range ranges[16];
	uint32_t room = ARRAY_LEN(ranges), i;
	uint64_t alignment;

	CHECK_OK(iova_ranges(fd, ioas, ranges, &room, &alignment), "IOVAs %s", text);
	CHECK_EQ(alignment, PAGE, "by pages");
	CHECK_EQ(room, count, "so many ranges");
	for (i = 0; i < count && i < room; i++) {
		CHECK_EQ(ranges[i].start, want[i].start, "range %u from", i);
		CHECK_EQ(ranges[i].last, want[i].last, "range %u to", i);
	}
}

static inline uint32_t new_fault_queue(int fd)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };

	NEED(call(fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd) == 0);
	return cmd.out_fault_id;
}

static inline long pasid_attach(int fd, const struct device *device, uint32_t pasid, uint32_t pt)
{
	struct iommu_test_cmd cmd = { .id = device->handle,
				      .pasid_attach = { .pasid = pasid, .pt_id = pt } };

	return test_cmd(fd, IOMMU_TEST_OP_PASID_ATTACH, &cmd);
}

static inline long pasid_detach(int fd, const struct device *device, uint32_t pasid)
{
	struct iommu_test_cmd cmd = { .id = device->handle, .pasid_detach = { .pasid = pasid } };

	return test_cmd(fd, IOMMU_TEST_OP_PASID_DETACH, &cmd);
}

static inline long try_viommu(int fd, uint32_t device, uint32_t hwpt, uint32_t type, uint32_t *id)
{
	struct iommu_viommu_alloc cmd = { .size = sizeof(cmd), .type = type, .dev_id = device,
					  .hwpt_id = hwpt };
	long rc = call(fd, IOMMU_VIOMMU_ALLOC, &cmd);

	*id = cmd.out_viommu_id;
	return rc;
}

/* *count: the entries there are, in; those dealt with, out, on failure too. */
static inline long invalidate(int fd, uint32_t hwpt, uint32_t type, const void *entries,
			      uint32_t length, uint32_t *count)
{
	struct iommu_hwpt_invalidate cmd = { .size = sizeof(cmd), .hwpt_id = hwpt,
					     .data_uptr = (uintptr_t)entries, .data_type = type,
					     .entry_len = length, .entry_num = *count };
	long rc = call(fd, IOMMU_HWPT_INVALIDATE, &cmd);

	*count = cmd.entry_num;
	return rc;
}

#endif
