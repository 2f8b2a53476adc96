// SPDX-License-Identifier: MIT
/*
 * A set-user-ID program that does nothing but look whether anybody wrote into its memory. Exit status: GUARD_BROKEN.
 */
#include "setuid.h"

#include <time.h>
#include <unistd.h>

static volatile char guard[GUARD_SIZE] __attribute__((section(".guard"), aligned(4096)));

int main(void)
{
	struct timespec pause = { .tv_nsec = 300000 };
	unsigned int looks, i;

	if (geteuid() != 0 || (unsigned long)guard != GUARD)
		return 3;
	for (looks = 0; looks < 40; looks++) {
		for (i = 0; i < GUARD_SIZE; i++)
			if (guard[i])
				return GUARD_BROKEN;
		nanosleep(&pause, NULL);
	}
	return 0;
}
