/* SPDX-License-Identifier: MIT */
/* What random walks have in common: the dice, and one checksum of all answers. */
#ifndef VFIO_WALK_H
#define VFIO_WALK_H

#include "../client.h"

static uint64_t state, sum = 0xcbf29ce484222325;
static bool trace;

static inline uint64_t draw(void)
{
	uint64_t z = (state += 0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static inline uint32_t below(uint32_t n)
{
	return (uint32_t)(draw() % n);
}

static void note(uint64_t value)
{
	int i;

	for (i = 0; i < 8; i++)
		sum = (sum ^ (uint8_t)(value >> 8 * i)) * 0x100000001b3;
}

#define TELL(...)                                                                                  \
	do {                                                                                       \
		if (trace)                                                                         \
			printf(__VA_ARGS__);                                                       \
	} while (0)

static long answer(long rc)
{
	note((uint64_t)rc);
	TELL(": %s", rc ? errno_name(rc) : "0");
	return rc;
}

#endif
