// SPDX-License-Identifier: MIT
/*
 * What the physical addresses are for: a device without an IOMMU copies memory from one to another.
 *
 * On a kernel the device is QEMU's edu (with dma_mask=0xffffffffffffffff), driven by its registers;
 * under iommud its DMA is an operation of the test ioctl.
 */
#include "noiommu.h"

#include <iommud/dma.h>

#define EDU_BUFFER 0x40000UL
#define AT_ONCE (PAGE / 2) /* edu takes a little less than a page */
#define BAR0 0UL
#define PCI_CONFIG (7UL << 40)
#define PCI_COMMAND 4
#define BUS_MASTER 6 /* and memory */

static int fd;
static uint32_t ioas, hwpt;
static struct device device;
static volatile uint64_t *registers; /* from 0x80 on: source, destination, length, command */

static void transfer(uint64_t from, uint64_t to, uint64_t length, uint64_t command)
{
	unsigned int waited;

	registers[0] = from;
	registers[1] = to;
	registers[2] = length;
	registers[3] = command | 1;
	for (waited = 0; registers[3] & 1; waited++) {
		NEED(waited < 1000);
		usleep(10000);
	}
}

static long dma(uint64_t address, void *memory, uint64_t length, uint32_t flags)
{
	struct iommu_test_cmd cmd = { .id = device.id,
				      .access_rw = { .iova = address, .length = length,
						     .uptr = (uintptr_t)memory, .flags = flags } };

	return test_cmd(fd, IOMMUD_TEST_OP_DMA, &cmd);
}

/* The device copies up to half a page from one physical address to another. */
static long copy(uint64_t from, uint64_t to, uint64_t length)
{
	char through[AT_ONCE];
	long rc;

	if (device.vfio) {
		transfer(from, EDU_BUFFER, length, 0);
		transfer(EDU_BUFFER, to, length, 2);
		return 0;
	}
	rc = dma(from, through, length, 0);
	return rc ? rc : dma(to, through, length, MOCK_ACCESS_RW_WRITE);
}

static void fresh(void)
{
	uint16_t command = BUS_MASTER;
	char *bar;

	fd = open_iommu();
	ioas = new_ioas(fd);
	device = device_on(fd, ioas, &hwpt);
	if (!device.vfio)
		return;
	NEED(pwrite((int)device.handle, &command, 2, (off_t)(PCI_CONFIG + PCI_COMMAND)) == 2);
	bar = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, (int)device.handle, BAR0);
	NEED(bar != MAP_FAILED);
	registers = (volatile uint64_t *)(bar + 0x80);
}

/* By many calls if need be: each page of the one may lie elsewhere than the page before it. */
static void copy_all(uint64_t from, uint64_t to, uint64_t length)
{
	uint64_t source = 0, target = 0, part, count;

	while (length) {
		part = count = length < AT_ONCE ? length : AT_ONCE;
		NEED(get_pa(fd, ioas, from, &part, &source) == 0);
		NEED(get_pa(fd, ioas, to, &count, &target) == 0);
		part = part < count ? part : count;
		NEED(copy(source, target, part) == 0);
		from += part;
		to += part;
		length -= part;
	}
}

static void copies(void)
{
	uint64_t first;
	uint32_t pt, other;
	char *shared, *own;
	unsigned int i;
	int file;

	fresh();
	file = memfd_create("noiommu", MFD_CLOEXEC);
	NEED(file >= 0 && ftruncate(file, 8 * PAGE) == 0);
	shared = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	NEED(shared != MAP_FAILED);
	own = new_pages(8);
	for (i = 0; i < 8 * PAGE; i++)
		own[i] = (char)(i * 7 + i / PAGE);
	NEED(map_at(fd, ioas, (uintptr_t)own, 8 * PAGE, 16 * PAGE) == 0);
	NEED(map_file_at(fd, ioas, file, 0, 8 * PAGE, 0) == 0);
	copy_all(16 * PAGE, 0, 8 * PAGE);
	CHECK_EQ(memcmp(shared, own, 8 * PAGE), 0, "eight pages, copied by the device");
	copy_all(17 * PAGE + 5, 2 * PAGE - 3, 77);
	CHECK_EQ(memcmp(shared + 2 * PAGE - 3, own + PAGE + 5, 77), 0, "across a page's end");
	CHECK_EQ(shared[2 * PAGE - 4], own[2 * PAGE - 4], "not before");
	CHECK_EQ(shared[2 * PAGE + 74], own[2 * PAGE + 74], "not behind");

	first = pa(fd, ioas, 16 * PAGE);
	NEED(munmap(shared, 8 * PAGE) == 0);
	CHECK_OK(copy(first, pa(fd, ioas, PAGE), 100), "to what nobody has mapped any more");
	shared = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK_EQ(memcmp(shared + PAGE, own, 100), 0, "which is there still");

	/* The page table is what holds the pages; whether the device is on it is all the same. */
	new_hwpt(fd, device.id, ioas, 0);
	other = new_ioas(fd);
	pt = other;
	CHECK_OK(attach_to(fd, &device, &pt), "the device is moved elsewhere");
	CHECK_OK(copy(first, pa(fd, ioas, 5 * PAGE), 100), "its DMA is the same");
	CHECK_EQ(memcmp(shared + 5 * PAGE, own, 100), 0, "copied");
	if (device.vfio)
		NEED(close((int)device.handle) == 0);
	NEED(close(fd) == 0);
}

/* Where hardware would reach memory that is not the client's, iommud says so. */
static void mistakes(void)
{
	uint64_t iova = 0, first, second;
	char *memory = new_pages(2), byte = 0;

	fresh();
	if (device.vfio) {
		NEED(close((int)device.handle) == 0 && close(fd) == 0);
		return;
	}
	NEED(map_flags(fd, ioas, FIXED | R, (uintptr_t)memory, PAGE, &iova) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)memory + PAGE, PAGE, PAGE) == 0);
	first = pa(fd, ioas, 0);
	second = pa(fd, ioas, PAGE);
	CHECK_OK(dma(first, &byte, 1, 0), "read");
	CHECK_ERR(EPERM, dma(first, &byte, 1, MOCK_ACCESS_RW_WRITE), "write what is to be read");
	CHECK_OK(dma(second, &byte, 1, MOCK_ACCESS_RW_WRITE), "write");
	CHECK_ERR(ENOENT, dma(0, &byte, 1, 0), "address 0");
	CHECK_ERR(ENOENT, dma(PAGE, &byte, 1, 0), "an IOVA");
	CHECK_ERR(ENOENT, dma(U64_MAX, &byte, 1, 0), "the last address");
	CHECK_ERR(EFAULT, dma(first, unmapped(), 1, 0), "a buffer that is not there");
	CHECK_ERR(EOPNOTSUPP, dma(first, &byte, 1, 2), "a flag");
	CHECK_ERR(ENOMEM, dma(first, &byte, MIB + 1, 0), "much");
	CHECK_OK(dma(0, &byte, 0, 0), "nothing");
	CHECK_OK(unmap_at(fd, ioas, PAGE, PAGE), "unmap it");
	CHECK_ERR(ENOENT, dma(second, &byte, 1, 0), "an address that was good before");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory + PAGE, PAGE, 7 * PAGE), "map it again");
	CHECK_OK(dma(second, &byte, 1, 0), "it is good again");
	unplug(fd, &device);
	NEED(close(fd) == 0);
}

int main(void)
{
	checks_begin();
	if (not_to_be_had())
		return checks_end();
	copies();
	mistakes();
	return checks_end();
}
