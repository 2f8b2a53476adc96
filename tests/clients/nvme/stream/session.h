/* SPDX-License-Identifier: MIT */
/* From enabling the controller to its end: pages, queues and interrupts of some kind, and no kind twice. */
#ifndef STREAM_SESSION_H
#define STREAM_SESSION_H

#include "rare.h"

#define MOST_SHARED 4U /* I/O queues of each sort; every controller here has as many, and vectors */

static inline void print_registers(const char *what, long status)
{
	printf("%s: CSTS %#lx\n", what, status);
}

static inline void start_shadows(void)
{
	struct op *op = begin_admin("doorbell_buffer", ADMIN_DOORBELL_BUFFER);

	op->request.command.prp1 = iova_of(SHADOW_MEMORY, below(2));
	op->request.command.prp2 = iova_of(SHADOW_MEMORY + QUEUE_ROOM, below(2));
	if (!(word(controller, ID_OACS) & OACS_DOORBELL_BUFFER)) {
		leave_out(op);
		return;
	}
	memset(SHADOW_MEMORY, 0, 2 * QUEUE_ROOM);
	shadows = (void *)SHADOW_MEMORY;
	wanted = (void *)(SHADOW_MEMORY + QUEUE_ROOM);
	run_op(op, 0);
	if (!op->request.status) {
		shadowed = true;
		shadows[0] = sqs[0].tail;
		shadows[1] = cqs[0].head;
	}
	drain();
}

static inline uint32_t some_size(void)
{
	uint32_t most = CAP_MQES(cap) + 1 < MOST_ENTRIES ? CAP_MQES(cap) + 1 : MOST_ENTRIES;

	return once_in(8) ? most : 2 + below(30);
}

static inline void create_some_queues(void)
{
	uint32_t completions = 1 + below(MOST_SHARED), submissions = 1 + below(MOST_SHARED), i;

	for (i = 1; i <= completions; i++) {
		uint32_t size = some_size(), vector = below(MOST_SHARED + 1);
		bool interrupts = below(4);
		struct op *op = begin_admin("create_cq", 0);

		begin_cq(i, size, vector, interrupts);
		op->request.command = create_cq_command(i, size, vector, interrupts);
		tell(op, "%u vector %u%s", i, vector, interrupts ? "" : " off");
		run_and_print(op, 0);
	}
	io_queue_count = 0;
	for (i = 1; i <= submissions; i++) {
		uint32_t size = some_size(), cq = 1 + below(completions);
		struct op *op = begin_admin("create_sq", 0);

		begin_sq(i, size, cq);
		op->request.command = create_sq_command(i, size, cq, below(4));
		tell(op, "%u for %u", i, cq);
		run_and_print(op, 0);
		io_queues[io_queue_count++] = i;
	}
}

static inline void begin_session(void)
{
	uint32_t most = CAP_MPSMAX(cap) < 2 ? CAP_MPSMAX(cap) : 2, pages = below(most + 1), i;
	struct op *op;

	forget_features();
	forget_events();
	for (i = 0; i < vectors; i++)
		rings(events[i]);
	mapped = below(4) && bar;
	depth = 1 + below(MOST_DEPTH);
	printf("session: pages of %u, up to %u in flight\n", 4096 << pages, depth);
	print_registers("enabled", begin_controller(pages, 16 + below(49), 4 + below(60)));
	if (once_in(4))
		run_and_print(begin_set("set.queues_65536", FEATURE_QUEUES, below(2) ? 0xffff0003 : 0x0003ffff), 0);
	op = begin_set("set.queues", FEATURE_QUEUES, 0x00030003);
	op->hides_dw0 = true;
	run_op(op, 0);
	granted = op->request.dw0;
	found(op, (granted & 0xffff) >= 3 && granted >> 16 >= 3 ? " right" : " TOO FEW");
	queue_limit = 1 + ((granted & 0xffff) < granted >> 16 ? granted >> 16 : granted & 0xffff);
	drain();
	if (once_in(4))
		start_shadows();
	create_some_queues();
}

/* Each vector was signalled for whose queues there were completions, and no other. */
static inline void check_interrupts(void)
{
	uint32_t i, queue, wrong = 0;

	for (i = 0; i < vectors; i++) {
		bool awaited = false;

		for (queue = 0; queue < MOST_QUEUES; queue++)
			awaited = awaited || (cqs[queue].there && cqs[queue].interrupts && cqs[queue].vector == i &&
					      cqs[queue].completions);
		if (awaited ? rings_soon(events[i]) > 0 : rings(events[i]) == 0)
			continue;
		printf("vector %u: %s\n", i, awaited ? "NO INTERRUPT" : "AN INTERRUPT OF NOBODY'S");
		wrong++;
	}
	printf("interrupts: %s\n", wrong ? "wrong" : "right");
}

static inline void delete_all(void)
{
	uint32_t i;

	for (i = MOST_QUEUES - 1; i; i--)
		if (sqs[i].there) {
			struct op *op = begin_admin("delete_sq", ADMIN_DELETE_SQ);

			op->request.command.cdw10 = i;
			run_and_print(op, 0);
			sqs[i].there = false;
		}
	for (i = MOST_QUEUES - 1; i; i--)
		if (cqs[i].there) {
			struct op *op = begin_admin("delete_cq", ADMIN_DELETE_CQ);

			op->request.command.cdw10 = i;
			run_and_print(op, 0);
			cqs[i].there = false;
		}
}

/*
 * Commands are under way when the controller is disabled. Once it says so, nothing comes any more,
 * and nothing is taken from memory. What is written is what is there, so it does not matter whether
 * it was.
 */
static inline void leave_in_the_middle(void)
{
	static struct request left[MOST_DEPTH];
	uint32_t count = 1 + below(MOST_DEPTH), i, room = 64U << 10, wrong = 0;
	uint8_t *cq_memory = queue_memory(0, true);

	for (i = 0; i < count; i++) {
		static const uint8_t opcodes[] = { IO_READ, IO_WRITE, IO_VERIFY, IO_FLUSH };
		struct namespace *ns = some_namespace();
		uint32_t queue = some_queue(), lba = below(BUSY);
		uint8_t opcode = opcodes[below(ARRAY_LEN(opcodes))];

		memcpy(slot_data(i), contents(ns, lba, 1), ns->block);
		left[i] = (struct request){ .command = block_command(opcode, ns->nsid, lba, 1, slot_data(i)) };
		left[i].command.cid = (uint16_t)i;
		if (has_room(queue))
			put_request(&left[i], queue);
	}
	ring_tails();
	print_registers("disabled in the middle", disable_controller());
	for (i = 0; i < MOST_DEPTH; i++)
		memset(slot_data(i), FILLING, room);
	memset(cq_memory, FILLING, QUEUE_ROOM);
	usleep(2000);
	for (i = 0; i < MOST_DEPTH; i++)
		wrong += slot_data(i)[0] != FILLING || memcmp(slot_data(i), slot_data(i) + 1, room - 1);
	wrong += cq_memory[0] != FILLING || memcmp(cq_memory, cq_memory + 1, QUEUE_ROOM - 1);
	printf("then: %s\n", wrong ? "MEMORY WAS WRITTEN" : "nothing");
	memset(requests, 0, sizeof(requests));
}

static inline void end_session(void)
{
	drain();
	look_for_events();
	check_interrupts();
	switch (below(6)) {
	case 0:
		delete_all();
		print_registers("disabled", disable_controller());
		break;
	case 1:
		print_registers("shut down", shut_down(false));
		print_registers("disabled", disable_controller());
		break;
	case 2:
		print_registers("shut down at once", shut_down(true));
		reset_function();
		print_registers("reset", load4(REG_CSTS));
		break;
	case 3:
		reset_function();
		print_registers("reset", load4(REG_CSTS));
		break;
	case 4:
		leave_in_the_middle();
		break;
	default:
		print_registers("disabled", disable_controller());
	}
}

#endif
