// SPDX-License-Identifier: MIT
/*
 * The client of the benchmark that has page tables: it fills them, invalidates them, and asks what
 * is dirty. As client.c it does what it is told on standard input and answers with one number a
 * line.
 *
 * Usage: tables PATH      PATH is opened.
 *   track BYTES         a page table with dirty tracking, mapped for that long: its areas
 *   dirty PAGES         have so many pages of it written to, evenly (all: in one go), read the
 *                       whole bitmap and clear it: nanoseconds of the read
 *   nest                a nested page table: its ID
 *   invalidate N        N entries of it in one ioctl: nanoseconds
 *   fill AREAS          two IOASes with so many areas each, and a mock device elsewhere: its ID
 *   attach              a device to one of them, which fills a page table: nanoseconds
 *   replace             from one to the other, and back: nanoseconds of the first
 */
#define _GNU_SOURCE
#include "client.h"

#include <fcntl.h>
#include <iommud/iommufd_test.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ULL
#define AREA (64ULL << 20)
#define HALF 2048ULL /* what a bit of DIRTY stands for, as nothing smaller has an entry */

static int fd;
static __u32 tracked, nested, filled[2], mock;
static __u64 length;
static unsigned char *bits;

static char *shared_memory(__u64 size)
{
	int file = memfd_create("bench", MFD_CLOEXEC);
	char *at;

	if (file < 0 || ftruncate(file, size))
		die("memfd");
	at = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, file, 0);
	if (at == MAP_FAILED)
		die("mmap");
	close(file);
	return at;
}

static void test(struct iommu_test_cmd *cmd, const char *what)
{
	cmd->size = sizeof(*cmd);
	if (ioctl(fd, IOMMU_TEST_CMD, cmd))
		die(what);
}

static struct iommu_test_cmd new_mock(__u32 pt)
{
	struct iommu_test_cmd cmd = { .op = IOMMU_TEST_OP_MOCK_DOMAIN, .id = pt };

	test(&cmd, "MOCK_DOMAIN");
	return cmd;
}

static __u32 hwpt_alloc(__u32 pt, __u32 flags, __u32 kind)
{
	struct iommu_hwpt_selftest data = { .iotlb = 1, .pagetable_type = kind };
	struct iommu_test_cmd device = new_mock(ioas_alloc(fd));
	struct iommu_hwpt_alloc cmd = {
		.size = sizeof(cmd),
		.flags = flags,
		.dev_id = device.mock_domain.out_idev_id,
		.pt_id = pt,
		.data_type = IOMMU_HWPT_DATA_SELFTEST,
		.data_len = sizeof(data),
		.data_uptr = (uintptr_t)&data,
	};

	if (ioctl(fd, IOMMU_HWPT_ALLOC, &cmd))
		die("HWPT_ALLOC");
	return cmd.out_hwpt_id;
}

/* The kind of page table that is not bound to the mock's small aperture. */
static __u64 track(__u64 size)
{
	struct iommu_hwpt_set_dirty_tracking on = {
		.size = sizeof(on),
		.flags = IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
	};
	__u64 area = size < AREA ? size : AREA;
	__u32 ioas = ioas_alloc(fd);
	struct iommu_ioas_copy copy = {
		.size = sizeof(copy),
		.flags = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_READABLE |
			 IOMMU_IOAS_MAP_WRITEABLE,
		.dst_ioas_id = ioas,
		.src_ioas_id = ioas,
		.length = area,
	};

	/* A page off a large entry's alignment, so that all entries are of a page. */
	ioas_map(fd, ioas, IOMMU_IOAS_MAP_FIXED_IOVA,
		 (uintptr_t)shared_memory(area + PAGE) + PAGE, area, 0);
	for (copy.dst_iova = area; copy.dst_iova < size; copy.dst_iova += area)
		if (ioctl(fd, IOMMU_IOAS_COPY, &copy))
			die("IOAS_COPY");
	tracked = on.hwpt_id = hwpt_alloc(ioas, IOMMU_HWPT_ALLOC_DIRTY_TRACKING, MOCK_IOMMUPT_HUGE);
	if (ioctl(fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &on))
		die("HWPT_SET_DIRTY_TRACKING");
	length = size;
	bits = mmap(NULL, size / HALF / 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		    0);
	if (bits == MAP_FAILED)
		die("mmap");
	return size / area;
}

static void write_to(__u64 iova, __u64 size)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_DIRTY,
		.id = tracked,
		.dirty = {
			.iova = iova,
			.length = size,
			.page_size = HALF,
			.uptr = (uintptr_t)bits,
		},
	};

	memset(bits, 0xff, (size / HALF + 7) / 8);
	test(&cmd, "DIRTY");
}

static __u64 dirty(__u64 pages)
{
	struct iommu_hwpt_get_dirty_bitmap cmd = {
		.size = sizeof(cmd),
		.hwpt_id = tracked,
		.length = length,
		.page_size = PAGE,
		.data = (uintptr_t)bits,
	};
	__u64 i, begin, took, found = 0;

	if (pages == length / PAGE)
		write_to(0, length);
	else
		for (i = 0; i < pages; i++)
			write_to(length / PAGE / pages * i * PAGE, PAGE);
	memset(bits, 0, length / HALF / 8);
	begin = now();
	if (ioctl(fd, IOMMU_HWPT_GET_DIRTY_BITMAP, &cmd))
		die("HWPT_GET_DIRTY_BITMAP");
	took = now() - begin;
	for (i = 0; i < length / PAGE / 8; i++)
		found += __builtin_popcount(bits[i]);
	if (found != pages) {
		errno = EPROTO;
		die("the bitmap");
	}
	return took;
}

static __u64 nest(void)
{
	__u32 parent = hwpt_alloc(ioas_alloc(fd), IOMMU_HWPT_ALLOC_NEST_PARENT, 0);

	nested = hwpt_alloc(parent, 0, 0);
	return nested;
}

static __u64 invalidate(__u64 n)
{
	struct iommu_hwpt_invalidate_selftest *entries = calloc(n, sizeof(*entries));
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd),
		.hwpt_id = nested,
		.data_uptr = (uintptr_t)entries,
		.data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
		.entry_len = sizeof(*entries),
		.entry_num = n,
	};
	__u64 i, begin, took;

	if (!entries)
		die("memory");
	for (i = 0; i < n; i++)
		entries[i].iotlb_id = i % 4;
	begin = now();
	if (ioctl(fd, IOMMU_HWPT_INVALIDATE, &cmd))
		die("HWPT_INVALIDATE");
	took = now() - begin;
	if (cmd.entry_num != n) {
		errno = EPROTO;
		die("entry_num");
	}
	free(entries);
	return took;
}

static __u64 fill(__u64 areas)
{
	char *memory = shared_memory(areas * PAGE);
	__u64 i, which;

	for (which = 0; which < 2; which++) {
		filled[which] = ioas_alloc(fd);
		/* Not side by side, in memory and as IOVAs: each is an area with pages of its own. */
		for (i = 0; i < areas; i++)
			ioas_map(fd, filled[which], IOMMU_IOAS_MAP_FIXED_IOVA,
				 (uintptr_t)memory + i * PAGE, PAGE,
				 MOCK_APERTURE_START + 2 * i * PAGE);
	}
	mock = new_mock(filled[0]).mock_domain.out_stdev_id;
	destroy(fd, mock);
	return mock;
}

static __u64 attach(void)
{
	__u64 begin = now(), took;

	mock = new_mock(filled[0]).mock_domain.out_stdev_id;
	took = now() - begin;
	destroy(fd, mock);
	return took;
}

static __u64 replace(void)
{
	struct iommu_test_cmd cmd = { .op = IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE };
	__u64 begin, took;

	cmd.id = new_mock(filled[0]).mock_domain.out_stdev_id;
	cmd.mock_domain_replace.pt_id = filled[1];
	begin = now();
	test(&cmd, "MOCK_DOMAIN_REPLACE");
	took = now() - begin;
	destroy(fd, cmd.id);
	return took;
}

int main(int argc, char **argv)
{
	unsigned long long number;
	char verb[16];

	if (argc != 2) {
		fprintf(stderr, "usage: tables PATH\n");
		return 2;
	}
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	if (fd < 0)
		die(argv[1]);
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf("%15s", verb) == 1) {
		if (!strcmp(verb, "nest"))
			printf("%llu\n", nest());
		else if (!strcmp(verb, "attach"))
			printf("%llu\n", attach());
		else if (!strcmp(verb, "replace"))
			printf("%llu\n", replace());
		else if (scanf("%llu", &number) != 1)
			break;
		else if (!strcmp(verb, "track"))
			printf("%llu\n", track(number));
		else if (!strcmp(verb, "dirty"))
			printf("%llu\n", dirty(number));
		else if (!strcmp(verb, "invalidate"))
			printf("%llu\n", invalidate(number));
		else if (!strcmp(verb, "fill"))
			printf("%llu\n", fill(number));
		else
			break;
	}
	if (feof(stdin))
		return 0;
	fprintf(stderr, "tables: a command it does not know\n");
	return 2;
}
