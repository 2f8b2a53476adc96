// SPDX-License-Identifier: MIT
/*
 * fuzz_vfio [--trace] SEED CALLS
 *
 * Random calls of VFIO's container, and of what else changes its IOAS: IOMMUFD's maps, copies and
 * unmaps, devices and accesses that come and go, options. All in a few pages and a few IOVAs, so
 * that they meet. Prints a checksum of all answers and of all that they wrote, which depends on the
 * seed alone. --trace: print them, to find out where they are not what they should be.
 */
#include "vfio.h"

#include "fuzz_calls.h"
#include "mock/table.h"

#define PAGES 16
#define LIFE 400 /* calls on one open file */
#define DEVICES 2
#define ITEMS 3
#define ROOM 112

static struct player player = { 0 };
static struct mock devices[DEVICES];
static uint32_t items[ITEMS], ioas[2];
static uint64_t checksum, memory;
static int fd = -1, access_fd;
static bool trace;

static uint64_t up_to(uint64_t limit)
{
	return below(&player, limit);
}

static uint64_t some_iova(void)
{
	static const uint64_t off[] = { 1, 512, MOCK_PAGE, PAGE - 1 };
	uint64_t at = APERTURE + up_to(PAGES) * PAGE, rare = up_to(64);

	return rare < ARRAY_LEN(off) ? at + off[rare] : rare == 4 ? 0 : rare == 5 ? U64_MAX - PAGE : at;
}

static uint64_t some_length(void)
{
	static const uint64_t odd[] = { 0, 1, MOCK_PAGE, U64_MAX, U64_MAX - APERTURE + 2 * PAGE + 1 };
	uint64_t length = (1 + up_to(6)) * PAGE, rare = up_to(64);

	return rare < ARRAY_LEN(odd) ? odd[rare] : length;
}

static uint64_t some_memory(void)
{
	uint64_t at = memory + up_to(PAGES) * PAGE;

	return up_to(64) ? at : at + MOCK_PAGE;
}

static void fold(uint64_t value)
{
	checksum = (checksum ^ value) * 0x9e3779b97f4a7c15;
	checksum ^= checksum >> 29;
}

static void note(const char *what, long rc, uint64_t value)
{
	fold((uint64_t)rc);
	fold(value);
	if (trace)
		printf("%-12s %-12s %#llx\n", what, errno_name(rc), (unsigned long long)value);
}

static void open_anew(void)
{
	struct iommu_test_cmd cmd = { .create_access = { .flags =
					MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES } };

	if (fd >= 0) {
		close(access_fd);
		close(fd);
	}
	fd = open_iommu();
	ioas[0] = new_ioas(fd);
	ioas[1] = new_ioas(fd);
	cmd.id = ioas[0];
	NEED(test_cmd(fd, IOMMU_TEST_OP_CREATE_ACCESS, &cmd) == 0);
	access_fd = (int)cmd.create_access.out_access_fd;
	NEED(set_compat(fd, ioas[0]) == 0);
	memset(devices, 0, sizeof(devices));
	memset(items, 0, sizeof(items));
}

static void get_info(void)
{
	uint32_t room = (uint32_t)up_to(ROOM), i;
	unsigned char all[ROOM];
	long rc;

	memset(all, 0xee, sizeof(all));
	memcpy(all, &room, sizeof(room));
	rc = call(fd, VFIO_IOMMU_GET_INFO, all);
	for (i = 0; i < sizeof(all); i++)
		fold(all[i]);
	memcpy(&room, all, sizeof(room));
	note("get info", rc, room);
}

static void device(void)
{
	struct mock *mock = &devices[up_to(DEVICES)];
	uint32_t pt = ioas[up_to(2)];
	long rc;

	if (!mock->stdev) {
		rc = mock_flags(fd, pt, 0, mock);
		if (rc)
			mock->stdev = 0;
		note("device", rc, mock->stdev);
	} else if (up_to(2)) {
		rc = mock_replace(fd, mock->stdev, pt);
		note("replace", rc, 0);
	} else {
		rc = destroy(fd, mock->stdev);
		note("device gone", rc, mock->stdev);
		if (!rc)
			mock->stdev = 0;
	}
}

static void accesses(void)
{
	uint64_t iova = some_iova(), pages = 1 + up_to(3), which = up_to(ITEMS);
	struct iommu_test_cmd cmd = { .id = (uint32_t)access_fd };
	long rc;

	if (items[which]) {
		cmd.destroy_access_pages.access_pages_id = items[which];
		rc = test_cmd(fd, IOMMU_TEST_OP_DESTROY_ACCESS_PAGES, &cmd);
		note("unpin", rc, items[which]);
		items[which] = 0;
		return;
	}
	cmd.access_pages.iova = iova;
	cmd.access_pages.length = pages * PAGE;
	rc = test_cmd(fd, IOMMU_TEST_OP_ACCESS_PAGES, &cmd);
	if (rc == 0)
		items[which] = cmd.access_pages.out_access_pages_id;
	note("pin", rc, items[which]);
}

static void refs(void)
{
	uint64_t page = up_to(PAGES);
	struct iommu_test_cmd cmd = { .check_refs = { .length = PAGE, .uptr = memory + page * PAGE } };
	uint32_t i;

	/* How many times it is pinned is found by asking. */
	for (i = 0; i < 40; i++) {
		cmd.check_refs.refs = i;
		if (test_cmd(fd, IOMMU_TEST_OP_MD_CHECK_REFS, &cmd) == 0)
			break;
	}
	note("pins", 0, page << 8 | i);
}

static void options(void)
{
	uint64_t value = up_to(2);

	note("huge pages", option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas[0], value), value);
	value = iova_alignment(fd, ioas[0]);
	note("alignment", 0, value);
}

static void compat_ioas(void)
{
	/* Without one there is not much to see. */
	uint16_t op = (uint16_t)(up_to(8) ? up_to(2) : 2);
	uint32_t id = ioas[up_to(8) == 0];
	long rc = compat(fd, op, &id);

	note(op == 0 ? "compat get" : op == 1 ? "compat set" : "compat clear", rc, id);
}

static void one_call(void)
{
	static const unsigned long kinds[] = { 0, VFIO_TYPE1_IOMMU, VFIO_TYPE1_IOMMU,
					       VFIO_TYPE1v2_IOMMU, VFIO_NOIOMMU_IOMMU };
	uint64_t iova = some_iova(), length = some_length(), va = some_memory(), other = some_iova();
	uint32_t flags = up_to(16) ? 3 : (uint32_t)up_to(8);
	uint64_t which = up_to(32), number = up_to(20), half = up_to(2);
	long rc;

	if (which < 7) {
		note("map", map_dma(fd, va, iova, length, flags), iova);
	} else if (which < 14) {
		rc = unmap_dma(fd, iova, &length, up_to(24) ? 0 : flags);
		note("unmap", rc, length);
	} else if (which < 15) {
		length = up_to(8) == 0;
		rc = unmap_dma(fd, 0, &length, VFIO_DMA_UNMAP_FLAG_ALL);
		note("unmap all", rc, length);
	} else if (which < 17) {
		number = kinds[number % ARRAY_LEN(kinds)];
		note("set", ask(fd, VFIO_SET_IOMMU, number), number);
	} else if (which < 18) {
		note("extension", ask(fd, VFIO_CHECK_EXTENSION, number), number);
	} else if (which < 20) {
		get_info();
	} else if (which < 22) {
		note("IOAS_MAP", map_at(fd, ioas[half], va, length, iova), iova);
	} else if (which < 23) {
		rc = unmap(fd, ioas[half], iova, &length);
		note("IOAS_UNMAP", rc, length);
	} else if (which < 24) {
		note("IOAS_COPY", copy_at(fd, ioas[half], iova, ioas[number & 1], other, length), iova);
	} else if (which < 26) {
		device();
	} else if (which < 28) {
		accesses();
	} else if (which < 29) {
		compat_ioas();
	} else if (which < 30) {
		options();
	} else {
		refs();
	}
}

int main(int argc, char **argv)
{
	uint64_t i, calls;
	int file;

	trace = argc > 1 && !strcmp(argv[1], "--trace");
	argv += trace;
	NEED(argc - trace == 3);
	player.random = strtoull(argv[1], NULL, 0);
	calls = strtoull(argv[2], NULL, 0);
	file = memfd_create("fuzz", MFD_CLOEXEC);
	NEED(file >= 0 && ftruncate(file, 2 * PAGES * PAGE) == 0);
	memory = (uintptr_t)mmap(NULL, 2 * PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	NEED((void *)(uintptr_t)memory != MAP_FAILED);
	for (i = 0; i < calls; i++) {
		if (i % LIFE == 0)
			open_anew();
		one_call();
	}
	printf("checksum %016llx\n", (unsigned long long)checksum);
	return 0;
}
