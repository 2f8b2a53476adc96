/* SPDX-License-Identifier: MIT */
/*
 * Submission and completion queues, and their doorbells.
 *
 * A request is a command that was submitted, until it is completed. The low bits of its identifier
 * are its place in `requests`, so there is one of each in flight at a time, whatever the queue.
 * Each completion is held against what is in flight; a wrong one ends the program.
 *
 * With shadow doorbells (5.7) an I/O queue's registers are written when the controller asks for it.
 */
#ifndef NVME_QUEUES_H
#define NVME_QUEUES_H

#include "controller.h"

#define MOST_QUEUES 9 /* with the admin queue, which is number 0 */
#define MOST_REQUESTS 32
#define QUEUE_ROOM (32UL << 10)
#define MOST_ENTRIES 512U

struct completion_queue {
	volatile struct completion *ring;
	uint32_t size, head;
	uint32_t completions, vector;
	uint16_t phase;
	bool there, interrupts;
};

struct submission_queue {
	struct command *ring;
	uint32_t size, tail, rung, head, cq;
	bool there;
};

struct request {
	struct command command;
	uint32_t sq;
	bool in_flight;
	uint32_t dw0;
	uint16_t status; /* without its phase */
};

static struct submission_queue sqs[MOST_QUEUES];
static struct completion_queue cqs[MOST_QUEUES];
static struct request *requests[MOST_REQUESTS];
static bool shadowed;
static volatile uint32_t *shadows, *wanted; /* doorbells as they would be, and when to write them */
static unsigned int rung_again;		    /* what came only after a second ring */

static inline uint8_t *queue_memory(uint32_t queue, bool completions)
{
	return memory + (2 * queue + completions) * QUEUE_ROOM;
}

#define SHADOW_MEMORY (memory + 2 * MOST_QUEUES * QUEUE_ROOM)
#define FREE_MEMORY (2 * MOST_QUEUES * QUEUE_ROOM + 2 * QUEUE_ROOM) /* where it begins */

static inline void fail(const char *what, uint32_t queue, const volatile struct completion *entry)
{
	printf("%s: queue %u, entry %08x %08x %04x %04x %04x %04x\n", what, queue, entry->dw0, entry->dw1, entry->sq_head,
	       entry->sq_id, entry->cid, entry->status);
	exit(1);
}

static inline void ring(uint32_t doorbell, uint32_t value, uint32_t before)
{
	if (shadowed) {
		shadows[doorbell] = value;
		__sync_synchronize();
		if (doorbell > 1 && (uint16_t)(value - wanted[doorbell] - 1) >= (uint16_t)(value - before))
			return;
	}
	__sync_synchronize();
	store4(REG_DOORBELLS + 4 * doorbell, value);
}

static inline void ring_tail(uint32_t queue)
{
	struct submission_queue *sq = &sqs[queue];

	if (sq->rung != sq->tail)
		ring(2 * queue, sq->tail, sq->rung);
	sq->rung = sq->tail;
}

static inline void ring_tails(void)
{
	uint32_t i;

	for (i = 0; i < MOST_QUEUES; i++)
		if (sqs[i].there)
			ring_tail(i);
}

/* A doorbell in memory is that of the queue before, unless it is cleared. */
static inline void clear_shadow(uint32_t doorbell)
{
	if (shadowed)
		shadows[doorbell] = wanted[doorbell] = 0;
}

static inline void begin_cq(uint32_t queue, uint32_t size, uint32_t vector, bool interrupts)
{
	cqs[queue] = (struct completion_queue){ .ring = (void *)queue_memory(queue, true), .size = size, .phase = 1,
						.vector = vector, .there = true, .interrupts = interrupts };
	memset(queue_memory(queue, true), 0, QUEUE_ROOM);
	clear_shadow(2 * queue + 1);
}

static inline void begin_sq(uint32_t queue, uint32_t size, uint32_t cq)
{
	sqs[queue] = (struct submission_queue){ .ring = (void *)queue_memory(queue, false), .size = size, .cq = cq,
						.there = true };
	clear_shadow(2 * queue);
}

/* One place of the ring stays empty. */
static inline bool has_room(uint32_t queue)
{
	return (sqs[queue].tail + 1) % sqs[queue].size != sqs[queue].head;
}

/* Into the queue, which has room; the doorbell is for the caller. */
static inline void put_request(struct request *request, uint32_t queue)
{
	struct submission_queue *sq = &sqs[queue];

	request->sq = queue;
	request->in_flight = true;
	requests[request->command.cid % MOST_REQUESTS] = request;
	sq->ring[sq->tail] = request->command;
	sq->tail = (sq->tail + 1) % sq->size;
}

static inline void take(uint32_t queue, volatile struct completion *entry)
{
	struct completion_queue *cq = &cqs[queue];
	struct request *request = requests[entry->cid % MOST_REQUESTS];
	struct submission_queue *sq;

	if (entry->sq_id >= MOST_QUEUES || !sqs[entry->sq_id].there || sqs[entry->sq_id].cq != queue)
		fail("a completion of a queue that is not there", queue, entry);
	sq = &sqs[entry->sq_id];
	if (!request || !request->in_flight || request->command.cid != entry->cid || request->sq != entry->sq_id)
		fail("a completion of what is not in flight", queue, entry);
	if ((entry->sq_head + sq->size - sq->head) % sq->size > (sq->rung + sq->size - sq->head) % sq->size)
		fail("a head beyond the tail", queue, entry);
	sq->head = entry->sq_head;
	request->dw0 = entry->dw0;
	request->status = entry->status & 0xfffe;
	request->in_flight = false;
	cq->completions++;
}

/* Takes what has been completed; how many there were. */
static inline unsigned int reap(void)
{
	unsigned int count = 0;
	uint32_t i;

	for (i = 0; i < MOST_QUEUES; i++) {
		struct completion_queue *cq = &cqs[i];
		uint32_t before = cq->head;

		while (cq->there && (cq->ring[cq->head].status & 1) == cq->phase) {
			__sync_synchronize();
			take(i, &cq->ring[cq->head]);
			cq->head = (cq->head + 1) % cq->size;
			if (cq->head == 0)
				cq->phase ^= 1;
			count++;
		}
		if (cq->there && cq->head != before)
			ring(2 * i + 1, cq->head, before);
	}
	return count;
}

/* Reaps until the request is done, for PATIENCE seconds at most: 0, or -1. */
static inline int wait_for(const struct request *request)
{
	double start = now();
	uint32_t i, idle = 0;
	bool rung = false;

	ring_tails();
	while (request->in_flight) {
		if (reap()) {
			idle = 0;
			continue;
		}
		if (++idle < 200)
			sched_yield();
		else
			usleep(100);
		if (now() > start + PATIENCE)
			return -1;
		if (shadowed && !rung && now() > start + PATIENCE / 3) { /* it seems not to look by itself */
			for (i = 1; i < MOST_QUEUES; i++)
				if (sqs[i].there)
					store4(REG_DOORBELLS + 8 * i, sqs[i].tail);
			rung = true;
			rung_again++;
		}
	}
	return 0;
}

static inline struct command create_cq_command(uint32_t queue, uint32_t size, uint32_t vector, bool interrupts)
{
	return (struct command){ .opcode = ADMIN_CREATE_CQ, .prp1 = iova_of(queue_memory(queue, true), queue & 1),
				 .cdw10 = (size - 1) << 16 | queue,
				 .cdw11 = vector << 16 | QUEUE_CONTIGUOUS | (interrupts ? QUEUE_INTERRUPTS : 0) };
}

static inline struct command create_sq_command(uint32_t queue, uint32_t size, uint32_t cq, uint32_t priority)
{
	return (struct command){ .opcode = ADMIN_CREATE_SQ, .prp1 = iova_of(queue_memory(queue, false), !(queue & 1)),
				 .cdw10 = (size - 1) << 16 | queue,
				 .cdw11 = cq << 16 | QUEUE_CONTIGUOUS | priority << 1 };
}

/* The controller with its admin queue: CSTS, or -1. */
static inline long begin_controller(uint32_t pages, uint32_t sq_size, uint32_t cq_size)
{
	memset(sqs, 0, sizeof(sqs));
	memset(cqs, 0, sizeof(cqs));
	shadowed = false;
	begin_cq(0, cq_size, 0, true);
	begin_sq(0, sq_size, 0);
	return enable_controller(pages, iova_of(queue_memory(0, false), false), sq_size, iova_of(queue_memory(0, true), true),
				 cq_size);
}

#endif
