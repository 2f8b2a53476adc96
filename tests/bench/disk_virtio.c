// SPDX-License-Identifier: MIT
/*
 * The client of the benchmark that reads and writes a virtio-blk disk (disk.h): virtio 1.2, one split
 * ring, with event indexes. It polls for what was used.
 */
#define _GNU_SOURCE
#include "../clients/vfio/device.h"

#include <sched.h>
#include <time.h>

#include "disk.h"

#define MEMORY (2 * MIB)
#define IOVA 0x10000000UL
#define ENTRIES 128U /* three of a request */
#define AVAILABLE (memory + 4096)
#define USED (memory + 8192)
#define HEADERS (memory + 12288)
#define DATA (memory + 65536)
#define ROOM (MEMORY - 65536)
#define CONFIG_ROOM 256

enum { COMMON = 1, NOTIFY = 2 };	      /* capabilities */
enum { NEXT = 1, WRITES = 2 };		      /* of a descriptor */
enum { FEATURE_EVENT_IDX = 29, VERSION_1 = 32, ACCESS_PLATFORM = 33 };

struct descriptor {
	uint64_t iova;
	uint32_t length;
	uint16_t flags, next;
};

struct header {
	uint32_t type, unused;
	uint64_t sector;
};

static int device;
static uint8_t *memory;
static volatile uint8_t *bar;
static uint32_t common, notify;
static uint16_t available, seen; /* indexes */

static uint64_t iova_of(const void *at)
{
	return IOVA + (uint64_t)((const uint8_t *)at - memory);
}

static void find_registers(void)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = 0 };
	uint8_t at = (uint8_t)get(device, VFIO_PCI_CONFIG_REGION_INDEX, 0x34, 1);

	for (; at; at = (uint8_t)get(device, VFIO_PCI_CONFIG_REGION_INDEX, at + 1, 1)) {
		uint32_t offset = (uint32_t)get(device, VFIO_PCI_CONFIG_REGION_INDEX, at + 8, 4);

		if (get(device, VFIO_PCI_CONFIG_REGION_INDEX, at, 1) != 9)
			continue;
		switch (get(device, VFIO_PCI_CONFIG_REGION_INDEX, at + 3, 1)) {
		case COMMON:
			common = offset;
			break;
		case NOTIFY:
			notify = offset;
		}
	}
	NEED(call(device, VFIO_DEVICE_GET_REGION_INFO, &info) == 0);
	bar = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, (off_t)info.offset);
	NEED(bar != MAP_FAILED);
}

static void set4(uint32_t offset, uint32_t value)
{
	*(volatile uint32_t *)(bar + common + offset) = value;
}

static void set2(uint32_t offset, uint16_t value)
{
	*(volatile uint16_t *)(bar + common + offset) = value;
}

static void set8(uint32_t offset, const void *at)
{
	set4(offset, (uint32_t)iova_of(at));
	set4(offset + 4, (uint32_t)(iova_of(at) >> 32));
}

static void begin_ring(void)
{
	bar[common + 20] = 0;
	bar[common + 20] = 1 | 2;
	set4(8, 0);
	set4(12, 1U << FEATURE_EVENT_IDX);
	set4(8, 1);
	set4(12, 1U << (VERSION_1 - 32) | 1U << (ACCESS_PLATFORM - 32));
	bar[common + 20] = 1 | 2 | 8;
	NEED(bar[common + 20] == (1 | 2 | 8));
	set2(22, 0);
	set2(24, ENTRIES);
	set8(32, memory);
	set8(40, AVAILABLE);
	set8(48, USED);
	set2(28, 1);
	bar[common + 20] = 1 | 2 | 8 | 4;
}

static void put_request(uint32_t slot, const struct order *order, uint64_t position)
{
	struct header *header = (struct header *)HEADERS + slot;
	struct descriptor *descriptor = (struct descriptor *)memory + 3 * slot;
	uint8_t *status = HEADERS + 4096 + slot, *data = DATA + slot % (ROOM / order->size) * order->size;
	uint16_t first = (uint16_t)(3 * slot);

	*header = (struct header){ order->write, 0, position / SECTOR };
	descriptor[0] = (struct descriptor){ iova_of(header), sizeof(*header), NEXT, (uint16_t)(first + 1) };
	descriptor[1] = (struct descriptor){ iova_of(data), order->size, NEXT | (order->write ? 0 : WRITES), (uint16_t)(first + 2) };
	descriptor[2] = (struct descriptor){ iova_of(status), 1, WRITES, 0 };
	((uint16_t *)AVAILABLE)[2 + available++ % ENTRIES] = first;
}

/* Tells the device of requests since `before`, if it wants to know. */
static void publish(uint16_t before)
{
	volatile uint16_t *wished = (volatile uint16_t *)(USED + 4 + 8 * ENTRIES);

	__sync_synchronize();
	((volatile uint16_t *)AVAILABLE)[1] = available;
	__sync_synchronize();
	if ((uint16_t)(available - *wished - 1) < (uint16_t)(available - before))
		*(volatile uint16_t *)(bar + notify) = 0;
}

static uint64_t by_device(const struct order *order, uint32_t depth)
{
	volatile uint16_t *used = (volatile uint16_t *)USED;
	uint64_t begin = nanoseconds(), sent = 0, done = 0;
	uint32_t i;

	for (i = 0; i < depth && sent < order->count; i++)
		put_request(i, order, place(sent++, order->size));
	publish((uint16_t)(available - i));
	while (done < order->count) {
		uint16_t before = available;

		if (used[1] == seen) {
			sched_yield();
			continue;
		}
		__sync_synchronize();
		for (; seen != used[1]; seen++, done++) {
			uint32_t slot = *(volatile uint32_t *)(USED + 4 + 8 * (seen % ENTRIES)) / 3;

			NEED(HEADERS[4096 + slot] == 0);
			if (sent < order->count)
				put_request(slot, order, place(sent++, order->size));
		}
		if (available != before)
			publish(before);
	}
	return nanoseconds() - begin;
}

int main(int argc, char **argv)
{
	uint32_t ioas;
	int iommufd;

	if (argc != 4) {
		fprintf(stderr, "usage: disk_virtio IOMMU DEVICE FILE\n");
		return 2;
	}
	iommu_path = argv[1];
	device_path = argv[2];
	setvbuf(stdout, NULL, _IOLBF, 0);
	device = bound(&iommufd);
	memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(memory != MAP_FAILED);
	ioas = new_ioas(iommufd);
	NEED(attach(device, ioas) == 0);
	NEED(map_at(iommufd, ioas, (uintptr_t)memory, MEMORY, IOVA) == 0);
	enable(device, true);
	find_registers();
	begin_ring();
	return answer(argv[3], DATA, by_device);
}
