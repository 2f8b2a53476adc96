/* SPDX-License-Identifier: MIT */
/* The dice. What is drawn depends on the seed and on the sizes of things, never on an answer. */
#ifndef STREAM_DICE_H
#define STREAM_DICE_H

#include <stdbool.h>
#include <stdint.h>

static uint64_t seed, dice;

/* Each step has dice of its own: how often one throws them makes no difference to the next. */
static inline void begin_dice(void)
{
	static uint64_t step;

	dice = (seed << 32 | seed >> 32) ^ ++step * 0xd1342543de82ef95;
}

static inline uint64_t draw(void)
{
	uint64_t z = (dice += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static inline uint32_t below(uint32_t n)
{
	return (uint32_t)((draw() >> 16) % n);
}

/* Once in `n` times. */
static inline bool once_in(uint32_t n)
{
	return below(n) == 0;
}

#endif
