// SPDX-License-Identifier: MIT
/* Loads and stores of a mapped BAR: what they give, when they are a SIGBUS, and whose they may be. */
#include "device.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

static int device, iommufd;
static volatile uint8_t *bar;
static sigjmp_buf back;
static volatile sig_atomic_t expected;

static void bus_error(int number, siginfo_t *info, void *context)
{
	(void)context;
	if (!expected)
		_exit(99);
	expected = 0;
	siglongjmp(back, info->si_code == BUS_ADRERR ? number : -1);
}

/* A load that may be a SIGBUS. */
static void try_load(const char *what, off_t at)
{
	int got;

	expected = 1;
	got = sigsetjmp(back, 1);
	if (got == 0) {
		uint32_t value = *(volatile uint32_t *)(bar + at);

		expected = 0;
		printf("%s: %#x\n", what, value);
	} else {
		printf("%s: %s\n", what, got == SIGBUS ? "SIGBUS" : "another signal");
	}
}

static uint64_t load(off_t at, size_t size)
{
	switch (size) {
	case 1:
		return *(bar + at);
	case 2:
		return *(volatile uint16_t *)(bar + at);
	case 4:
		return *(volatile uint32_t *)(bar + at);
	default:
		return *(volatile uint64_t *)(bar + at);
	}
}

static void store(off_t at, size_t size, uint64_t value)
{
	switch (size) {
	case 1:
		*(bar + at) = (uint8_t)value;
		break;
	case 2:
		*(volatile uint16_t *)(bar + at) = (uint16_t)value;
		break;
	case 4:
		*(volatile uint32_t *)(bar + at) = (uint32_t)value;
		break;
	default:
		*(volatile uint64_t *)(bar + at) = value;
	}
}

static void map_bar(void)
{
	bar = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, device, AT(BAR0, 0));
	NEED(bar != MAP_FAILED);
}

static void sizes(void)
{
	static const off_t places[] = { 0x00, 0x04, 0x08, 0x10, 0x20, 0x24, 0x80, 0x88, 0x90, 0x98, 0xa0, 0xff8, 0x1000,
					0x40000, 0xffff8 };
	size_t size, i;

	heading("of all sizes");
	for (i = 0; i < ARRAY_LEN(places); i++)
		for (size = 1; size <= 8 && places[i] % size == 0; size *= 2)
			printf("load %#llx+%zu: %#llx\n", (long long)places[i], size, (unsigned long long)load(places[i], size));
	for (size = 1; size <= 8; size *= 2) {
		store(EDU_LIVENESS, size == 8 ? 4 : size, 0x0123456789abcdef * size);
		printf("liveness after a store of %zu: %#llx\n", size, (unsigned long long)load(EDU_LIVENESS, 4));
		store(EDU_SOURCE, size, 0x1122334455667788 * size);
		printf("source after a store of %zu: %#llx\n", size, (unsigned long long)load(EDU_SOURCE, 8));
	}
	*(volatile uint32_t *)(bar + EDU_LIVENESS) |= 0x0f0f0f0f;
	printf("liveness, read and written: %#llx\n", (unsigned long long)load(EDU_LIVENESS, 4));
	store(EDU_LIVENESS, 4, 0x5a5a5a5a);
	SAY((long)get(device, BAR0, EDU_LIVENESS, 4), "seen by pread");
	put(device, BAR0, EDU_LIVENESS, 4, 0xa5a5a5a5);
	SAY((long)load(EDU_LIVENESS, 4), "pwritten");
}

static void without_memory(void)
{
	heading("memory disabled");
	try_load("before", 0);
	put(device, CONFIG, 4, 2, 0);
	try_load("disabled", 0);
	try_load("disabled, once more", 0x4000);
	put(device, CONFIG, 4, 2, 2);
	try_load("enabled", 0);
	try_load("another page", 0x5000);
}

static long low_power(uint32_t which, int event)
{
	union {
		struct vfio_device_feature feature;
		uint64_t room[2];
	} cmd = { .feature = { .argsz = sizeof(cmd), .flags = VFIO_DEVICE_FEATURE_SET | which } };
	struct vfio_device_low_power_entry_with_wakeup wake = { .wakeup_eventfd = event };

	memcpy(cmd.feature.data, &wake, sizeof(wake));
	return call(device, VFIO_DEVICE_FEATURE, &cmd);
}

static void try_store(const char *what, off_t at, uint32_t value)
{
	expected = 1;
	if (sigsetjmp(back, 1) == 0) {
		*(volatile uint32_t *)(bar + at) = value;
		expected = 0;
		printf("%s: stored\n", what);
	} else {
		printf("%s: SIGBUS\n", what);
	}
}

static void in_low_power(void)
{
	static const uint32_t entries[] = { VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY,
					    VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP };
	int event = new_eventfd();
	uint8_t *again;
	size_t i;

	heading("low power");
	for (i = 0; i < ARRAY_LEN(entries); i++) {
		store(EDU_LIVENESS, 4, 0x1111);
		SAY(low_power(entries[i], event), "entry%s", i ? " with an eventfd" : "");
		try_load("a load", 0);
		try_store("a store", EDU_LIVENESS, 0x2222);
		try_load("of a page that was not touched before", 0x6000 + 0x1000 * (off_t)i);
		printf("liveness, by pread: %#lx\n", get(device, BAR0, EDU_LIVENESS, 4));
		put(device, BAR0, EDU_LIVENESS, 4, 0x3333);
		printf("when it was written: %#lx\n", get(device, BAR0, EDU_LIVENESS, 4));
		printf("vendor: %#lx\n", get(device, CONFIG, 0, 2));
		try_load("a load afterwards", 0);
		again = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, device, AT(BAR0, 0));
		SAY(again == MAP_FAILED ? -errno : 0, "another mapping");
		munmap(again, PAGE);
		put(device, CONFIG, 4, 2, 0);
		put(device, CONFIG, 4, 2, 2);
		try_load("memory was disabled and enabled", 0);
		SAY(low_power(VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, 0), "exit");
		try_load("a load", EDU_LIVENESS);
		SAY(rings(event), "rings");
	}
	SAY(low_power(VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, 0), "entry");
	SAY(call(device, VFIO_DEVICE_RESET, NULL), "reset");
	try_load("a load", 0);
	SAY(low_power(VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, 0), "exit");
	try_load("a load", 0);
	close(event);
}

static void *in_a_thread(void *number)
{
	unsigned int i;

	for (i = 0; i < 200; i++) {
		store(EDU_SOURCE, 8, (uintptr_t)number);
		load(EDU_LIVENESS, 4);
	}
	return NULL;
}

static void others(void)
{
	pthread_t threads[4];
	uintptr_t i;

	heading("by others");
	for (i = 0; i < ARRAY_LEN(threads); i++)
		NEED(pthread_create(&threads[i], NULL, in_a_thread, (void *)(i + 1)) == 0);
	for (i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	SAY(load(EDU_SOURCE, 8) - 1 < ARRAY_LEN(threads), "by threads");
	IN_CHILD(store(EDU_LIVENESS, 4, 1));
	SAY((long)load(EDU_LIVENESS, 4), "by a child");
}

/* A mapping keeps the device open. */
static void closed(void)
{
	uint32_t id;
	int again, other = open_its_iommu();

	heading("the descriptor is closed");
	close(device);
	try_load("the mapping", 0);
	again = open_device();
	SAY(bind_device(again, other, &id), "bind by another file");
	munmap((void *)bar, MIB);
	SAY(bind_device(again, other, &id), "bind when it is unmapped");
	close(again);
	close(other);
}

static void dma(void)
{
	uint32_t ioas = new_ioas(iommufd);
	int event = new_eventfd();
	uint8_t *memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	heading("a driver");
	NEED(memory != MAP_FAILED);
	memset(memory, 0, PAGE);
	memcpy(memory, "to the device and back", 23);
	SAY(map_at(iommufd, ioas, (uintptr_t)memory, PAGE, 16 * MIB), "map");
	SAY(attach(device, ioas), "attach");
	enable(device, true);
	SAY(trigger_by(device, VFIO_PCI_MSI_IRQ_INDEX, 0, event), "MSI");
	store(EDU_SOURCE, 8, 16 * MIB);
	store(EDU_DESTINATION, 8, EDU_BUFFER);
	store(EDU_COUNT, 8, 23);
	store(EDU_COMMAND, 8, EDU_START | EDU_INTERRUPT);
	SAY(rings_soon(event), "done: rings");
	SAY((long)load(EDU_WHY, 4), "why");
	store(EDU_ACKNOWLEDGE, 4, 0x100);
	SAY((long)load(EDU_WHY, 4), "acknowledged");
	store(EDU_SOURCE, 8, EDU_BUFFER);
	store(EDU_DESTINATION, 8, 16 * MIB + 1000);
	store(EDU_COMMAND, 8, EDU_START | EDU_TO_MEMORY | EDU_INTERRUPT);
	SAY(rings_soon(event), "done: rings");
	printf("in memory: %s\n", memory + 1000);
	store(EDU_ACKNOWLEDGE, 4, 0x100);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_sigaction = bus_error, .sa_flags = SA_SIGINFO };

	checks_begin();
	begin(argc, argv);
	NEED(sigaction(SIGBUS, &action, NULL) == 0);
	device = bound(&iommufd);
	enable(device, false);
	map_bar();
	sizes();
	without_memory();
	in_low_power();
	others();
	dma();
	closed();
	return 0;
}
