// SPDX-License-Identifier: MIT
/*
 * The client of the benchmark that reads and writes an NVMe disk (disk.h). It polls for completions,
 * and has its doorbells in memory.
 */
#define _GNU_SOURCE
#include "../clients/nvme/run.h"

#include "disk.h"

#define DATA (memory + FREE_MEMORY)
#define LISTS (memory + MEMORY - MOST_DEPTH * 4096) /* a page for each command's PRPs */
#define ROOM ((size_t)(LISTS - DATA)) /* for the data, which many commands may have in the same place */

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
	static struct request slots[MOST_DEPTH];
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
							 place(sent++, order->size) / SECTOR, order->size / SECTOR, NULL);
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

int main(int argc, char **argv)
{
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
	return answer(argv[3], DATA, by_device);
}
