// SPDX-License-Identifier: MIT
/*
 * A device without an IOMMU. Its page tables are lists of what is pinned, of which the client learns
 * by physical address; the device itself can be attached to any, and to none.
 *
 * On a kernel: CONFIG_IOMMUFD_NOIOMMU, a device of VFIO's in its unsafe mode, and the mock devices of
 * CONFIG_IOMMUFD_TEST beside it.
 */
#include "noiommu.h"

#include "../vfio.h"

#include <sys/resource.h>

static int fd;
static uint32_t ioas, hwpt;
static struct device device;

static void fresh(void)
{
	fd = open_iommu();
	ioas = new_ioas(fd);
	device = device_on(fd, ioas, &hwpt);
}

static void done(void)
{
	if (device.vfio)
		NEED(close((int)device.handle) == 0);
	NEED(close(fd) == 0);
}

/* Each row breaks its own rule and those below it. */
static void order(void)
{
	struct iommu_ioas_noiommu_get_pa cmd = { .size = sizeof(cmd), .flags = 1, .ioas_id = NO_ID,
						 .iova = U64_MAX, .out_phys = 77 };
	char *memory = new_pages(2);
	struct {
		struct iommu_ioas_noiommu_get_pa cmd;
		uint64_t tail;
	} longer;

	fresh();
	IN_CHILD({
		drop_capability(CAP_RAWIO);
		CHECK_ERR(EPERM, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "1. no capability");
	});
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "2. a flag");
	cmd.flags = 0;
	cmd.__reserved = 1;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "2. reserved");
	cmd.__reserved = 0;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "3. no length");
	cmd.length = PAGE;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "4. the last IOVA");
	cmd.iova = PAGE;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "5. no such IOAS");
	cmd.ioas_id = device.id;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "5. it is no IOAS");
	cmd.ioas_id = ioas;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "6. nothing is mapped");
	NEED(map_at(fd, ioas, (uintptr_t)memory, PAGE, 2 * PAGE) == 0);
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "6. only behind it");
	cmd.ioas_id = new_ioas(fd);
	NEED(map_at(fd, cmd.ioas_id, (uintptr_t)memory, PAGE, PAGE) == 0);
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "7. no device there");
	CHECK_EQ(cmd.length, PAGE, "the length is as it was");
	CHECK_EQ(cmd.out_phys, 77, "and the address");
	cmd.ioas_id = ioas;
	cmd.iova = 2 * PAGE;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, read_only(&cmd, sizeof(cmd))),
		  "8. it cannot be told");
	CHECK_OK(call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "told");
	CHECK_EQ(cmd.length, PAGE, "a page");
	CHECK_TRUE(cmd.out_phys && cmd.out_phys % PAGE == 0, "and where it begins");
	CHECK_TRUE(cmd.out_phys < 1UL << 52, "which has 52 bits at most");
	cmd.size = sizeof(cmd) - 1;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "a shorter struct");
	cmd.size = sizeof(longer);
	longer.cmd = cmd;
	longer.tail = 0;
	CHECK_OK(call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &longer), "a longer struct, zero");
	longer.tail = 1;
	CHECK_ERR(E2BIG, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &longer), "a longer struct, not zero");
	done();
}

/* Who opens VFIO's device, or has the test ioctl make one, can reach all memory by it. */
static void privilege(void)
{
	struct device another;

	fresh();
	IN_CHILD({
		drop_capability(CAP_RAWIO);
		if (device.vfio)
			CHECK_TRUE(!vfio_device(fd, &another), "no device without CAP_SYS_RAWIO");
		else
			CHECK_ERR(EPERM, flagged_device(fd, ioas, 0, &another),
				  "no device without CAP_SYS_RAWIO");
	});
	done();
}

/* What it is asked about its IOMMU. */
static void no_iommu(void)
{
	struct iommu_hw_info cmd = { 0 };
	unsigned char data[8];
	uint32_t i, id, free_id;

	fresh();
	memset(data, 0xff, sizeof(data));
	CHECK_ERR(EOPNOTSUPP, hw_info(fd, &cmd, device.id, NULL, 0), "GET_HW_INFO");
	CHECK_ERR(EOPNOTSUPP, hw_info(fd, &cmd, device.id, data, sizeof(data)), "with room");
	CHECK_EQ(data[0], 0xff, "which is left alone");
	CHECK_ERR(EOPNOTSUPP, hw_info(fd, &cmd, device.id, unmapped(), 8), "without");
	CHECK_ERR(ENOENT, hw_info(fd, &cmd, NO_ID, NULL, 0), "of no device");
	cmd.flags = IOMMU_HW_INFO_FLAG_INPUT_TYPE;
	for (i = 0; i < 8; i++) {
		cmd.in_data_type = i;
		CHECK_ERR(EOPNOTSUPP, hw_info(fd, &cmd, device.id, NULL, 0), "of type %u", i);
	}
	free_id = next_id(fd);
	for (i = 1; i < 6; i++) {
		CHECK_ERR(EOPNOTSUPP, try_viommu(fd, device.id, hwpt, i, &id), "vIOMMU %u", i);
		CHECK_ERR(EOPNOTSUPP, try_viommu(fd, device.id, NO_ID, i, &id), "on nothing");
	}
	CHECK_EQ(next_id(fd), free_id, "nothing took an ID");
	done();
}

static void page_tables(void)
{
	struct iommu_hwpt_alloc cmd = { 0 };
	struct iommu_hwpt_set_dirty_tracking dirty = { .size = sizeof(dirty) };
	struct iommu_hwpt_get_dirty_bitmap bitmap = { .size = sizeof(bitmap), .length = PAGE,
						      .page_size = PAGE };
	uint64_t data[8] = { 0 };
	uint32_t other, made, pt, fault;
	char *memory = new_pages(1);

	fresh();
	check_alloc_refused(fd, device.id, ioas, IOMMU_HWPT_DATA_VTD_S1);
	cmd.dev_id = device.id;
	cmd.pt_id = ioas;
	cmd.flags = PARENT;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "no nest parent");
	cmd.flags = DIRTY;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "no dirty tracking");
	cmd.flags = PASID;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "none for PASIDs");
	cmd.flags = PASID | FAULT;
	cmd.fault_id = NO_ID;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "that before the queue");
	cmd.flags = 0;
	cmd.pt_id = hwpt;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "nothing nests, without data");
	cmd.data_type = IOMMU_HWPT_DATA_VTD_S1;
	cmd.data_len = sizeof(data);
	cmd.data_uptr = (uintptr_t)data;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "or with them");
	cmd.pt_id = device.id;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "on a device");
	cmd.pt_id = NO_ID;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "on nothing");

	other = new_ioas(fd);
	NEED(map_at(fd, other, (uintptr_t)memory, PAGE, 0) == 0);
	CHECK_ERR(EOPNOTSUPP, try_pa(fd, other, 0), "no page table yet");
	made = new_hwpt(fd, device.id, other, 0);
	CHECK_OK(check_refs(fd, memory, 1), "it pins, attached or not");
	CHECK_OK(try_pa(fd, other, 0), "and knows where");
	dirty.hwpt_id = made;
	dirty.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &dirty), "no tracking");
	bitmap.hwpt_id = made;
	bitmap.data = (uintptr_t)data;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &bitmap), "no bitmap");
	pt = made;
	CHECK_OK(attach_to(fd, &device, &pt), "attach to it");
	CHECK_EQ(pt, made, "that it is");
	CHECK_ERR(ENOENT, destroy(fd, hwpt), "the automatic one is gone");
	CHECK_ERR(EBUSY, destroy(fd, made), "this one is in use");
	pt = ioas;
	CHECK_OK(attach_to(fd, &device, &pt), "attach to the IOAS");
	CHECK_TRUE(pt != made, "another page table");
	CHECK_OK(destroy(fd, made), "destroy it");
	CHECK_ERR(EOPNOTSUPP, try_pa(fd, other, 0), "nobody knows any more");
	CHECK_OK(check_refs(fd, memory, 0), "nor pins");

	fault = new_fault_queue(fd);
	cmd = (struct iommu_hwpt_alloc){ .dev_id = device.id, .pt_id = other, .flags = FAULT,
					 .fault_id = fault };
	CHECK_OK(alloc_cmd(fd, cmd, &made), "one with a fault queue");
	pt = made;
	CHECK_OK(attach_to(fd, &device, &pt), "attach to it");
	CHECK_OK(try_pa(fd, other, 0), "told");
	CHECK_ERR(EBUSY, destroy(fd, fault), "the queue is in use");
	done();
}

static void attaching(void)
{
	struct iommu_iova_range all = { 0, U64_MAX }, top = { U64_MAX - PAGE + 1, U64_MAX };
	uint32_t other, third, pt, second_pt;
	struct device second;
	char *memory = new_pages(2);

	fresh();
	check_iovas(fd, ioas, &all, 1, "all");
	other = new_ioas(fd);
	second = device_on(fd, ioas, &second_pt);
	CHECK_EQ(second_pt, hwpt, "two share a page table");
	NEED(map_at(fd, ioas, (uintptr_t)memory, PAGE, 0xfee00000) == 0);
	CHECK_OK(try_pa(fd, ioas, 0xfee00000), "nothing is reserved for interrupts");
	pt = other;
	CHECK_OK(attach_to(fd, &device, &pt), "one leaves, they are no group");
	CHECK_TRUE(pt != hwpt, "for a page table of its own");
	CHECK_OK(try_pa(fd, ioas, 0xfee00000), "the other has its own still");
	unplug(fd, &second);
	CHECK_ERR(EOPNOTSUPP, try_pa(fd, ioas, 0xfee00000), "with the last one it is gone");
	CHECK_ERR(ENOENT, destroy(fd, hwpt), "it is");
	CHECK_OK(check_refs(fd, memory, 0), "nothing is pinned");
	pt = hwpt = ioas;
	CHECK_OK(attach_to(fd, &device, &pt), "back");
	CHECK_OK(check_refs(fd, memory, 1), "pinned");
	second_pt = pt;
	CHECK_OK(attach_to(fd, &device, &second_pt), "again to the same");
	CHECK_EQ(second_pt, pt, "no change");
	second_pt = NO_ID;
	CHECK_ERR(ENOENT, attach_to(fd, &device, &second_pt), "to nothing");
	second_pt = device.id;
	CHECK_ERR(EINVAL, attach_to(fd, &device, &second_pt), "to itself");
	CHECK_ERR(EBUSY, destroy(fd, device.id), "it cannot be destroyed");

	third = new_ioas(fd);
	NEED(map_at(fd, third, (uintptr_t)memory, PAGE + 1, 0) == 0);
	pt = third;
	CHECK_ERR(EADDRINUSE, attach_to(fd, &device, &pt), "an odd area keeps it out");
	NEED(unmap_all(fd, third) == PAGE + 1);
	NEED(map_at(fd, third, (uintptr_t)unmapped(), PAGE, 0) == 0);
	CHECK_ERR(EFAULT, attach_to(fd, &device, &pt), "memory that is not there");
	NEED(unmap_all(fd, third) == PAGE);
	NEED(allow_iovas(fd, third, &top, 1) == 0);
	CHECK_OK(attach_to(fd, &device, &pt), "all is allowed");
	CHECK_ERR(EINVAL, map_at(fd, third, (uintptr_t)memory, PAGE / 2, 0), "half a page");
	CHECK_ERR(EINVAL, map_at(fd, third, (uintptr_t)memory + 1, PAGE, 0), "an odd address");
	CHECK_OK(map_at(fd, third, (uintptr_t)memory, PAGE, U64_MAX - PAGE + 1), "the last page");
	CHECK_OK(try_pa(fd, third, U64_MAX - 1), "told");
	CHECK_ERR(EOVERFLOW, try_pa(fd, third, U64_MAX), "but not of its last byte");
	CHECK_OK(unmap_at(fd, third, U64_MAX - PAGE + 1, PAGE), "unmap it");
	CHECK_ERR(ENOENT, try_pa(fd, third, U64_MAX - 1), "gone");
	unplug(fd, &device);
	CHECK_ERR(ENOENT, destroy(fd, pt), "the page table went with the device");
	NEED(close(fd) == 0);
}

static void pasids(void)
{
	uint32_t at[2], i;

	fresh();
	at[0] = ioas;
	at[1] = new_hwpt(fd, device.id, ioas, 0);
	for (i = 0; i < 2; i++)
		CHECK_ERR(EINVAL, device.vfio ? vfio_pasid(&device, 5, at[i]) :
				  pasid_attach(fd, &device, 5, at[i]),
			  "attach a PASID to %s", i ? "a HWPT" : "the IOAS");
	done();
}

/* One address for one page, wherever it is mapped. */
static void pages(void)
{
	uint64_t length = 2, phys = 0, first, at[3];
	uint32_t other, pt;
	char *shared, *memory = new_pages(2);
	struct device second;
	int file, i;

	fresh();
	other = new_ioas(fd);
	second = device_on(fd, other, &pt);
	file = memfd_create("noiommu", MFD_CLOEXEC);
	NEED(file >= 0 && ftruncate(file, 2 * PAGE) == 0);
	shared = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	NEED(shared != MAP_FAILED);
	NEED(map_at(fd, ioas, (uintptr_t)shared, 2 * PAGE, 0) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)shared, 2 * PAGE, 16 * PAGE) == 0);
	NEED(map_file_at(fd, other, file, PAGE, PAGE, 3 * PAGE) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, 32 * PAGE) == 0);
	NEED(copy_at(fd, other, 0, ioas, 32 * PAGE, 2 * PAGE) == 0);
	first = pa(fd, ioas, 0);
	CHECK_EQ(first % PAGE, 0, "a page begins on one");
	CHECK_EQ(pa(fd, ioas, 16 * PAGE), first, "mapped twice");
	CHECK_EQ(pa(fd, other, 3 * PAGE), pa(fd, ioas, PAGE), "mapped from its file");
	CHECK_EQ(pa(fd, ioas, PAGE + 5), pa(fd, ioas, PAGE) + 5, "an offset");
	CHECK_EQ(pa(fd, other, 0), pa(fd, ioas, 32 * PAGE), "copied");
	CHECK_EQ(pa(fd, other, PAGE), pa(fd, ioas, 33 * PAGE), "its second page");
	at[0] = first;
	at[1] = pa(fd, ioas, PAGE);
	at[2] = pa(fd, ioas, 32 * PAGE);
	for (i = 0; i < 3; i++)
		CHECK_TRUE(at[i] != at[(i + 1) % 3], "other pages are elsewhere");
	CHECK_OK(get_pa(fd, ioas, PAGE - 1, &length, &phys), "two bytes across pages");
	CHECK_EQ(phys, first + PAGE - 1, "the last byte of the first");
	CHECK_EQ(length, at[1] == first + PAGE ? 2 : 1, "and the next, if that follows");

	CHECK_OK(unmap_at(fd, ioas, 0, 2 * PAGE), "unmap it once");
	CHECK_EQ(pa(fd, ioas, 16 * PAGE), first, "it stays where it is");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)shared, PAGE, 0), "map it again");
	CHECK_EQ(pa(fd, ioas, 0), first, "there it is");
	NEED(munmap(shared, 2 * PAGE) == 0);
	CHECK_EQ(pa(fd, ioas, 0), first, "and when nobody else has it mapped");
	IN_CHILD({
		CHECK_EQ(pa(fd, ioas, 0), first, "asked by another process");
		CHECK_EQ(pa(fd, other, 0), at[2], "for private memory, too");
	});
	CHECK_OK(option_set(fd, IOMMU_OPTION_HUGE_PAGES, new_ioas(fd), 0), "single pages");
	unplug(fd, &second);
	done();
}

static void read_only_memory(void)
{
	char *memory = read_only("", 1);
	uint64_t iova = 0;

	fresh();
	CHECK_OK(map_flags(fd, ioas, FIXED | R, (uintptr_t)memory, PAGE, &iova), "to be read");
	CHECK_OK(try_pa(fd, ioas, 0), "told all the same");
	iova = PAGE;
	CHECK_ERR(EFAULT, map_flags(fd, ioas, FIXED | W, (uintptr_t)memory, PAGE, &iova),
		  "to be written");
	CHECK_ERR(ENOENT, try_pa(fd, ioas, PAGE), "nothing is there");
	done();
}

/* Where each page of the buffer lies, as told one by one; on a kernel also as pagemap has it. */
static void look(const char *memory, uint64_t *frames)
{
	uint64_t entry;
	int file = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	unsigned long i, same = 0;

	NEED(file >= 0);
	for (i = 0; i < SEEN; i++) {
		frames[i] = pa(fd, ioas, i * PAGE);
		NEED(pread(file, &entry, 8, (off_t)((uintptr_t)memory / PAGE + i) * 8) == 8);
		same += (entry & ((1UL << 55) - 1)) * PAGE == frames[i];
	}
	if (device.vfio)
		CHECK_EQ(same, SEEN, "they are the pages' own addresses");
	NEED(close(file) == 0);
}

/* How much lies together follows from where the pages lie, and ends with the area. */
static void runs(bool huge_pages)
{
	static const uint64_t most[] = { 1, 100, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 17 * PAGE + 5,
					 SEEN * PAGE, U64_MAX };
	uint64_t frames[SEEN], length, phys = 0, expected, iova;
	unsigned long page, end, bad = 0, longest = 0, ends = 0;
	char *memory = new_pages(SEEN);
	unsigned int i;

	fresh();
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, huge_pages) == 0);
	memset(memory, 1, SEEN * PAGE);
	NEED(map_at(fd, ioas, (uintptr_t)memory, SEEN / 2 * PAGE, 0) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)memory + SEEN / 2 * PAGE, SEEN / 2 * PAGE,
		    SEEN / 2 * PAGE) == 0);
	look(memory, frames);
	for (iova = 0; iova < SEEN * PAGE; iova += 1371) {
		page = iova / PAGE;
		for (end = page + 1; end % (SEEN / 2) && frames[end] == frames[end - 1] + PAGE;)
			end++;
		longest = end - page > longest ? end - page : longest;
		ends += end % (SEEN / 2) != 0;
		for (i = 0; i < ARRAY_LEN(most); i++) {
			expected = end * PAGE - iova;
			expected = most[i] < expected ? most[i] : expected;
			length = most[i];
			bad += get_pa(fd, ioas, iova, &length, &phys) != 0 || length != expected ||
			       phys != frames[page] + iova % PAGE;
		}
	}
	CHECK_EQ(bad, 0, "from everywhere, as much as lies together");
	if (!device.vfio) {
		CHECK_TRUE(longest > 1, "some pages lie together");
		CHECK_TRUE(ends, "but not all");
	}
	done();
}

static void accounting(void)
{
	struct rlimit limit = { 2 * PAGE, 2 * PAGE };
	char *memory = new_pages(3);

	fresh();
	IN_CHILD({
		drop_capability(CAP_IPC_LOCK);
		drop_capability(CAP_SYS_RESOURCE);
		NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
		CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, 0), "two pages");
		CHECK_ERR(ENOMEM, map_at(fd, ioas, (uintptr_t)memory, PAGE, 8 * PAGE), "not three");
		CHECK_ERR(ENOENT, try_pa(fd, ioas, 8 * PAGE), "nothing is there");
		CHECK_OK(unmap_at(fd, ioas, 0, 2 * PAGE), "unmap");
		CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, PAGE, 8 * PAGE), "one");
	});
	done();
}

/* VFIO's old ioctls. That it has no IOMMU is known of a container by its groups only. */
static void container(void)
{
	struct vfio_iommu_type1_info info = { .argsz = sizeof(info) };
	struct iommu_hwpt_alloc cmd = { 0 };
	uint64_t memory = (uintptr_t)new_pages(1);
	uint32_t other, pt;

	fresh();
	NEED(set_compat(fd, ioas) == 0);
	CHECK_EQ(ask(fd, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU), 1, "TYPE1v2");
	CHECK_EQ(ask(fd, VFIO_CHECK_EXTENSION, VFIO_NOIOMMU_IOMMU), 1, "NOIOMMU");
	CHECK_EQ(ask(fd, VFIO_CHECK_EXTENSION, VFIO_DMA_CC_IOMMU), 0, "DMA_CC");
	CHECK_ERR(EINVAL, ask(fd, VFIO_SET_IOMMU, VFIO_NOIOMMU_IOMMU), "set NOIOMMU");
	CHECK_OK(ask(fd, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU), "set TYPE1v2");
	CHECK_OK(call(fd, VFIO_IOMMU_GET_INFO, &info), "info");
	CHECK_EQ(info.iova_pgsizes, ((1UL << 52) - PAGE) & ~(1UL << 39), "page sizes");
	CHECK_ERR(EINVAL, map_dma(fd, memory, 0, PAGE, 0), "neither readable nor writeable");
	other = new_ioas(fd);
	NEED(set_compat(fd, other) == 0);
	CHECK_OK(map_dma(fd, memory, 0, PAGE, 0), "which is good while there is no device");
	pt = other;
	CHECK_ERR(EINVAL, attach_to(fd, &device, &pt), "but keeps one out");
	cmd.dev_id = device.id;
	cmd.pt_id = other;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "and a page table");
	done();
}

/* Beside devices that have one, where there are both: what iommud's own tests do in Python. */
static void with_others(void)
{
	struct iommu_hwpt_alloc cmd = { 0 };
	struct iommu_vdevice_alloc vdevice = { .size = sizeof(vdevice), .virt_id = 1 };
	struct mock mock, more;
	uint32_t a, b, pt, parent, viommu, pasid_pt;
	char *memory = new_pages(1);

	fresh();
	if (!device.vfio) {
		done();
		return;
	}
	a = new_ioas(fd);
	NEED(map_at(fd, a, (uintptr_t)memory, PAGE, APERTURE) == 0);
	mock = new_mock(fd, a);
	CHECK_ERR(ENODEV, mock_replace(fd, mock.stdev, ioas), "no other device comes to its IOAS");
	NEED(mock_flags(fd, ioas, 0, &more) == 0);
	CHECK_TRUE(more.hwpt != hwpt, "but by a page table of its own");
	NEED(destroy(fd, more.stdev) == 0);
	pt = a;
	CHECK_OK(attach_to(fd, &device, &pt), "it takes whatever page table is there");
	CHECK_EQ(pt, mock.hwpt, "that of a device with an IOMMU");
	CHECK_ERR(EOPNOTSUPP, try_pa(fd, a, APERTURE), "which tells no addresses");
	b = new_hwpt(fd, device.id, a, 0);
	CHECK_ERR(EOPNOTSUPP, try_pa(fd, a, APERTURE), "nor does a second one of its own");
	CHECK_ERR(EINVAL, mock_flags(fd, b, 0, &more), "which no other device takes");
	CHECK_ERR(ENODEV, mock_replace(fd, mock.stdev, b), "nor in exchange for what it has");
	pt = b;
	CHECK_OK(attach_to(fd, &device, &pt), "but it does");
	CHECK_ERR(EOPNOTSUPP, try_pa(fd, a, APERTURE), "the first one counts");
	CHECK_OK(destroy(fd, mock.stdev), "which goes");
	CHECK_OK(try_pa(fd, a, APERTURE), "so that this is the first");
	parent = new_hwpt(fd, device.id, a, 0); /* the last of three takes the first one's place */
	mock = new_mock(fd, a);
	pt = ioas;
	CHECK_OK(attach_to(fd, &device, &pt), "away from it");
	CHECK_OK(destroy(fd, b), "the first of three goes");
	CHECK_ERR(EOPNOTSUPP, try_pa(fd, a, APERTURE), "the last one took its place");
	CHECK_OK(destroy(fd, parent), "the second goes");
	CHECK_ERR(EOPNOTSUPP, try_pa(fd, a, APERTURE), "no change");

	parent = new_hwpt(fd, mock.device, a, PARENT);
	cmd.dev_id = device.id;
	cmd.pt_id = parent;
	cmd.data_type = SELFTEST;
	cmd.data_len = 8;
	cmd.data_uptr = (uintptr_t)memory;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "nothing nests in another one's parent");
	NEED(try_viommu(fd, mock.device, parent, IOMMU_VIOMMU_TYPE_SELFTEST, &viommu) == 0);
	cmd.pt_id = viommu;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "nor on a vIOMMU");
	vdevice.viommu_id = viommu;
	vdevice.dev_id = device.id;
	CHECK_ERR(EINVAL, call(fd, IOMMU_VDEVICE_ALLOC, &vdevice), "it is behind none");

	NEED(mock_flags(fd, a, MOCK_FLAGS_DEVICE_PASID, &more) == 0);
	pasid_pt = new_hwpt(fd, more.device, a, PASID);
	CHECK_ERR(EINVAL, vfio_pasid(&device, 5, pasid_pt), "a PASID beside a plain page table");
	CHECK_OK(call((int)device.handle, DETACH_PT, (uint32_t[]){ 8, 0 }), "detach");
	CHECK_OK(vfio_pasid(&device, 5, pasid_pt), "a PASID alone");
	CHECK_ERR(EBUSY, destroy(fd, pasid_pt), "its page table is in use");
	pt = pasid_pt;
	CHECK_OK(attach_to(fd, &device, &pt), "the same without the PASID");
	pt = ioas;
	CHECK_ERR(EINVAL, attach_to(fd, &device, &pt), "nothing else beside a PASID");
	done();
}

int main(void)
{
	checks_begin();
	if (not_to_be_had())
		return checks_end();
	order();
	privilege();
	no_iommu();
	page_tables();
	attaching();
	pasids();
	pages();
	read_only_memory();
	runs(true);
	runs(false);
	accounting();
	container();
	with_others();
	return checks_end();
}
