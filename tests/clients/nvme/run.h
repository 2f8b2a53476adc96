/* SPDX-License-Identifier: MIT */
/* One command after the other: each is run to its end. */
#ifndef NVME_RUN_H
#define NVME_RUN_H

#include "say.h"

/* The answer; the program ends when there is none. */
static inline struct request run(uint32_t queue, struct command command)
{
	static struct request request;
	static uint16_t next;

	command.cid = (uint16_t)(next++ * MOST_REQUESTS);
	request = (struct request){ .command = command };
	put_request(&request, queue);
	if (wait_for(&request)) {
		printf("command %#x of queue %u is not answered\n", command.opcode, queue);
		exit(1);
	}
	return request;
}

/* What the test cannot do without. */
static inline uint32_t run_well(uint32_t queue, struct command command)
{
	struct request done = run(queue, command);

	if (done.status) {
		printf("command %#x of queue %u: %s\n", command.opcode, queue, status_text(done.status));
		exit(1);
	}
	return done.dw0;
}

/* 4096 bytes of Identify go to `to`, which is a page. */
static inline void identify(uint32_t cns, uint32_t nsid, uint8_t *to)
{
	run_well(0, (struct command){ .opcode = ADMIN_IDENTIFY, .nsid = nsid, .prp1 = iova_of(to, true), .cdw10 = cns });
}

static inline uint32_t set_feature(uint32_t feature, uint32_t value)
{
	return run_well(0, (struct command){ .opcode = ADMIN_SET_FEATURES, .cdw10 = feature, .cdw11 = value });
}

static inline void create_queues(uint32_t queue, uint32_t size, uint32_t vector)
{
	begin_cq(queue, size, vector, true);
	begin_sq(queue, size, queue);
	run_well(0, create_cq_command(queue, size, vector, true));
	run_well(0, create_sq_command(queue, size, queue, 0));
}

static inline uint32_t word(const uint8_t *data, unsigned int at)
{
	uint32_t value;

	memcpy(&value, data + at, 4);
	return value;
}

static inline uint64_t long_word(const uint8_t *data, unsigned int at)
{
	return word(data, at) | (uint64_t)word(data, at + 4) << 32;
}

/* Bytes of a block, from Identify Namespace. */
static inline uint32_t block_size(const uint8_t *identified)
{
	return 1U << (word(identified, 128 + 4 * (identified[26] & 15)) >> 16 & 0xff);
}

/* One of the I/O commands that name blocks, with its data in the memory at `data`, of one page. */
static inline struct command block_command(uint8_t opcode, uint32_t nsid, uint64_t lba, uint32_t count, const uint8_t *data)
{
	return (struct command){ .opcode = opcode, .nsid = nsid, .prp1 = data ? iova_of(data, false) : 0,
				 .cdw10 = (uint32_t)lba, .cdw11 = (uint32_t)(lba >> 32), .cdw12 = count - 1 };
}

#endif
