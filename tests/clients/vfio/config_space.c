// SPDX-License-Identifier: MIT
/*
 * Every byte of configuration space: which of its bits can be written, by accesses of each size; and that an
 * access of any size at any place is the accesses of its bytes.
 */
#include "device.h"

static int device, iommufd;
static size_t size;

static size_t config_size(void)
{
	struct vfio_region_info info = { .argsz = sizeof(info), .index = CONFIG };

	NEED(call(device, VFIO_DEVICE_GET_REGION_INFO, &info) == 0);
	return info.size;
}

/* Where the addresses of BARs are: where the machine has put them is its business. */
static bool hidden(size_t at)
{
	return (at >= 0x10 && at < 0x28) || (at >= 0x30 && at < 0x34);
}

static void row(size_t at)
{
	size_t i;
	bool any = false;

	for (i = at; i < at + 16; i++)
		any = any || (!hidden(i) && get(device, CONFIG, (off_t)i, 1));
	if (!any)
		return;
	printf("%03zx:", at);
	for (i = at; i < at + 16; i++)
		if (hidden(i))
			printf(" ..");
		else
			printf(" %02lx", get(device, CONFIG, (off_t)i, 1));
	printf("\n");
}

static void as_it_is(void)
{
	size_t at;

	heading("as it is");
	printf("%zu bytes\n", size);
	for (at = 0; at < size; at += 16)
		row(at);
}

/* Bits that follow when they are written, with all else as it was. */
static void writable(size_t width)
{
	size_t at;
	uint64_t all = width == 8 ? ~0UL : (1UL << 8 * width) - 1, before, zeros, ones;

	printf("# what can be written, %zu at a time\n", width);
	for (at = 0; at + width <= size; at += width) {
		before = get(device, CONFIG, (off_t)at, width);
		put(device, CONFIG, (off_t)at, width, 0);
		zeros = get(device, CONFIG, (off_t)at, width);
		put(device, CONFIG, (off_t)at, width, all);
		ones = get(device, CONFIG, (off_t)at, width);
		put(device, CONFIG, (off_t)at, width, before);
		if (zeros != ones || (!hidden(at) && zeros != before))
			printf("%03zx: %0*lx to %0*lx, then %s\n", at, (int)(2 * width), zeros, (int)(2 * width), ones,
			       get(device, CONFIG, (off_t)at, width) == before ? "as before" : "not as before");
	}
	put(device, CONFIG, 4, 2, 0x0103);
}

static void pieces(void)
{
	uint8_t bytes[4096], whole[16];
	size_t at, length, i, wrong = 0;

	heading("any size at any place");
	NEED(size <= sizeof(bytes));
	for (at = 0; at < size; at++)
		bytes[at] = (uint8_t)get(device, CONFIG, (off_t)at, 1);
	for (at = 0; at < size; at++)
		for (length = 1; length <= sizeof(whole) && at + length <= size; length++) {
			NEED(pread(device, whole, length, AT(CONFIG, (off_t)at)) == (ssize_t)length);
			for (i = 0; i < length; i++)
				wrong += bytes[at + i] != whole[i];
		}
	printf("%zu bytes differ\n", wrong);
	for (length = 1; length <= 8; length++) {
		SAY(told(pread(device, whole, length, AT(CONFIG, (off_t)(size - 4)))), "the last 4, %zu read", length);
		SAY(told(pwrite(device, whole, length, AT(CONFIG, (off_t)(size - 4)))), "the last 4, %zu written", length);
	}
}

static void bars(void)
{
	static const uint32_t values[] = { ~0U, 0, 0x12345678, 0x0f };
	size_t at, i;

	heading("sizing");
	for (at = 0x10; at < 0x34; at += at == 0x24 ? 0xc : 4) {
		uint32_t before = (uint32_t)get(device, CONFIG, (off_t)at, 4);

		for (i = 0; i < ARRAY_LEN(values); i++) {
			put(device, CONFIG, (off_t)at, 4, values[i]);
			printf("%02zx: %08x gives %08lx\n", at, values[i], get(device, CONFIG, (off_t)at, 4));
		}
		put(device, CONFIG, (off_t)at, 4, before);
		printf("%02zx: then %s\n", at, get(device, CONFIG, (off_t)at, 4) == before ? "as before" : "not as before");
	}
}

/* What memory and ports answer by the command register. */
static void command(void)
{
	uint32_t value, bar;
	uint8_t byte;

	heading("the command register");
	for (value = 0; value < 8; value++) {
		put(device, CONFIG, 4, 2, value);
		printf("%#x gives %#lx:", value, get(device, CONFIG, 4, 2));
		for (bar = 0; bar < 6; bar++)
			printf(" %s", errno_name(told(pread(device, &byte, 1, AT(bar, 0)))));
		printf("\n");
	}
	put(device, CONFIG, 4, 1, 2);
	put(device, CONFIG, 5, 1, 4);
	printf("INTx disabled by its byte: %#lx\n", get(device, CONFIG, 4, 2));
	put(device, CONFIG, 4, 4, 0xffff0103);
	printf("with the status behind it: %#lx\n", get(device, CONFIG, 4, 4));
}

int main(int argc, char **argv)
{
	size_t width;

	begin(argc, argv);
	device = bound(&iommufd);
	size = config_size();
	as_it_is();
	for (width = 1; width <= 8; width *= 2)
		writable(width);
	pieces();
	bars();
	command();
	as_it_is();
	close(device);
	close(iommufd);

	heading("the next one");
	device = bound(&iommufd);
	as_it_is();
	return 0;
}
