/* SPDX-License-Identifier: MIT */
/* Where a command's data lies in its slot: offsets, orders of pages, and both halves of addresses. */
#ifndef STREAM_LAYOUT_H
#define STREAM_LAYOUT_H

#include "op.h"

static inline uint32_t some_offset(void)
{
	switch (below(4)) {
	case 0:
		return below(page_size / 4) * 4;
	case 1:
		return page_size - 4 * (1 + below(16));
	default:
		return 0;
	}
}

/* Pages of the slot's data in some order. */
static inline void some_order(uint16_t *order, uint32_t count)
{
	uint32_t i, how = below(3);

	for (i = 0; i < count; i++)
		order[i] = (uint16_t)(how == 1 ? count - 1 - i : i);
	if (how != 2)
		return;
	for (i = count - 1; i > 0; i--) {
		uint32_t other = below(i + 1);
		uint16_t kept = order[i];

		order[i] = order[other];
		order[other] = kept;
	}
}

/* Pieces as PRPs can name them: all but the first begin with a page. */
static inline void lay_out_pages(struct op *op, uint32_t bytes)
{
	static uint16_t order[MOST_PIECES];
	uint32_t offset = some_offset(), count = (offset + bytes + page_size - 1) / page_size, i, done = 0;

	op->bytes = bytes;
	if (bytes > SMALL)
		be_large(op);
	some_order(order, count);
	for (i = 0; i < count; i++) {
		uint32_t room = page_size - offset, length = bytes - done < room ? bytes - done : room;

		add_piece(&op->pieces, op->data + order[i] * page_size + offset, length, below(2));
		done += length;
		offset = 0;
	}
}

/* Where a list may begin: a page, near its end, or anywhere. */
static inline uint8_t *some_list(const struct op *op)
{
	uint32_t offset = 0;

	if (once_in(3))
		offset = page_size - 8 * (1 + below(4));
	else if (once_in(3))
		offset = below(page_size / 8) * 8;
	return slot_list(op->slot) + offset;
}

/* Data of so many bytes by PRPs; the pages that hold it are filled first. */
static inline void use_pages(struct op *op, uint32_t bytes, uint8_t filling)
{
	uint32_t i;

	lay_out_pages(op, bytes);
	for (i = 0; i < op->pieces.count; i++)
		if (i == 0 || i + 1 == op->pieces.count)
			memset((void *)((uintptr_t)op->pieces.piece[i].at & ~(uintptr_t)(page_size - 1)), filling, page_size);
	use_prps(&op->request.command, &op->pieces, some_list(op), below(2));
}

/* Pieces as SGLs can name them: up to 8, of words of 4 bytes. The memory about them is filled first. */
static inline void lay_out_words(struct op *op, uint32_t bytes, uint8_t filling)
{
	uint32_t count = 1 + below(8), i, at = 0;

	op->bytes = bytes;
	if (bytes > SMALL)
		be_large(op);
	memset(op->data, filling, (bytes + count * 4 * 64 + page_size - 1) & ~(page_size - 1));
	for (i = 0; i < count && bytes; i++) {
		uint32_t length = i + 1 == count ? bytes : 4 * (1 + below(bytes / 4));

		at += 4 * below(64);
		add_piece(&op->pieces, op->data + at, length, below(2));
		at += length;
		bytes -= length;
	}
}

/* Nothing was written beside the data, in the pages of its first and its last piece. */
static inline bool is_clean_around(const struct op *op, uint8_t filling)
{
	const struct piece *first = &op->pieces.piece[0], *last = &op->pieces.piece[op->pieces.count - 1];
	const uint8_t *at = (void *)((uintptr_t)first->at & ~(uintptr_t)(page_size - 1));

	for (; at < first->at; at++)
		if (*at != filling)
			return false;
	for (at = last->at + last->length; (uintptr_t)at % page_size; at++)
		if (*at != filling)
			return false;
	return true;
}

#endif
