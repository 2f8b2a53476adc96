/* SPDX-License-Identifier: MIT */
/*
 * Which blocks a numbered write of a round is about, and what is in them. All of it follows from
 * the two numbers, so that a checker needs no list of what was written.
 */
#ifndef NVME_PATTERN_H
#define NVME_PATTERN_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define PLACES 256U
#define PLACE 8U /* blocks */
#define BLOCKS (PLACES * PLACE)
#define MAGIC 0x6e766d6566696c65

/* The beginning of each block. */
struct mark {
	uint64_t magic;
	uint32_t round, number;
	uint64_t block;
};

static inline uint64_t hash(uint64_t value)
{
	value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9;
	value = (value ^ (value >> 27)) * 0x94d049bb133111eb;
	return value ^ (value >> 31);
}

static inline uint64_t dice_of(uint32_t round, uint32_t number)
{
	return hash(((uint64_t)round << 32 | number) + 0x9e3779b97f4a7c15);
}

/* The first block of a write, and how many there are; they are within one place. */
static inline uint32_t first_block(uint32_t round, uint32_t number, uint32_t *count)
{
	uint64_t value = dice_of(round, number);
	uint32_t from = (uint32_t)(value >> 20 & (PLACE - 1));

	*count = 1 + (uint32_t)(value >> 30) % (PLACE - from);
	return (uint32_t)(value & (PLACES - 1)) * PLACE + from;
}

static inline bool covers(uint32_t round, uint32_t number, uint32_t block)
{
	uint32_t count, first = first_block(round, number, &count);

	return first <= block && block < first + count;
}

static inline void make_block(uint8_t *to, uint32_t size, uint32_t round, uint32_t number, uint64_t block)
{
	struct mark mark = { MAGIC, round, number, block };
	uint64_t value = dice_of(round, number) ^ block;
	uint32_t i;

	memcpy(to, &mark, sizeof(mark));
	for (i = sizeof(mark); i < size; i += 8) {
		value = value * 6364136223846793005 + 1442695040888963407;
		memcpy(to + i, &value, 8);
	}
}

#endif
