// SPDX-License-Identifier: MIT
/* DMA of the device: what arrives, and what does not, where some of it is not mapped. */
#include "device.h"

#define BASE (16 * MIB)

static int device, iommufd;
static uint8_t *memory;

/* Runs of equal bytes in the first 3 pages. */
static void show(const char *what)
{
	size_t at, start = 0;

	printf("%s:", what);
	for (at = 1; at <= 3 * PAGE; at++)
		if (at == 3 * PAGE || memory[at] != memory[start]) {
			printf(" %#zx+%#zx=%02x", start, at - start, memory[start]);
			start = at;
		}
	printf("\n");
}

/* The device's buffer is full of this byte. */
static void fill(uint8_t byte)
{
	memset(memory + 3 * PAGE, byte, PAGE);
	edu_dma(device, BASE + 16 * PAGE, EDU_BUFFER, EDU_ROOM, 0);
}

/* The buffer goes to the page that is always mapped, and is shown. */
static void show_buffer(const char *what)
{
	memset(memory, 0, 3 * PAGE);
	memset(memory + 3 * PAGE, 0xee, PAGE);
	edu_dma(device, EDU_BUFFER, BASE + 16 * PAGE, EDU_ROOM, EDU_TO_MEMORY);
	memcpy(memory, memory + 3 * PAGE, PAGE);
	show(what);
}

static void to_memory(const char *what, uint64_t iova, uint64_t count)
{
	memset(memory, 0, 3 * PAGE);
	fill(0x5a);
	edu_dma(device, EDU_BUFFER, iova, count, EDU_TO_MEMORY);
	show(what);
}

static void from_memory(const char *what, uint64_t iova, uint64_t count)
{
	fill(0x5a);
	memset(memory, 0x11, PAGE);
	memset(memory + PAGE, 0x22, PAGE);
	memset(memory + 2 * PAGE, 0x33, PAGE);
	edu_dma(device, iova, EDU_BUFFER, count, 0);
	show_buffer(what);
}

int main(int argc, char **argv)
{
	uint32_t ioas;
	uint64_t iova;
	int event = new_eventfd();

	begin(argc, argv);
	memory = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(memory != MAP_FAILED);
	device = bound(&iommufd);
	enable(device, true);
	ioas = new_ioas(iommufd);
	NEED(map_at(iommufd, ioas, (uintptr_t)memory, PAGE, BASE) == 0);
	NEED(map_at(iommufd, ioas, (uintptr_t)memory + PAGE, PAGE, BASE + 2 * PAGE) == 0);
	iova = BASE + 4 * PAGE;
	NEED(map_flags(iommufd, ioas, FIXED | R, (uintptr_t)memory + 2 * PAGE, PAGE, &iova) == 0);
	NEED(map_at(iommufd, ioas, (uintptr_t)memory + 3 * PAGE, PAGE, BASE + 16 * PAGE) == 0);
	NEED(attach(device, ioas) == 0);

	heading("to memory");
	to_memory("a page", BASE, EDU_ROOM);
	to_memory("a part", BASE + 100, 200);
	to_memory("a byte", BASE + PAGE - 1, 1);
	to_memory("beyond the end of it", BASE + 2048, EDU_ROOM);
	to_memory("before the beginning", BASE + PAGE + 2048, EDU_ROOM);
	to_memory("nowhere", BASE + PAGE, 2000);
	to_memory("to what can only be read", BASE + 4 * PAGE, 2000);
	to_memory("from what can be written to what can only be read", BASE + 2 * PAGE + 4000, 4000);

	heading("from memory");
	from_memory("a page", BASE, EDU_ROOM);
	from_memory("a part", BASE + 100, 200);
	from_memory("beyond the end of it", BASE + 2048, EDU_ROOM);
	from_memory("before the beginning", BASE + PAGE + 2048, EDU_ROOM);
	from_memory("nowhere", BASE + PAGE, 2000);
	from_memory("what can only be read", BASE + 4 * PAGE, 2000);

	heading("when it cannot");
	fill(0x5a);
	memset(memory, 0, 3 * PAGE);
	enable(device, false);
	edu_dma(device, EDU_BUFFER, BASE, 100, EDU_TO_MEMORY);
	edu_dma(device, BASE, EDU_BUFFER + 1000, 100, 0);
	show("no bus master");
	enable(device, true);
	show_buffer("no bus master, from memory");
	fill(0x5a);
	memset(memory, 0, 3 * PAGE);
	SAY(detach(device), "detach");
	edu_dma(device, EDU_BUFFER, BASE, 100, EDU_TO_MEMORY);
	edu_dma(device, BASE, EDU_BUFFER + 1000, 100, 0);
	show("not attached");
	SAY(attach(device, ioas), "attach");
	show_buffer("not attached, from memory");
	SAY(trigger_by(device, VFIO_PCI_MSI_IRQ_INDEX, 0, event), "MSI");
	edu_dma(device, EDU_BUFFER, BASE + PAGE, 100, EDU_TO_MEMORY | EDU_INTERRUPT);
	SAY(rings_soon(event), "nowhere, with an interrupt: rings");
	return 0;
}
