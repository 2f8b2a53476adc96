// SPDX-License-Identifier: MIT
/*
 * The client of the benchmark: does what it is told on standard input and answers with one number
 * a line, so that run.py decides what is measured, in which order, and beside what. It knows
 * nothing of who serves the files it is given; a real /dev/iommu will do.
 *
 * Usage: client PATH...    each PATH is opened once and is target 0, 1, ...; then, a line each:
 *   batch TARGET WORKLOAD N   do WORKLOAD N times: the nanoseconds all of them took
 *   build TARGET N            MAP until N areas stand: the nanoseconds the longest MAP took
 *
 * Standing areas are 4 KiB each, every one a MAP of its own user address, in two fields of equal
 * number. One is packed from IOVA 0 up, so that an IOVA of the kernel's choice lies behind half of
 * all areas: who looks for it area by area is found out. The other leaves a hole of 4 KiB above
 * every area, where the fixed MAPs go at random. It is filled in a scattered order, as a guest
 * would.
 */
#include "client.h"

#include <fcntl.h>
#include <linux/vfio.h>
#include <sys/mman.h>

#define PAGE 4096ULL
#define MAX_AREAS (4ULL << 20)
#define MAX_TARGETS 8
#define HOLES_BASE (1ULL << 40) /* the IOVA where the field with holes begins */
#define SCATTER 2654435761ULL /* a prime, so multiplying by it permutes any field shorter than it */
#define WARM_UP 16 /* repetitions before a batch: caches forget during the other's batch */

struct target {
	int fd;
	__u32 ioas;
	__u64 packed, holed; /* standing areas in either field */
	struct iommu_iova_range ranges[16];
};

static __u64 memory; /* where the user addresses begin; never touched */

static __u64 below(__u64 bound)
{
	static __u64 x = 88172645463325252ULL;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return x % bound;
}

static __u64 map(struct target *t, __u32 flags, __u64 page, __u64 iova)
{
	return ioas_map(t->fd, t->ioas, flags, memory + page * PAGE, PAGE, iova);
}

static void unmap(struct target *t, __u64 iova)
{
	ioas_unmap(t->fd, t->ioas, iova, PAGE);
}

static void alloc_destroy(struct target *t)
{
	destroy(t->fd, ioas_alloc(t->fd));
}

static void map_fixed(struct target *t)
{
	__u64 hole = t->holed ? below(t->holed) : 0;
	__u64 iova = HOLES_BASE + (2 * hole + 1) * PAGE;

	map(t, IOMMU_IOAS_MAP_FIXED_IOVA, MAX_AREAS, iova);
	unmap(t, iova);
}

static void map_chosen(struct target *t)
{
	unmap(t, map(t, 0, MAX_AREAS, 0));
}

/* map_fixed in VFIO's words, on an empty IOAS. */
static void vfio_map(struct target *t)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = memory + MAX_AREAS * PAGE,
		.iova = HOLES_BASE + PAGE,
		.size = PAGE,
	};
	struct vfio_iommu_type1_dma_unmap unmap = {
		.argsz = sizeof(unmap),
		.iova = map.iova,
		.size = PAGE,
	};

	if (ioctl(t->fd, VFIO_IOMMU_MAP_DMA, &map) || ioctl(t->fd, VFIO_IOMMU_UNMAP_DMA, &unmap))
		die("VFIO_IOMMU_MAP_DMA, VFIO_IOMMU_UNMAP_DMA");
}

static void iova_ranges(struct target *t)
{
	struct iommu_ioas_iova_ranges cmd = {
		.size = sizeof(cmd),
		.ioas_id = t->ioas,
		.num_iovas = sizeof(t->ranges) / sizeof(t->ranges[0]),
		.allowed_iovas = (__u64)(unsigned long)t->ranges,
	};

	if (ioctl(t->fd, IOMMU_IOAS_IOVA_RANGES, &cmd))
		die("IOAS_IOVA_RANGES");
}

static const struct {
	const char *name;
	void (*once)(struct target *t);
} workloads[] = {
	{ "alloc_destroy", alloc_destroy },
	{ "map_fixed", map_fixed },
	{ "map_chosen", map_chosen },
	{ "iova_ranges", iova_ranges },
	{ "vfio_map", vfio_map },
};

static __u64 batch(struct target *t, const char *name, __u64 n)
{
	__u64 begin;
	size_t i;

	for (i = 0; strcmp(workloads[i].name, name); i++) {
		if (i + 1 == sizeof(workloads) / sizeof(workloads[0])) {
			errno = EINVAL;
			die(name);
		}
	}
	for (int k = 0; k < WARM_UP; k++)
		workloads[i].once(t);
	begin = now();
	while (n--)
		workloads[i].once(t);
	return now() - begin;
}

static __u64 build(struct target *t, __u64 total)
{
	__u64 held = t->holed, more = total / 2 > held ? total / 2 - held : 0;
	__u64 page = t->packed + held, longest = 0;

	if (total > MAX_AREAS) {
		errno = E2BIG;
		die("build");
	}
	for (__u64 k = 0; t->packed + t->holed < total; k++) {
		__u64 begin = now(), iova;

		if (k < more) {
			iova = HOLES_BASE + 2 * (held + k * SCATTER % more) * PAGE;
			t->holed++;
		} else {
			iova = t->packed++ * PAGE;
		}
		map(t, IOMMU_IOAS_MAP_FIXED_IOVA, page++, iova);
		if (now() - begin > longest)
			longest = now() - begin;
	}
	return longest;
}

/* VFIO's ioctls act on the target's IOAS, too. */
static void set_compat(struct target *t)
{
	struct iommu_vfio_ioas cmd = {
		.size = sizeof(cmd),
		.ioas_id = t->ioas,
		.op = IOMMU_VFIO_IOAS_SET,
	};

	if (ioctl(t->fd, IOMMU_VFIO_IOAS, &cmd))
		die("VFIO_IOAS");
}

int main(int argc, char **argv)
{
	static struct target targets[MAX_TARGETS];
	unsigned long long n;
	char verb[16], name[32];
	unsigned int i;
	void *at;

	if (argc < 2 || argc > 1 + MAX_TARGETS) {
		fprintf(stderr, "usage: client PATH...\n");
		return 2;
	}
	at = mmap(NULL, (MAX_AREAS + 1) * PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (at == MAP_FAILED)
		die("mmap");
	memory = (__u64)(unsigned long)at;
	for (int k = 1; k < argc; k++) {
		targets[k - 1].fd = open(argv[k], O_RDWR | O_CLOEXEC);
		if (targets[k - 1].fd < 0)
			die(argv[k]);
		targets[k - 1].ioas = ioas_alloc(targets[k - 1].fd);
		set_compat(&targets[k - 1]);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf("%15s %u", verb, &i) == 2 && i < (unsigned int)argc - 1) {
		if (!strcmp(verb, "batch") && scanf("%31s %llu", name, &n) == 2)
			printf("%llu\n", batch(&targets[i], name, n));
		else if (!strcmp(verb, "build") && scanf("%llu", &n) == 1)
			printf("%llu\n", build(&targets[i], n));
		else
			break;
	}
	if (feof(stdin))
		return 0;
	fprintf(stderr, "client: a command it does not know\n");
	return 2;
}
