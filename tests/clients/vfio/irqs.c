// SPDX-License-Identifier: MIT
/* SET_IRQS: its checks, and what each action does: INTx, MSI, MSI-X (which edu has not), ERR and REQ. */
#include "device.h"

#define NONE VFIO_IRQ_SET_DATA_NONE
#define BOOL VFIO_IRQ_SET_DATA_BOOL
#define EVENT VFIO_IRQ_SET_DATA_EVENTFD
#define MASK VFIO_IRQ_SET_ACTION_MASK
#define UNMASK VFIO_IRQ_SET_ACTION_UNMASK
#define TRIGGER VFIO_IRQ_SET_ACTION_TRIGGER
#define INTX VFIO_PCI_INTX_IRQ_INDEX
#define MSI VFIO_PCI_MSI_IRQ_INDEX
#define MSIX VFIO_PCI_MSIX_IRQ_INDEX
#define ERR VFIO_PCI_ERR_IRQ_INDEX
#define REQ VFIO_PCI_REQ_IRQ_INDEX

static const char *const names[] = { "INTx", "MSI", "MSI-X", "ERR", "REQ", "index 5" };
static int device, iommufd;

static long none(uint32_t action, uint32_t index, uint32_t start, uint32_t count)
{
	return set_irqs(device, NONE | action, index, start, count, NULL, 0);
}

static long boolean(uint32_t action, uint32_t index, uint8_t value)
{
	return set_irqs(device, BOOL | action, index, 0, 1, &value, 1);
}

static long event(uint32_t action, uint32_t index, int fd)
{
	return set_irqs(device, EVENT | action, index, 0, 1, &fd, sizeof(fd));
}

static long raw(uint32_t argsz, uint32_t flags, uint32_t index, uint32_t start, uint32_t count)
{
	struct {
		struct vfio_irq_set set;
		uint8_t data[64];
	} cmd = { .set = { .argsz = argsz, .flags = flags, .index = index, .start = start, .count = count } };

	memset(cmd.data, 0xff, sizeof(cmd.data));
	return call(device, VFIO_DEVICE_SET_IRQS, &cmd);
}

static void checks_of_all(void)
{
	uint32_t index, data, action, argsz[] = { 0, 19, 20, 21, 23, 24, ~0U }, i;
	char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct vfio_irq_set set = { .argsz = 24, .flags = EVENT | TRIGGER, .index = INTX, .count = 1 };

	heading("checks");
	NEED(page != MAP_FAILED && munmap(page + PAGE, PAGE) == 0);
	SAY(call(device, VFIO_DEVICE_SET_IRQS, NULL), "NULL");
	memcpy(page + PAGE - 20, &set, 20);
	SAY(call(device, VFIO_DEVICE_SET_IRQS, page + PAGE - 20), "data beyond the page");
	SAY(call(device, VFIO_DEVICE_SET_IRQS, page + PAGE - 16), "a struct beyond the page");
	for (i = 0; i < ARRAY_LEN(argsz); i++) {
		SAY(raw(argsz[i], NONE | MASK, INTX, 0, 1), "none, argsz %d", (int)argsz[i]);
		SAY(raw(argsz[i], BOOL | MASK, INTX, 0, 1), "bool, argsz %d", (int)argsz[i]);
		SAY(raw(argsz[i], EVENT | MASK, INTX, 0, 1), "eventfd, argsz %d", (int)argsz[i]);
	}
	/* every index, every kind of data (and none, and two), every action (and none, and two) */
	for (index = 0; index <= VFIO_PCI_NUM_IRQS; index++)
		for (data = 0; data < 8; data++)
			for (action = 0; action < 64; action += 8) {
				SAY(raw(24, data | action, index, 0, 1), "%s, flags %#x", names[index],
				    data | action);
				none(TRIGGER, index, 0, 0);
			}
	SAY(raw(24, NONE | MASK | 64, INTX, 0, 1), "an unknown flag");
	SAY(raw(24, ~0U, INTX, 0, 1), "all flags");
	for (index = 0; index <= VFIO_PCI_NUM_IRQS; index++) {
		SAY(raw(24, NONE | TRIGGER, index, 0, 0), "%s, 0+0", names[index]);
		SAY(raw(24, NONE | TRIGGER, index, 1, 0), "%s, 1+0", names[index]);
		SAY(raw(24, NONE | TRIGGER, index, 0, 2), "%s, 0+2", names[index]);
		SAY(raw(24, NONE | TRIGGER, index, 1, 1), "%s, 1+1", names[index]);
		SAY(raw(24, NONE | TRIGGER, index, ~0U, 0), "%s, -1+0", names[index]);
		SAY(raw(24, NONE | TRIGGER, index, ~0U, 1), "%s, -1+1", names[index]);
		SAY(raw(24, NONE | TRIGGER, index, 0, ~0U), "%s, 0+-1", names[index]);
		SAY(raw(24, NONE | TRIGGER, index, 2, ~0U - 1), "%s, 2+-2", names[index]);
	}
	SAY(raw(24, NONE | TRIGGER, ~0U, 0, 0), "index -1");
	munmap(page, PAGE);
}

static void descriptors(uint32_t index)
{
	int pipes[2], null = open("/dev/null", O_RDWR), path = open("/dev/null", O_PATH), event_fd = new_eventfd();

	printf("# %s: descriptors\n", names[index]);
	NEED(pipe(pipes) == 0);
	SAY(event(TRIGGER, index, 999), "no such descriptor");
	SAY(event(TRIGGER, index, null), "/dev/null");
	SAY(event(TRIGGER, index, pipes[0]), "a pipe");
	SAY(event(TRIGGER, index, device), "the device");
	SAY(event(TRIGGER, index, iommufd), "the IOMMU");
	SAY(event(TRIGGER, index, path), "O_PATH");
	SAY(event(TRIGGER, index, -2), "-2");
	SAY(none(TRIGGER, index, 0, 0), "off");
	SAY(event(TRIGGER, index, -1), "-1");
	SAY(none(TRIGGER, index, 0, 0), "off");
	SAY(event(TRIGGER, index, INT_MIN), "INT_MIN");
	SAY(none(TRIGGER, index, 0, 0), "off");
	SAY(event(TRIGGER, index, event_fd), "an eventfd");
	SAY(event(TRIGGER, index, 999), "then no such descriptor");
	SAY(none(TRIGGER, index, 0, 1), "fire");
	SAY(rings(event_fd), "rings");
	SAY(event(TRIGGER, index, event_fd), "an eventfd");
	SAY(event(TRIGGER, index, null), "then /dev/null");
	SAY(none(TRIGGER, index, 0, 1), "fire");
	SAY(rings(event_fd), "rings");
	SAY(event(TRIGGER, index, event_fd), "an eventfd");
	SAY(event(TRIGGER, index, event_fd), "the same once more");
	SAY(none(TRIGGER, index, 0, 1), "fire");
	SAY(rings(event_fd), "rings");
	SAY(boolean(TRIGGER, index, 1), "fire by bool");
	SAY(rings(event_fd), "rings");
	SAY(boolean(TRIGGER, index, 0), "not, by bool");
	SAY(rings(event_fd), "rings");
	SAY(boolean(TRIGGER, index, 0x80), "fire by another bool");
	SAY(rings(event_fd), "rings");
	SAY(event(TRIGGER, index, -1), "-1");
	SAY(none(TRIGGER, index, 0, 1), "fire");
	SAY(rings(event_fd), "rings");
	SAY(none(TRIGGER, index, 0, 0), "off");
	SAY(none(TRIGGER, index, 0, 0), "off once more");
	SAY(none(TRIGGER, index, 0, 1), "fire");
	SAY(event(TRIGGER, index, event_fd), "an eventfd");
	close(event_fd);
	SAY(none(TRIGGER, index, 0, 1), "fire what we have closed");
	SAY(none(TRIGGER, index, 0, 0), "off");
	close(null);
	close(path);
	close(pipes[0]);
	close(pipes[1]);
}

static void kinds(void)
{
	int one = new_eventfd(), two = new_eventfd();
	uint32_t index;

	heading("one kind at a time");
	SAY(event(TRIGGER, INTX, one), "INTx");
	SAY(event(TRIGGER, MSI, two), "MSI beside it");
	SAY(none(TRIGGER, MSI, 0, 1), "fire MSI");
	SAY(none(TRIGGER, MSI, 0, 0), "MSI off");
	for (index = ERR; index <= REQ; index++)
		SAY(event(TRIGGER, index, two), "%s beside it", names[index]);
	SAY(none(TRIGGER, INTX, 0, 1), "fire INTx");
	SAY(rings(one), "rings");
	SAY(none(TRIGGER, INTX, 0, 0), "INTx off");
	SAY(event(TRIGGER, MSI, two), "MSI");
	SAY(event(TRIGGER, INTX, one), "INTx beside it");
	SAY(none(TRIGGER, INTX, 0, 0), "INTx off");
	SAY(none(MASK, INTX, 0, 1), "mask INTx");
	SAY(none(UNMASK, INTX, 0, 1), "unmask INTx");
	SAY(none(MASK, MSI, 0, 1), "mask MSI");
	SAY(none(UNMASK, MSI, 0, 1), "unmask MSI");
	SAY(none(TRIGGER, MSI, 0, 0), "MSI off");
	SAY(none(TRIGGER, ERR, 0, 1), "fire ERR");
	SAY(none(TRIGGER, REQ, 0, 1), "fire REQ");
	SAY(rings(two), "rings");
	SAY(none(TRIGGER, ERR, 0, 0), "ERR off");
	SAY(none(TRIGGER, REQ, 0, 0), "REQ off");
	close(one);
	close(two);
}

static void line(void)
{
	int rung = new_eventfd(), unmask = new_eventfd(), other = new_eventfd();
	uint64_t ring = 1;

	heading("INTx of the device");
	enable(device, false);
	SAY(event(TRIGGER, INTX, rung), "on");
	put(device, BAR0, EDU_RAISE, 4, 1);
	SAY(rings_soon(rung), "raised: rings");
	SAY((long)get(device, CONFIG, 6, 2) & 8, "the status says so");
	SAY((long)get(device, CONFIG, 4, 2) & 0x400, "the command register does not show that it is masked");
	put(device, BAR0, EDU_RAISE, 4, 2);
	SAY(rings(rung), "raised again while it is masked: rings");
	SAY(none(UNMASK, INTX, 0, 1), "unmask while it is up");
	SAY(rings_soon(rung), "rings");
	SAY(boolean(UNMASK, INTX, 0), "unmask with 0");
	SAY(rings(rung), "rings");
	SAY(boolean(UNMASK, INTX, 1), "unmask with 1");
	SAY(rings_soon(rung), "rings");
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 3);
	SAY((long)get(device, BAR0, EDU_WHY, 4), "acknowledged");
	SAY((long)get(device, CONFIG, 6, 2) & 8, "the status says so");
	SAY(none(UNMASK, INTX, 0, 1), "unmask when it is down");
	SAY(rings(rung), "rings");
	SAY(none(MASK, INTX, 0, 1), "mask");
	put(device, BAR0, EDU_RAISE, 4, 4);
	SAY(rings(rung), "raised while it is masked: rings");
	SAY(boolean(MASK, INTX, 0), "mask with 0");
	SAY(boolean(MASK, INTX, 1), "mask with 1");
	SAY(event(MASK, INTX, unmask), "mask by eventfd");
	SAY(event(UNMASK, INTX, unmask), "unmask by eventfd");
	SAY(event(UNMASK, INTX, unmask), "once more");
	SAY(event(UNMASK, INTX, 999), "by no descriptor");
	NEED(write(unmask, &ring, 8) == 8);
	SAY(rings_soon(rung), "unmasked so: rings");
	SAY(rings(unmask), "the eventfd was read");
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 4);
	NEED(write(unmask, &ring, 8) == 8);
	put(device, BAR0, EDU_RAISE, 4, 8);
	SAY(rings_soon(rung), "down, unmasked, raised: rings");
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 8);
	SAY(event(UNMASK, INTX, -1), "unmask by eventfd no more");
	SAY(event(UNMASK, INTX, -1), "once more");
	put(device, BAR0, EDU_RAISE, 4, 8);
	NEED(write(unmask, &ring, 8) == 8);
	SAY(rings(rung), "rings");
	SAY(rings(unmask), "the eventfd is ours");
	SAY(event(TRIGGER, INTX, other), "another eventfd");
	SAY(none(UNMASK, INTX, 0, 1), "unmask while it is up");
	SAY(rings_soon(other), "it rings");
	SAY(rings(rung), "the first does not");
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 8);
	SAY(none(UNMASK, INTX, 0, 1), "unmask");

	heading("INTx disabled in the command register");
	put(device, CONFIG, 4, 2, 0x402);
	SAY((long)get(device, CONFIG, 4, 2) & 0x402, "command");
	put(device, BAR0, EDU_RAISE, 4, 8);
	SAY(rings(other), "raised: rings");
	SAY(none(TRIGGER, INTX, 0, 1), "fire");
	SAY(rings(other), "rings");
	SAY(none(UNMASK, INTX, 0, 1), "unmask");
	SAY(rings(other), "rings");
	put(device, CONFIG, 4, 2, 2);
	SAY(rings_soon(other), "enabled: rings");
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 8);
	SAY(none(UNMASK, INTX, 0, 1), "unmask");
	put(device, CONFIG, 4, 2, 0x402);
	SAY(none(TRIGGER, INTX, 0, 0), "off");
	SAY(event(TRIGGER, INTX, rung), "on while it is disabled");
	put(device, BAR0, EDU_RAISE, 4, 1);
	SAY(rings(rung), "raised: rings");
	put(device, CONFIG, 4, 2, 2);
	SAY(rings_soon(rung), "enabled: rings");
	SAY(event(TRIGGER, INTX, -1), "no eventfd");
	SAY(none(UNMASK, INTX, 0, 1), "unmask");
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 1);
	SAY(none(TRIGGER, INTX, 0, 0), "off");
	SAY(rings(rung) + rings(other), "rings");
	close(rung);
	close(unmask);
	close(other);
}

static void message(void)
{
	int rung = new_eventfd(), blocking = eventfd(0, EFD_CLOEXEC), full = new_eventfd();
	uint64_t most = UINT64_MAX - 1;
	uint32_t i;

	heading("MSI of the device");
	enable(device, true);
	SAY((long)get(device, CONFIG, 0x42, 2) & 1, "MSI is off in its capability");
	SAY(event(TRIGGER, MSI, rung), "on");
	SAY((long)get(device, CONFIG, 0x42, 2) & 1, "and not shown as on");
	for (i = 0; i < 5; i++)
		put(device, BAR0, EDU_RAISE, 4, 1);
	SAY(rings_soon(rung) > 0, "raised: rings");
	SAY((long)get(device, BAR0, EDU_WHY, 4), "why");
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 1);
	SAY(edu_factorial(device, 10), "10!");
	SAY(rings(rung), "rings");
	put(device, BAR0, EDU_STATUS, 4, 0x80);
	SAY(edu_factorial(device, 5), "5!, with an interrupt");
	SAY(rings_soon(rung), "rings");
	SAY((long)get(device, BAR0, EDU_WHY, 4), "why");
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 1);
	put(device, BAR0, EDU_STATUS, 4, 0);
	enable(device, false);
	put(device, BAR0, EDU_RAISE, 4, 1);
	SAY(rings(rung), "no bus master: rings");
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 1);
	enable(device, true);
	SAY(event(TRIGGER, MSI, -1), "no eventfd");
	put(device, BAR0, EDU_RAISE, 4, 1);
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 1);
	SAY(rings(rung), "rings");
	SAY(event(TRIGGER, MSI, rung), "an eventfd again");
	put(device, BAR0, EDU_RAISE, 4, 1);
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 1);
	SAY(rings_soon(rung), "raised: rings");
	SAY(none(TRIGGER, MSI, 0, 0), "off");
	put(device, BAR0, EDU_RAISE, 4, 1);
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, 1);
	SAY(rings(rung), "rings");

	heading("eventfds of all kinds");
	NEED(write(full, &most, 8) == 8);
	SAY(event(TRIGGER, MSI, full), "one that is full");
	SAY(none(TRIGGER, MSI, 0, 1), "fire");
	SAY(rings(full) != 0, "it does not wait");
	SAY(event(TRIGGER, MSI, blocking), "one that blocks");
	SAY(none(TRIGGER, MSI, 0, 1), "fire");
	SAY(rings(blocking), "rings");
	NEED(write(blocking, &most, 8) == 8);
	SAY(none(TRIGGER, MSI, 0, 1), "fire when it is full");
	SAY(rings(blocking) != 0, "it does not wait");
	SAY(none(TRIGGER, MSI, 0, 0), "off");
	close(rung);
	close(blocking);
	close(full);
}

static void closed(void)
{
	int rung = new_eventfd();

	heading("when the device is closed");
	SAY(event(TRIGGER, MSI, rung), "MSI");
	SAY(event(TRIGGER, ERR, rung), "ERR");
	close(device);
	close(iommufd);
	SAY(rings(rung), "closed: rings");
	device = bound(&iommufd);
	SAY(none(TRIGGER, MSI, 0, 1), "fire MSI");
	SAY(none(TRIGGER, ERR, 0, 1), "fire ERR");
	SAY(rings(rung), "rings");
	close(rung);
}

int main(int argc, char **argv)
{
	uint32_t index;

	begin(argc, argv);
	device = bound(&iommufd);
	checks_of_all();
	close(device);
	close(iommufd);
	device = bound(&iommufd);
	for (index = INTX; index <= REQ; index++)
		if (index != MSIX)
			descriptors(index);
	kinds();
	line();
	message();
	closed();
	return 0;
}
