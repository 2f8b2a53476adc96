// SPDX-License-Identifier: MIT
/*
 * A device without an IOMMU, from the open of its group to an interrupt: what the device says of itself,
 * its configuration space, its BAR by pread and mapped, its reset, its interrupts; and the same when its
 * process has given CAP_SYS_RAWIO up.
 *
 *     noiommu_device ADDRESS       of an edu
 */
#include "groups.h"

#include <setjmp.h>
#include <signal.h>

#define NONE VFIO_IRQ_SET_DATA_NONE
#define BOOL VFIO_IRQ_SET_DATA_BOOL
#define TRIGGER VFIO_IRQ_SET_ACTION_TRIGGER
#define MASK VFIO_IRQ_SET_ACTION_MASK
#define UNMASK VFIO_IRQ_SET_ACTION_UNMASK
#define INTX VFIO_PCI_INTX_IRQ_INDEX
#define MSI VFIO_PCI_MSI_IRQ_INDEX
#define REQ VFIO_PCI_REQ_IRQ_INDEX

static int device;
static volatile uint8_t *bar;
static sigjmp_buf back;

static void bus_error(int number)
{
	siglongjmp(back, number);
}

static void infos(void)
{
	struct vfio_device_info info = { .argsz = sizeof(info) };
	uint32_t i;

	heading("what it has");
	SAY(call(device, VFIO_DEVICE_GET_INFO, &info), "GET_INFO");
	printf("flags %#x, %u regions, %u interrupts\n", info.flags, info.num_regions, info.num_irqs);
	for (i = 0; i <= info.num_regions; i++) {
		struct vfio_region_info region = { .argsz = sizeof(region), .index = i };

		SAY(call(device, VFIO_DEVICE_GET_REGION_INFO, &region), "region %u", i);
		printf("flags %#x, %#llx bytes at %#llx\n", region.flags, (unsigned long long)region.size,
		       (unsigned long long)region.offset);
	}
	for (i = 0; i <= info.num_irqs; i++) {
		struct vfio_irq_info irq = { .argsz = sizeof(irq), .index = i };

		SAY(call(device, VFIO_DEVICE_GET_IRQ_INFO, &irq), "interrupt %u", i);
		printf("flags %#x, %u of them\n", irq.flags, irq.count);
	}
}

/* What is not 0, but for the address of BAR 0 and the number of the interrupt, which the machine chose. */
static void config(void)
{
	uint64_t value;
	off_t at;

	heading("configuration space");
	put(device, CONFIG, 4, 2, 0x402);
	for (at = 0; at < 0x100; at += 4) {
		value = get(device, CONFIG, at, 4);
		if (value != 0 && at != 0x10 && at != 0x3c)
			printf("%#llx: %#lx\n", (long long)at, value);
	}
	put(device, CONFIG, 0x10, 4, ~0U);
	printf("BAR 0's size: %#lx\n", get(device, CONFIG, 0x10, 4));
	put(device, CONFIG, 0, 4, 0);
	SAY(device_identity(device), "its identity, overwritten");
	SAY(get(device, CONFIG, 0x3d, 1), "interrupt pin");
	put(device, CONFIG, 4, 2, 6);
	SAY(get(device, CONFIG, 4, 2), "memory and bus mastering");
}

static void registers(void)
{
	size_t size;

	heading("its BAR by pread and pwrite");
	for (size = 1; size <= 8; size *= 2)
		printf("identification, %zu: %#lx\n", size, get(device, BAR0, EDU_ID, size));
	put(device, BAR0, EDU_LIVENESS, 4, 0x12345678);
	printf("liveness: %#lx\n", get(device, BAR0, EDU_LIVENESS, 4));
	SAY(edu_factorial(device, 6), "factorial");
	SAY(told(pread(device, &size, 4, AT(BAR0, MIB))), "beyond it");
	SAY(told(pread(device, &size, 4, AT(1, 0))), "BAR 1");
}

static void load(const char *what)
{
	if (sigsetjmp(back, 1) == 0)
		printf("%s: %#x\n", what, *(volatile uint32_t *)(bar + EDU_ID));
	else
		printf("%s: SIGBUS\n", what);
}

static void mapped(void)
{
	heading("its BAR mapped");
	bar = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, device, AT(BAR0, 0));
	SAY(bar == MAP_FAILED ? -errno : 0, "mmap");
	NEED(bar != MAP_FAILED);
	load("identification");
	*(volatile uint32_t *)(bar + EDU_LIVENESS) = 0x55555555;
	printf("liveness: %#lx\n", get(device, BAR0, EDU_LIVENESS, 4));
	*(volatile uint32_t *)(bar + EDU_LIVENESS) &= 0xffff;
	printf("read, cut and written: %#lx\n", get(device, BAR0, EDU_LIVENESS, 4));
	put(device, CONFIG, 4, 2, 0);
	load("memory disabled");
	put(device, CONFIG, 4, 2, 6);
	load("memory enabled");
	munmap((void *)bar, MIB);
	SAY(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, device, AT(BAR0, MIB)) == MAP_FAILED ? -errno : 0, "mmap beyond it");
	SAY(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, device, AT(CONFIG, 0)) == MAP_FAILED ? -errno : 0,
	    "mmap of configuration space");
}

static void resets(void)
{
	struct vfio_pci_hot_reset_info info = { .argsz = sizeof(info) };
	struct vfio_pci_hot_reset hot = { .argsz = sizeof(hot) };

	heading("reset");
	put(device, BAR0, EDU_LIVENESS, 4, 1);
	SAY(call(device, VFIO_DEVICE_RESET, NULL), "RESET");
	printf("liveness: %#lx\n", get(device, BAR0, EDU_LIVENESS, 4));
	SAY(call(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info), "PCI_HOT_RESET_INFO");
	SAY(call(device, VFIO_DEVICE_PCI_HOT_RESET, &hot), "PCI_HOT_RESET");
}

static long none(uint32_t action, uint32_t index)
{
	return set_irqs(device, NONE | action, index, 0, 1, NULL, 0);
}

static void raise_one(int event)
{
	put(device, BAR0, EDU_RAISE, 4, 0x10);
	SAY(rings_soon(event), "raised: rings");
	SAY(get(device, BAR0, EDU_WHY, 4), "because of");
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 0x10);
	SAY(get(device, BAR0, EDU_WHY, 4), "acknowledged");
}

static void interrupts(void)
{
	int event = new_eventfd();
	uint8_t yes = 1;
	uint32_t i;

	heading("interrupts");
	for (i = 0; i <= VFIO_PCI_NUM_IRQS; i++) {
		SAY(none(TRIGGER, i), "interrupt %u: fired without an eventfd", i);
		SAY(trigger_by(device, i, 0, event), "an eventfd");
		SAY(none(TRIGGER, i), "fired");
		SAY(rings(event), "rings");
		SAY(set_irqs(device, BOOL | TRIGGER, i, 0, 1, &yes, 1), "fired by a byte");
		SAY(rings(event), "rings");
		SAY(none(MASK, i), "masked");
		SAY(none(UNMASK, i), "unmasked");
		SAY(trigger_by(device, i, 0, -1), "the eventfd taken away");
		SAY(set_irqs(device, NONE | TRIGGER, i, 0, 0, NULL, 0), "disabled");
	}
	SAY(trigger_by(device, INTX, 0, event), "INTx");
	raise_one(event);
	SAY(none(UNMASK, INTX), "unmasked");
	raise_one(event);
	SAY(trigger_by(device, MSI, 0, event), "MSI beside INTx");
	SAY(set_irqs(device, NONE | TRIGGER, INTX, 0, 0, NULL, 0), "INTx disabled");
	SAY(trigger_by(device, MSI, 0, event), "MSI");
	raise_one(event);
	raise_one(event);
	SAY(get(device, CONFIG, 0x42, 2) & 1, "MSI's control says that it is on");
	SAY(set_irqs(device, NONE | TRIGGER, MSI, 0, 0, NULL, 0), "MSI disabled");
	SAY(trigger_by(device, REQ, 0, event), "a request to give the device back");
	close(event);
}

static void all(void)
{
	infos();
	config();
	registers();
	mapped();
	resets();
	interrupts();
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = bus_error };
	const char *address;
	int group, container;

	checks_begin();
	NEED(argc > 1);
	address = argv[1];
	NEED(sigaction(SIGBUS, &action, NULL) == 0);
	container = open_container();
	group = open_to(group_of(address));
	heading("a group without an IOMMU");
	SAY(set_container(group, container), "SET_CONTAINER");
	SAY(set_iommu(container, VFIO_NOIOMMU_IOMMU), "SET_IOMMU");
	SAY(take_device(group, address, &device), "the device");
	all();
	heading("CAP_SYS_RAWIO is given up");
	NEED(capability(CAP_SYS_RAWIO, false) == 0);
	SAY(told(open(group_of(address), O_RDWR)), "open of the group");
	all();
	close(device);
	SAY(take_device(group, address, &device), "the device, taken anew");
	infos();
	close(device);
	close(group);
	SAY(told(open(group_of(address), O_RDWR)), "open of the group");
	NEED(capability(CAP_SYS_RAWIO, true) == 0);
	group = open(group_of(address), O_RDWR);
	SAY(group < 0 ? -errno : 0, "with it");
	return 0;
}
