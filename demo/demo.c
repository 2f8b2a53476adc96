/* SPDX-License-Identifier: MIT */
/*
 * A program that manages an IO address space, and knows nothing of iommud: it opens /dev/iommu and
 * calls ioctl(2). `make demo` runs it under `iommud run --why`; on a machine whose kernel has
 * IOMMUFD it runs as it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/iommufd.h>

#define KIB 1024UL

static int fd;

/* Calls one ioctl and says what it was and what came of it; returns 0 or its errno. */
__attribute__((format(printf, 4, 5)))
static int call(const char *name, unsigned long request, void *arg, const char *format, ...)
{
	int result = ioctl(fd, request, arg) ? errno : 0;
	va_list args;

	printf("  %-18s ", name);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	printf(" -> %s\n", result ? strerror(result) : "ok");
	return result;
}

#define CALL(name, cmd, ...) call(#name, IOMMU_##name, cmd, __VA_ARGS__)

int main(void)
{
	struct iommu_iova_range ranges[8] = { 0 };
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct iommu_ioas_iova_ranges query = { .size = sizeof(query), .num_iovas = 8,
						.allowed_iovas = (uintptr_t)ranges };
	struct iommu_ioas_map map = { .size = sizeof(map), .length = 64 * KIB };
	struct iommu_ioas_map again;
	struct iommu_ioas_copy copy = { .size = sizeof(copy), .length = 16 * KIB };
	struct iommu_ioas_unmap unmap = { .size = sizeof(unmap), .length = 4 * KIB };
	struct iommu_destroy destroy = { .size = sizeof(destroy) };
	void *buffer;
	int failed = 0;

	setvbuf(stdout, NULL, _IOLBF, 0);
	fd = open("/dev/iommu", O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		perror("/dev/iommu");
		return 1;
	}
	buffer = mmap(NULL, map.length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (buffer == MAP_FAILED) {
		perror("mmap");
		return 1;
	}

	printf("A new IO address space:\n");
	failed |= CALL(IOAS_ALLOC, &alloc, "%s", "");
	printf("      its ID is %u\n", alloc.out_ioas_id);

	printf("Which IO addresses can be used:\n");
	query.ioas_id = alloc.out_ioas_id;
	failed |= CALL(IOAS_IOVA_RANGES, &query, "ioas %u", alloc.out_ioas_id);
	for (unsigned int i = 0; i < query.num_iovas && i < 8; i++)
		printf("      %#" PRIx64 " to %#" PRIx64 ", aligned to %" PRIu64 "\n",
		       (uint64_t)ranges[i].start, (uint64_t)ranges[i].last,
		       (uint64_t)query.out_iova_alignment);

	printf("64 KiB of memory, at an IO address that the kernel's rules choose:\n");
	map.ioas_id = alloc.out_ioas_id;
	map.user_va = (uintptr_t)buffer;
	map.flags = IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE;
	failed |= CALL(IOAS_MAP, &map, "%p, 64 KiB", buffer);
	printf("      it is at %#" PRIx64 "\n", (uint64_t)map.iova);

	printf("The first 16 KiB of it a second time, at 0x100000000:\n");
	copy.dst_ioas_id = alloc.out_ioas_id;
	copy.src_ioas_id = alloc.out_ioas_id;
	copy.src_iova = map.iova;
	copy.dst_iova = 0x100000000;
	copy.flags = map.flags | IOMMU_IOAS_MAP_FIXED_IOVA;
	failed |= CALL(IOAS_COPY, &copy, "%#" PRIx64 ", 16 KiB", (uint64_t)map.iova);

	printf("Something else at the same address, which is refused:\n");
	again = map;
	again.iova = copy.dst_iova + 4 * KIB;
	again.flags |= IOMMU_IOAS_MAP_FIXED_IOVA;
	failed |= CALL(IOAS_MAP, &again, "%p, 64 KiB", buffer) != EEXIST;

	printf("Only a part of a mapping cannot go:\n");
	unmap.ioas_id = alloc.out_ioas_id;
	unmap.iova = map.iova;
	failed |= CALL(IOAS_UNMAP, &unmap, "%#" PRIx64 ", 4 KiB", (uint64_t)map.iova) != ENOENT;

	printf("Everything goes:\n");
	unmap.iova = 0;
	unmap.length = UINT64_MAX;
	failed |= CALL(IOAS_UNMAP, &unmap, "%s", "all");
	printf("      %" PRIu64 " bytes\n", (uint64_t)unmap.length);

	destroy.id = alloc.out_ioas_id;
	failed |= CALL(DESTROY, &destroy, "ioas %u", alloc.out_ioas_id);
	return failed != 0;
}
