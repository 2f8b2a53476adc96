// SPDX-License-Identifier: MIT
/* IOEVENTFD: an eventfd that stores something into a BAR. */
#include "device.h"

static int device, iommufd;

static long set(uint32_t argsz, uint32_t flags, uint64_t offset, uint64_t data, int fd)
{
	struct vfio_device_ioeventfd cmd = { .argsz = argsz, .flags = flags, .offset = offset, .data = data, .fd = fd,
					     .reserved = 77 };

	return call(device, VFIO_DEVICE_IOEVENTFD, &cmd);
}

static void ring(int fd)
{
	uint64_t one = 1;

	NEED(write(fd, &one, sizeof(one)) == sizeof(one));
}

/* The store may be made a moment later. */
static long liveness(uint32_t wanted)
{
	unsigned int i;

	for (i = 0; i < 1000 && get(device, BAR0, EDU_LIVENESS, 4) != wanted; i++)
		usleep(1000);
	return (long)get(device, BAR0, EDU_LIVENESS, 4);
}

int main(int argc, char **argv)
{
	uint32_t sizes[] = { 0, 27, 28, 31, 32 }, flags, i;
	char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd, other, null = open("/dev/null", O_RDWR);
	int region;

	begin(argc, argv);
	NEED(page != MAP_FAILED && munmap(page + PAGE, PAGE) == 0 && null >= 0);
	device = bound(&iommufd);
	enable(device, false);
	fd = new_eventfd();
	other = new_eventfd();
	heading("checks");
	SAY(call(device, VFIO_DEVICE_IOEVENTFD, NULL), "NULL");
	SAY(call(device, VFIO_DEVICE_IOEVENTFD, page + PAGE - 24), "beyond the page");
	for (i = 0; i < ARRAY_LEN(sizes); i++)
		SAY(set(sizes[i], 4, 4, 1, -1), "argsz %u", sizes[i]);
	for (flags = 0; flags < 32; flags++)
		SAY(set(32, flags, 8, 1, -1), "flags %#x", flags);
	SAY(set(32, 4, 4, 1, -2), "descriptor -2");
	SAY(set(32, 4, 4, 1, 999), "no such descriptor");
	SAY(set(32, 4, 4, 1, null), "/dev/null");
	SAY(set(32, 4, 4, 1, device), "the device");
	for (region = 1; region < 10; region++)
		SAY(set(32, 4, (uint64_t)AT(region, 0), 1, fd), "region %d", region);
	SAY(set(32, 4, (uint64_t)AT(99, 0), 1, fd), "region 99");
	SAY(set(32, 4, MIB - 4, 1, fd), "at its end");
	SAY(set(32, 4, MIB - 4, 1, -1), "no more");
	SAY(set(32, 4, MIB - 3, 1, fd), "across its end");
	SAY(set(32, 4, MIB, 1, fd), "beyond");
	SAY(set(32, 4, U64_MAX, 1, fd), "far beyond");
	SAY(set(32, 4, 5, 1, fd), "at an odd place");
	SAY(set(32, 4, 5, 1, -1), "no more");

	heading("stores");
	SAY(set(32, 4, EDU_LIVENESS, 0x11111111, fd), "on");
	SAY(set(32, 4, EDU_LIVENESS, 0x11111111, fd), "once more");
	SAY(set(32, 4, EDU_LIVENESS, 0x11111111, other), "by another");
	SAY(set(32, 4, EDU_LIVENESS, 0x11111111, 999), "by none");
	SAY(set(32, 4, EDU_LIVENESS, 0x22222222, other), "another value by another");
	SAY(set(32, 2, EDU_LIVENESS, 0x11111111, -1), "another size no more");
	SAY(set(32, 4, EDU_LIVENESS, 0x33333333, -1), "another value no more");
	ring(fd);
	SAY(liveness(0xeeeeeeee), "rung");
	SAY(rings(fd), "the eventfd was read");
	ring(other);
	SAY(liveness(0xdddddddd), "the other rung");
	ring(fd);
	SAY(liveness(0xeeeeeeee), "rung");
	SAY(set(32, 4, EDU_LIVENESS, 0x11111111, -1), "no more");
	SAY(set(32, 4, EDU_LIVENESS, 0x11111111, -1), "no more, once more");
	ring(fd);
	SAY(liveness(0xeeeeeeee), "rung");
	SAY(rings(fd), "the eventfd is ours");
	ring(fd);
	SAY(set(32, 4, EDU_LIVENESS, 0x44444444, fd), "one that was rung before");
	SAY(liveness(0xbbbbbbbb), "stores");
	put(device, CONFIG, 4, 2, 0);
	ring(fd);
	usleep(50000);
	SAY(rings(fd), "memory disabled: it was read");
	put(device, CONFIG, 4, 2, 2);
	SAY((long)get(device, BAR0, EDU_LIVENESS, 4), "but not stored");
	close(fd);
	SAY(set(32, 4, EDU_LIVENESS, 0x22222222, -1), "the other no more");

	heading("very many");
	for (i = 0; i < 1001; i++) {
		long rc = set(32, 4, EDU_LIVENESS, 0x1000 + i, other);

		if (rc < 0) {
			SAY(rc, "number %u", i);
			break;
		}
	}
	close(device);
	close(iommufd);
	device = bound(&iommufd);
	ring(other);
	SAY(rings(other), "closed and opened again: it is ours");
	SAY(set(32, 4, EDU_LIVENESS, 0x1000, -1), "none is left");
	return 0;
}
