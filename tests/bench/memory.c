// SPDX-License-Identifier: MIT
/*
 * The client of the benchmark that has memory: it maps it for a mock device, and has it copied. As
 * client.c it does what it is told on standard input and answers with one number a line.
 *
 * Usage: memory [PATH]    PATH is opened, and an IOAS made; without it only `hold` is of use.
 *   hold KIND BYTES     have that much private or shared (memfd) memory, every page written to, and
 *                       no other: its address
 *   attach              put a mock device on the IOAS: its ID
 *   map BYTES N         N times MAP and UNMAP of the first BYTES: nanoseconds
 *   access              map all of it and put an access on the IOAS: the access's descriptor
 *   read|write BYTES N  N times ACCESS_RW of the first BYTES into a buffer, or from it: nanoseconds
 *   memcpy_from|memcpy_to BYTES N  the same by memcpy
 */
#define _GNU_SOURCE
#include "client.h"

#include <fcntl.h>
#include <iommud/iommufd_test.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096ULL
#define IOVA MOCK_APERTURE_START
#define LARGEST_RW (16ULL << 20) /* bytes, in one ACCESS_RW */

static int fd = -1;
static __u32 ioas;
static int access_fd = -1;
static char *memory, *buffer;
static __u64 held;   /* bytes of memory */
static __u64 mapped; /* bytes mapped for the access */

static void touch(char *at, __u64 length)
{
	for (__u64 done = 0; done < length; done += PAGE)
		at[done] = 1;
}

static char *private_memory(__u64 length)
{
	char *at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		die("mmap");
	touch(at, length);
	return at;
}

static char *shared_memory(__u64 length)
{
	int file = memfd_create("bench", MFD_CLOEXEC);
	char *at;

	if (file < 0 || ftruncate(file, length))
		die("memfd");
	at = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (at == MAP_FAILED)
		die("mmap");
	close(file);
	touch(at, length);
	return at;
}

static __u64 hold(const char *kind, __u64 length)
{
	if (memory && munmap(memory, held))
		die("munmap");
	memory = strcmp(kind, "shared") ? private_memory(length) : shared_memory(length);
	held = length;
	return (__u64)(unsigned long)memory;
}

static void test(struct iommu_test_cmd *cmd, int on, const char *what)
{
	cmd->size = sizeof(*cmd);
	if (ioctl(on, IOMMU_TEST_CMD, cmd))
		die(what);
}

static __u64 attach(void)
{
	struct iommu_test_cmd cmd = { .op = IOMMU_TEST_OP_MOCK_DOMAIN, .id = ioas };

	test(&cmd, fd, "MOCK_DOMAIN");
	return cmd.mock_domain.out_stdev_id;
}

static void map(__u64 length)
{
	ioas_map(fd, ioas, IOMMU_IOAS_MAP_FIXED_IOVA, (__u64)(unsigned long)memory, length, IOVA);
}

static __u64 new_access(void)
{
	struct iommu_test_cmd cmd = { .op = IOMMU_TEST_OP_CREATE_ACCESS, .id = ioas };

	if (access_fd >= 0) {
		close(access_fd);
		ioas_unmap(fd, ioas, IOVA, mapped);
	} else {
		buffer = private_memory(LARGEST_RW);
	}
	map(held);
	mapped = held;
	test(&cmd, fd, "CREATE_ACCESS");
	access_fd = cmd.create_access.out_access_fd;
	return access_fd;
}

static void map_once(__u64 length)
{
	map(length);
	ioas_unmap(fd, ioas, IOVA, length);
}

static void rw(__u64 length, __u32 flags)
{
	struct iommu_test_cmd cmd = {
		.op = IOMMU_TEST_OP_ACCESS_RW,
		.id = access_fd,
		.access_rw = {
			.iova = IOVA,
			.length = length,
			.uptr = (__u64)(unsigned long)buffer,
			.flags = flags,
		},
	};

	test(&cmd, fd, "ACCESS_RW");
}

static void read_once(__u64 length)
{
	rw(length, 0);
}

static void write_once(__u64 length)
{
	rw(length, MOCK_ACCESS_RW_WRITE);
}

static void copy(char *to, const char *from, __u64 length)
{
	memcpy(to, from, length);
	__asm__ volatile("" ::: "memory"); /* it counts, though nobody looks */
}

static void memcpy_from_once(__u64 length)
{
	copy(buffer, memory, length);
}

static void memcpy_to_once(__u64 length)
{
	copy(memory, buffer, length);
}

static const struct {
	const char *name;
	void (*once)(__u64 length);
} workloads[] = {
	{ "map", map_once },
	{ "read", read_once },
	{ "write", write_once },
	{ "memcpy_from", memcpy_from_once },
	{ "memcpy_to", memcpy_to_once },
};

static __u64 batch(const char *name, __u64 length, __u64 n)
{
	__u64 begin;
	size_t i;

	for (i = 0; strcmp(workloads[i].name, name); i++) {
		if (i + 1 == sizeof(workloads) / sizeof(workloads[0])) {
			errno = EINVAL;
			die(name);
		}
	}
	if (length > held) {
		errno = E2BIG;
		die(name);
	}
	workloads[i].once(length); /* caches forget during the other's batch */
	begin = now();
	while (n--)
		workloads[i].once(length);
	return now() - begin;
}

int main(int argc, char **argv)
{
	unsigned long long length, n;
	char verb[16], kind[16];

	if (argc > 2) {
		fprintf(stderr, "usage: memory [PATH]\n");
		return 2;
	}
	if (argc == 2) {
		fd = open(argv[1], O_RDWR | O_CLOEXEC);
		if (fd < 0)
			die(argv[1]);
		ioas = ioas_alloc(fd);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf("%15s", verb) == 1) {
		if (!strcmp(verb, "hold") && scanf("%15s %llu", kind, &length) == 2)
			printf("%llu\n", hold(kind, length));
		else if (!strcmp(verb, "attach"))
			printf("%llu\n", attach());
		else if (!strcmp(verb, "access"))
			printf("%llu\n", new_access());
		else if (scanf("%llu %llu", &length, &n) == 2)
			printf("%llu\n", batch(verb, length, n));
		else
			break;
	}
	if (feof(stdin))
		return 0;
	fprintf(stderr, "memory: a command it does not know\n");
	return 2;
}
