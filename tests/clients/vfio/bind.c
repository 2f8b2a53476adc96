// SPDX-License-Identifier: MIT
/* From open to bind and to the end: what a device file answers before, the bind, and who keeps what. */
#include "device.h"

static void before(void)
{
	int fd = open_device();
	char byte = 0;
	uint64_t nothing[2] = { 0 };
	unsigned int nr;
	uint32_t id;

	heading("before the bind");
	for (nr = 0; nr < 24; nr++)
		if (VFIO_BASE + nr != (VFIO_DEVICE_BIND_IOMMUFD & 0xff))
			SAY(call(fd, _IO(VFIO_TYPE, VFIO_BASE + nr), NULL), "number %u", nr);
	SAY(call(fd, IOMMU_IOAS_ALLOC, NULL), "an ioctl of iommufd's");
	SAY(call(fd, 0x5401, NULL), "a terminal's");
	SAY(call(fd, _IOW(VFIO_TYPE, VFIO_BASE + 18, uint64_t), nothing), "the bind with a size");
	SAY(told(read(fd, &byte, 1)), "read");
	SAY(told(read(fd, &byte, 0)), "read of nothing");
	SAY(told(write(fd, &byte, 1)), "write");
	SAY(told(write(fd, &byte, 0)), "write of nothing");
	SAY(told(pread(fd, &byte, 1, AT(CONFIG, 0))), "pread of configuration space");
	SAY(told(pwrite(fd, &byte, 1, AT(CONFIG, 4))), "pwrite of configuration space");
	SAY(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED ? -errno : 0, "mmap");
	SAY(call(fd, VFIO_DEVICE_BIND_IOMMUFD, NULL), "bind of NULL");
	SAY(bind_device(fd, -1, &id), "bind to -1");
	close(fd);
}

static void arguments(void)
{
	struct {
		struct vfio_device_bind_iommufd cmd;
		uint64_t more[4];
	} big = { 0 };
	struct vfio_device_bind_iommufd cmd = { .argsz = sizeof(cmd) };
	int fd = open_device(), iommufd = open_its_iommu(), null = open("/dev/null", O_RDWR), pipes[2];
	int path = open(iommu_path, O_PATH), event = new_eventfd();
	uint32_t id, sizes[] = { 0, 4, 8, 12, 15 };
	uint8_t token[16] = { 1 };
	unsigned int i;

	heading("its arguments");
	NEED(null >= 0 && path >= 0 && pipe(pipes) == 0);
	for (i = 0; i < ARRAY_LEN(sizes); i++)
		SAY(bind_flags(fd, sizes[i], 0, iommufd, 0, &id), "argsz %u", sizes[i]);
	SAY(bind_flags(fd, 15, 8, -1, 0, &id), "argsz before flags and descriptor");
	big.cmd = (struct vfio_device_bind_iommufd){ .argsz = sizeof(big), .iommufd = iommufd, .flags = 2 };
	big.more[2] = 1;
	SAY(call(fd, VFIO_DEVICE_BIND_IOMMUFD, &big), "something beyond the struct, before flags");
	SAY(bind_flags(fd, 24, 2, iommufd, 0, &id), "unknown flag");
	SAY(bind_flags(fd, 24, ~0U, iommufd, 0, &id), "all flags");
	SAY(bind_flags(fd, 24, 0, -1, 0, &id), "descriptor -1");
	SAY(bind_flags(fd, 24, 0, INT_MIN, 0, &id), "descriptor INT_MIN");
	SAY(bind_flags(fd, 24, 0, 999, 0, &id), "no such descriptor");
	SAY(bind_flags(fd, 24, 0, INT_MAX, 0, &id), "descriptor INT_MAX");
	SAY(bind_flags(fd, 24, 0, null, 0, &id), "/dev/null");
	SAY(bind_flags(fd, 24, 0, pipes[0], 0, &id), "a pipe");
	SAY(bind_flags(fd, 24, 0, event, 0, &id), "an eventfd");
	SAY(bind_flags(fd, 24, 0, fd, 0, &id), "itself");
	SAY(bind_flags(fd, 24, 0, path, 0, &id), "the IOMMU by O_PATH");
	SAY(bind_flags(fd, 24, VFIO_DEVICE_BIND_FLAG_TOKEN, iommufd, 0, &id), "a token at NULL");
	SAY(bind_flags(fd, 24, VFIO_DEVICE_BIND_FLAG_TOKEN, iommufd, (uintptr_t)token, &id), "a token");
	SAY(bind_flags(fd, 24, VFIO_DEVICE_BIND_FLAG_TOKEN, 999, (uintptr_t)token, &id),
	    "a token before the descriptor");
	SAY(bind_flags(fd, 16, VFIO_DEVICE_BIND_FLAG_TOKEN, iommufd, (uintptr_t)token, &id),
	    "a token that argsz leaves out");
	cmd.iommufd = iommufd;
	{
		/* the last bytes of a page that cannot be written */
		char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		NEED(page != MAP_FAILED);
		memcpy(page, &cmd, sizeof(cmd));
		NEED(mprotect(page, PAGE, PROT_READ) == 0);
		SAY(call(fd, VFIO_DEVICE_BIND_IOMMUFD, page), "a struct that cannot be written");
		NEED(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
		NEED(munmap(page + PAGE, PAGE) == 0);
		memcpy(page + PAGE - 12, &cmd, 12);
		SAY(call(fd, VFIO_DEVICE_BIND_IOMMUFD, page + PAGE - 12), "a struct that ends too soon");
		munmap(page, PAGE);
	}
	SAY(call(fd, VFIO_DEVICE_RESET, NULL), "after these it is not bound");
	big.more[2] = 0;
	big.cmd.flags = 0;
	SAY(call(fd, VFIO_DEVICE_BIND_IOMMUFD, &big), "zeros beyond the struct");
	SAY(big.cmd.out_devid != 0, "it has an ID");
	SAY(big.cmd.argsz, "argsz is");
	close(fd);
	fd = open_device();
	SAY(bind_flags(fd, 16, 0, iommufd, 0, &id), "the oldest struct");
	close(fd);
	close(iommufd);
	close(null);
	close(pipes[0]);
	close(pipes[1]);
	close(path);
	close(event);
}

static void twice(void)
{
	int fd = open_device(), other = open_device(), iommufd = open_its_iommu(), second = open_its_iommu();
	struct vfio_device_info info = { .argsz = sizeof(info) };
	uint32_t id, again;

	heading("twice");
	SAY(bind_device(fd, iommufd, &id), "bind");
	SAY(bind_device(fd, iommufd, &again), "once more");
	SAY(bind_device(fd, second, &again), "to another");
	SAY(bind_device(fd, 999, &again), "to nothing");
	SAY(bind_flags(fd, 24, 2, iommufd, 0, &again), "with a flag");
	SAY(bind_flags(fd, 24, 1, iommufd, 0, &again), "with a token");
	SAY(bind_device(other, iommufd, &again), "by another file");
	SAY(bind_device(other, second, &again), "by another file to another");
	SAY(bind_device(other, 999, &again), "by another file to nothing");
	SAY(bind_flags(other, 24, 1, second, 0, &again), "by another file with a token at NULL");
	SAY(call(other, VFIO_DEVICE_GET_INFO, &info), "the other file is not bound");
	SAY(call(fd, VFIO_DEVICE_GET_INFO, &info), "the first is");
	close(fd);
	SAY(bind_device(other, second, &again), "by the other file when the first is closed");
	close(other);
	close(iommufd);
	close(second);
}

static void lifetime(void)
{
	int fd, copy, iommufd = open_its_iommu();
	struct iommu_hw_info info = { .size = sizeof(info) };
	struct vfio_device_info device = { .argsz = sizeof(device) };
	uint32_t id, ioas = new_ioas(iommufd);

	heading("lifetime");
	fd = open_device();
	SAY(bind_device(fd, iommufd, &id), "bind");
	SAY(destroy(iommufd, id), "destroy of the device's ID");
	info.dev_id = id;
	SAY(call(iommufd, IOMMU_GET_HW_INFO, &info), "it can be asked for its IOMMU");
	SAY(info.out_data_type, "which is");
	SAY(attach(fd, id), "attach to itself");
	SAY(attach(fd, ioas), "attach");
	SAY(destroy(iommufd, id), "destroy of the device's ID");
	SAY(destroy(iommufd, ioas), "destroy of the IOAS");
	copy = dup(fd);
	close(fd);
	SAY(call(copy, VFIO_DEVICE_GET_INFO, &device), "a copy of the descriptor");
	SAY(destroy(iommufd, ioas), "destroy of the IOAS");
	close(copy);
	SAY(destroy(iommufd, id), "destroy of the ID when the device is closed");
	SAY(destroy(iommufd, ioas), "destroy of the IOAS");
	close(iommufd);

	fd = bound(&iommufd);
	ioas = new_ioas(iommufd);
	SAY(attach(fd, ioas), "attach");
	close(iommufd);
	SAY(call(fd, VFIO_DEVICE_GET_INFO, &device), "when the IOMMU's descriptor is closed");
	SAY(detach(fd), "detach");
	SAY(attach(fd, ioas), "attach to what was there");
	close(fd);

	fd = bound(&iommufd);
	IN_CHILD(SAY(call(fd, VFIO_DEVICE_GET_INFO, &device), "in a child"));
	close(fd);
	close(iommufd);
	fd = open(device_path, O_RDONLY | O_CLOEXEC);
	iommufd = open_its_iommu();
	SAY(bind_device(fd, iommufd, &id), "opened to read only: bind");
	SAY(told(pread(fd, &id, 4, AT(CONFIG, 0))), "read");
	SAY(told(pwrite(fd, &id, 4, AT(CONFIG, 0))), "write");
	close(fd);
	fd = open(device_path, O_WRONLY | O_CLOEXEC);
	SAY(bind_device(fd, iommufd, &id), "opened to write only: bind");
	SAY(told(pread(fd, &id, 4, AT(CONFIG, 0))), "read");
	close(fd);
	close(iommufd);
}

int main(int argc, char **argv)
{
	checks_begin();
	begin(argc, argv);
	before();
	arguments();
	twice();
	lifetime();
	return 0;
}
