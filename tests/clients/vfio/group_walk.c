// SPDX-License-Identifier: MIT
/*
 * A random walk over all orders in which two groups, of two devices and of one, are opened, given
 * containers, asked for devices, and closed, beside the devices' own files. All answers go into one
 * checksum.
 *
 *     group_walk FIRST SECOND ALONE SEED STEPS [trace]       addresses, as of groups.c
 */
#include "groups.h"
#include "walk.h"

#define DEVICES 3
#define FILES 8
#define BASE (16 * MIB)

static const char *addresses[DEVICES];
static int groups[2] = { -1, -1 }, containers[3] = { -1, -1, -1 };
static struct {
	int fd;
	bool own; /* its own file, which may be bound */
} files[FILES];
static uint8_t *memory;

/* What comes back as a descriptor is one of many numbers. */
static int descriptor(long rc)
{
	answer(rc < 0 ? rc : 0);
	return (int)rc;
}

static void open_group(int which)
{
	TELL("open group %d", which);
	if (groups[which] < 0) {
		groups[which] = descriptor(told(open(group_of(addresses[2 * which]), O_RDWR | O_CLOEXEC)));
	} else {
		int again = descriptor(told(open(group_of(addresses[2 * which]), O_RDWR | O_CLOEXEC)));

		if (again >= 0)
			close(again);
	}
}

static void step_group(int which)
{
	int group = groups[which], container = containers[below(3)];
	uint32_t kind = below(16);

	if (kind == 0) {
		TELL("close group %d", which);
		if (group >= 0)
			close(group);
		groups[which] = -1;
	} else if (kind < 3 || group < 0) {
		open_group(which);
	} else if (kind < 6) {
		TELL("unset %d", which);
		answer(unset_container(group));
	} else if (kind < 12) {
		TELL("set %d to %d", which, container);
		answer(set_container(group, container));
	} else {
		TELL("status of %d", which);
		answer(group_status(group));
	}
}

static void step_container(void)
{
	int which = (int)below(3), container = containers[which];

	switch (below(10)) {
	case 0:
		TELL("new container %d", which);
		close(container);
		containers[which] = which < 2 ? open_container() : open_its_iommu();
		break;
	case 1:
		TELL("clear of %d", which);
		answer(clear_ioas(container));
		break;
	case 2:
	case 3:
		TELL("SET_IOMMU of %d", which);
		answer(set_iommu(container, below(2) ? VFIO_TYPE1_IOMMU : VFIO_TYPE1v2_IOMMU));
		break;
	case 4: {
		long rc = call(container, VFIO_CHECK_EXTENSION, (void *)VFIO_DMA_CC_IOMMU);

		TELL("extension of %d", which);
		answer(rc < 0 ? rc : 0); /* the IOMMU's own affair */
		break;
	}
	case 5: {
		long ioas = compat_ioas(container);

		TELL("destroy in %d of %ld", which, ioas);
		note((uint64_t)ioas);
		if (ioas > 0)
			answer(destroy(container, (uint32_t)ioas));
		break;
	}
	case 6:
		TELL("unmap in %d", which);
		answer(unmap_dma(container, BASE, PAGE));
		break;
	default:
		TELL("map in %d", which);
		answer(map_dma(container, memory, BASE, PAGE));
	}
}

static unsigned int some_file(void)
{
	return below(FILES);
}

static void put_file(int fd, bool own)
{
	unsigned int place = some_file();

	if (fd < 0)
		return;
	if (files[place].fd >= 0)
		close(files[place].fd);
	files[place].fd = fd;
	files[place].own = own;
}

static void step_take(void)
{
	int which = (int)below(2), device = (int)below(DEVICES);

	if (groups[which] < 0)
		return;
	TELL("device %d of group %d", device, which);
	put_file(descriptor(device_fd(groups[which], addresses[device])), false);
}

static void step_own(void)
{
	int device = (int)below(DEVICES);

	TELL("own file of %d", device);
	put_file(descriptor(told(open(file_of(addresses[device]), O_RDWR | O_CLOEXEC))), true);
}

/* What the device does, and whether it reaches memory. */
static void use(int fd)
{
	long identity = answer(device_identity(fd));

	if (identity < 0)
		return;
	enable(fd, true);
	memset(memory, 0x5a, PAGE);
	memory[0] = (uint8_t)draw();
	edu_dma(fd, BASE, EDU_BUFFER, 4, 0);
	edu_dma(fd, EDU_BUFFER, BASE + 8, 4, EDU_TO_MEMORY);
	answer(memory[8]);
	enable(fd, false);
}

static void step_file(void)
{
	unsigned int place = some_file();
	int fd = files[place].fd, context = containers[below(3)];
	uint32_t id;

	if (fd < 0)
		return;
	switch (below(files[place].own ? 6 : 4)) {
	case 0:
	case 1:
		TELL("close file %u", place);
		close(fd);
		files[place].fd = -1;
		break;
	case 2:
		TELL("use file %u", place);
		use(fd);
		break;
	case 3: {
		long ioas = compat_ioas(context);

		id = ioas > 0 ? (uint32_t)ioas : NO_ID;
		TELL("attach file %u to %ld", place, ioas);
		answer(attach_flags(fd, 12, 0, &id, 0));
		break;
	}
	default:
		TELL("bind file %u", place);
		answer(bind_device(fd, context, &id));
	}
}

int main(int argc, char **argv)
{
	uint64_t seed, count, i;
	int which;

	setvbuf(stdout, NULL, _IOLBF, 0);
	NEED(argc > 5);
	for (which = 0; which < DEVICES; which++)
		addresses[which] = argv[1 + which];
	seed = strtoull(argv[4], NULL, 0);
	count = strtoull(argv[5], NULL, 0);
	trace = argc > 6;
	state = seed;
	memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(memory != MAP_FAILED);
	for (which = 0; which < FILES; which++)
		files[which].fd = -1;
	for (which = 0; which < 3; which++)
		containers[which] = which < 2 ? open_container() : open_its_iommu();
	for (i = 0; i < count; i++) {
		uint32_t kind = below(16);

		TELL("%llu ", (unsigned long long)i);
		if (kind < 5)
			step_group((int)below(2));
		else if (kind < 8)
			step_container();
		else if (kind < 11)
			step_take();
		else if (kind < 12)
			step_own();
		else
			step_file();
		TELL(" [%016llx]\n", (unsigned long long)sum);
	}
	printf("seed %llu, %llu steps: %016llx\n", (unsigned long long)seed, (unsigned long long)count,
	       (unsigned long long)sum);
	return 0;
}
