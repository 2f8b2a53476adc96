// SPDX-License-Identifier: MIT
/* HWPT_SET_DIRTY_TRACKING and HWPT_GET_DIRTY_BITMAP, on page tables of mock devices. */
#include "table.h"

#define ENABLE IOMMU_HWPT_DIRTY_TRACKING_ENABLE
#define NO_CLEAR IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR
#define PAGES 64UL
#define BUFFER (PAGES * PAGE)

static long set_tracking(int fd, uint32_t hwpt, uint32_t flags)
{
	struct iommu_hwpt_set_dirty_tracking cmd = { .size = sizeof(cmd), .flags = flags,
						     .hwpt_id = hwpt };

	return call(fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &cmd);
}

static long get_bitmap(int fd, uint32_t hwpt, uint32_t flags, uint64_t iova, uint64_t length,
		       uint64_t page_size, void *data)
{
	struct iommu_hwpt_get_dirty_bitmap cmd = { .size = sizeof(cmd), .flags = flags,
						   .hwpt_id = hwpt, .iova = iova,
						   .length = length, .page_size = page_size,
						   .data = (uintptr_t)data };

	return call(fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd);
}

/* The mock's DMA: the pages of `bits` are written to. */
static long set_dirty(int fd, uint32_t hwpt, uint64_t iova, uint64_t length, uint64_t page_size,
		      const void *bits, uint64_t *count)
{
	struct iommu_test_cmd cmd = { .id = hwpt, .dirty = { .iova = iova, .length = length,
							     .page_size = page_size,
							     .uptr = (uintptr_t)bits } };
	long rc = test_cmd(fd, IOMMU_TEST_OP_DIRTY, &cmd);

	*count = cmd.dirty.out_nr_dirty;
	return rc;
}

static void write_page(int fd, uint32_t hwpt, uint64_t iova)
{
	uint64_t bit = 1, count;

	NEED(set_dirty(fd, hwpt, iova, MOCK_PAGE, MOCK_PAGE, &bit, &count) == 0 && count == 1);
}

/* The first 64 bits of the bitmap from iova on. */
static uint64_t bits_at(int fd, uint32_t hwpt, uint32_t flags, uint64_t iova, uint64_t length,
			uint64_t page_size)
{
	uint64_t bits = 0;

	NEED(get_bitmap(fd, hwpt, flags, iova, length, page_size, &bits) == 0);
	return bits;
}

static void set_errors(int fd, uint32_t ioas, uint32_t plain, uint32_t tracked)
{
	struct iommu_hwpt_set_dirty_tracking cmd = { .size = sizeof(cmd), .hwpt_id = tracked,
						     .__reserved = 1 };
	struct mock nodirty;

	CHECK_ERR(EOPNOTSUPP, set_tracking(fd, NO_ID, 2), "SET: unknown flags, before the ID");
	CHECK_ERR(ENOENT, set_tracking(fd, NO_ID, ENABLE), "SET: no such ID");
	CHECK_ERR(ENOENT, set_tracking(fd, ioas, ENABLE), "SET: an IOAS");
	CHECK_ERR(EOPNOTSUPP, set_tracking(fd, plain, ENABLE), "SET: a page table without it");
	CHECK_ERR(EOPNOTSUPP, set_tracking(fd, plain, 0), "SET: switching off there");
	CHECK_OK(call(fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &cmd), "SET: __reserved is not looked at");
	CHECK_OK(set_tracking(fd, tracked, ENABLE), "SET: on");
	CHECK_OK(set_tracking(fd, tracked, ENABLE), "SET: on again");
	CHECK_OK(set_tracking(fd, tracked, 0), "SET: off");
	CHECK_OK(set_tracking(fd, tracked, 0), "SET: off again");
	CHECK_ERR(EINVAL, mock_flags(fd, tracked, MOCK_FLAGS_DEVICE_NO_DIRTY, &nodirty),
		  "a device that cannot track is not attached");
}

static void get_errors(int fd, uint32_t ioas, uint32_t plain, uint32_t tracked)
{
	struct iommu_hwpt_get_dirty_bitmap cmd = { .size = sizeof(cmd), .hwpt_id = tracked,
						   .__reserved = 1 };
	uint64_t b[16] = { 0 };

	CHECK_ERR(EOPNOTSUPP, get_bitmap(fd, NO_ID, 2, 0, 0, 0, b), "GET: unknown flags, first");
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd), "GET: __reserved");
	CHECK_ERR(ENOENT, get_bitmap(fd, NO_ID, 0, 0, 0, 0, b), "GET: no such ID");
	CHECK_ERR(ENOENT, get_bitmap(fd, ioas, 0, APERTURE, PAGE, PAGE, b), "GET: an IOAS");
	CHECK_ERR(EINVAL, get_bitmap(fd, plain, 0, U64_MAX, 0, 0, b), "GET: length 0");
	CHECK_ERR(EOVERFLOW, get_bitmap(fd, plain, 0, U64_MAX, 2, 0, b), "GET: beyond 2^64 - 1");
	CHECK_ERR(EINVAL, get_bitmap(fd, plain, 0, APERTURE + 1024, PAGE, PAGE, b),
		  "GET: IOVA off the IOAS's alignment");
	CHECK_ERR(EINVAL, get_bitmap(fd, plain, 0, APERTURE, PAGE + 1024, 1, b),
		  "GET: length off the IOAS's alignment");
	CHECK_ERR(EINVAL, get_bitmap(fd, plain, 0, APERTURE, PAGE, 0, b), "GET: page_size 0");
	CHECK_ERR(EINVAL, get_bitmap(fd, plain, 0, APERTURE + PAGE, 2 * PAGE, 2 * PAGE, b),
		  "GET: IOVA off page_size");
	CHECK_ERR(EINVAL, get_bitmap(fd, plain, 0, APERTURE, 3 * PAGE, 2 * PAGE, b),
		  "GET: length off page_size");
	CHECK_ERR(EOPNOTSUPP, get_bitmap(fd, plain, 0, APERTURE, PAGE, PAGE, b),
		  "GET: a page table without it, last");
	CHECK_OK(get_bitmap(fd, tracked, 0, 0, PAGE, PAGE, b), "GET: outside the aperture");
	CHECK_OK(get_bitmap(fd, tracked, 0, 0, 1ULL << 63, 1ULL << 63, b), "GET: a page of 2^63");
	CHECK_OK(get_bitmap(fd, tracked, 0, APERTURE, PAGE, PAGE, NULL), "GET: clean, to NULL");
	CHECK_OK(get_bitmap(fd, tracked, 0, 0x1800 * 4096, 0x1800 * 4096, 0x1800, b),
		 "GET: a page size that is no power of two");
}

static void dirty_errors(int fd, uint32_t ioas, uint32_t tracked)
{
	uint64_t bits = 1, count;

	CHECK_ERR(EINVAL, set_dirty(fd, tracked, APERTURE, PAGE, PAGE, &bits, &count),
		  "DIRTY: tracking is off");
	NEED(set_tracking(fd, tracked, ENABLE) == 0);
	CHECK_ERR(EINVAL, set_dirty(fd, NO_ID, 1, PAGE, PAGE, &bits, &count), "DIRTY: unaligned");
	CHECK_ERR(EINVAL, set_dirty(fd, NO_ID, 0, 0, PAGE, &bits, &count), "DIRTY: length 0");
	CHECK_ERR(EINVAL, set_dirty(fd, NO_ID, 0, PAGE, 0, &bits, &count), "DIRTY: page_size 0");
	CHECK_ERR(EINVAL, set_dirty(fd, NO_ID, 0, PAGE, PAGE, NULL, &count), "DIRTY: NULL");
	CHECK_ERR(EOVERFLOW, set_dirty(fd, NO_ID, 0, 1ULL << 40, PAGE, &bits, &count),
		  "DIRTY: too many bits");
	CHECK_ERR(ENOENT, set_dirty(fd, NO_ID, 0, PAGE, PAGE, &bits, &count), "DIRTY: no ID");
	CHECK_ERR(ENOENT, set_dirty(fd, ioas, 0, PAGE, PAGE, &bits, &count), "DIRTY: an IOAS");
	CHECK_ERR(EFAULT, set_dirty(fd, tracked, 0, PAGE, PAGE, unmapped(), &count),
		  "DIRTY: no bitmap there");
	bits = 5;
	CHECK_OK(set_dirty(fd, tracked, 0, 3 * PAGE, PAGE, &bits, &count), "DIRTY: not mapped");
	CHECK_EQ(count, 2, "counts bits all the same");
}

static void bitmaps(int fd, uint32_t ioas, uint32_t h)
{
	uint64_t a = APERTURE, none[2], count;
	char *pages = new_pages(2);

	/* Page 0 and the second half of page 9. Entries are of 4 KiB. */
	write_page(fd, h, a);
	write_page(fd, h, a + 9 * PAGE + MOCK_PAGE);
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, BUFFER, MOCK_PAGE), 0x00c0003, "of 2 KiB pages");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, BUFFER, PAGE), 0x201, "of 4 KiB pages");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, BUFFER, 4 * PAGE), 0x5, "of 16 KiB pages");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, BUFFER, BUFFER), 0x1, "of the whole");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, 8 * PAGE, 1024), 0xf, "of 1 KiB pages");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a + 8 * PAGE, 8 * PAGE, PAGE), 0x2, "a window");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a + 10 * PAGE, 8 * PAGE, PAGE), 0, "a clean window");
	CHECK_EQ(bits_at(fd, h, 0, a + 9 * PAGE, PAGE, PAGE), 1, "one page, and clear it");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, BUFFER, PAGE), 0x1, "the other is left");

	none[0] = 0xff00;
	none[1] = U64_MAX;
	CHECK_OK(get_bitmap(fd, h, NO_CLEAR, a, BUFFER, PAGE, none), "bits are set, none cleared");
	CHECK_EQ(none[0], 0xff01, "bits that were there stay");
	CHECK_EQ(none[1], U64_MAX, "what lies behind too");
	memset(pages, 0, 2 * PAGE);
	CHECK_OK(get_bitmap(fd, h, NO_CLEAR, a, BUFFER, PAGE, pages + 4093), "across a page");
	CHECK_EQ(pages[4093], 1, "at any address");
	write_page(fd, h, a + 24 * PAGE);
	CHECK_OK(get_bitmap(fd, h, NO_CLEAR, a, BUFFER, PAGE, pages + 4093), "with the next page");
	CHECK_EQ(pages[4096], 1, "the bit there");
	CHECK_OK(get_bitmap(fd, h, NO_CLEAR, a, BUFFER, PAGE, pages + 2 * PAGE - 3),
		 "half of the bitmap is not there");
	CHECK_EQ(pages[2 * PAGE - 3], 1, "the other half is written");
	CHECK_OK(get_bitmap(fd, h, 0, a, BUFFER, PAGE, unmapped()), "nothing of it is there");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, BUFFER, PAGE), 0, "the marks are lost");

	write_page(fd, h, a);
	CHECK_OK(set_tracking(fd, h, 0), "off");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, BUFFER, PAGE), 1, "the marks stay when it goes off");
	CHECK_OK(set_tracking(fd, h, ENABLE), "on");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, BUFFER, PAGE), 0, "a clean slate");
	write_page(fd, h, a);
	CHECK_OK(set_tracking(fd, h, ENABLE), "on while it is on");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, BUFFER, PAGE), 0, "is a clean slate too");

	/* Two areas, then a hole, then a third. */
	NEED(map_at(fd, ioas, (uintptr_t)new_pages(1), PAGE, a + BUFFER) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)new_pages(1), PAGE, a + BUFFER + 2 * PAGE) == 0);
	memset(pages, 0xff, PAGE);
	NEED(set_dirty(fd, h, a, BUFFER + 4 * PAGE, PAGE, pages, &count) == 0);
	CHECK_EQ(count, PAGES + 4, "all are written");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a + BUFFER - PAGE, 2 * PAGE, PAGE), 3, "across areas");
	CHECK_EQ(bits_at(fd, h, 0, a + BUFFER - PAGE, 5 * PAGE, PAGE), 3, "up to a hole");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a + BUFFER + PAGE, 2 * PAGE, PAGE), 0, "from a hole");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a + BUFFER + 2 * PAGE, PAGE, PAGE), 1, "behind it");
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a, BUFFER, PAGE), U64_MAX >> 1, "what was read is clean");

	NEED(unmap_at(fd, ioas, a + BUFFER + 2 * PAGE, PAGE) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)new_pages(1), PAGE, a + BUFFER + 2 * PAGE) == 0);
	CHECK_EQ(bits_at(fd, h, NO_CLEAR, a + BUFFER + 2 * PAGE, PAGE, PAGE), 0,
		 "a new mapping is clean");
}

/* An area whose memory is off by half a page: its entries are of 2 KiB. */
static void halves(int fd)
{
	uint32_t ioas = new_ioas(fd), h;
	struct mock mock = new_mock(fd, ioas);
	uint64_t a = APERTURE + MIB;
	char *pages = new_pages(8);
	int i;

	/* The last first, so that hardly any two are contiguous. */
	for (i = 7; i >= 0; i--)
		pages[i * PAGE] = 1;
	NEED(hwpt_alloc(fd, mock.device, ioas, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &h) == 0);
	NEED(set_tracking(fd, h, ENABLE) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)pages + MOCK_PAGE, 4 * PAGE, a) == 0);
	write_page(fd, h, a + PAGE + MOCK_PAGE);
	CHECK_EQ(bits_at(fd, h, 0, a, 4 * PAGE, MOCK_PAGE), 0x8, "an entry of 2 KiB");
	/* Off in the same way: halves at the ends only. */
	a += MIB;
	NEED(map_at(fd, ioas, (uintptr_t)pages + MOCK_PAGE, 4 * PAGE, a + MOCK_PAGE) == 0);
	write_page(fd, h, a + MOCK_PAGE);
	write_page(fd, h, a + 2 * PAGE);
	write_page(fd, h, a + 4 * PAGE);
	CHECK_EQ(bits_at(fd, h, 0, a + MOCK_PAGE, 4 * PAGE, MOCK_PAGE), 0x99, "and at the ends");
}

int main(void)
{
	uint32_t ioas, plain, tracked, id;
	struct mock mock, nodirty;
	int fd;

	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	/* Else neighbours that are contiguous by chance have one entry. */
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0) == 0);
	mock = new_mock(fd, ioas);
	CHECK_ERR(ENOENT, set_tracking(fd, mock.device, ENABLE), "SET: a device");
	NEED(hwpt_alloc(fd, mock.device, ioas, 0, &plain) == 0);
	CHECK_OK(hwpt_alloc(fd, mock.device, ioas, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &tracked),
		 "HWPT_ALLOC with DIRTY_TRACKING");
	CHECK_ERR(EOPNOTSUPP, set_tracking(fd, mock.hwpt, ENABLE), "SET: an automatic page table");
	NEED(mock_flags(fd, ioas, MOCK_FLAGS_DEVICE_NO_DIRTY, &nodirty) == 0);
	CHECK_ERR(EOPNOTSUPP, hwpt_alloc(fd, nodirty.device, ioas, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, &id),
		  "HWPT_ALLOC with DIRTY_TRACKING for a device that cannot");
	CHECK_ERR(EINVAL, mock_replace(fd, nodirty.stdev, tracked), "nor can it be moved there");
	set_errors(fd, ioas, plain, tracked);
	get_errors(fd, ioas, plain, tracked);
	dirty_errors(fd, ioas, tracked);
	NEED(map_at(fd, ioas, (uintptr_t)new_pages(PAGES), BUFFER, APERTURE) == 0);
	bitmaps(fd, ioas, tracked);
	halves(fd);
	CHECK_OK(destroy(fd, tracked), "DESTROY");
	return checks_end();
}
