/* SPDX-License-Identifier: MIT */
/*
 * What the clients of the benchmark that read and write a disk have in common: which blocks, and
 * the limit, a process that copies the same blocks from the same file into the client.
 *
 * Usage: PROGRAM IOMMU DEVICE FILE; then, a line each:
 *   batch TARGET WORKLOAD N DEPTH SIZE   N times SIZE bytes (whole pages, 128 KiB at most), DEPTH at
 *                                        a time: the nanoseconds all of them took
 * TARGET 0: the device; 1: the limit. WORKLOAD: read, or write.
 */
#ifndef BENCH_DISK_H
#define BENCH_DISK_H

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define SECTOR 512U
#define DISK (64 * MIB)
#define MOST_DEPTH 32U
#define MOST (128U << 10)

struct order {
	uint64_t count;
	uint32_t size, write;
};

static inline uint64_t nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

/* Where the n-th piece is: all over the disk, the same each time. */
static inline uint64_t place(uint64_t n, uint32_t size)
{
	return n * 7919 % (DISK / size) * size;
}

static inline void copy(int orders, const char *path, pid_t to, uint8_t *there)
{
	static uint8_t here[MOST];
	int fd = open(path, O_RDWR);
	struct order order;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (fd >= 0 && read(orders, &order, sizeof(order)) == sizeof(order)) {
		uint64_t begin = nanoseconds(), i;
		struct iovec local = { here, order.size }, remote = { there, order.size };

		for (i = 0; i < order.count; i++) {
			off_t at = (off_t)place(i, order.size);

			if (order.write ? process_vm_readv(to, &local, 1, &remote, 1, 0) != (ssize_t)order.size ||
						  pwrite(fd, here, order.size, at) != (ssize_t)order.size
					: pread(fd, here, order.size, at) != (ssize_t)order.size ||
						  process_vm_writev(to, &local, 1, &remote, 1, 0) != (ssize_t)order.size)
				_exit(1);
		}
		begin = nanoseconds() - begin;
		if (write(orders, &begin, sizeof(begin)) != sizeof(begin))
			_exit(1);
	}
	_exit(fd < 0);
}

/* The copier's end of a socket; it copies to and from `data`. */
static inline int begin_copier(const char *path, uint8_t *data)
{
	pid_t parent = getpid();
	int pair[2];

	NEED(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	if (fork() == 0) {
		close(pair[0]);
		copy(pair[1], path, parent, data);
	}
	close(pair[1]);
	return pair[0];
}

static inline uint64_t by_copier(int copier, const struct order *order)
{
	uint64_t took;

	NEED(write(copier, order, sizeof(*order)) == sizeof(*order));
	NEED(read(copier, &took, sizeof(took)) == sizeof(took));
	return took;
}

/* Answers what is asked; the device is ready. `data`: MOST bytes of its memory. */
static inline int answer(const char *path, uint8_t *data, uint64_t (*by_device)(const struct order *, uint32_t))
{
	int copier = begin_copier(path, data);
	unsigned int target, depth;
	struct order order;
	char workload[16];

	while (scanf(" batch %u %15s %lu %u %u", &target, workload, &order.count, &depth, &order.size) == 5) {
		order.write = !strcmp(workload, "write");
		NEED(order.size && order.size % 4096 == 0 && order.size <= MOST && depth >= 1 && depth <= MOST_DEPTH);
		printf("%lu\n", target ? by_copier(copier, &order) : by_device(&order, depth));
	}
	return 0;
}

#endif
