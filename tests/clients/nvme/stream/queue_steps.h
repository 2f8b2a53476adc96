/* SPDX-License-Identifier: MIT */
/* Create and Delete I/O Submission and Completion Queue, with one thing wrong. */
#ifndef STREAM_QUEUE_STEPS_H
#define STREAM_QUEUE_STEPS_H

#include "features.h"

#define SPARE (MOST_QUEUES - 1) /* the memory of a queue that no session uses */

static uint32_t queue_limit;	/* the highest number of a queue */
static uint32_t vector_limit;	/* vectors that there are, not only those in use */

/* The highest number that may be used, and is not; 0: all are in use. */
static inline uint32_t free_queue(bool completions)
{
	uint32_t queue;

	for (queue = 4; queue; queue--)
		if (!(completions ? cqs[queue].there : sqs[queue].there))
			break;
	return queue;
}

static inline uint32_t used_queue(bool completions)
{
	uint32_t queue;

	for (queue = 1; !(completions ? cqs[queue].there : sqs[queue].there); queue++)
		;
	return queue;
}

static inline void set_queue(struct command *command, uint32_t queue)
{
	command->cdw10 = (command->cdw10 & 0xffff0000) | queue;
}

static inline void set_entries(struct command *command, uint32_t entries)
{
	command->cdw10 = (command->cdw10 & 0xffff) | (entries - 1) << 16;
}

/* Runs it; a queue that should not be there goes again. */
static inline void run_creation(struct op *op)
{
	uint8_t opcode = op->request.command.opcode;

	run_and_print(op, 0);
	if (!op->request.status)
		quietly(0, (struct command){ .opcode = opcode == ADMIN_CREATE_CQ ? ADMIN_DELETE_CQ : ADMIN_DELETE_SQ,
					     .cdw10 = op->request.command.cdw10 & 0xffff });
}

static inline void step_wrong_creation(void)
{
	static const char *const names[] = { "zero", "used", "beyond", "far_beyond", "one_entry", "too_large",
					     "not_contiguous", "offset" };
	bool completions = below(2);
	uint32_t how = below(ARRAY_LEN(names) + (completions ? 2 : 3)), queue = free_queue(completions), entries;
	struct op *op = begin_admin("", 0);
	struct command *command = &op->request.command;
	static const char *const more[2][3] = { { "cq_zero", "cq_missing", "cq_beyond" },
						{ "vector_beyond", "vector_65535", "" } };

	snprintf(op->kind, sizeof(op->kind), "%s.%s", completions ? "create_cq" : "create_sq",
		 how < ARRAY_LEN(names) ? names[how] : more[completions][how - ARRAY_LEN(names)]);
	entries = 2 + below(30);
	if (completions)
		*command = create_cq_command(SPARE, entries, 0, true);
	else
		*command = create_sq_command(SPARE, entries, used_queue(true), 0);
	set_queue(command, queue);
	switch (how) {
	case 0:
		set_queue(command, 0);
		break;
	case 1:
		set_queue(command, used_queue(completions));
		break;
	case 2:
		set_queue(command, queue_limit + 1);
		break;
	case 3:
		set_queue(command, 0xffff);
		break;
	case 4:
		set_entries(command, 1);
		break;
	case 5:
		set_entries(command, CAP_MQES(cap) + 2);
		break;
	case 6:
		command->cdw11 &= ~QUEUE_CONTIGUOUS;
		break;
	case 7:
		command->prp1 += 4 * (1 + below(page_size / 4 - 1));
		break;
	default:
		how -= ARRAY_LEN(names);
		command->cdw11 &= 0xffff;
		if (completions)
			command->cdw11 |= (how == 0 ? vector_limit : 0xffff) << 16;
		else
			command->cdw11 |= (how == 0 ? 0 : how == 1 ? free_queue(true) : queue_limit + 1) << 16;
		how += ARRAY_LEN(names);
	}
	if ((queue == 0 && how != 0 && how != 1 && how != 2 && how != 3) || (how == 5 && CAP_MQES(cap) == 0xffff) ||
	    (how == 6 && !CAP_CQR(cap)) || (!completions && how == ARRAY_LEN(names) + 1 && !free_queue(true))) {
		leave_out(op);
		return;
	}
	run_creation(op);
}

static inline void step_wrong_deletion(void)
{
	static const char *const names[] = { "zero", "missing", "beyond", "in_use" };
	bool completions = below(2);
	uint32_t how = below(completions ? 4 : 3), queue = free_queue(completions);
	struct op *op = begin_admin("", completions ? ADMIN_DELETE_CQ : ADMIN_DELETE_SQ);

	snprintf(op->kind, sizeof(op->kind), "%s.%s", completions ? "delete_cq" : "delete_sq", names[how]);
	if (how == 0)
		queue = 0;
	else if (how == 2)
		queue = below(2) ? queue_limit + 1 : 0xffff;
	else if (how == 3)
		queue = sqs[io_queues[0]].cq;
	op->request.command.cdw10 = queue;
	if (how == 1 && !queue)
		leave_out(op);
	else
		run_and_print(op, 0);
}

/* A queue goes and comes back, with another size. */
static inline void step_renew(void)
{
	uint32_t queue = some_queue(), cq = sqs[queue].cq, entries = 2 + below(30);
	struct op *op = begin_admin("delete_sq", ADMIN_DELETE_SQ);

	op->request.command.cdw10 = queue;
	tell(op, "%u", queue);
	run_and_print(op, 0);
	sqs[queue].there = false;
	op = begin_admin("create_sq", 0);
	tell(op, "%u of %u for %u", queue, entries, cq);
	begin_sq(queue, entries, cq);
	op->request.command = create_sq_command(queue, entries, cq, below(4));
	run_and_print(op, 0);
}

/*
 * A queue goes while it has commands: each of them has been completed or aborted by then, or never
 * is.
 */
static inline void step_delete_busy(void)
{
	static struct request left[8];
	uint32_t queue = some_queue(), cq = sqs[queue].cq, count = 1 + below(ARRAY_LEN(left)), i, wrong = 0;
	struct op *op = begin_admin("delete_sq.busy", ADMIN_DELETE_SQ);

	while (first_op < op->number)
		end_oldest();
	for (i = 0; i < count; i++) {
		left[i] = (struct request){ .command = block_command(IO_READ, some_namespace()->nsid, some_lba(&namespaces[0], 8),
								     1, slot_data(HEALER)) };
		left[i].command.cid = (uint16_t)(MOST_REQUESTS - 1 - i);
		if (has_room(queue))
			put_request(&left[i], queue);
	}
	ring_tail(queue); /* later there would be no such doorbell */
	op->request.command.cdw10 = queue;
	tell(op, "%u", queue);
	run_op(op, 0);
	reap();
	for (i = 0; i < count; i++) {
		wrong += !left[i].in_flight && STATUS_CODE(left[i].status) && STATUS_CODE(left[i].status) != STATUS_QUEUE_DELETED;
		left[i].in_flight = false;
	}
	found(op, wrong ? " %u OF THE COMMANDS FAILED OTHERWISE" : " right", wrong);
	drain();
	sqs[queue].there = false;
	op = begin_admin("create_sq", 0);
	tell(op, "%u for %u", queue, cq);
	begin_sq(queue, 16, cq);
	op->request.command = create_sq_command(queue, 16, cq, 0);
	run_and_print(op, 0);
}

#endif
