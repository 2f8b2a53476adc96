/* SPDX-License-Identifier: MIT */
/* Words for what a controller answers. */
#ifndef NVME_SAY_H
#define NVME_SAY_H

#include "queues.h"

/* "0/00", "1/0e DNR More": type, code, and what else the status says. */
static inline const char *status_text(uint16_t status)
{
	static char text[32];

	snprintf(text, sizeof(text), "%x/%02x%s%s", STATUS_SCT(status), STATUS_SC(status), STATUS_DNR(status) ? " DNR" : "",
		 STATUS_MORE(status) ? " More" : "");
	return text;
}

/* FNV-1a of words of 8 bytes; the length is a multiple of 8. */
static inline uint64_t mix(uint64_t sum, uint64_t word)
{
	return (sum ^ word) * 0x100000001b3 ^ (sum >> 29);
}

static inline uint32_t checksum(const void *data, size_t length)
{
	const uint64_t *words = data;
	uint64_t sum = 0xcbf29ce484222325;
	size_t i;

	for (i = 0; i < length / 8; i++)
		sum = mix(sum, words[i]);
	return (uint32_t)(sum ^ sum >> 32);
}

#endif
