/* SPDX-License-Identifier: MIT */
/*
 * A device file of VFIO's as a driver sees it. These programs judge nothing: each prints what it was
 * answered, and what Linux 7.3's vfio-pci says of QEMU's edu is in expected/.
 *
 *     PROGRAM [DEVICE [IOMMU]]       by default /dev/vfio/devices/vfio0 and /dev/iommu
 */
#ifndef DEVICE_H
#define DEVICE_H

#include "../client.h"

#include <linux/vfio.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

static const char *device_path = "/dev/vfio/devices/vfio0";
static const char *iommu_path = DEVICE;

static inline void begin(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc > 1)
		device_path = argv[1];
	if (argc > 2)
		iommu_path = argv[2];
}

static inline void heading(const char *text)
{
	printf("# %s\n", text);
}

/* One answer: a number, or the name of an errno. The text is a format. */
#define SAY(rc, ...)                                                                               \
	do {                                                                                       \
		long said_ = (rc);                                                                 \
		printf(__VA_ARGS__);                                                               \
		printf(": %s\n", said_ == 0 ? "0" : errno_name(said_));                            \
	} while (0)

/* A call that gives -1 and errno. */
static inline long told(long rc)
{
	return rc < 0 ? -errno : rc;
}

static inline int open_device(void)
{
	int fd = open(device_path, O_RDWR | O_CLOEXEC);

	NEED(fd >= 0);
	return fd;
}

static inline int open_its_iommu(void)
{
	int fd = open(iommu_path, O_RDWR | O_CLOEXEC);

	NEED(fd >= 0);
	return fd;
}

static inline long bind_flags(int device, uint32_t argsz, uint32_t flags, int iommufd, uint64_t token,
			      uint32_t *id)
{
	struct vfio_device_bind_iommufd cmd = { .argsz = argsz, .flags = flags, .iommufd = iommufd,
						.out_devid = NO_ID, .token_uuid_ptr = token };
	long rc = call(device, VFIO_DEVICE_BIND_IOMMUFD, &cmd);

	*id = cmd.out_devid;
	return rc;
}

static inline long bind_device(int device, int iommufd, uint32_t *id)
{
	return bind_flags(device, sizeof(struct vfio_device_bind_iommufd), 0, iommufd, 0, id);
}

/* *pt goes in, and comes out. */
static inline long attach_flags(int device, uint32_t argsz, uint32_t flags, uint32_t *pt, uint32_t pasid)
{
	struct vfio_device_attach_iommufd_pt cmd = { .argsz = argsz, .flags = flags, .pt_id = *pt,
						     .pasid = pasid };
	long rc = call(device, VFIO_DEVICE_ATTACH_IOMMUFD_PT, &cmd);

	*pt = cmd.pt_id;
	return rc;
}

static inline long attach(int device, uint32_t pt)
{
	return attach_flags(device, 12, 0, &pt, 0);
}

static inline long detach_flags(int device, uint32_t argsz, uint32_t flags, uint32_t pasid)
{
	struct vfio_device_detach_iommufd_pt cmd = { .argsz = argsz, .flags = flags, .pasid = pasid };

	return call(device, VFIO_DEVICE_DETACH_IOMMUFD_PT, &cmd);
}

static inline long detach(int device)
{
	return detach_flags(device, 8, 0, 0);
}

/* A device that is bound. */
static inline int bound(int *iommufd)
{
	int device = open_device();
	uint32_t id;

	*iommufd = open_its_iommu();
	NEED(bind_device(device, *iommufd, &id) == 0);
	return device;
}

/* VFIO_DEVICE_SET_IRQS with this data behind the struct. */
static inline long set_irqs(int device, uint32_t flags, uint32_t index, uint32_t start, uint32_t count,
			    const void *data, uint32_t size)
{
	union {
		struct vfio_irq_set set;
		char room[256];
	} cmd = { .set = { .argsz = sizeof(struct vfio_irq_set) + size, .flags = flags, .index = index,
			   .start = start, .count = count } };

	NEED(size <= sizeof(cmd) - sizeof(cmd.set));
	memcpy(cmd.set.data, data, size);
	return call(device, VFIO_DEVICE_SET_IRQS, &cmd);
}

static inline long trigger_by(int device, uint32_t index, uint32_t start, int fd)
{
	return set_irqs(device, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, index, start, 1,
			&fd, sizeof(fd));
}

static inline int new_eventfd(void)
{
	int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	NEED(fd >= 0);
	return fd;
}

/* How often it was signalled since it was asked. */
static inline long rings(int fd)
{
	uint64_t count;

	return read(fd, &count, sizeof(count)) == sizeof(count) ? (long)count : 0;
}

/* As `rings`, but waits for the first one; -1: there is none within seconds. */
static inline long rings_soon(int fd)
{
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	return poll(&wait, 1, 5000) == 1 ? rings(fd) : -1;
}

#define AT(region, offset) (((off_t)(region) << 40) + (offset))
#define BAR0 VFIO_PCI_BAR0_REGION_INDEX
#define CONFIG VFIO_PCI_CONFIG_REGION_INDEX

static inline uint64_t get(int device, int region, off_t offset, size_t size)
{
	uint64_t value = 0;

	NEED(pread(device, &value, size, AT(region, offset)) == (ssize_t)size);
	return value;
}

static inline void put(int device, int region, off_t offset, size_t size, uint64_t value)
{
	NEED(pwrite(device, &value, size, AT(region, offset)) == (ssize_t)size);
}

/* The command register: memory, and bus mastering if asked for. */
static inline void enable(int device, bool master)
{
	put(device, CONFIG, 4, 2, master ? 6 : 2);
}

/* ---- edu's registers ---------------------------------------------------------------------------- */

#define EDU_ID 0x00
#define EDU_LIVENESS 0x04
#define EDU_FACTORIAL 0x08
#define EDU_STATUS 0x20
#define EDU_WHY 0x24
#define EDU_RAISE 0x60
#define EDU_ACKNOWLEDGE 0x64
#define EDU_SOURCE 0x80
#define EDU_DESTINATION 0x88
#define EDU_COUNT 0x90
#define EDU_COMMAND 0x98
#define EDU_BUFFER 0x40000
#define EDU_ROOM 4095	/* bytes of it that QEMU lets a transfer reach; beyond it ends itself */
#define EDU_START 1
#define EDU_TO_MEMORY 2
#define EDU_INTERRUPT 4

/* Waits until the command is done. */
static inline void edu_dma(int device, uint64_t source, uint64_t destination, uint64_t count, uint64_t flags)
{
	put(device, BAR0, EDU_SOURCE, 8, source);
	put(device, BAR0, EDU_DESTINATION, 8, destination);
	put(device, BAR0, EDU_COUNT, 8, count);
	put(device, BAR0, EDU_COMMAND, 8, EDU_START | flags);
	while (get(device, BAR0, EDU_COMMAND, 8) & EDU_START)
		usleep(1000);
}

static inline uint32_t edu_factorial(int device, uint32_t of)
{
	put(device, BAR0, EDU_FACTORIAL, 4, of);
	while (get(device, BAR0, EDU_STATUS, 4) & 1)
		usleep(1000);
	return (uint32_t)get(device, BAR0, EDU_FACTORIAL, 4);
}

#endif
