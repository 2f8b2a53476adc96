/* SPDX-License-Identifier: MIT */
/* I/O commands with one thing wrong: namespaces, ranges, sizes, flags, opcodes. */
#ifndef STREAM_IO_WRONG_H
#define STREAM_IO_WRONG_H

#include "io.h"

static const struct {
	uint8_t opcode;
	const char *name;
} block_commands[] = {
	{ IO_READ, "read" },	 { IO_WRITE, "write" }, { IO_COMPARE, "compare" }, { IO_WRITE_ZEROES, "write_zeroes" },
	{ IO_VERIFY, "verify" }, { IO_DSM, "dsm" },	{ IO_FLUSH, "flush" },
};

static inline void name_kind(struct op *op, unsigned int which, const char *what)
{
	snprintf(op->kind, sizeof(op->kind), "%s.%s", block_commands[which].name, what);
}

/* One of the block commands for these blocks, with data that would do. */
static inline void make_command(struct op *op, unsigned int which, struct namespace *ns, uint64_t lba, uint32_t count)
{
	uint8_t opcode = block_commands[which].opcode;
	struct dsm_range range = { .count = count, .lba = lba };

	name_blocks(op, ns, opcode, lba, count);
	switch (opcode) {
	case IO_DSM:
		op->request.command.cdw10 = 0;
		op->request.command.cdw11 = 4;
		op->request.command.cdw12 = 0;
		use_pages(op, sizeof(range), FILLING);
		scatter(&op->pieces, (uint8_t *)&range);
		break;
	case IO_FLUSH:
		op->request.command = (struct command){ .opcode = opcode, .nsid = ns->nsid };
		break;
	case IO_READ:
	case IO_WRITE:
	case IO_COMPARE:
		use_pages(op, count * ns->block, FILLING);
	}
}

/* What should not have been done is undone. */
static inline void run_wrong(struct op *op, uint64_t lba, uint32_t count)
{
	uint8_t opcode = op->request.command.opcode;

	run_op(op, some_queue());
	drain();
	if (!op->request.status && (opcode == IO_WRITE || opcode == IO_WRITE_ZEROES || opcode == IO_DSM))
		heal(&namespaces[op->argument], lba, count < AREA ? count : AREA, op->queue);
}

static inline void step_wrong_namespace(void)
{
	static const char *const names[] = { "nsid_zero", "nsid_beyond", "nsid_last", "nsid_every", "nsid_inactive" };
	uint32_t which = below(ARRAY_LEN(block_commands)), how = below(ARRAY_LEN(names));
	struct op *op;
	struct namespace *ns = some_namespace();
	uint32_t count = 1 + below(4), *nsid;
	uint64_t lba = some_lba(ns, count);

	if (block_commands[which].opcode == IO_FLUSH && how == 3)
		how = 0;
	op = begin_op("");
	name_kind(op, which, names[how]);
	make_command(op, which, ns, lba, count);
	nsid = &op->request.command.nsid;
	*nsid = how == 0 ? 0 : how == 1 ? most_namespaces + 1 : how == 2 ? EVERY_NAMESPACE - 1 : EVERY_NAMESPACE;
	if (how == 4)
		*nsid = most_namespaces; /* unless it is active */
	if (how == 4 && most_namespaces == namespace_count) {
		leave_out(op);
		return;
	}
	run_wrong(op, lba, count);
}

static inline void step_wrong_range(void)
{
	static const char *const names[] = { "at_end", "across_end", "far", "overflow", "overflow_to_zero" };
	uint32_t which = below(6), how = below(ARRAY_LEN(names)), count = 1 + below(8);
	struct namespace *ns = some_namespace();
	struct op *op = begin_op("");
	uint64_t lba = ns->blocks;

	name_kind(op, which, names[how]);
	if (how == 1) {
		count++;
		lba -= 1 + below(count - 1);
	} else if (how == 2) {
		lba += 1 + (draw() >> 8);
	} else if (how == 3) {
		lba = UINT64_MAX - below(count);
	} else if (how == 4) {
		lba = UINT64_MAX - count + 1;
	}
	tell(op, "ns%u %u blocks", ns->nsid, count);
	make_command(op, which, ns, lba, count);
	run_op(op, some_queue());
	drain();
	if (!op->request.status && how == 1)
		heal(ns, lba, (uint32_t)(ns->blocks - lba), op->queue);
}

/* One block more than the controller takes. */
static inline void step_too_long(void)
{
	uint32_t which = below(3);
	struct namespace *ns = some_namespace();
	uint32_t count = most_bytes / ns->block + 1;
	struct op *op = begin_op("");

	name_kind(op, which, "too_long");
	tell(op, "ns%u", ns->nsid);
	make_command(op, which, ns, 0, count);
	if (is_limited)
		run_wrong(op, 0, count);
	else
		leave_out(op);
}

static inline void step_wrong_flags(void)
{
	static const struct {
		uint8_t flags;
		const char *name;
	} flags[] = { { FLAG_FUSE_FIRST, "fuse_first" },
		      { FLAG_FUSE_SECOND, "fuse_second" },
		      { FLAG_FUSE_FIRST | FLAG_FUSE_SECOND, "fuse_both" },
		      { FLAG_SGL | FLAG_SGL_METADATA, "psdt_reserved" } };
	uint32_t which = below(3), how = below(ARRAY_LEN(flags)), count = 1 + below(4);
	struct namespace *ns = some_namespace();
	struct op *op = begin_op("");
	uint64_t lba = some_lba(ns, count);

	name_kind(op, which, flags[how].name);
	make_command(op, which, ns, lba, count);
	op->request.command.flags |= flags[how].flags;
	run_wrong(op, lba, count);
}

static inline void step_wrong_opcode(void)
{
	static const uint8_t optional[] = { 0x04, 0x0d, 0x0e, 0x11, 0x15 };
	static const uint8_t unknown[] = { 0x03, 0x06, 0x0a, 0x0f, 0x10, 0x14, 0x17, 0x1f, 0x40, 0x6d, 0x7f };
	uint32_t how = below(3);
	struct op *op = begin_op(how == 0 ? "io.optional" : how == 1 ? "io.unknown" : "io.vendor");
	uint8_t opcode = how == 0   ? optional[below(sizeof(optional))]
			 : how == 1 ? unknown[below(sizeof(unknown))]
				    : (uint8_t)(0x80 + below(0x80));

	name_blocks(op, some_namespace(), opcode, below(AREA), 1);
	use_pages(op, page_size, FILLING);
	tell(op, "%02x", opcode);
	submit(op, some_queue());
}

#endif
