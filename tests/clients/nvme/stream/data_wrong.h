/* SPDX-License-Identifier: MIT */
/* Commands whose data is at a wrong place, or is named wrongly. */
#ifndef STREAM_DATA_WRONG_H
#define STREAM_DATA_WRONG_H

#include "io_wrong.h"

/* Blocks of so many pages, at least; data begins with a page. */
static inline struct namespace *some_pages(struct op *op, uint32_t which, uint32_t pages, uint64_t *lba)
{
	struct namespace *ns = some_namespace();
	uint32_t count = pages * page_size / ns->block, i;

	*lba = some_lba(ns, count);
	name_blocks(op, ns, block_commands[which].opcode, *lba, count);
	be_large(op);
	for (i = 0; i < pages; i++)
		add_piece(&op->pieces, op->data + 2 * i * page_size, page_size, below(2));
	op->count = count;
	return ns;
}

/* Offsets where there must be none. */
static inline void step_wrong_offset(void)
{
	static const char *const names[] = { "second_offset", "first_entry_offset", "an_entry_offset", "last_entry_offset",
					     "next_list_offset" };
	uint32_t which = below(3), how = below(ARRAY_LEN(names)), pages = how == 0 ? 2 : 4 + below(4);
	struct op *op = begin_op("");
	uint64_t lba, *list = (uint64_t *)slot_list(op->slot);
	uint32_t offset = 4 * (1 + below(page_size / 4 - 1)), whole = offset & ~7U ? offset & ~7U : 8, count;

	if (how == 4)
		list += page_size / 8 - 2; /* of the list's page there is an entry, and the place of the next list */
	name_kind(op, which, names[how]);
	some_pages(op, which, pages, &lba);
	use_prps(&op->request.command, &op->pieces, (uint8_t *)list, below(2));
	if (how == 0)
		op->request.command.prp2 += offset;
	else
		list[how == 1 ? 0 : how == 2 ? 1 + below(pages - 3) : how == 3 ? pages - 2 : 1] += whole;
	count = op->count;
	op->count = 0;
	run_wrong(op, lba, count);
}

/* A first PRP that is not a multiple of 4. */
static inline void step_odd_offset(void)
{
	struct namespace *ns = some_namespace();
	struct op *op = begin_op("read.odd_offset");

	name_blocks(op, ns, IO_READ, some_lba(ns, 1), 1);
	op->request.command.prp1 = iova_of(op->data, below(2)) + 1 + below(3);
	op->request.command.prp2 = iova_of(op->data + page_size, below(2));
	submit(op, some_queue());
}

/* Nothing is mapped where a page of the data should be, or the list of pages. */
static inline void step_unmapped(void)
{
	static const char *const names[] = { "first_unmapped", "second_unmapped", "last_unmapped", "list_unmapped" };
	uint32_t which = below(3), how = below(ARRAY_LEN(names)), pages = how == 0 ? 1 : how == 1 ? 2 : 3 + below(4), count;
	struct op *op = begin_op("");
	uint64_t lba;
	struct namespace *ns = some_pages(op, which, pages, &lba);

	name_kind(op, which, names[how]);
	count = op->count;
	op->count = 0;
	if (how < 3)
		op->pieces.piece[pages - 1].iova = NOWHERE + below(16) * page_size;
	use_prps(&op->request.command, &op->pieces, some_list(op), below(2));
	if (how == 3)
		op->request.command.prp2 = NOWHERE + below(512) * 8;
	while (first_op < op->number)
		end_oldest();
	if (block_commands[which].opcode == IO_COMPARE) /* so that no other byte is different */
		heal(ns, lba, count, io_queues[0]);
	scatter(&op->pieces, contents(ns, lba, count));
	run_op(op, some_queue());
	drain();
	if (block_commands[which].opcode == IO_WRITE)
		heal(ns, lba, count, op->queue);
}

/* Memory that the device may only read. */
static inline void step_read_only(void)
{
	bool writes = below(2);
	struct op *op = begin_op(writes ? "write.from_read_only" : "read.to_read_only");
	struct namespace *ns = some_namespace();
	uint32_t count = page_size / ns->block;
	uint64_t lba = some_lba(ns, count);

	name_blocks(op, ns, writes ? IO_WRITE : IO_READ, lba, count);
	op->request.command.prp1 = READ_ONLY + below(4) * page_size;
	run_op(op, some_queue());
	drain();
	if (writes)
		heal(ns, lba, count, op->queue);
}

/* Scatter gather lists with one thing wrong, which do nothing but read. */
static inline void step_wrong_sgl(void)
{
	static const char *const names[] = { "sgl.type", "sgl.subtype", "sgl.short", "sgl.segment_length", "sgl.unmapped",
					     "sgl.segment_unmapped", "sgl.data_in_last_place", "sgl.empty_segment" };
	uint32_t how = below(ARRAY_LEN(names));
	struct op *op = begin_op(names[how]);
	struct namespace *ns = some_namespace();
	struct sgl *list = (struct sgl *)slot_list(op->slot);
	uint64_t lba = some_lba(ns, 4), address = iova_of(op->data, below(2)), at = iova_of(list, below(2));
	uint32_t bytes = 4 * ns->block;

	name_blocks(op, ns, IO_READ, lba, 4);
	list[0] = sgl_of(SGL_DATA, address, bytes / 2);
	list[1] = sgl_of(SGL_DATA, address + bytes / 2, bytes / 2);
	switch (how) {
	case 0:
		set_sgl(&op->request.command, sgl_of(below(2) ? 0x60 : 0xf0, address, bytes));
		break;
	case 1:
		set_sgl(&op->request.command, sgl_of((uint8_t)(SGL_DATA | (2 + below(8))), address, bytes));
		break;
	case 2:
		set_sgl(&op->request.command, sgl_of(SGL_DATA, address, bytes - 4 * (1 + below(64))));
		break;
	case 3:
		set_sgl(&op->request.command, sgl_of(SGL_LAST_SEGMENT, at, 16 + 8));
		break;
	case 4:
		set_sgl(&op->request.command, sgl_of(SGL_DATA, NOWHERE, bytes));
		break;
	case 5:
		set_sgl(&op->request.command, sgl_of(SGL_LAST_SEGMENT, NOWHERE, 32));
		break;
	case 6:
		set_sgl(&op->request.command, sgl_of(SGL_SEGMENT, at, 32));
		break;
	default:
		set_sgl(&op->request.command, sgl_of(SGL_LAST_SEGMENT, at, 0));
	}
	run_and_print(op, some_queue());
}

#endif
