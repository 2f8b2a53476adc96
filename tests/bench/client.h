/* SPDX-License-Identifier: MIT */
/* What the clients of the benchmark share: failing with a sentence, time, and the plain ioctls. */
#ifndef BENCH_CLIENT_H
#define BENCH_CLIENT_H

#include <errno.h>
#include <linux/iommufd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

static inline void die(const char *what)
{
	fprintf(stderr, "client: %s: %s\n", what, strerror(errno));
	exit(1);
}

/* Nanoseconds. */
static inline __u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* A new IOAS's ID. */
static inline __u32 ioas_alloc(int fd)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	if (ioctl(fd, IOMMU_IOAS_ALLOC, &cmd))
		die("IOAS_ALLOC");
	return cmd.out_ioas_id;
}

static inline void destroy(int fd, __u32 id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	if (ioctl(fd, IOMMU_DESTROY, &cmd))
		die("DESTROY");
}

/* For reading and writing; returns the IOVA. */
static inline __u64 ioas_map(int fd, __u32 ioas, __u32 flags, __u64 user_va, __u64 length,
			     __u64 iova)
{
	struct iommu_ioas_map cmd = {
		.size = sizeof(cmd),
		.flags = flags | IOMMU_IOAS_MAP_READABLE | IOMMU_IOAS_MAP_WRITEABLE,
		.ioas_id = ioas,
		.user_va = user_va,
		.length = length,
		.iova = iova,
	};

	if (ioctl(fd, IOMMU_IOAS_MAP, &cmd))
		die("IOAS_MAP");
	return cmd.iova;
}

static inline void ioas_unmap(int fd, __u32 ioas, __u64 iova, __u64 length)
{
	struct iommu_ioas_unmap cmd = {
		.size = sizeof(cmd),
		.ioas_id = ioas,
		.iova = iova,
		.length = length,
	};

	if (ioctl(fd, IOMMU_IOAS_UNMAP, &cmd))
		die("IOAS_UNMAP");
	if (cmd.length != length) {
		errno = EPROTO;
		die("IOAS_UNMAP length");
	}
}

#endif
