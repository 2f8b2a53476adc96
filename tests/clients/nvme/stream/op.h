/* SPDX-License-Identifier: MIT */
/*
 * One command of the stream: from its making to its line.
 *
 * Up to `depth` of them are in flight. They have numbers, and are printed by number:
 *
 *     NUMBER KIND qQUEUE what was asked: STATUS what came with it
 *
 * What is asked is said in words that are the same for every controller. An answer that depends on
 * the controller (a default, a limit) is held against what it said before, and only "right" or what
 * is wrong is printed.
 *
 * Two commands that touch the same blocks, one of them writing, are never in flight together: so
 * the order in which a controller works does not show.
 */
#ifndef STREAM_OP_H
#define STREAM_OP_H

#define MEMORY (3 * MIB)

#include "../pointers.h"
#include "../run.h"
#include "dice.h"

#define MOST_DEPTH 12U
#define SMALL (64U << 10)  /* bytes of data that go into a slot, with an offset of a page */
#define SLOT_DATA 0x14000UL
#define SLOT_LIST 0xc000UL
#define SLOT (SLOT_DATA + SLOT_LIST)
#define HEALER MOST_DEPTH /* a slot beside those of the stream */
#define SLOTS (memory + FREE_MEMORY)
#define LARGE (SLOTS + (MOST_DEPTH + 1) * SLOT) /* what does not go into a slot, of one command at a time */

struct op {
	struct request request; /* first */
	uint64_t number;
	char kind[40];
	char text[112];
	char found[96]; /* beside the status */
	uint32_t slot, queue;
	uint8_t *data; /* memory for it */
	uint32_t nsid, count; /* blocks that it touches, if any */
	uint64_t lba;
	bool writes, hides_dw0, is_judged;
	bool is_absent; /* this controller has no such thing to ask about */
	void (*judge)(struct op *op); /* when it went well: fills in `found` */
	struct pieces pieces;
	uint32_t bytes, argument;
};

static struct op ops[MOST_DEPTH + 1];
static uint64_t first_op = 1, next_op = 1; /* not printed yet; to be made */
static uint32_t depth = 1;

static inline uint8_t *slot_data(uint32_t slot)
{
	return SLOTS + slot * SLOT;
}

static inline uint8_t *slot_list(uint32_t slot)
{
	return SLOTS + slot * SLOT + SLOT_DATA;
}

static inline void tell(struct op *op, const char *format, ...)
{
	size_t used = strlen(op->text);
	va_list args;

	va_start(args, format);
	vsnprintf(op->text + used, sizeof(op->text) - used, format, args);
	va_end(args);
}

static inline void found(struct op *op, const char *format, ...)
{
	size_t used = strlen(op->found);
	va_list args;

	va_start(args, format);
	vsnprintf(op->found + used, sizeof(op->found) - used, format, args);
	va_end(args);
}

static inline void print_op(struct op *op)
{
	if (op->is_absent) {
		printf("%llu %s: not here\n", (unsigned long long)op->number, op->kind);
		return;
	}
	if (op->request.dw0 && !op->hides_dw0)
		found(op, " dw0 %#x", op->request.dw0);
	printf("%llu %s q%u%s%s: %s%s\n", (unsigned long long)op->number, op->kind, op->queue, *op->text ? " " : "", op->text,
	       status_text(op->request.status), op->found);
}

/* The end: nothing is answered any more. */
static inline void give_up(const struct op *op)
{
	printf("%llu %s q%u %s: no answer\n", (unsigned long long)op->number, op->kind, op->queue, op->text);
	exit(1);
}

/* Waits for it; what came is judged before anything else changes. */
static inline void wait_for_op(struct op *op)
{
	if (wait_for(&op->request))
		give_up(op);
	if (op->judge && !op->request.status && !op->is_judged)
		op->judge(op);
	op->is_judged = true;
}

/* The oldest one is done, and printed. */
static inline void end_oldest(void)
{
	struct op *op = &ops[first_op % MOST_DEPTH];

	wait_for_op(op);
	print_op(op);
	first_op++;
}

static inline void drain(void)
{
	while (first_op < next_op)
		end_oldest();
}

/* A new one, with nothing in it yet but its number. */
static inline struct op *begin_op(const char *kind)
{
	struct op *op;

	while (next_op - first_op >= depth)
		end_oldest();
	op = &ops[next_op % MOST_DEPTH];
	memset(op, 0, offsetof(struct op, pieces));
	op->pieces.count = 0;
	op->bytes = op->argument = 0;
	op->number = next_op++;
	snprintf(op->kind, sizeof(op->kind), "%s", kind);
	op->slot = op->number % MOST_DEPTH;
	op->data = slot_data(op->slot);
	return op;
}

/* Its data does not go into its slot. Waits until nobody else's is in the place for such. */
static inline void be_large(struct op *op)
{
	uint64_t i;

	for (i = first_op; i < op->number; i++)
		if (ops[i % MOST_DEPTH].data == LARGE)
			wait_for_op(&ops[i % MOST_DEPTH]);
	op->data = LARGE;
}

/* It touches these blocks. Waits for those in flight that it must not meet. */
static inline void touch(struct op *op, uint32_t nsid, uint64_t lba, uint32_t count, bool writes)
{
	uint64_t i;

	op->nsid = nsid;
	op->lba = lba;
	op->count = count;
	op->writes = writes;
	for (i = first_op; i < op->number; i++) {
		struct op *other = &ops[i % MOST_DEPTH];

		if (other->count && other->nsid == nsid && (writes || other->writes) &&
		    lba < other->lba + other->count && other->lba < lba + count)
			wait_for_op(other);
	}
}

static inline void submit(struct op *op, uint32_t queue)
{
	op->queue = queue;
	op->request.command.cid = (uint16_t)(draw() << 5 | op->slot);
	while (!has_room(queue)) {
		uint64_t i;

		for (i = first_op; i < op->number; i++)
			if (ops[i % MOST_DEPTH].request.in_flight && ops[i % MOST_DEPTH].queue == queue) {
				wait_for_op(&ops[i % MOST_DEPTH]);
				break;
			}
	}
	put_request(&op->request, queue);
	if (below(2))
		ring_tail(queue);
	if (once_in(3))
		reap();
}

/* Not submitted at all. */
static inline void leave_out(struct op *op)
{
	op->is_absent = true;
}

/* Alone: nothing else is in flight, before and after. It is printed by the caller. */
static inline void run_op(struct op *op, uint32_t queue)
{
	while (first_op < op->number)
		end_oldest();
	submit(op, queue);
	wait_for_op(op);
}

static inline void run_and_print(struct op *op, uint32_t queue)
{
	run_op(op, queue);
	drain();
}

/* A command of our own, of which nothing is said when it goes well. Nothing is in flight. */
static inline struct request quietly(uint32_t queue, struct command command)
{
	struct op *op = &ops[HEALER];

	op->request = (struct request){ .command = command };
	op->number = next_op;
	strcpy(op->kind, "quiet");
	op->queue = queue;
	op->judge = NULL;
	op->request.command.cid = HEALER;
	put_request(&op->request, queue);
	wait_for_op(op);
	return op->request;
}

#endif
