/* SPDX-License-Identifier: MIT */
/* Where a command's data is: pieces of memory, as PRPs (4.3) or as SGLs (4.4). */
#ifndef NVME_POINTERS_H
#define NVME_POINTERS_H

#include "controller.h"

#define MOST_PIECES 320

struct piece {
	uint8_t *at;
	uint64_t iova;
	uint32_t length;
};

struct pieces {
	uint32_t count;
	struct piece piece[MOST_PIECES];
};

static inline void add_piece(struct pieces *pieces, uint8_t *at, uint32_t length, bool high)
{
	NEED(pieces->count < MOST_PIECES);
	pieces->piece[pieces->count++] = (struct piece){ at, iova_of(at, high), length };
}

/* Copies between the pieces and bytes in a row. */
static inline void gather(const struct pieces *pieces, uint8_t *to)
{
	uint32_t i;

	for (i = 0; i < pieces->count; to += pieces->piece[i++].length)
		memcpy(to, pieces->piece[i].at, pieces->piece[i].length);
}

static inline void scatter(const struct pieces *pieces, const uint8_t *from)
{
	uint32_t i;

	for (i = 0; i < pieces->count; from += pieces->piece[i++].length)
		memcpy(pieces->piece[i].at, from, pieces->piece[i].length);
}

/*
 * PRP1 and PRP2 for pieces of which all but the first begin where a page does. A list is written to
 * `list`, where a page has this many bytes left; where it has entries for more pages than fit, it
 * goes on with the next page of memory. Returns the entry of the last piece, or NULL if it is in
 * the command itself.
 */
static inline uint64_t *use_prps(struct command *command, const struct pieces *pieces, uint8_t *list, bool high)
{
	uint64_t *entry = (uint64_t *)list, *last = NULL;
	uint32_t i;

	command->prp1 = pieces->piece[0].iova;
	if (pieces->count == 1)
		return NULL;
	if (pieces->count == 2) {
		command->prp2 = pieces->piece[1].iova;
		return NULL;
	}
	command->prp2 = iova_of(list, high);
	for (i = 1; i < pieces->count; i++) {
		if (((uintptr_t)entry + 8) % page_size == 0 && i + 1 < pieces->count) {
			*entry = iova_of(entry + 1, !high);
			entry++;
		}
		last = entry;
		*entry++ = pieces->piece[i].iova;
	}
	return last;
}

static inline struct sgl sgl_of(uint8_t type, uint64_t address, uint64_t length)
{
	return (struct sgl){ .address = address, .length = (uint32_t)length, .type = type };
}

static inline void set_sgl(struct command *command, struct sgl sgl)
{
	command->flags |= FLAG_SGL;
	memcpy(&command->prp1, &sgl, sizeof(sgl));
}

/*
 * Descriptors for the pieces: one in the command, or segments of up to `most` descriptors (2 or
 * more) in `list`, each with a page of its own to begin in. Returns where the last piece's is.
 */
static inline struct sgl *use_sgls(struct command *command, const struct pieces *pieces, uint8_t *list, uint32_t most,
				   bool high)
{
	struct sgl *segment = (struct sgl *)list, *last = NULL, link;
	uint32_t done = 0, left = pieces->count;
	bool first = true;

	if (left == 1) {
		set_sgl(command, sgl_of(SGL_DATA, pieces->piece[0].iova, pieces->piece[0].length));
		return NULL;
	}
	while (left) {
		bool is_last = left <= most;
		uint32_t i, own = is_last ? left : most - 1;

		link = sgl_of(is_last ? SGL_LAST_SEGMENT : SGL_SEGMENT, iova_of(segment, high), 16 * (is_last ? left : most));
		if (first)
			set_sgl(command, link);
		else
			*last = link;
		for (i = 0; i < own; i++, done++)
			segment[i] = sgl_of(SGL_DATA, pieces->piece[done].iova, pieces->piece[done].length);
		last = segment + (is_last ? own - 1 : own);
		segment += own + 1;
		left -= own;
		first = false;
	}
	return last;
}

#endif
