/* SPDX-License-Identifier: MIT */
/* I/O commands that are right, and go well wherever they are supported. */
#ifndef STREAM_IO_H
#define STREAM_IO_H

#include "blocks.h"

static uint32_t io_queues[MOST_QUEUES], io_queue_count; /* of this session */

static inline uint32_t some_queue(void)
{
	return io_queues[below(io_queue_count)];
}

static inline void name_blocks(struct op *op, const struct namespace *ns, uint8_t opcode, uint64_t lba, uint32_t count)
{
	op->request.command = block_command(opcode, ns->nsid, lba, count, NULL);
	op->argument = (uint32_t)(ns - namespaces);
}

static inline void tell_blocks(struct op *op, const struct namespace *ns, uint64_t lba, uint32_t count)
{
	if (lba < AREA)
		tell(op, "ns%u %llu+%u", ns->nsid, (unsigned long long)lba, count);
	else
		tell(op, "ns%u end-%llu+%u", ns->nsid, (unsigned long long)(ns->blocks - lba), count);
}

/* Blocks for a command: named, told, and its own. */
static inline struct namespace *some_blocks(struct op *op, uint8_t opcode, bool writes)
{
	struct namespace *ns = some_namespace();
	uint32_t count = some_count(ns);
	uint64_t lba = some_lba(ns, count);

	name_blocks(op, ns, opcode, lba, count);
	tell_blocks(op, ns, lba, count);
	touch(op, ns->nsid, lba, count, writes);
	return ns;
}

static inline uint32_t size_of(const struct op *op)
{
	return op->count * namespaces[op->argument].block;
}

/* What is no reason to answer otherwise: FUA, limited retries. */
static inline void some_hints(struct op *op)
{
	op->request.command.cdw12 |= (uint32_t)below(4) << 30;
	if (once_in(4))
		op->request.command.cdw13 = below(256);
}

/* Data by PRPs, or by SGLs as far as told. */
static inline void use_some_data(struct op *op, bool by_sgl)
{
	uint32_t most = 2 + below(3); /* descriptors of a segment */
	bool is_chain;

	if (by_sgl) {
		lay_out_words(op, size_of(op), FILLING);
		is_chain = op->pieces.count > 2 * most - 1; /* of three segments, or more */
		use_sgls(&op->request.command, &op->pieces, slot_list(op->slot) + 16 * below(8), most, below(2));
		tell(op, " %u descriptors", op->pieces.count);
		if (is_chain)
			strcat(op->kind, "_chain");
	} else {
		use_pages(op, size_of(op), FILLING);
	}
}

static inline void read_blocks(const char *kind, bool by_sgl)
{
	struct op *op = begin_op(kind);

	some_blocks(op, IO_READ, false);
	some_hints(op);
	use_some_data(op, by_sgl);
	op->judge = judge_read;
	submit(op, some_queue());
}

/* What could not be written is written all the same, so that all go on from there alike. */
static inline void write_otherwise(struct op *op)
{
	if (op->request.status) {
		drain();
		heal(&namespaces[op->argument], op->lba, op->count, op->queue);
	}
}

static inline void write_blocks(const char *kind, bool by_sgl)
{
	struct op *op = begin_op(kind);
	struct namespace *ns = some_blocks(op, IO_WRITE, true);

	set_tags(ns, op->lba, op->count, (uint32_t)op->number);
	some_hints(op);
	use_some_data(op, by_sgl);
	scatter(&op->pieces, contents(ns, op->lba, op->count));
	if (by_sgl) {
		run_op(op, some_queue());
		write_otherwise(op);
	} else {
		submit(op, some_queue());
	}
}

static inline void step_read(void)
{
	read_blocks("read", false);
}

static inline void step_write(void)
{
	write_blocks("write", false);
}

static inline void step_sgl(void)
{
	if (below(3))
		read_blocks("read.sgl", true);
	else
		write_blocks("write.sgl", true);
}

static inline void step_flush(void)
{
	bool every = once_in(3);
	struct op *op = begin_op(every ? "flush.all" : "flush");
	uint32_t nsid = some_namespace()->nsid;

	op->request.command.nsid = every ? EVERY_NAMESPACE : nsid;
	if (!every)
		tell(op, "ns%u", nsid);
	submit(op, some_queue());
}

static inline void step_write_zeroes(void)
{
	struct op *op = begin_op("write_zeroes");
	struct namespace *ns = some_blocks(op, IO_WRITE_ZEROES, true);

	set_tags(ns, op->lba, op->count, 0);
	if (below(2)) {
		op->request.command.cdw12 |= 1U << 25;
		tell(op, " deallocate");
	}
	run_op(op, some_queue());
	write_otherwise(op);
}

static inline void step_compare(void)
{
	bool same = below(2);
	struct op *op = begin_op(same ? "compare" : "compare.different");
	struct namespace *ns = some_blocks(op, IO_COMPARE, false);
	uint32_t queue = some_queue(), i;
	bool unsure = false;

	for (i = 0; i < op->count; i++)
		unsure = unsure || *maybe_zero(ns, op->lba + i);
	if (unsure) {
		while (first_op < op->number)
			end_oldest();
		heal(ns, op->lba, op->count, queue);
	}
	use_pages(op, size_of(op), FILLING);
	scatter(&op->pieces, contents(ns, op->lba, op->count));
	if (!same) {
		struct piece *piece = &op->pieces.piece[below(op->pieces.count)];

		piece->at[below(piece->length)] ^= (uint8_t)(1U << below(8));
	}
	submit(op, queue);
}

static inline void step_verify(void)
{
	struct op *op = begin_op("verify");

	some_blocks(op, IO_VERIFY, false);
	submit(op, some_queue());
}

/* Up to four ranges; some are only advice. They are alone, as they are many. */
static inline void step_dsm(void)
{
	struct op *op = begin_op("dsm");
	struct namespace *ns = some_namespace();
	uint32_t count = 1 + below(4), i, done;
	bool deallocates = below(4);
	struct dsm_range ranges[4];

	op->request.command = (struct command){ .opcode = IO_DSM, .nsid = ns->nsid, .cdw10 = count - 1,
						.cdw11 = deallocates ? 4 : below(4) };
	tell(op, "ns%u%s", ns->nsid, deallocates ? " deallocate" : "");
	for (i = 0; i < count; i++) {
		uint32_t length = 1 + below(16);
		uint64_t lba = some_lba(ns, length);

		ranges[i] = (struct dsm_range){ .attributes = below(2) ? 0 : below(0x800), .count = length, .lba = lba };
		tell(op, i ? " " : ": ");
		tell(op, "%s%llu+%u", lba < AREA ? "" : "end-",
		     (unsigned long long)(lba < AREA ? lba : ns->blocks - lba), length);
	}
	use_pages(op, count * sizeof(ranges[0]), FILLING);
	scatter(&op->pieces, (uint8_t *)ranges);
	while (first_op < op->number)
		end_oldest();
	for (i = 0; deallocates && i < count; i++)
		for (done = 0; done < ranges[i].count; done++)
			*maybe_zero(ns, ranges[i].lba + done) = true;
	run_and_print(op, some_queue());
}

#endif
