// SPDX-License-Identifier: MIT
/*
 * Groups and containers: what each ioctl of a group answers, and who shares what with whom.
 *
 *     groups FIRST SECOND ALONE       addresses of edus: two in one group, and one in another
 */
#include "groups.h"

static const char *first, *second, *alone;

static void numbers(void)
{
	int group = open_to(group_of(first));
	char byte = 0;
	unsigned int nr;

	heading("numbers");
	for (nr = 0; nr < 24; nr++)
		if (nr < 3 || nr > 6)
			SAY(call(group, _IO(VFIO_TYPE, VFIO_BASE + nr), NULL), "number %u", nr);
	SAY(call(group, _IOW(VFIO_TYPE, VFIO_BASE + 3, uint64_t), &byte), "GET_STATUS with a size");
	SAY(call(group, IOMMU_IOAS_ALLOC, NULL), "an ioctl of iommufd's");
	SAY(call(group, 0x5401, NULL), "a terminal's");
	SAY(told(read(group, &byte, 1)), "read");
	SAY(told(read(group, &byte, 0)), "read of nothing");
	SAY(told(write(group, &byte, 1)), "write");
	SAY(told(pread(group, &byte, 1, 0)), "pread");
	SAY(told(pwrite(group, &byte, 1, 0)), "pwrite");
	SAY(try_mmap(group, PAGE, PROT_READ, MAP_SHARED, 0), "mmap");
	close(group);
}

static void opened_once(void)
{
	const char *path = group_of(first);
	int group = open_to(path), copy, other;

	heading("a group is opened once");
	SAY(told(open(path, O_RDWR)), "again");
	SAY(told(open(path, O_RDONLY)), "to read");
	SAY(told(open(group_of(second), O_RDWR)), "by the name that its other device has");
	IN_CHILD(SAY(told(open(path, O_RDWR)), "in a child"));
	other = open(group_of(alone), O_RDWR);
	SAY(other < 0 ? -errno : 0, "another group");
	close(other);
	copy = dup(group);
	close(group);
	SAY(told(open(path, O_RDWR)), "while a copy is open");
	SAY(group_status(copy), "which answers");
	close(copy);
	group = open(path, O_RDONLY);
	SAY(group < 0 ? -errno : 0, "when it is closed, to read only");
	SAY(group_status(group), "status");
	close(group);
}

static void status(void)
{
	struct vfio_group_status cmd = { .argsz = sizeof(cmd) };
	uint64_t big[4] = { sizeof(big) };
	int group = open_to(group_of(first)), container = open_container();
	char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t argsz;

	heading("GET_STATUS");
	NEED(page != MAP_FAILED);
	SAY(call(group, VFIO_GROUP_GET_STATUS, NULL), "of NULL");
	for (argsz = 0; argsz <= 8; argsz += 4) {
		cmd = (struct vfio_group_status){ .argsz = argsz, .flags = 0xff };
		SAY(call(group, VFIO_GROUP_GET_STATUS, &cmd), "argsz %u", argsz);
		SAY(cmd.flags, "flags");
	}
	SAY(call(group, VFIO_GROUP_GET_STATUS, big), "more than the struct");
	memcpy(page + PAGE - 8, &cmd, 8);
	NEED(mprotect(page, PAGE, PROT_READ) == 0);
	SAY(call(group, VFIO_GROUP_GET_STATUS, page + PAGE - 8), "that cannot be written");
	NEED(munmap(page + PAGE, PAGE) == 0);
	SAY(call(group, VFIO_GROUP_GET_STATUS, page + PAGE - 4), "that ends too soon");
	munmap(page, PAGE);
	SAY(set_container(group, container), "with a container");
	SAY(group_status(group), "status");
	SAY(unset_container(group), "without");
	SAY(group_status(group), "status");
	close(group);
	close(container);
}

static void container_of_group(void)
{
	int group = open_to(group_of(first)), container = open_container(), iommu = open_its_iommu();
	int null = open("/dev/null", O_RDWR), event = new_eventfd(), path = open(CONTAINER, O_PATH), device;
	int reader = open(CONTAINER, O_RDONLY);

	heading("SET_CONTAINER, UNSET_CONTAINER");
	SAY(unset_container(group), "unset of none");
	SAY(call(group, VFIO_GROUP_SET_CONTAINER, NULL), "at NULL");
	SAY(set_container(group, -1), "-1");
	SAY(set_container(group, 999), "no such descriptor");
	SAY(set_container(group, null), "/dev/null");
	SAY(set_container(group, event), "an eventfd");
	SAY(set_container(group, group), "itself");
	SAY(set_container(group, path), "a container by O_PATH");
	SAY(compat_ioas(container) > 0, "the container has an IOAS");
	SAY(set_iommu(container, VFIO_TYPE1v2_IOMMU), "SET_IOMMU");
	SAY(set_container(group, container), "a container");
	SAY(compat_ioas(container) > 0, "the container has an IOAS");
	SAY(set_iommu(container, VFIO_TYPE1v2_IOMMU), "SET_IOMMU");
	SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "SET_IOMMU of none");
	SAY(set_container(group, container), "again");
	SAY(set_container(group, iommu), "another");
	SAY(set_container(group, null), "/dev/null, when it has one");
	SAY(set_container(group, 999), "no such descriptor, when it has one");
	SAY(unset_container(group), "unset");
	SAY(unset_container(group), "again");
	SAY(compat_ioas(container) > 0, "its IOAS stays");
	SAY(set_container(group, iommu), "/dev/iommu");
	SAY(compat_ioas(iommu) > 0, "it has an IOAS");
	SAY(call(iommu, VFIO_CHECK_EXTENSION, (void *)VFIO_TYPE1_IOMMU), "and type1");
	SAY(unset_container(group), "unset");
	SAY(set_container(group, reader), "one that is open to read only");
	SAY(unset_container(group), "unset");
	SAY(set_container(group, container), "the first, once more");
	close(container);
	SAY(take_device(group, first, &device), "it is closed: a device");
	SAY(device_identity(device), "which is");
	close(device);
	SAY(unset_container(group), "unset");
	close(group);
	close(iommu);
	close(null);
	close(event);
	close(path);
	close(reader);
}

static void names(void)
{
	int group = open_to(group_of(first)), container = open_container(), device;
	char *pages = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), text[8192];
	static const char *const after[] = { "", " ", "   ", "\t", "\n", "x", " x", "  x y", " vf_token=", " vf_token=x",
					     " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f",
					     " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1fz",
					     " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3",
					     " vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3 ",
					     "vf_token=bd8d9d2b-5a5f-4f5a-a211-f591514ba1f3" };
	unsigned int i;

	heading("GET_DEVICE_FD: names");
	NEED(pages != MAP_FAILED && munmap(pages + 2 * PAGE, PAGE) == 0);
	SAY(device_fd(group, first), "without a container");
	SAY(device_fd(group, "nothing"), "no device, without a container");
	NEED(set_container(group, container) == 0);
	for (i = 0; i < ARRAY_LEN(after); i++) {
		snprintf(text, sizeof(text), "%s%s", first, after[i]);
		SAY(take_device(group, text, &device), "the address and '%s'", after[i]);
		if (device >= 0)
			close(device);
	}
	SAY(device_fd(group, NULL), "NULL");
	SAY(device_fd(group, ""), "nothing");
	SAY(device_fd(group, alone), "a device of another group");
	SAY(device_fd(group, "0000:ff:1f.7"), "no device");
	snprintf(text, sizeof(text), "%s", first + 5);
	SAY(device_fd(group, text), "the address without its domain");
	memset(text, ' ', sizeof(text));
	memcpy(text, first, strlen(first));
	text[4095] = 0;
	SAY(take_device(group, text, &device), "4095 bytes");
	close(device);
	text[4095] = ' ';
	text[4096] = 0;
	SAY(device_fd(group, text), "4096 bytes");
	memset(text, 'x', sizeof(text));
	SAY(device_fd(group, text), "no end");
	memcpy(pages + 2 * PAGE - strlen(first), first, strlen(first));
	SAY(device_fd(group, pages + 2 * PAGE - strlen(first)), "its end cannot be read");
	memcpy(pages + 2 * PAGE - strlen(first) - 1, first, strlen(first) + 1);
	SAY(take_device(group, pages + 2 * PAGE - strlen(first) - 1, &device), "at the end of memory");
	close(device);
	munmap(pages, 2 * PAGE);
	close(group);
	close(container);
}

static void its_descriptor(void)
{
	int group = open_to(group_of(first)), container = open_container(), null = open("/dev/null", O_RDWR), device, again;
	struct vfio_pci_hot_reset reset = { .argsz = sizeof(reset) };
	struct vfio_region_info region = { .argsz = sizeof(region), .index = VFIO_PCI_CONFIG_REGION_INDEX };
	uint32_t *bar, id;
	uint32_t pt;

	heading("a device's descriptor");
	NEED(set_container(group, container) == 0 && null >= 0);
	pt = (uint32_t)compat_ioas(container);
	close(null);
	SAY(take_device(group, first, &device), "first");
	SAY(device == null, "it has the lowest number");
	SAY(fcntl(device, F_GETFD), "it is closed on exec");
	SAY(fcntl(device, F_GETFL) & O_ACCMODE, "its mode");
	SAY(device_identity(device), "it is");
	SAY(device_flags(device), "flags");
	SAY(call(device, VFIO_DEVICE_GET_REGION_INFO, &region), "a region");
	SAY(region.offset == AT(CONFIG, 0), "is where it always is");
	SAY(bind_device(device, container, &id), "BIND_IOMMUFD");
	SAY(bind_flags(device, 8, 0, container, 0, &id), "BIND_IOMMUFD with argsz 8");
	SAY(bind_flags(device, 24, 4, container, 0, &id), "BIND_IOMMUFD with a flag");
	SAY(attach(device, pt), "ATTACH_IOMMUFD_PT");
	SAY(detach(device), "DETACH_IOMMUFD_PT");
	SAY(attach_flags(device, 0, 0, &pt, 0), "ATTACH_IOMMUFD_PT with argsz 0");
	SAY(call(device, VFIO_DEVICE_PCI_HOT_RESET, &reset), "PCI_HOT_RESET of no groups");
	reset.count = 1;
	SAY(call(device, VFIO_DEVICE_PCI_HOT_RESET, &reset), "PCI_HOT_RESET of a group");
	reset.flags = 1;
	SAY(call(device, VFIO_DEVICE_PCI_HOT_RESET, &reset), "PCI_HOT_RESET with a flag");
	SAY(call(device, VFIO_GROUP_GET_STATUS, NULL), "GET_STATUS");
	enable(device, true);
	bar = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, device, AT(BAR0, 0));
	SAY(bar == MAP_FAILED ? -errno : 0, "mmap of BAR 0");
	SAY(bar[0], "which says");
	bar[1] = 0x12345678;
	SAY(bar[1], "and has");
	SAY(take_device(group, first, &again), "the same device once more");
	SAY(device_identity(again), "it is");
	SAY((long)get(again, BAR0, EDU_LIVENESS, 4), "and has");
	close(device);
	SAY(bar[1], "when the first is closed, the mapping has");
	SAY((long)get(again, BAR0, EDU_LIVENESS, 4), "and the second");
	munmap(bar, PAGE);
	close(again);
	SAY(take_device(group, first, &device), "when both are closed, another");
	SAY(get(device, CONFIG, 4, 2), "command register");
	IN_CHILD(SAY(device_identity(device), "in a child"));
	close(device);
	close(group);
	close(container);
}

static uint32_t *memory;

static void shared_memory(void)
{
	int group = open_to(group_of(first)), other = open_to(group_of(alone)), container = open_container();
	int second_container = open_container(), one, two, three;

	heading("DMA through the container");
	memory = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(memory != MAP_FAILED);
	SAY(set_container(group, container), "a container");
	SAY(set_iommu(container, VFIO_TYPE1v2_IOMMU), "SET_IOMMU");
	SAY(map_dma(container, memory, MIB, 2 * PAGE), "map before the device");
	SAY(take_device(group, first, &one), "first");
	SAY(take_device(group, second, &two), "second");
	SAY(does_dma(one, memory), "first does DMA");
	SAY(does_dma(two, memory), "second does DMA");
	SAY(set_container(other, second_container), "another group in another container");
	SAY(take_device(other, alone, &three), "alone");
	SAY(does_dma(three, memory), "alone does DMA");
	SAY(map_dma(second_container, memory, MIB, 2 * PAGE), "map in the other container");
	SAY(does_dma(three, memory), "alone does DMA");
	SAY(unmap_dma(container, MIB, 2 * PAGE), "unmap in the first");
	SAY(does_dma(one, memory), "first does DMA");
	SAY(does_dma(three, memory), "alone does DMA");
	close(three);
	SAY(unset_container(other), "the other group");
	SAY(set_container(other, container), "comes into the first container");
	SAY(take_device(other, alone, &three), "alone");
	SAY(map_dma(container, memory, MIB, 2 * PAGE), "map");
	SAY(does_dma(one, memory), "first does DMA");
	SAY(does_dma(two, memory), "second does DMA");
	SAY(does_dma(three, memory), "alone does DMA");
	close(group);
	SAY(device_flags(one), "when the group is closed, first");
	SAY(does_dma(one, memory), "first does DMA");
	close(container);
	SAY(does_dma(one, memory), "when the container is closed, first does DMA");
	group = open_to(group_of(first));
	SAY(set_container(group, second_container), "the group, opened again, in another container");
	close(group);
	close(one);
	close(two);
	close(three);
	close(other);
	close(second_container);
	munmap(memory, 2 * PAGE);
}

static void outlived(void)
{
	int group = open_to(group_of(first)), container = open_container(), other = open_container(), one, two;

	heading("a device outlives its group's file");
	NEED(set_container(group, container) == 0 && take_device(group, first, &one) == 0);
	SAY(unset_container(group), "unset while a device is open");
	SAY(group_status(group), "status");
	SAY(device_identity(one), "the device is");
	SAY(device_fd(group, first), "the device again");
	SAY(set_container(group, other), "another container");
	SAY(group_status(group), "status");
	SAY(take_device(group, first, &two), "the device again");
	SAY(device_identity(two), "it is");
	close(two);
	SAY(device_fd(group, second), "the other device of the group");
	SAY(unset_container(group), "unset");
	close(group);
	group = open(group_of(first), O_RDWR);
	SAY(group < 0 ? -errno : 0, "open of the group");
	SAY(group_status(group), "status");
	SAY(set_container(group, container), "the first container");
	SAY(take_device(group, second, &two), "the other device of the group");
	SAY(device_identity(two), "it is");
	close(one);
	close(two);
	SAY(unset_container(group), "unset");
	SAY(group_status(group), "status when all devices are closed");
	SAY(set_container(group, other), "the other container");
	SAY(take_device(group, second, &two), "the other device of the group");
	close(two);
	close(group);
	close(container);
	close(other);
}

static void own_files(void)
{
	int iommu = open_its_iommu(), device = open_to(file_of(first)), mate = open_to(file_of(second)), group, got;
	int container = open_container();
	uint32_t id;

	heading("devices' own files");
	group = open(group_of(first), O_RDWR);
	SAY(group < 0 ? -errno : 0, "the group, while its devices' files are open");
	SAY(bind_device(device, iommu, &id), "bind while the group is open");
	SAY(bind_device(device, -1, &id), "bind to -1");
	SAY(bind_device(device, 999, &id), "bind to no such descriptor");
	SAY(bind_flags(device, 24, 1, iommu, 0, &id), "bind with a token at NULL");
	close(group);
	SAY(bind_device(device, iommu, &id), "bind when it is closed");
	SAY(told(open(group_of(first), O_RDWR)), "the group");
	SAY(told(open(group_of(first), O_RDONLY)), "the group, to read");
	SAY(bind_device(device, iommu, &id), "bind once more");
	SAY(bind_device(mate, iommu, &id), "bind of the group's other device");
	close(device);
	SAY(told(open(group_of(first), O_RDWR)), "the group when the first is closed");
	close(mate);
	group = open(group_of(first), O_RDWR);
	SAY(group < 0 ? -errno : 0, "and when both are");
	NEED(set_container(group, container) == 0 && take_device(group, first, &got) == 0);
	device = open_to(file_of(first));
	SAY(bind_device(device, iommu, &id), "bind of what the group has opened");
	close(group);
	SAY(bind_device(device, iommu, &id), "when the group is closed");
	SAY(device_identity(device), "it is not bound");
	mate = open_to(file_of(second));
	SAY(bind_device(mate, iommu, &id), "bind of the other one to another context");
	SAY(bind_device(mate, container, &id), "to the same");
	SAY(told(open(group_of(first), O_RDWR)), "the group");
	close(got);
	SAY(bind_device(device, iommu, &id), "bind of the first when it is closed, to another context");
	SAY(bind_device(device, container, &id), "to the same");
	close(device);
	close(mate);
	close(container);
	close(iommu);
}

static void ioas(void)
{
	int group = open_to(group_of(first)), other = open_to(group_of(alone)), iommu = open_its_iommu(), device, more;
	uint32_t mine = new_ioas(iommu);
	struct iommu_vfio_ioas set = { .size = sizeof(set), .op = IOMMU_VFIO_IOAS_SET, .ioas_id = mine };

	heading("the compat IOAS");
	SAY(call(iommu, IOMMU_VFIO_IOAS, &set), "set beforehand");
	SAY(set_container(group, iommu), "SET_CONTAINER");
	SAY(compat_ioas(iommu) == mine, "it is still that");
	SAY(take_device(group, first, &device), "first");
	SAY(destroy(iommu, mine), "destroy");
	SAY(clear_ioas(iommu), "clear");
	SAY(compat_ioas(iommu), "there is none");
	SAY(device_identity(device), "the device is");
	SAY(device_fd(group, second), "second");
	SAY(take_device(group, first, &more), "first again");
	close(more);
	SAY(set_container(other, iommu), "another group's SET_CONTAINER");
	SAY(compat_ioas(iommu) == mine, "it is another");
	SAY(device_fd(group, second), "second");
	SAY(take_device(other, alone, &more), "the other group's");
	SAY(unset_container(other), "unset");
	SAY(compat_ioas(iommu) > 0, "it stays");
	close(device);
	close(more);
	SAY(destroy(iommu, mine), "destroy of the first");
	SAY(destroy(iommu, (uint32_t)compat_ioas(iommu)), "destroy of the second");
	SAY(compat_ioas(iommu), "there is none");
	SAY(device_fd(group, first), "first");
	close(group);
	close(other);
	close(iommu);
}

/* Who is told that something is closed may want at once what is free then, by another file. */
static void in_order(void)
{
	int i, closed_late = 0, bound_late = 0;

	heading("closes are done before what comes after them");
	for (i = 0; i < 50; i++) {
		int iommu = open_its_iommu(), container = open_container(), group = open_to(group_of(first)), got, device;
		uint32_t id;

		NEED(set_container(group, container) == 0 && take_device(group, first, &got) == 0);
		device = open_to(file_of(first));
		NEED(bind_device(device, iommu, &id) == -EBUSY);
		close(group);
		closed_late += bind_device(device, iommu, &id) != -EINVAL;
		close(got);
		bound_late += bind_device(device, iommu, &id) != 0;
		close(device);
		close(container);
		close(iommu);
	}
	SAY(closed_late, "groups that are open after their close");
	SAY(bound_late, "devices that are bound after their close");
}

int main(int argc, char **argv)
{
	checks_begin();
	setvbuf(stdout, NULL, _IOLBF, 0);
	NEED(argc > 3);
	first = argv[1];
	second = argv[2];
	alone = argv[3];
	numbers();
	opened_once();
	status();
	container_of_group();
	names();
	its_descriptor();
	shared_memory();
	outlived();
	own_files();
	ioas();
	in_order();
	return 0;
}
