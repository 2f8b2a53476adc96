/* SPDX-License-Identifier: MIT */
/*
 * A controller by way of VFIO: its device file, its registers, and the memory that it reaches.
 *
 * The memory is one stretch. It is mapped twice, below 4 GiB and above, so that both halves of an
 * address matter. Beside it there is a stretch that the device may only read, and one that is not
 * mapped. Registers are reached by mmap and by pread and pwrite, as the caller likes.
 */
#ifndef NVME_CONTROLLER_H
#define NVME_CONTROLLER_H

#include "../vfio/device.h"
#include "spec.h"

#include <sched.h>
#include <time.h>

#ifndef MEMORY /* bytes; who has no privilege may pin 8 MiB, and this is mapped twice */
#define MEMORY (1 * MIB)
#endif
#define MOST_PAGE (64UL << 10)
#define LOW 0x10000000UL /* IOVAs */
#define HIGH 0x200000000UL
#define READ_ONLY 0x40000000UL
#define NOWHERE 0x50000000UL
#define READ_ONLY_SIZE (64UL << 10)
#define MOST_VECTORS 8
#define PATIENCE 30 /* seconds */

static int device, iommufd;
static uint8_t *memory, *read_only_memory;
static volatile uint8_t *bar; /* NULL: it cannot be mapped */
static bool mapped;	      /* registers are reached there */
static uint64_t cap;
static uint32_t page_size, vectors, configuration;
static int events[MOST_VECTORS];

static inline uint64_t iova_of(const void *at, bool high)
{
	return (high ? HIGH : LOW) + (uint64_t)((const uint8_t *)at - memory);
}

static inline double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static inline uint32_t load4(off_t at)
{
	return mapped ? *(volatile uint32_t *)(bar + at) : (uint32_t)get(device, BAR0, at, 4);
}

static inline void store4(off_t at, uint32_t value)
{
	if (mapped)
		*(volatile uint32_t *)(bar + at) = value;
	else
		put(device, BAR0, at, 4, value);
}

static inline uint64_t load8(off_t at)
{
	return load4(at) | (uint64_t)load4(at + 4) << 32;
}

static inline void store8(off_t at, uint64_t value)
{
	store4(at, (uint32_t)value);
	store4(at + 4, (uint32_t)(value >> 32));
}

static inline void map_registers(void)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = BAR0 };
	void *at;

	NEED(call(device, VFIO_DEVICE_GET_REGION_INFO, &info) == 0);
	if (!(info.flags & VFIO_REGION_INFO_FLAG_MMAP))
		return;
	at = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED, device, AT(BAR0, 0));
	NEED(at != MAP_FAILED);
	bar = at;
	mapped = true;
}

/* Eventfds for as many MSI-X vectors as there are, and as we use. */
static inline void set_up_vectors(void)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = VFIO_PCI_MSIX_IRQ_INDEX };
	uint32_t i;

	NEED(call(device, VFIO_DEVICE_GET_IRQ_INFO, &info) == 0);
	vectors = info.count < MOST_VECTORS ? info.count : MOST_VECTORS;
	for (i = 0; i < vectors; i++)
		if (!events[i])
			events[i] = new_eventfd();
	NEED(set_irqs(device, VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_MSIX_IRQ_INDEX, 0, vectors,
		      events, vectors * 4) == 0);
}

/* Opens DEVICE, behind IOMMU; memory is mapped, nothing is enabled. */
static inline void open_controller(void)
{
	uint64_t there = READ_ONLY;
	uint32_t ioas;

	device = bound(&iommufd);
	memory = mmap(NULL, MEMORY + MOST_PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	read_only_memory = mmap(NULL, READ_ONLY_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(memory != MAP_FAILED && read_only_memory != MAP_FAILED);
	memory += -(uintptr_t)memory % MOST_PAGE; /* a page of the controller's begins where one of ours does */
	ioas = new_ioas(iommufd);
	NEED(attach(device, ioas) == 0);
	NEED(map_at(iommufd, ioas, (uintptr_t)memory, MEMORY, LOW) == 0);
	NEED(map_at(iommufd, ioas, (uintptr_t)memory, MEMORY, HIGH) == 0);
	NEED(map_flags(iommufd, ioas, FIXED | R, (uintptr_t)read_only_memory, READ_ONLY_SIZE, &there) == 0);
	enable(device, true);
	map_registers();
	set_up_vectors();
	cap = load8(REG_CAP);
	NEED(CAP_DSTRD(cap) == 0);
}

/* Waits until CSTS has these bits under this mask: 0, or -1 when that takes too long. */
static inline int wait_status(uint32_t mask, uint32_t wanted)
{
	double end = now() + PATIENCE;

	while ((load4(REG_CSTS) & mask) != wanted) {
		if (now() > end)
			return -1;
		sched_yield();
	}
	return 0;
}

/* CC.EN to 0; what CSTS says then, or -1. */
static inline long disable_controller(void)
{
	configuration &= ~(CC_EN | CC_SHN);
	store4(REG_CC, configuration);
	return wait_status(CSTS_RDY, 0) ? -1 : (long)load4(REG_CSTS);
}

/* `pages`: the shift of CC.MPS. -1: it does not become ready. */
static inline long enable_controller(uint32_t pages, uint64_t sq, uint32_t sq_size, uint64_t cq, uint32_t cq_size)
{
	page_size = 4096U << pages;
	store4(REG_AQA, (cq_size - 1) << 16 | (sq_size - 1));
	store8(REG_ASQ, sq);
	store8(REG_ACQ, cq);
	configuration = CC_ENTRIES | CC_MPS(pages) | CC_EN;
	store4(REG_CC, configuration);
	return wait_status(CSTS_RDY | CSTS_CFS, CSTS_RDY) ? -1 : (long)load4(REG_CSTS);
}

/* CSTS when it has shut down, or -1. */
static inline long shut_down(bool abrupt)
{
	configuration = (configuration & ~CC_SHN) | (abrupt ? CC_SHN_ABRUPT : CC_SHN_NORMAL);
	store4(REG_CC, configuration);
	return wait_status(CSTS_SHST, CSTS_SHST_DONE) ? -1 : (long)load4(REG_CSTS);
}

/* VFIO's reset; the client's registers of PCI and interrupts are set up again. */
static inline void reset_function(void)
{
	NEED(ioctl(device, VFIO_DEVICE_RESET) == 0);
	enable(device, true);
	configuration = 0;
}

#endif
