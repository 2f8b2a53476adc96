/* SPDX-License-Identifier: MIT */
/*
 * What should be in the blocks. The stream uses the first and the last AREA blocks of each
 * namespace. A block's content follows from its namespace, its number and a tag, so only the tag is
 * kept; tag 0 is zeros. A block that was deallocated is zeros, or what it was.
 */
#ifndef STREAM_BLOCKS_H
#define STREAM_BLOCKS_H

#include "layout.h"

#define AREA 1024U
#define BUSY 48U /* the first of them, which most commands are about */
#define MOST_NAMESPACES 4U
#define MOST_BYTES (512U << 10)
#define FILLING 0xee

struct namespace {
	uint32_t nsid, block; /* bytes of a block */
	uint64_t blocks;
	uint32_t format; /* as Format NVM wants it */
	uint32_t tags[2 * AREA];
	bool maybe_zero[2 * AREA];
};

static struct namespace namespaces[MOST_NAMESPACES];
static uint32_t namespace_count, most_namespaces; /* active; the highest number that may be one */
static uint32_t most_bytes;			  /* of a transfer */
static bool is_limited;				  /* because the controller says so */
static uint8_t content[MOST_BYTES];

static inline uint32_t *tag_of(struct namespace *ns, uint64_t lba)
{
	return &ns->tags[lba < AREA ? lba : AREA + lba - (ns->blocks - AREA)];
}

static inline bool *maybe_zero(struct namespace *ns, uint64_t lba)
{
	return &ns->maybe_zero[lba < AREA ? lba : AREA + lba - (ns->blocks - AREA)];
}

static inline void fill_block(uint8_t *to, const struct namespace *ns, uint64_t lba, uint32_t tag)
{
	uint64_t x = ((uint64_t)tag << 32 | ns->nsid) ^ lba * 0x9e3779b97f4a7c15;
	uint32_t i;

	if (!tag) {
		memset(to, 0, ns->block);
		return;
	}
	for (i = 0; i < ns->block; i += 8) {
		uint64_t word_;

		x = x * 6364136223846793005 + 1442695040888963407;
		word_ = x ^ x >> 32;
		memcpy(to + i, &word_, 8);
	}
}

static inline struct namespace *some_namespace(void)
{
	return &namespaces[below(namespace_count)];
}

/* A number of blocks: few, many, or as many as go into one command. */
static inline uint32_t some_count(const struct namespace *ns)
{
	uint32_t most = most_bytes / ns->block;

	if (most > AREA)
		most = AREA;
	switch (below(50)) {
	case 0:
		return most;
	case 1:
	case 2:
	case 3:
		return 1 + below(most < (64U << 10) / ns->block ? most : (64U << 10) / ns->block);
	default:
		return 1 + below(most < 8 ? most : 8);
	}
}

static inline uint64_t some_lba(const struct namespace *ns, uint32_t count)
{
	uint64_t lba = below((count < BUSY && below(4) ? BUSY : AREA) - count + 1);

	return below(2) ? lba : ns->blocks - AREA + lba;
}

static inline void set_tags(struct namespace *ns, uint64_t lba, uint32_t count, uint32_t tag)
{
	for (; count; count--, lba++) {
		*tag_of(ns, lba) = tag;
		*maybe_zero(ns, lba) = false;
	}
}

/* The bytes that should be in these blocks. */
static inline const uint8_t *contents(struct namespace *ns, uint64_t lba, uint32_t count)
{
	uint32_t i;

	for (i = 0; i < count; i++)
		fill_block(content + i * ns->block, ns, lba + i, *tag_of(ns, lba + i));
	return content;
}

/* Writes into these blocks what should be there, whatever is. Nothing is in flight. */
static inline void heal(struct namespace *ns, uint64_t lba, uint32_t count, uint32_t queue)
{
	while (count) {
		uint32_t part = most_bytes / ns->block, i;
		struct command command;
		struct pieces pieces = { 0 };

		if (part > count)
			part = count;
		memcpy(LARGE, contents(ns, lba, part), part * ns->block);
		command = block_command(IO_WRITE, ns->nsid, lba, part, NULL);
		for (i = 0; i < part * ns->block; i += page_size)
			add_piece(&pieces, LARGE + i,
				  part * ns->block - i < page_size ? part * ns->block - i : page_size, false);
		use_prps(&command, &pieces, slot_list(HEALER), false);
		if (quietly(queue, command).status)
			printf("the blocks of namespace %u cannot be written\n", ns->nsid);
		for (i = 0; i < part; i++)
			*maybe_zero(ns, lba + i) = false;
		lba += part;
		count -= part;
	}
}

static inline void heal_all(struct namespace *ns, uint32_t queue)
{
	heal(ns, 0, AREA, queue);
	heal(ns, ns->blocks - AREA, AREA, queue);
}

/* What was read is what should be there. */
static inline void judge_read(struct op *op)
{
	struct namespace *ns = &namespaces[op->argument];
	static uint8_t read[MOST_BYTES], wanted_block[64 << 10];
	uint32_t i, wrong = 0;

	gather(&op->pieces, read);
	for (i = 0; i < op->count; i++) {
		uint8_t *block = read + i * ns->block;

		fill_block(wanted_block, ns, op->lba + i, *tag_of(ns, op->lba + i));
		if (*maybe_zero(ns, op->lba + i) && block[0] == 0 && !memcmp(block, block + 1, ns->block - 1))
			memcpy(block, wanted_block, ns->block);
		if (memcmp(block, wanted_block, ns->block) && wrong++ == 0)
			found(op, " WRONG from block %u on", i);
	}
	if (!is_clean_around(op, FILLING))
		found(op, " WRITTEN BESIDE");
	found(op, " data %08x", checksum(read, op->bytes));
}

#endif
