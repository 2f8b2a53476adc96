// SPDX-License-Identifier: MIT
/* edu's registers, its interrupts, and its DMA: what goes well, and what a fault leaves. */
#include "device.h"

#define HERE 0x100000UL	/* IOVAs: two pages of memory, and one that may only be read */
#define READ_ONLY 0x200000UL
#define NOWHERE 0x300000UL

static int device, iommufd;
static uint8_t *memory;

static void registers(void)
{
	static const uint32_t numbers[] = { 0, 1, 2, 5, 12, 13, 20, 33, 34, 35, 1000 };
	static const off_t places[] = { 0x00, 0x04, 0x08, 0x0c, 0x10, 0x20, 0x24, 0x28, 0x60, 0x64, 0x7c, 0x80, 0x84,
					0x88, 0x8c, 0x90, 0x98, 0x9c, 0xa0, 0xf8, 0x1000, 0x40000, 0xffff8 };
	size_t size;
	unsigned int i;

	heading("registers");
	printf("identification: %#lx\n", get(device, BAR0, EDU_ID, 4));
	put(device, BAR0, EDU_ID, 4, 0x12345678);
	printf("written: %#lx\n", get(device, BAR0, EDU_ID, 4));
	put(device, BAR0, EDU_LIVENESS, 4, 0x0f1e2d3c);
	printf("liveness: %#lx\n", get(device, BAR0, EDU_LIVENESS, 4));
	for (i = 0; i < ARRAY_LEN(numbers); i++)
		printf("%u! is %#x\n", numbers[i], edu_factorial(device, numbers[i]));
	put(device, BAR0, EDU_STATUS, 4, ~0U);
	printf("status of all ones: %#lx\n", get(device, BAR0, EDU_STATUS, 4));
	put(device, BAR0, EDU_STATUS, 4, 0x7f);
	printf("status of others: %#lx\n", get(device, BAR0, EDU_STATUS, 4));
	put(device, BAR0, EDU_SOURCE, 8, 0x1122334455667788);
	printf("source: %#lx, its half: %#lx, the other: %#lx\n", get(device, BAR0, EDU_SOURCE, 8),
	       get(device, BAR0, EDU_SOURCE, 4), get(device, BAR0, EDU_SOURCE + 4, 4));
	put(device, BAR0, EDU_SOURCE, 4, 0xaabbccdd);
	printf("4 bytes are all of it: %#lx\n", get(device, BAR0, EDU_SOURCE, 8));
	put(device, BAR0, EDU_SOURCE + 4, 4, 0x01020304);
	printf("its other half is nothing: %#lx\n", get(device, BAR0, EDU_SOURCE, 8));
	put(device, BAR0, EDU_COMMAND, 8, 6);
	printf("a command that starts nothing: %#lx\n", get(device, BAR0, EDU_COMMAND, 8));
	for (i = 0; i < ARRAY_LEN(places); i++)
		for (size = 1; size <= 8; size *= 2)
			printf("%#lx+%zu: %#lx\n", places[i], size, get(device, BAR0, places[i], size));
	for (i = 0; i < ARRAY_LEN(places); i++)	/* which are not dropped */
		for (size = 1; size <= 2; size *= 2)
			put(device, BAR0, places[i], size, 0x55);
	put(device, BAR0, EDU_LIVENESS, 8, 0x55);
	put(device, BAR0, EDU_RAISE, 8, 0x55);
	while (get(device, BAR0, EDU_STATUS, 4) & 1)	/* it computes a factorial of one of them */
		;
	printf("after small writes, and long ones to short registers: %#lx %#lx %#lx %#lx %#lx\n",
	       get(device, BAR0, EDU_LIVENESS, 4), get(device, BAR0, EDU_STATUS, 4), get(device, BAR0, EDU_WHY, 4),
	       get(device, BAR0, EDU_SOURCE, 8), get(device, BAR0, EDU_DESTINATION, 8));
}

static void acknowledge(void)
{
	put(device, BAR0, EDU_ACKNOWLEDGE, 4, ~0U);
}

static unsigned int status(void)
{
	return (unsigned int)get(device, CONFIG, 6, 2) & 8;
}

static void unmask(void)
{
	NEED(set_irqs(device, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, 0, 0, 1, NULL, 0) == 0);
}

/* How often the eventfd was signalled, and what the device says afterwards. */
static void came(const char *what, long count)
{
	unsigned long why = get(device, BAR0, EDU_WHY, 4);

	printf("%s: %ld, why %#lx, status %#x\n", what, count, why, status());
}

static void interrupts(void)
{
	static const char *const names[] = { "INTx", "MSI" };
	int index, fd = new_eventfd();

	for (index = 0; index < 2; index++) {
		printf("# %s\n", names[index]);
		acknowledge();
		NEED(trigger_by(device, (uint32_t)index, 0, fd) == 0);
		put(device, BAR0, EDU_RAISE, 4, 0);
		came("nothing raised", rings(fd));
		put(device, BAR0, EDU_RAISE, 4, 0x6);
		came("raised", rings_soon(fd));
		put(device, BAR0, EDU_ACKNOWLEDGE, 4, 0x2);
		came("a part acknowledged", rings(fd));
		if (index == 0) {
			unmask();
			came("unmasked", rings_soon(fd));
		}
		put(device, BAR0, EDU_ACKNOWLEDGE, 4, 0x4);
		came("all acknowledged", rings(fd));
		if (index == 0) {
			unmask();
			came("unmasked", rings(fd));
		}
		put(device, BAR0, EDU_STATUS, 4, 0x80);
		put(device, BAR0, EDU_FACTORIAL, 4, 6);
		came("a factorial", rings_soon(fd));
		printf("it is %lu\n", get(device, BAR0, EDU_FACTORIAL, 4));
		put(device, BAR0, EDU_STATUS, 4, 0);
		acknowledge();
		if (index == 0)
			unmask();
		NEED(edu_factorial(device, 7) == 5040);
		came("one that says nothing", rings(fd));
		edu_dma(device, HERE, EDU_BUFFER, 8, EDU_INTERRUPT);
		came("a transfer", rings_soon(fd));
		acknowledge();
		NEED(set_irqs(device, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, (uint32_t)index, 0, 0, NULL,
			      0) == 0);
	}
	heading("MSI without bus mastering");
	NEED(trigger_by(device, VFIO_PCI_MSI_IRQ_INDEX, 0, fd) == 0);
	enable(device, false);
	put(device, BAR0, EDU_RAISE, 4, 1);
	usleep(50000);
	enable(device, true);
	usleep(50000);
	printf("it was lost: %ld\n", rings(fd));
	acknowledge();
	put(device, BAR0, EDU_RAISE, 4, 1);
	printf("the next one: %ld\n", rings_soon(fd));
	acknowledge();
	close(fd);
}

/* What is in the device's buffer: by way of memory. */
static void buffer(const char *what)
{
	unsigned int i;

	memset(memory + PAGE, 0xee, 32);
	edu_dma(device, EDU_BUFFER, HERE + PAGE, 24, EDU_TO_MEMORY);
	printf("%s:", what);
	for (i = 0; i < 28; i++)
		printf(" %02x", memory[PAGE + i]);
	printf("\n");
}

static void transfers(void)
{
	unsigned int i;

	heading("transfers");
	for (i = 0; i < PAGE; i++)
		memory[i] = (uint8_t)(i * 7 + 1);
	edu_dma(device, HERE, EDU_BUFFER, 24, 0);
	buffer("24 bytes");
	edu_dma(device, HERE + 3, EDU_BUFFER + 5, 1, 0);
	buffer("one at an odd place");
	edu_dma(device, 0xf00000000UL + HERE + 0x10, EDU_BUFFER, 4, 0);
	buffer("from beyond 28 bits");
	edu_dma(device, NOWHERE, EDU_BUFFER, 8, 0);
	buffer("from nowhere");
	edu_dma(device, HERE, EDU_BUFFER, 24, 0);
	memset(memory + 2 * PAGE - 4, 0x5a, 4);
	edu_dma(device, HERE + 2 * PAGE - 4, EDU_BUFFER, 12, 0);
	buffer("from the edge");
	edu_dma(device, HERE, EDU_BUFFER, 24, 0);
	enable(device, false);
	edu_dma(device, HERE, EDU_BUFFER, 8, 0);
	enable(device, true);
	buffer("without bus mastering");
	edu_dma(device, HERE, EDU_BUFFER, EDU_ROOM, 0);
	memset(memory + PAGE, 0, PAGE);
	edu_dma(device, EDU_BUFFER, HERE + PAGE, EDU_ROOM, EDU_TO_MEMORY);
	printf("all of the buffer there and back: %d\n", memcmp(memory, memory + PAGE, EDU_ROOM));
	memset(memory + 2 * PAGE, 0x77, 8);
	edu_dma(device, EDU_BUFFER, READ_ONLY, 8, EDU_TO_MEMORY);
	printf("to memory that may only be read: %02x\n", memory[2 * PAGE]);
	edu_dma(device, READ_ONLY, EDU_BUFFER, 8, 0);
	buffer("from it");
	memset(memory + 2 * PAGE - 8, 0x66, 8);
	edu_dma(device, EDU_BUFFER, HERE + 2 * PAGE - 4, 8, EDU_TO_MEMORY);
	printf("over the edge:");
	for (i = 0; i < 8; i++)
		printf(" %02x", memory[2 * PAGE - 8 + i]);
	printf("\n");
	edu_dma(device, EDU_BUFFER, NOWHERE, 8, EDU_TO_MEMORY | EDU_INTERRUPT);
	printf("to nowhere: command %#lx, why %#lx\n", get(device, BAR0, EDU_COMMAND, 8), get(device, BAR0, EDU_WHY, 4));
	acknowledge();

	put(device, BAR0, EDU_SOURCE, 8, HERE);
	put(device, BAR0, EDU_DESTINATION, 8, EDU_BUFFER);
	put(device, BAR0, EDU_COUNT, 8, 4);
	put(device, BAR0, EDU_COMMAND, 8, EDU_START | 0xf0);
	put(device, BAR0, EDU_COUNT, 8, 8);
	put(device, BAR0, EDU_COMMAND, 8, EDU_START | EDU_TO_MEMORY);
	printf("while it is at work: %#lx, %#lx\n", get(device, BAR0, EDU_COMMAND, 8), get(device, BAR0, EDU_COUNT, 8));
	while (get(device, BAR0, EDU_COMMAND, 8) & EDU_START)
		usleep(1000);
	printf("afterwards: %#lx\n", get(device, BAR0, EDU_COMMAND, 8));

	edu_dma(device, HERE, EDU_BUFFER, 24, 0);
	NEED(detach(device) == 0);
	edu_dma(device, HERE, EDU_BUFFER, 8, 0);
	printf("detached: command %#lx\n", get(device, BAR0, EDU_COMMAND, 8));
}

int main(int argc, char **argv)
{
	uint64_t there = READ_ONLY;
	uint32_t ioas;

	begin(argc, argv);
	device = bound(&iommufd);
	memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(memory != MAP_FAILED);
	NEED(ioas_alloc(iommufd, &ioas) == 0);
	NEED(attach(device, ioas) == 0);
	NEED(map_at(iommufd, ioas, (uintptr_t)memory, 2 * PAGE, HERE) == 0);
	NEED(map_flags(iommufd, ioas, FIXED | R, (uintptr_t)memory + 2 * PAGE, PAGE, &there) == 0);
	enable(device, true);
	acknowledge();
	put(device, BAR0, EDU_STATUS, 4, 0);
	registers();
	acknowledge();
	interrupts();
	transfers();
	return 0;
}
