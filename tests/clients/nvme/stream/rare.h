/* SPDX-License-Identifier: MIT */
/* Admin commands that change much: Format NVM, Doorbell Buffer Config, Abort. */
#ifndef STREAM_RARE_H
#define STREAM_RARE_H

#include "events.h"

static inline void step_abort(void)
{
	static const char *const names[] = { "abort.nothing", "abort.no_queue", "abort.event" };
	uint32_t how = below(3), i = 0, queue = how == 1 ? queue_limit + 1 : how == 2 ? 0 : some_queue();
	struct op *op = begin_admin(names[how], ADMIN_ABORT);
	const struct request *taken;

	op->request.command.cdw10 = 0xfff0U << 16 | queue;
	op->hides_dw0 = how == 1;
	if (how != 2) {
		submit(op, 0);
		return;
	}
	op->hides_dw0 = true;
	if (!waiting_count) {
		leave_out(op);
		return;
	}
	for (i = 0; !waiting[i].command.opcode; i++)
		;
	op->request.command.cdw10 = (FIRST_WAITING + i) << 16;
	run_op(op, 0);
	make_a_round();
	taken = take_event();
	if (taken && STATUS_CODE(taken->status) == STATUS_ABORTED && !(op->request.dw0 & 1))
		found(op, " aborted");
	else if (!taken && op->request.dw0 & 1)
		found(op, " left");
	else
		found(op, " NEITHER ABORTED NOR LEFT");
	drain();
	if (taken) { /* as many wait as before */
		waiting[i] = (struct request){ .command = { .opcode = ADMIN_ASYNC_EVENT,
							    .cid = (uint16_t)(FIRST_WAITING + i) } };
		waiting_count++;
		put_request(&waiting[i], 0);
		make_a_round();
	}
}

/* What is left of the data is anybody's guess, so it is written again. */
static inline void step_format(void)
{
	static const char *const names[] = { "format", "format.every", "format.no_such_format", "format.protected",
					     "format.nsid_zero", "format.nsid_beyond", "format.erase_reserved" };
	uint32_t how = once_in(4) ? below(2) : 2 + below(5), erase = below(2), i;
	struct namespace *ns = some_namespace();
	struct op *op = begin_admin(names[how], ADMIN_FORMAT);

	op->request.command.nsid = how == 1   ? EVERY_NAMESPACE
				   : how == 4 ? 0
				   : how == 5 ? most_namespaces + 1
					      : ns->nsid;
	op->request.command.cdw10 = ns->format | erase << 9;
	if (how == 2)
		op->request.command.cdw10 = 15 | erase << 9;
	else if (how == 3)
		op->request.command.cdw10 |= 1U << 5;
	else if (how == 6)
		op->request.command.cdw10 |= 7U << 9;
	run_and_print(op, 0);
	for (i = 0; i < namespace_count; i++)
		if (how == 1 || (!op->request.status && how != 0) || (how == 0 && &namespaces[i] == ns))
			heal_all(&namespaces[i], io_queues[0]);
}

static inline void step_wrong_buffer(void)
{
	bool first = below(2);
	struct op *op = begin_admin("doorbell_buffer.offset", ADMIN_DOORBELL_BUFFER);
	uint64_t offset = 8 * (1 + below(page_size / 8 - 1));

	if (shadowed || !(word(controller, ID_OACS) & OACS_DOORBELL_BUFFER)) {
		leave_out(op);
		return;
	}
	op->request.command.prp1 = iova_of(SHADOW_MEMORY, below(2)) + (first ? offset : 0);
	op->request.command.prp2 = iova_of(SHADOW_MEMORY + QUEUE_ROOM, below(2)) + (first ? 0 : offset);
	run_and_print(op, 0);
}

#endif
