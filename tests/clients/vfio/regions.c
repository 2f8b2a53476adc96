// SPDX-License-Identifier: MIT
/* Reads and writes of regions, at odd places and of odd sizes; and their mappings, but for the loads and stores. */
#include "device.h"

static int device, iommufd;

static void show(const char *what, int region, off_t offset, size_t size)
{
	uint8_t data[64];
	ssize_t got, i;

	NEED(size <= sizeof(data));
	memset(data, 0xa5, sizeof(data));
	got = pread(device, data, size, AT(region, offset));
	printf("%s, %#llx+%zu: %s", what, (long long)offset, size, got < 0 ? errno_name(-errno) : errno_name(got));
	for (i = 0; i < got; i++)
		printf(" %02x", data[i]);
	printf("\n");
}

static void write_at(const char *what, int region, off_t offset, size_t size, uint64_t value)
{
	uint64_t data[8];
	unsigned int i;

	for (i = 0; i < ARRAY_LEN(data); i++)
		data[i] = value;
	SAY(told(pwrite(device, data, size, AT(region, offset))), "%s, %#llx+%zu written", what, (long long)offset,
	    size);
}

static void beyond(void)
{
	uint8_t byte = 0;
	char *volatile nowhere = (char *)16;
	int region;

	heading("where nothing is");
	for (region = 0; region < 12; region++) {
		SAY(told(pread(device, &byte, 1, AT(region, 1UL << 39))), "read far in region %d", region);
		SAY(told(pwrite(device, &byte, 1, AT(region, 1UL << 39))), "write far in region %d", region);
		SAY(told(pread(device, &byte, 0, AT(region, 1UL << 39))), "read nothing far in region %d", region);
		SAY(told(pwrite(device, &byte, 0, AT(region, 1UL << 39))), "write nothing far in region %d", region);
		if (region != BAR0 && region != CONFIG) {
			SAY(told(pread(device, &byte, 1, AT(region, 0))), "read in region %d", region);
			SAY(told(pwrite(device, &byte, 1, AT(region, 0))), "write in region %d", region);
		}
	}
	SAY(told(pread(device, &byte, 1, INT64_MAX)), "read at the last offset");
	SAY(told(pread(device, &byte, 1, INT64_MAX - 7)), "read before it");
	SAY(told(pwrite(device, &byte, 1, INT64_MAX - 1)), "write before it");
	SAY(told(pread(device, &byte, 1, -1)), "read at -1");
	SAY(told(pread(device, nowhere, 4, AT(BAR0, 0))), "read to no memory");
	SAY(told(pwrite(device, nowhere, 4, AT(BAR0, 4))), "write from no memory");
	SAY(told(pread(device, nowhere, 4, AT(CONFIG, 0))), "read of configuration space to no memory");
	SAY(told(pwrite(device, nowhere, 4, AT(CONFIG, 0))), "write of configuration space from no memory");
}

static void config(void)
{
	off_t at;
	size_t size;
	unsigned int i;
	static const struct {
		off_t at;
		size_t size;
		uint64_t value;
	} writes[] = {
		{ 0x00, 4, 0 }, { 0x02, 2, ~0UL }, { 0x04, 2, 0xffff }, { 0x04, 2, 0 }, { 0x06, 2, 0xffff },
		{ 0x08, 4, ~0UL }, { 0x0c, 1, 0x55 }, { 0x0d, 1, 0x55 }, { 0x0e, 1, 0x81 }, { 0x0f, 1, 0xff },
		{ 0x14, 4, ~0UL }, { 0x18, 8, ~0UL }, { 0x28, 4, ~0UL }, { 0x2c, 4, ~0UL }, { 0x30, 4, ~0UL },
		{ 0x34, 4, ~0UL }, { 0x38, 4, ~0UL }, { 0x3c, 1, 0x77 }, { 0x3d, 1, 0x77 }, { 0x3e, 2, ~0UL },
		{ 0x40, 2, ~0UL }, { 0x42, 2, 0x0070 }, { 0x42, 2, 0x0071 }, { 0x42, 2, 0 }, { 0x44, 4, 0xfee00123 },
		{ 0x48, 4, 0x1 }, { 0x4c, 2, 0x4321 }, { 0x4c, 4, ~0UL }, { 0x4e, 2, ~0UL }, { 0x50, 4, 0x12345678 },
		{ 0x51, 1, 0xaa }, { 0x57, 2, 0xbbcc }, { 0x80, 8, 0x1122334455667788 }, { 0xfc, 4, 0xfeedbeef },
		{ 0xfd, 3, 0 }, { 0xff, 1, 1 }, { 0x3b, 3, 0x99 }, { 0x43, 3, 0x0a0b0c },
	};

	heading("configuration space");
	for (at = 0; at < 0x100; at += 16)
		if (at != 0x10 && at != 0x30) {	/* where the BAR is and the line */
			show("config", CONFIG, at, 16);
		}
	for (size = 1; size < 12; size++)
		for (at = 0; at < 4; at++)
			show("config", CONFIG, at, size);
	show("config", CONFIG, 0xff, 1);
	show("config", CONFIG, 0xff, 2);
	show("config", CONFIG, 0xfe, 2);
	show("config", CONFIG, 0x100, 1);
	show("config", CONFIG, 0x100, 0);
	show("config", CONFIG, 0xf8, 16);
	show("config", CONFIG, 0xfff, 1);
	show("config", CONFIG, 0x1000, 1);
	write_at("config", CONFIG, 0xff, 2, 0);
	write_at("config", CONFIG, 0x100, 1, 0);
	write_at("config", CONFIG, 0x100, 0, 0);
	for (i = 0; i < ARRAY_LEN(writes); i++) {
		printf("%#llx+%zu ", (long long)writes[i].at, writes[i].size);
		write_at("config", CONFIG, writes[i].at, writes[i].size, writes[i].value);
		if (writes[i].at == 0x3c)
			continue;
		show("config", CONFIG, writes[i].at & ~3, 4);
		if (writes[i].size > 4)
			show("config", CONFIG, (writes[i].at & ~3) + 4, 4);
	}
	for (at = 0x40; at < 0x100; at += 16)
		show("config", CONFIG, at, 16);

	heading("sizing a BAR");
	{
		uint32_t base = (uint32_t)get(device, CONFIG, 0x10, 4);

		SAY((long)(base & 0xf), "its kind");
		put(device, CONFIG, 0x10, 4, ~0U);
		show("all ones", CONFIG, 0x10, 4);
		put(device, CONFIG, 0x10, 4, 0);
		show("all zeros", CONFIG, 0x10, 4);
		put(device, CONFIG, 0x12, 1, 0xff);
		show("one byte of ones", CONFIG, 0x10, 4);
		put(device, CONFIG, 0x12, 2, 0x1234);
		show("two bytes", CONFIG, 0x10, 4);
		put(device, CONFIG, 0x10, 4, base);
		SAY(get(device, CONFIG, 0x10, 4) == base, "and back");
	}
}

static void bar(void)
{
	static const off_t places[] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 0x20, 0x24, 0x60, 0x7c, 0x80, 0x81, 0x84, 0x88, 0x90,
					0x94, 0x98, 0x9c, 0xa0, 0x1000, 0xffff8 };
	unsigned int i;
	size_t size;

	heading("a BAR");
	enable(device, false);
	for (i = 0; i < ARRAY_LEN(places); i++)
		for (size = 1; size <= 8; size++)
			show("BAR 0", BAR0, places[i], size);
	for (size = 9; size < 40; size += 5)
		for (i = 0; i < 4; i++)
			show("BAR 0", BAR0, i, size);
	show("at its end", BAR0, 0xfffff, 1);
	show("at its end", BAR0, 0xfffff, 2);
	show("at its end", BAR0, 0xffffc, 8);
	show("at its end", BAR0, 0x100000, 1);
	write_at("at its end", BAR0, 0xffffc, 8, 0);
	write_at("at its end", BAR0, 0x100000, 1, 0);
	for (size = 1; size <= 8; size++)
		for (i = 0; i < 8; i++) {
			write_at("BAR 0", BAR0, EDU_LIVENESS - 4 + i, size, 0x8877665544332211 * size);
			show("liveness", BAR0, EDU_LIVENESS, 4);
		}
	for (size = 1; size <= 8; size++) {
		write_at("source", BAR0, EDU_SOURCE, size, 0x0102030405060708 * size);
		show("source", BAR0, EDU_SOURCE, 8);
	}
	write_at("from source to count", BAR0, EDU_SOURCE, 24, 0x1111111122222222);
	show("from source to count", BAR0, EDU_SOURCE, 24);

	heading("memory disabled");
	put(device, CONFIG, 4, 2, 0);
	show("BAR 0", BAR0, 0, 4);
	show("beyond", BAR0, 0x100000, 4);
	write_at("BAR 0", BAR0, 4, 4, 0);
	show("nothing", BAR0, 0, 0);
	put(device, CONFIG, 4, 2, 2);
	show("enabled again", BAR0, 0, 4);
}

static void position(void)
{
	uint32_t value = 0;
	struct iovec parts[] = { { &value, 2 }, { (char *)&value + 2, 2 } };
	int copy;

	heading("the file's own position");
	SAY(told(read(device, &value, 4)), "read");
	SAY((long)value, "is the identification");
	value = 0x5a5a5a5a;
	SAY(told(write(device, &value, 4)), "write");
	SAY((long)get(device, BAR0, EDU_LIVENESS, 4), "went to the next register");
	SAY(told(read(device, &value, 0)), "read of nothing");
	copy = dup(device);
	SAY(told(read(copy, &value, 4)), "read by a copy");
	SAY(told(read(device, &value, 4)), "read");
	close(copy);
	SAY(told(preadv(device, parts, 2, AT(CONFIG, 0))), "preadv of configuration space");
	SAY((long)value, "gives");
}

static long map(size_t length, int prot, int flags, off_t offset, void **where)
{
	*where = mmap(NULL, length, prot, flags, device, offset);
	return *where == MAP_FAILED ? -errno : 0;
}

static void maps(void)
{
	static const struct {
		const char *what;
		size_t length;
		int prot, flags;
		off_t offset;
	} tries[] = {
		{ "a page", PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0 },
		{ "to read", PAGE, PROT_READ, MAP_SHARED, 0 },
		{ "to write", PAGE, PROT_WRITE, MAP_SHARED, 0 },
		{ "to nothing", PAGE, PROT_NONE, MAP_SHARED, 0 },
		{ "validated", PAGE, PROT_READ, MAP_SHARED_VALIDATE, 0 },
		{ "to run", PAGE, PROT_READ | PROT_EXEC, MAP_SHARED, 0 },
		{ "privately", PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0 },
		{ "all of it", MIB, PROT_READ | PROT_WRITE, MAP_SHARED, 0 },
		{ "its last page", PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, MIB - PAGE },
		{ "a byte of it", 1, PROT_READ | PROT_WRITE, MAP_SHARED, MIB - PAGE },
		{ "a page too many", MIB + PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0 },
		{ "a byte too many", MIB + 1, PROT_READ | PROT_WRITE, MAP_SHARED, 0 },
		{ "beyond", PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, MIB },
		{ "across its end", 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, MIB - PAGE },
		{ "BAR 1", PAGE, PROT_READ, MAP_SHARED, AT(1, 0) },
		{ "BAR 5", PAGE, PROT_READ, MAP_SHARED, AT(5, 0) },
		{ "the ROM", PAGE, PROT_READ, MAP_SHARED, AT(6, 0) },
		{ "configuration space", PAGE, PROT_READ, MAP_SHARED, AT(7, 0) },
		{ "VGA", PAGE, PROT_READ, MAP_SHARED, AT(8, 0) },
		{ "region 9", PAGE, PROT_READ, MAP_SHARED, AT(9, 0) },
		{ "far away", PAGE, PROT_READ, MAP_SHARED, AT(99, 0) },
		{ "no whole page", PAGE, PROT_READ, MAP_SHARED, 1 },
		{ "nothing", 0, PROT_READ, MAP_SHARED, 0 },
	};
	uint32_t ioas = new_ioas(iommufd), other = new_ioas(iommufd);
	unsigned int i;
	void *where, *second;

	heading("mappings");
	for (i = 0; i < ARRAY_LEN(tries); i++) {
		SAY(map(tries[i].length, tries[i].prot, tries[i].flags, tries[i].offset, &where), "%s", tries[i].what);
		if (where != MAP_FAILED)
			munmap(where, tries[i].length);
	}
	put(device, CONFIG, 4, 2, 0);
	SAY(map(PAGE, PROT_READ, MAP_SHARED, 0, &where), "while memory is disabled");
	if (where != MAP_FAILED)
		munmap(where, PAGE);
	put(device, CONFIG, 4, 2, 2);
	SAY(map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0, &where), "once");
	SAY(map(PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0, &second), "twice");
	if (where != MAP_FAILED) {
		SAY(told(mprotect(where, PAGE, PROT_READ)), "mprotect to read");
		SAY(told(mprotect(where, PAGE, PROT_READ | PROT_WRITE)), "mprotect to write");
		SAY(map_at(iommufd, ioas, (uintptr_t)where, PAGE, 0), "IOAS_MAP of it");
		SAY(attach(device, ioas), "attach to that");
		NEED(attach(device, other) == 0);
		SAY(map_at(iommufd, other, (uintptr_t)where, PAGE, 0), "IOAS_MAP of it when a device is attached");
		munmap(where, PAGE);
	}
	if (second != MAP_FAILED)
		munmap(second, PAGE);
}

int main(int argc, char **argv)
{
	begin(argc, argv);
	device = bound(&iommufd);
	position();
	beyond();
	config();
	bar();
	maps();
	return 0;
}
