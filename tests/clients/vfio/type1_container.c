// SPDX-License-Identifier: MIT
/*
 * VFIO's own container: what it answers with and without groups and a driver, who is let in, and who
 * keeps whom open.
 *
 *     type1_container FIRST SECOND ALONE       addresses of edus: two in one group, and one in another
 */
#include "type1.h"

static const char *first, *second, *alone;
static uint32_t *memory;

static void extensions(int container, const char *when)
{
	static const unsigned long others[] = { 11, 100, 1UL << 32 | 1, ULONG_MAX };
	unsigned int i;

	for (i = 0; i < 11; i++) {
		long rc = call(container, VFIO_CHECK_EXTENSION, (void *)(uintptr_t)i);

		if (i == VFIO_DMA_CC_IOMMU && rc == 1)
			continue; /* the IOMMU's own affair */
		if (i == VFIO_DMA_CC_IOMMU && strcmp(when, "with a driver") == 0)
			continue;
		SAY(rc, "extension %u %s", i, when);
	}
	for (i = 0; i < ARRAY_LEN(others); i++)
		SAY(call(container, VFIO_CHECK_EXTENSION, (void *)others[i]), "extension %#lx %s", others[i], when);
}

static void numbers(int container, const char *when)
{
	union info info;
	unsigned int nr;
	char byte = 0;

	for (nr = 0; nr < 24; nr++)
		if (nr > 2 && (nr < 12 || nr > 17 || nr == 15 || nr == 16))
			SAY(call(container, _IO(VFIO_TYPE, VFIO_BASE + nr), NULL), "number %u %s", nr, when);
	SAY(call(container, VFIO_GET_API_VERSION, NULL), "GET_API_VERSION %s", when);
	SAY(call(container, VFIO_GET_API_VERSION, (void *)-1), "GET_API_VERSION with an argument %s", when);
	SAY(get_info(container, 16, &info), "GET_INFO %s", when);
	SAY(call(container, VFIO_IOMMU_GET_INFO, NULL), "GET_INFO of NULL %s", when);
	SAY(call(container, VFIO_IOMMU_MAP_DMA, NULL), "MAP_DMA of NULL %s", when);
	SAY(call(container, VFIO_IOMMU_UNMAP_DMA, NULL), "UNMAP_DMA of NULL %s", when);
	SAY(call(container, VFIO_IOMMU_DIRTY_PAGES, NULL), "DIRTY_PAGES of NULL %s", when);
	SAY(call(container, IOMMU_IOAS_ALLOC, &(struct iommu_ioas_alloc){ .size = 12 }), "IOAS_ALLOC %s", when);
	SAY(compat_ioas(container), "VFIO_IOAS %s", when);
	SAY(call(container, 0x5401, NULL), "a terminal's %s", when);
	SAY(told(read(container, &byte, 1)), "read %s", when);
	SAY(told(write(container, &byte, 1)), "write %s", when);
	SAY(told(read(container, &byte, 0)), "read of nothing %s", when);
	SAY(told(lseek(container, 0, SEEK_SET)), "lseek %s", when);
	SAY(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, container, 0) == MAP_FAILED ? -errno : 0, "mmap %s", when);
}

static void without_and_with_a_driver(void)
{
	static const unsigned long kinds[] = { 0, 2, 4, 5, 6, 7, 8, 9, 10, 11, 1UL << 32 | 1 };
	int group = open_to(group_of(first)), container = open_container();
	unsigned int i;

	heading("without and with a driver");
	extensions(container, "alone");
	numbers(container, "alone");
	SAY(set_iommu(container, V2), "SET_IOMMU without a group");
	SAY(set_iommu(container, 77), "SET_IOMMU of no kind without a group");
	NEED(set_container(group, container) == 0);
	extensions(container, "with a group");
	numbers(container, "with a group");
	SAY(device_fd(group, first), "a device");
	SAY(device_fd(group, "nothing"), "no device");
	for (i = 0; i < ARRAY_LEN(kinds); i++)
		SAY(set_iommu(container, kinds[i]), "SET_IOMMU %#lx", kinds[i]);
	SAY(set_iommu(container, V2), "SET_IOMMU of type1v2");
	SAY(set_iommu(container, V2), "again");
	SAY(set_iommu(container, V1), "and of type1");
	SAY(set_iommu(container, 77), "and of no kind");
	extensions(container, "with a driver");
	numbers(container, "with a driver");
	SAY(unset_container(group), "UNSET_CONTAINER");
	extensions(container, "alone again");
	SAY(available(container), "GET_INFO");
	SAY(set_iommu(container, V2), "SET_IOMMU");
	SAY(set_container(group, container), "SET_CONTAINER");
	SAY(available(container), "GET_INFO");
	SAY(set_iommu(container, V1), "SET_IOMMU of type1");
	SAY(available(container), "GET_INFO");
	close(group);
	SAY(available(container), "when the group is closed");
	close(container);
}

static void who_is_let_in(void)
{
	int group = open_to(group_of(first)), other = open_to(group_of(alone)), container = open_container(), device;
	int second_container = open_container(), iommu = open_its_iommu(), null = open("/dev/null", O_RDWR), late;
	int path = open(CONTAINER, O_PATH), reader = open(CONTAINER, O_RDONLY);
	uint32_t id;

	heading("SET_CONTAINER, UNSET_CONTAINER");
	SAY(unset_container(group), "unset of none");
	SAY(call(group, VFIO_GROUP_SET_CONTAINER, NULL), "at NULL");
	SAY(set_container(group, -1), "-1");
	SAY(set_container(group, 999), "no such descriptor");
	SAY(set_container(group, null), "/dev/null");
	SAY(set_container(group, group), "itself");
	SAY(set_container(group, path), "a container by O_PATH");
	SAY(group_status(group), "status");
	SAY(set_container(group, container), "a container");
	SAY(group_status(group), "status");
	SAY(set_container(group, container), "again");
	SAY(set_container(group, second_container), "another");
	SAY(set_container(group, null), "/dev/null, when it has one");
	SAY(set_container(group, 999), "no such descriptor, when it has one");
	SAY(set_container(other, container), "another group before the driver");
	SAY(set_iommu(container, V2), "SET_IOMMU");
	SAY(unset_container(other), "the other leaves");
	SAY(available(container), "mappings");
	SAY(set_container(other, container), "the other comes after the driver");
	SAY(unset_container(group), "the first leaves");
	SAY(available(container), "mappings");
	SAY(unset_container(other), "the other leaves");
	SAY(available(container), "mappings");
	SAY(set_container(group, reader), "one that is open to read only");
	SAY(set_iommu(reader, V2), "SET_IOMMU of that");
	SAY(unset_container(group), "unset");
	SAY(set_container(group, iommu), "/dev/iommu");
	SAY(compat_ioas(iommu) > 0, "it has an IOAS");
	SAY(set_iommu(iommu, V2), "SET_IOMMU there");
	SAY(map_dma(iommu, memory, MIB, PAGE), "map there");
	SAY(take_device(group, first, &device), "a device there");
	SAY(unset_container(group), "unset");
	SAY(set_container(group, container), "the container, while the device is open");
	close(device);
	SAY(set_container(group, container), "when it is closed");
	SAY(unset_container(group), "unset");
	close(group);
	close(other);
	heading("the devices' own files");
	late = open_to(file_of(alone));
	SAY(bind_device(late, container, &id), "bind to a container");
	SAY(bind_device(late, iommu, &id), "bind to /dev/iommu");
	SAY(told(open(group_of(alone), O_RDWR)), "the group");
	close(late);
	other = open_to(group_of(alone));
	NEED(set_container(other, second_container) == 0);
	late = open_to(file_of(alone));
	SAY(bind_device(late, iommu, &id), "bind, while the group is open");
	close(late);
	close(other);
	close(second_container);
	close(container);
	close(iommu);
	close(null);
	close(path);
	close(reader);
}

static void who_keeps_whom(void)
{
	int group = open_to(group_of(first)), other = open_to(group_of(alone)), container = new_type1(group, V2);
	int one, two, three, again;

	heading("devices, groups and the container");
	SAY(map_dma(container, memory, MIB, PAGE), "map");
	SAY(take_device(group, first, &one), "the first device");
	SAY(does_dma(one, memory), "the first does DMA");
	SAY(unset_container(group), "unset, while it is open");
	SAY(take_device(group, second, &two), "the second device");
	SAY(does_dma(two, memory), "the second does DMA");
	SAY(device_fd(other, alone), "the lone device, without a container");
	SAY(set_container(other, container), "its group");
	SAY(take_device(other, alone, &three), "the lone device");
	SAY(does_dma(three, memory), "the lone one does DMA");
	close(container);
	SAY(does_dma(one, memory), "when the container is closed, the first does DMA");
	close(group);
	SAY(told(open(group_of(first), O_RDWR)), "the group is closed; open it");
	SAY(does_dma(one, memory), "and the first does DMA");
	SAY(take_device(other, alone, &again), "the lone device again");
	SAY(unset_container(other), "unset, while it is open twice");
	close(three);
	SAY(unset_container(other), "while it is open once");
	close(again);
	SAY(unset_container(other), "when it is closed");
	SAY(take_device(other, alone, &three), "which needs a container");
	close(one);
	SAY(told(open(group_of(first), O_RDWR)), "the first is closed; open its group");
	SAY(does_dma(two, memory), "and the second does DMA");
	close(two);
	group = open_to(group_of(first));
	SAY(group_status(group), "the second is closed; its group");
	container = new_type1(group, V2);
	SAY(available(container), "mappings in a new container");
	SAY(take_device(group, first, &one), "the first device");
	enable(one, true);
	memory[1] = 0;
	SAY(memory[1], "memory that is not mapped");
	edu_dma(one, EDU_BUFFER, MIB + 4, 4, EDU_TO_MEMORY);
	SAY(memory[1], "stays as it was");
	SAY(map_dma(container, memory, MIB, PAGE), "map");
	SAY(does_dma(one, memory), "the first does DMA");
	SAY(call(one, VFIO_DEVICE_RESET, NULL), "reset");
	SAY(does_dma(one, memory), "after it, the first does DMA");
	SAY(taken_out(container, MIB, PAGE), "unmap");
	memory[1] = 0;
	edu_dma(one, EDU_BUFFER, MIB + 4, 4, EDU_TO_MEMORY);
	SAY(memory[1], "what it writes then");
	SAY(set_container(other, container), "the other group");
	close(one);
	SAY(unset_container(group), "the first group leaves");
	SAY(map_dma(container, memory, MIB, PAGE), "map");
	SAY(take_device(other, alone, &three), "the lone device");
	SAY(does_dma(three, memory), "the lone one does DMA");
	close(three);
	close(other);
	close(group);
	SAY(available(container), "when all groups are closed");
	close(container);
}

static void its_descriptor(void)
{
	int group = open_to(group_of(first)), container = new_type1(group, V2), iommu = open_its_iommu(), device;
	uint32_t id, pt = 1;
	struct vfio_pci_hot_reset reset = { .argsz = sizeof(reset) };

	heading("a device's descriptor");
	NEED(take_device(group, first, &device) == 0);
	SAY(device_identity(device), "it is");
	SAY(device_flags(device), "flags");
	SAY(get(device, CONFIG, 4, 2), "command register");
	SAY(bind_device(device, iommu, &id), "BIND_IOMMUFD");
	SAY(bind_device(device, container, &id), "BIND_IOMMUFD of the container");
	SAY(attach(device, pt), "ATTACH_IOMMUFD_PT");
	SAY(detach(device), "DETACH_IOMMUFD_PT");
	SAY(call(device, VFIO_DEVICE_PCI_HOT_RESET, &reset), "PCI_HOT_RESET of no groups");
	close(iommu);
	close(device);
	close(group);
	close(container);
}

/* A child has them all, and dies. */
static void when_a_process_dies(void)
{
	int ready[2], group, container;
	pid_t child;
	char byte;

	heading("a process that dies");
	NEED(pipe(ready) == 0);
	child = fork();
	NEED(child >= 0);
	if (child == 0) {
		int device;

		group = open_to(group_of(first));
		container = new_type1(group, V2);
		NEED(map_dma(container, memory, MIB, PAGE) == 0);
		NEED(take_device(group, first, &device) == 0);
		NEED(write(ready[1], "", 1) == 1);
		pause();
	}
	NEED(read(ready[0], &byte, 1) == 1);
	SAY(told(open(group_of(first), O_RDWR)), "while it lives, its group");
	NEED(kill(child, SIGKILL) == 0);
	NEED(waitpid(child, NULL, 0) == child);
	group = open(group_of(first), O_RDWR);
	SAY(group < 0 ? -errno : 0, "when it is dead");
	container = open_container();
	SAY(set_container(group, container), "SET_CONTAINER");
	SAY(set_iommu(container, V2), "SET_IOMMU");
	SAY(available(container), "mappings");
	close(group);
	close(container);
	close(ready[0]);
	close(ready[1]);
}

int main(int argc, char **argv)
{
	begin(1, argv);
	NEED(argc > 3);
	first = argv[1];
	second = argv[2];
	alone = argv[3];
	memory = (uint32_t *)shared_pages(1);
	without_and_with_a_driver();
	who_is_let_in();
	who_keeps_whom();
	its_descriptor();
	when_a_process_dies();
	return 0;
}
