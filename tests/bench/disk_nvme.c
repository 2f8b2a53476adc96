// SPDX-License-Identifier: MIT
/*
 * The client of the benchmark that reads and writes an NVMe disk, as many commands at a time as it
 * is told, and polls for completions. And beside it the limit: a process that copies the same blocks
 * from the same file into this one.
 *
 * Usage: disk_nvme IOMMU DEVICE FILE; then, a line each:
 *   batch TARGET WORKLOAD N DEPTH SIZE   N times SIZE bytes (whole pages, 128 KiB at most), DEPTH at
 *                                        a time: the nanoseconds all of them took
 * TARGET 0: the device; 1: the limit. WORKLOAD: read, or write.
 */
#define _GNU_SOURCE
#include "../clients/nvme/run.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>

#define BLOCK 512U
#define DATA (memory + FREE_MEMORY)
#define LISTS (memory + MEMORY - MOST_REQUESTS * 4096) /* a page for each command's PRPs */
#define DISK (64 * MIB)
#define MOST (128U << 10)
#define ROOM ((size_t)(LISTS - DATA)) /* for the data, which many commands may have in the same place */

struct order {
	uint64_t count;
	uint32_t size, write;
};

static uint64_t nanoseconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

/* Where the n-th piece is: all over the disk, the same each time. */
static uint64_t place(uint64_t n, uint32_t size)
{
	return n * 7919 % (DISK / size) * size;
}

/* ---- the device ------------------------------------------------------------------------------------ */

static void use_shadows(void)
{
	struct command command = { .opcode = ADMIN_DOORBELL_BUFFER, .prp1 = iova_of(SHADOW_MEMORY, false),
				   .prp2 = iova_of(SHADOW_MEMORY + QUEUE_ROOM, false) };

	memset(SHADOW_MEMORY, 0, 2 * QUEUE_ROOM);
	shadows = (void *)SHADOW_MEMORY;
	wanted = (void *)(SHADOW_MEMORY + QUEUE_ROOM);
	run_well(0, command);
	shadowed = true;
	shadows[0] = sqs[0].tail;
	shadows[1] = cqs[0].head;
}

static void point(struct command *command, uint32_t slot, uint32_t size)
{
	uint8_t *at = DATA + slot % (ROOM / size) * size;
	uint64_t *list = (uint64_t *)(LISTS + (size_t)slot * 4096);
	uint32_t i;

	command->prp1 = iova_of(at, false);
	if (size > 4096)
		command->prp2 = size <= 8192 ? iova_of(at + 4096, false) : iova_of(list, false);
	for (i = 1; i < size / 4096; i++)
		list[i - 1] = iova_of(at + (size_t)i * 4096, false);
}

static uint64_t by_device(const struct order *order, uint32_t depth)
{
	static struct request slots[MOST_REQUESTS];
	uint64_t begin = nanoseconds(), sent = 0, done = 0;
	uint32_t i;

	while (done < order->count) {
		uint64_t before = done;

		for (i = 0; i < depth; i++) {
			struct request *request = &slots[i];

			if (request->in_flight)
				continue;
			if (request->command.opcode) {
				request->command.opcode = 0;
				done++;
				if (request->status) {
					fprintf(stderr, "disk_nvme: %s\n", status_text(request->status));
					exit(1);
				}
			}
			if (sent == order->count)
				continue;
			request->command = block_command(order->write ? IO_WRITE : IO_READ, 1,
							 place(sent++, order->size) / BLOCK, order->size / BLOCK, NULL);
			request->command.cid = (uint16_t)i;
			point(&request->command, i, order->size);
			put_request(request, 1);
		}
		ring_tail(1);
		if (done == before && !reap())
			sched_yield();
	}
	return nanoseconds() - begin;
}

/* ---- the limit ------------------------------------------------------------------------------------- */

static int copier;

static void copy(int orders, const char *path, pid_t to, uint8_t *there)
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

static void begin_copier(const char *path)
{
	pid_t parent = getpid();
	int pair[2];

	NEED(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
	if (fork() == 0) {
		close(pair[0]);
		copy(pair[1], path, parent, DATA);
	}
	close(pair[1]);
	copier = pair[0];
}

static uint64_t by_copier(const struct order *order)
{
	uint64_t took;

	NEED(write(copier, order, sizeof(*order)) == sizeof(*order));
	NEED(read(copier, &took, sizeof(took)) == sizeof(took));
	return took;
}

int main(int argc, char **argv)
{
	unsigned int target, depth;
	struct order order;
	char workload[16];

	if (argc != 4) {
		fprintf(stderr, "usage: disk_nvme IOMMU DEVICE FILE\n");
		return 2;
	}
	iommu_path = argv[1];
	device_path = argv[2];
	setvbuf(stdout, NULL, _IOLBF, 0);
	open_controller();
	NEED(begin_controller(0, 16, 16) >= 0);
	use_shadows();
	create_queues(1, 64, 1);
	begin_copier(argv[3]);
	while (scanf(" batch %u %15s %lu %u %u", &target, workload, &order.count, &depth, &order.size) == 5) {
		order.write = !strcmp(workload, "write");
		NEED(order.size && order.size % 4096 == 0 && order.size <= MOST && depth >= 1 && depth < MOST_REQUESTS + 1U);
		printf("%lu\n", target ? by_copier(&order) : by_device(&order, depth));
	}
	return 0;
}
