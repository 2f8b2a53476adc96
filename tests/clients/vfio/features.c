// SPDX-License-Identifier: MIT
/* DEVICE_FEATURE: each feature of 7.3, asked for, got and set; and what those do that edu has. */
#include "device.h"

#define PROBE VFIO_DEVICE_FEATURE_PROBE
#define GET VFIO_DEVICE_FEATURE_GET
#define SET VFIO_DEVICE_FEATURE_SET
#define FEATURES 16

static int device, iommufd;

static long feature(uint32_t flags, const void *data, uint32_t size)
{
	union {
		struct vfio_device_feature feature;
		uint64_t room[32];
	} cmd = { .feature = { .argsz = sizeof(struct vfio_device_feature) + size, .flags = flags } };

	memcpy(cmd.feature.data, data, size);
	return call(device, VFIO_DEVICE_FEATURE, &cmd);
}

static void all(void)
{
	static const uint32_t ways[] = { 0, GET, SET, GET | SET, PROBE, PROBE | GET, PROBE | SET, PROBE | GET | SET };
	static const uint32_t sizes[] = { 0, 7, 8, 64 };
	static const uint64_t nothing[16];
	unsigned int i, way, size;

	heading("all");
	for (i = 0; i <= FEATURES; i++)
		for (way = 0; way < ARRAY_LEN(ways); way++)
			for (size = 0; size < ARRAY_LEN(sizes); size++) {
				uint32_t which = i == FEATURES ? 0xffff : i;

				SAY(feature(which | ways[way], nothing, sizes[size]), "feature %u, %s%s%s, %u bytes",
				    which, ways[way] & PROBE ? "probe" : "", ways[way] & GET ? " get" : "",
				    ways[way] & SET ? " set" : "", sizes[size]);
			}
	feature(VFIO_DEVICE_FEATURE_LOW_POWER_EXIT | SET, nothing, 0);
}

static void structs(void)
{
	char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct vfio_device_feature cmd = { .argsz = 8, .flags = PROBE | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY };
	uint32_t sizes[] = { 0, 4, 7, 8, ~0U }, i;

	heading("structs");
	NEED(page != MAP_FAILED && munmap(page + PAGE, PAGE) == 0);
	SAY(call(device, VFIO_DEVICE_FEATURE, NULL), "NULL");
	for (i = 0; i < ARRAY_LEN(sizes); i++) {
		cmd.argsz = sizes[i];
		SAY(call(device, VFIO_DEVICE_FEATURE, &cmd), "argsz %d", (int)sizes[i]);
	}
	SAY(call(device, VFIO_DEVICE_FEATURE, page + PAGE - 4), "a struct beyond the page");
	cmd.argsz = 16;
	cmd.flags = SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP;
	memcpy(page + PAGE - 8, &cmd, 8);
	SAY(call(device, VFIO_DEVICE_FEATURE, page + PAGE - 8), "data beyond the page");
	for (i = 19; i < 32; i++) {
		cmd.argsz = 8;
		cmd.flags = PROBE | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY | 1U << i;
		SAY(call(device, VFIO_DEVICE_FEATURE, &cmd), "unknown flag %#x", 1U << i);
	}
	munmap(page, PAGE);
}

static void power(void)
{
	struct vfio_device_low_power_entry_with_wakeup wake = { .wakeup_eventfd = -1 };
	int event = new_eventfd(), null = open("/dev/null", O_RDWR);
	uint32_t value = 0;

	heading("low power");
	NEED(null >= 0);
	enable(device, false);
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, NULL, 0), "exit without entry");
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, NULL, 0), "entry");
	SAY(told(pread(device, &value, 4, AT(BAR0, 0))), "read of a BAR");
	SAY((long)value, "is");
	SAY(told(pread(device, &value, 4, AT(CONFIG, 0))), "read of configuration space");
	SAY((long)value, "is");
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, NULL, 0), "entry once more");
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, NULL, 0), "exit");
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, NULL, 0), "exit once more");
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, &wake, 8), "entry with -1");
	wake.wakeup_eventfd = 999;
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, &wake, 8), "entry with no descriptor");
	wake.wakeup_eventfd = null;
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, &wake, 8), "entry with /dev/null");
	wake.wakeup_eventfd = event;
	wake.reserved = 7;
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, &wake, 8), "entry with an eventfd");
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP, &wake, 8), "once more");
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, NULL, 0), "without");
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT, NULL, 0), "exit");
	SAY(rings(event), "rings");
	SAY(feature(SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY, NULL, 0), "entry");
	close(device);
	close(iommufd);
	device = bound(&iommufd);
	enable(device, false);
	SAY(told(pread(device, &value, 4, AT(BAR0, 0))), "closed and opened: read of a BAR");
	SAY((long)value, "is");
	close(event);
	close(null);
}

static long dma_buf_of(uint32_t argsz, uint32_t region, uint32_t open_flags, uint32_t flags, uint32_t count,
		       const struct vfio_region_dma_range *ranges)
{
	union {
		struct vfio_device_feature feature;
		uint64_t room[32];
	} cmd = { .feature = { .argsz = argsz, .flags = GET | VFIO_DEVICE_FEATURE_DMA_BUF } };
	struct vfio_device_feature_dma_buf *get = (void *)cmd.feature.data;

	get->region_index = region;
	get->open_flags = open_flags;
	get->flags = flags;
	get->nr_ranges = count;
	if (ranges != NULL)
		memcpy(get->dma_ranges, ranges, (count < 8 ? count : 8) * sizeof(*ranges));
	return call(device, VFIO_DEVICE_FEATURE, &cmd);
}

static void dma_buf(void)
{
	struct vfio_region_dma_range one = { 0, PAGE }, two[] = { { PAGE, PAGE }, { 0, PAGE } }, odd = { 1, PAGE },
				     empty = { 0, 0 }, all = { 0, MIB }, more = { 0, MIB + PAGE },
				     wraps[] = { { 0, ~(PAGE - 1) }, { 0, PAGE } };
	uint32_t region, ioas = new_ioas(iommufd);
	long fd;

	heading("dma-bufs");
	SAY(dma_buf_of(23, 0, O_RDWR | O_CLOEXEC, 0, 1, &one), "argsz 23");
	for (region = 1; region < 12; region++)
		SAY(dma_buf_of(40, region, O_RDWR | O_CLOEXEC, 0, 1, &one), "region %u", region);
	SAY(dma_buf_of(40, 0, O_RDWR, 1, 1, &one), "flags 1");
	SAY(dma_buf_of(40, 0, O_RDWR, 0, 0, &one), "no ranges");
	SAY(dma_buf_of(40, 0, O_RDWR, 0, 1, &odd), "an odd range");
	SAY(dma_buf_of(40, 0, O_RDWR, 0, 1, &empty), "an empty range");
	SAY(dma_buf_of(40, 0, O_RDWR, 0, 1, &more), "a range beyond the BAR");
	SAY(dma_buf_of(56, 0, O_RDWR, 0, 2, wraps), "ranges that wrap");
	SAY(dma_buf_of(40, 0, O_RDWR, 0, ~0U, NULL), "far too many ranges");
	fd = dma_buf_of(40, 0, O_APPEND, 0, 1, &one);
	SAY(fd < 0 ? fd : 0, "another flag of open");
	if (fd >= 0) {
		SAY(fcntl((int)fd, F_GETFD), "which does not close it on exec");
		SAY(fcntl((int)fd, F_GETFL) & (O_ACCMODE | O_APPEND), "nor does it have it");
		close((int)fd);
	}
	fd = dma_buf_of(40, 0, O_RDWR | O_CLOEXEC, 0, 1, &one);
	SAY(fd < 0 ? fd : 0, "one page");
	if (fd >= 0) {
		SAY(map_file_at(iommufd, ioas, (int)fd, 0, PAGE, 0), "IOAS_MAP_FILE of it");
		SAY(map_file_at(iommufd, ioas, (int)fd, PAGE, PAGE, MIB), "beyond its end");
		close((int)fd);
	}
	fd = dma_buf_of(56, 0, O_RDWR | O_CLOEXEC, 0, 2, two);
	SAY(fd < 0 ? fd : 0, "two pages");
	if (fd >= 0) {
		SAY(map_file_at(iommufd, ioas, (int)fd, 0, PAGE, 2 * MIB), "IOAS_MAP_FILE of it");
		close((int)fd);
	}
	fd = dma_buf_of(40, 0, O_RDWR | O_CLOEXEC, 0, 1, &all);
	SAY(fd < 0 ? fd : 0, "all of it");
	if (fd >= 0) {
		SAY(map_file_at(iommufd, ioas, (int)fd, PAGE, PAGE, 4 * MIB), "IOAS_MAP_FILE of it");
		close((int)fd);
	}
}

int main(int argc, char **argv)
{
	begin(argc, argv);
	device = bound(&iommufd);
	all();
	structs();
	power();
	dma_buf();
	return 0;
}
