// SPDX-License-Identifier: MIT
/*
 * A random walk over everything that a driver does with QEMU's edu: open, bind, attach, configuration
 * space, registers, interrupts, DMA. All answers and all values go into one checksum.
 *
 *     walk DEVICE IOMMU SEED STEPS [trace]
 *
 * What is not the device's own is left out: where its BAR is and which line it has are overwritten
 * after each bind. Before eventfds are looked at, whoever signals them has a moment.
 */
#include "device.h"
#include "walk.h"

#define MOMENT 4000	/* microseconds */
#define PAGES 8
#define BASE (16 * MIB)

static int device[2], iommufd[2], events[4];
static uint32_t ids[2][6];	/* of each context: what an attachment may name */
static unsigned int next_id[2];
static uint8_t *memory;
static bool moment;	/* somebody may be about to signal */
static int in_use = -1;	/* which device file is bound */

static void note_bytes(const void *bytes, size_t size)
{
	size_t i;

	for (i = 0; i < size; i++)
		sum = (sum ^ ((const uint8_t *)bytes)[i]) * 0x100000001b3;
}

/* ---- contexts and attachments ------------------------------------------------------------------- */

static void keep_id(int which, uint32_t id)
{
	ids[which][next_id[which]++ % ARRAY_LEN(ids[which])] = id;
}

/* Often the last one. */
static uint32_t some_id(int which)
{
	return ids[which][below(2) ? (next_id[which] - 1) % ARRAY_LEN(ids[which]) : below(ARRAY_LEN(ids[which]))];
}

static int some_device(void)
{
	return device[in_use >= 0 && below(10) ? (uint32_t)in_use : below(2)];
}

static void new_context(int which)
{
	unsigned int i;

	iommufd[which] = open_its_iommu();
	for (i = 0; i < ARRAY_LEN(ids[which]); i++)
		ids[which][i] = i ? 4000 : 0;
	next_id[which] = 1;
	keep_id(which, new_ioas(iommufd[which]));
}

static void step_context(void)
{
	int which = (int)below(2);

	if (below(12) == 0) {
		TELL("new context %d", which);
		close(iommufd[which]);
		new_context(which);
		return;
	}
	if (below(3)) {
		uint32_t id;

		TELL("IOAS in %d", which);
		answer(ioas_alloc(iommufd[which], &id));
		keep_id(which, id);
		note(id);
	} else {
		uint32_t id = some_id(which);

		TELL("destroy %u in %d", id, which);
		answer(destroy(iommufd[which], id));
	}
}

static void step_map(void)
{
	int which = (int)below(2);
	uint32_t id = some_id(which), from = below(PAGES), count = 1 + below(PAGES - from);
	uint64_t iova = BASE + below(2 * PAGES) * PAGE, length = count * PAGE;

	if (below(3)) {
		uint32_t flags = below(4) ? RW : below(2) ? R : W;

		TELL("map %u in %d at %#llx, %u pages from %u, flags %u", id, which, (unsigned long long)iova, count, from,
		     flags);
		answer(map_flags(iommufd[which], id, FIXED | flags, (uintptr_t)memory + from * PAGE, length, &iova));
	} else {
		struct iommu_ioas_unmap cmd = { .size = sizeof(cmd), .ioas_id = id, .iova = iova, .length = length };

		if (below(2)) {
			cmd.iova = 0;
			cmd.length = U64_MAX;
		}
		TELL("unmap %u in %d at %#llx+%#llx", id, which, (unsigned long long)cmd.iova,
		     (unsigned long long)cmd.length);
		answer(call(iommufd[which], IOMMU_IOAS_UNMAP, &cmd));
		note(cmd.length);
	}
}

static void settle(int fd)
{
	uint32_t base = 0xe0000000;
	uint8_t number = 11;

	if (pwrite(fd, &base, 4, AT(CONFIG, 0x10)) < 0 || pwrite(fd, &number, 1, AT(CONFIG, 0x3c)) < 0)
		note((uint64_t)errno);
}

static void step_device(void)
{
	int which, context = (int)below(2);
	uint32_t id = NO_ID;

	if (in_use < 0 || below(3) == 0)
		which = (int)below(2);
	else
		which = in_use;
	switch (below(16)) {
	case 0:
		TELL("close device %d", which);
		close(device[which]);
		if (which == in_use)
			in_use = -1;
		device[which] = open_device();
		break;
	case 1:
	case 2:
	case 3:
		TELL("bind device %d to %d", which, context);
		if (answer(bind_device(device[which], iommufd[context], &id)) == 0) {
			in_use = which;
			settle(device[which]);
			if (below(3))
				enable(device[which], true);
			if (below(4) == 0)
				keep_id(context, id);
		}
		note(id);
		break;
	case 4:
		TELL("detach device %d", which);
		answer(detach(device[which]));
		break;
	default:
		id = some_id(context);
		TELL("attach device %d to %u", which, id);
		answer(attach_flags(device[which], 12, 0, &id, 0));
		note(id);
	}
}

/* ---- configuration space and registers ----------------------------------------------------------- */

static void read_some(int fd, int region, off_t at, size_t size)
{
	uint64_t value = 0;

	TELL("read %d %#llx+%zu", region, (long long)at, size);
	answer(told(pread(fd, &value, size, AT(region, at))));
	note(value);
	TELL(" %#llx", (unsigned long long)value);
}

static void write_some(int fd, int region, off_t at, size_t size, uint64_t value)
{
	TELL("write %d %#llx+%zu %#llx", region, (long long)at, size, (unsigned long long)value);
	answer(told(pwrite(fd, &value, size, AT(region, at))));
	moment = true;
}

static void step_config(void)
{
	static const uint8_t often_read[] = { 0x04, 0x06, 0x10, 0x40, 0x42, 0x44, 0x48, 0x4c, 0x3c };
	int fd = some_device();
	off_t at = below(3) ? often_read[below(sizeof(often_read))] : below(0x104);
	size_t size = 1U << below(4);

	if (below(2)) {
		read_some(fd, CONFIG, at, size);
	} else if (below(2)) {
		/* what keeps most things going */
		write_some(fd, CONFIG, 4, 2, below(4) ? 6 : draw() & 0x0407);
	} else {
		write_some(fd, CONFIG, at, size, draw());
	}
}

/* Done with what it was told to do; the factorial's interrupt comes after its status. */
static void finish(int fd)
{
	uint32_t status = 0;
	uint64_t command = 0;

	do {
		if (pread(fd, &status, 4, AT(BAR0, EDU_STATUS)) != 4 || pread(fd, &command, 8, AT(BAR0, EDU_COMMAND)) != 8)
			return;
	} while (status & 1 || command & EDU_START);
}

static void step_registers(void)
{
	static const uint8_t registers[] = { EDU_ID, EDU_LIVENESS, EDU_FACTORIAL, EDU_STATUS, EDU_WHY, EDU_RAISE,
					     EDU_ACKNOWLEDGE, EDU_SOURCE, EDU_DESTINATION, EDU_COUNT };
	int fd = some_device();
	off_t at = registers[below(sizeof(registers))] + (below(6) ? 0 : below(8));
	size_t size = below(4) ? 4 : 1U << below(4);

	if (below(3) == 0 || at >= EDU_COMMAND - 7) {
		read_some(fd, BAR0, at, size);
		return;
	}
	write_some(fd, BAR0, at, size, below(2) ? draw() & 0xff : draw());
	finish(fd);
}

static void step_interrupt(void)
{
	int fd = some_device();

	if (below(2))
		write_some(fd, BAR0, EDU_RAISE, 4, 1U << below(4));
	else
		write_some(fd, BAR0, EDU_ACKNOWLEDGE, 4, 0xffffffff);
}

static void step_dma(void)
{
	int fd = some_device();
	uint64_t own = EDU_BUFFER + below(EDU_ROOM), iova = BASE + below(2 * PAGES * PAGE), flags = EDU_START;
	uint64_t count = below(EDU_BUFFER + EDU_ROOM - (uint32_t)own) + 1;
	bool to_memory = below(2), interrupt = below(2);
	long rc;

	if (to_memory)
		flags |= EDU_TO_MEMORY;
	if (interrupt)
		flags |= EDU_INTERRUPT;
	TELL("DMA %s %#llx, own %#llx, %llu bytes", to_memory ? "to" : "from", (unsigned long long)iova,
	     (unsigned long long)own, (unsigned long long)count);
	rc = told(pwrite(fd, to_memory ? &own : &iova, 8, AT(BAR0, EDU_SOURCE)));
	if (answer(rc) != 8)
		return;
	if (pwrite(fd, to_memory ? &iova : &own, 8, AT(BAR0, EDU_DESTINATION)) != 8 ||
	    pwrite(fd, &count, 8, AT(BAR0, EDU_COUNT)) != 8 || pwrite(fd, &flags, 8, AT(BAR0, EDU_COMMAND)) != 8)
		NEED(!"half of a DMA");
	finish(fd);
	note_bytes(memory, PAGES * PAGE);
	moment = true;
}

/* ---- interrupts ---------------------------------------------------------------------------------- */

static int some_descriptor(int fd)
{
	switch (below(10)) {
	case 0:
		return -1;
	case 1:
		return 999;
	case 2:
		return fd;
	default:
		return events[below(ARRAY_LEN(events))];
	}
}

static void step_set_irqs(void)
{
	int fd = some_device(), number = some_descriptor(fd);
	uint32_t index = below(8) ? below(2) : below(6), data = 1U << below(3), action = 8U << below(3);
	uint32_t start = below(12) ? 0 : below(3), count = below(8) ? 1 : below(3);
	uint32_t values[3] = { (uint32_t)number, (uint32_t)number, (uint32_t)number }, size = 4 * count;

	if (below(3))
		action = VFIO_IRQ_SET_ACTION_TRIGGER;
	if (below(20) == 0)
		data |= 1U << below(3);
	if (data == VFIO_IRQ_SET_DATA_BOOL) {
		memset(values, (int)below(2), sizeof(values));
		size = count;
	} else if (data == VFIO_IRQ_SET_DATA_NONE) {
		size = 0;
		if (below(4) == 0)
			count = 0;
	}
	TELL("SET_IRQS index %u, flags %#x, %u+%u, %d", index, data | action, start, count, number);
	answer(set_irqs(fd, data | action, index, start, count, values, size));
	moment = true;
}

static void step_ring(void)
{
	uint64_t one = 1;
	unsigned int which = below(ARRAY_LEN(events));

	TELL("ring %u", which);
	answer(told(write(events[which], &one, 8)));
	moment = true;
}

static void step_ioeventfd(void)
{
	int fd = some_device(), number = below(2) ? -1 : some_descriptor(fd);
	struct vfio_device_ioeventfd cmd = { .argsz = sizeof(cmd), .flags = below(6) ? 4 : below(16),
					     .offset = below(6) ? EDU_LIVENESS : EDU_LIVENESS + below(3) * 4,
					     .data = below(3), .fd = number };

	TELL("IOEVENTFD flags %#x, at %#llx, data %llu, %d", cmd.flags, (unsigned long long)cmd.offset,
	     (unsigned long long)cmd.data, number);
	answer(call(fd, VFIO_DEVICE_IOEVENTFD, &cmd));
	moment = true;
}

static void step_info(void)
{
	int fd = some_device();
	struct vfio_device_info info = { .argsz = 16 + below(9) };
	struct vfio_region_info region = { .argsz = 28 + below(9), .index = below(10) };
	struct vfio_irq_info irq = { .argsz = 14 + below(4), .index = below(6) };

	switch (below(4)) {
	case 0:
		TELL("info");
		answer(call(fd, VFIO_DEVICE_GET_INFO, &info));
		note_bytes(&info, sizeof(info));
		break;
	case 1:
		TELL("region %u", region.index);
		answer(call(fd, VFIO_DEVICE_GET_REGION_INFO, &region));
		note_bytes(&region, sizeof(region));
		break;
	case 2:
		TELL("irq %u", irq.index);
		answer(call(fd, VFIO_DEVICE_GET_IRQ_INFO, &irq));
		note_bytes(&irq, sizeof(irq));
		break;
	default: {
		struct vfio_device_feature feature = { .argsz = 8, .flags = (draw() & 7) << 16 | below(14) };

		TELL("feature %#x", feature.flags);
		answer(call(fd, VFIO_DEVICE_FEATURE, &feature));
	}
	}
}

/* Who hears an eventfd, or signals one, does it while it has its turn, and after it has answered twice it has had one. */
static void pause_a_moment(void)
{
	struct vfio_device_info info = { .argsz = 0 };
	int i;

	for (i = 0; i < 2; i++) {
		usleep(MOMENT);
		call(device[0], VFIO_DEVICE_GET_INFO, &info);
	}
}

static void (*const steps[])(void) = {
	step_context, step_map, step_map, step_device, step_device, step_device, step_config, step_config,
	step_registers, step_registers, step_registers, step_interrupt, step_interrupt, step_dma, step_set_irqs,
	step_set_irqs, step_set_irqs, step_ring, step_ioeventfd, step_info,
};

int main(int argc, char **argv)
{
	uint64_t seed, count, i;
	unsigned int which;

	begin(argc, argv);
	seed = argc > 3 ? strtoull(argv[3], NULL, 0) : 1;
	count = argc > 4 ? strtoull(argv[4], NULL, 0) : 100;
	trace = argc > 5;
	state = seed;
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	NEED(memory != MAP_FAILED);
	for (i = 0; i < PAGES * PAGE; i++)
		memory[i] = (uint8_t)draw();
	for (which = 0; which < ARRAY_LEN(events); which++)
		events[which] = new_eventfd();
	for (which = 0; which < 2; which++) {
		device[which] = open_device();
		new_context((int)which);
	}
	/* what an earlier walk has left in the device */
	{
		uint32_t id;
		off_t at;

		NEED(bind_device(device[0], iommufd[0], &id) == 0);
		settle(device[0]);
		enable(device[0], true);
		in_use = 0;
		put(device[0], BAR0, EDU_ACKNOWLEDGE, 4, ~0U);
		put(device[0], BAR0, EDU_STATUS, 4, 0);
		put(device[0], BAR0, EDU_LIVENESS, 4, 0);
		edu_factorial(device[0], 1);
		for (at = 0x50; at < 0x100; at += 8)
			put(device[0], CONFIG, at, 8, 0);
		put(device[0], CONFIG, 0x4c, 4, 0);
		put(device[0], BAR0, EDU_COUNT, 8, 0);
		put(device[0], BAR0, EDU_SOURCE, 8, 0);
		put(device[0], BAR0, EDU_DESTINATION, 8, 0);
		/* and its buffer */
		NEED(map_at(iommufd[0], ids[0][1], (uintptr_t)memory, PAGE, BASE) == 0 && attach(device[0], ids[0][1]) == 0);
		edu_dma(device[0], BASE, EDU_BUFFER, EDU_ROOM, 0);
	}
	for (i = 0; i < count; i++) {
		moment = false;
		TELL("%llu ", (unsigned long long)i);
		steps[below(ARRAY_LEN(steps))]();
		if (moment) {
			pause_a_moment();
			for (which = 0; which < ARRAY_LEN(events); which++) {
				long rung = rings(events[which]);

				note((uint64_t)rung);
				if (rung)
					TELL(", %ld of %u", rung, which);
			}
		}
		TELL(" [%016llx]\n", (unsigned long long)sum);
	}
	printf("seed %llu, %llu steps: %016llx\n", (unsigned long long)seed, (unsigned long long)count,
	       (unsigned long long)sum);
	return 0;
}
