/* SPDX-License-Identifier: MIT */
/* Kinds of memory, what happens to them, and what a device sees of them then. */
#ifndef MEMORY_EVENTS_H
#define MEMORY_EVENTS_H

#include "mock.h"

#define HUGE (2 * MIB)
#define LENGTH (3 * PAGE) /* what is mapped in the IOAS; the memory may be more */

enum sight {
	FAULT,	/* nothing: EFAULT */
	OLD,	/* what was there when it was mapped */
	NEW,	/* what the client put there by what it did */
	ZERO,
	FILED,	/* what the file has that is mapped privately */
};

static const char *const sights[] = {
	"EFAULT", "the old bytes", "new bytes", "zeros", "the file's",
};

enum { FILE_ROUND = 1, OLD_ROUND, NEW_ROUND, LAST_ROUND };

enum event {
	NOTHING,
	CHILD_WRITES,	/* forks; the child writes to its copy */
	PARENT_WRITES,	/* forks; the parent writes */
	UNMAP,
	REMAP,		/* anonymous memory at the same address, and written to */
	REMAP_ONLY,	/* not written to */
	REMAP_FILE,	/* a file at the same address */
	NO_ACCESS,	/* PROT_NONE */
	MOVE,		/* mremap */
	GIVE_BACK,	/* MADV_DONTNEED */
	TRUNCATE,	/* of the file that is mapped */
	EXEC,
	EXIT,
	EVENTS,
};

static const char *const events[] = {
	"nothing happens", "its child writes", "it writes, having a child", "it unmaps",
	"it maps other memory there and writes", "it maps other memory there",
	"it maps a file there", "it takes the permission away", "it moves the mapping",
	"it gives the pages back", "the file is truncated", "it executes a program", "it ends",
};

enum state { REMEMBERED, BY_DEVICE, BY_ACCESS, STATES };

static const char *const states[] = { "remembered", "held by a device", "held by an access" };

static const struct kind {
	const char *name;
	size_t size;
	bool shared, file, huge;
} kinds[] = {
	{ "private memory", LENGTH, false, false, false },
	{ "a private file mapping", LENGTH, false, true, false },
	{ "shared memory", LENGTH, true, false, false },
	{ "a shared file mapping", LENGTH, true, true, false },
	{ "private huge pages", HUGE, false, false, true },
	{ "a private mapping of a huge file", HUGE, false, true, true },
	{ "shared huge pages", HUGE, true, false, true },
	{ "a shared mapping of a huge file", HUGE, true, true, true },
};

/* Whose answers are expected, where they cannot be the kernel's. */
static bool iommud;

/* Whether the client's memory is still what was mapped, and it can say what is in it. */
static bool has_memory(enum event event)
{
	return event <= PARENT_WRITES || event == NO_ACCESS || event == MOVE;
}

/* Which memory the process itself would see there, if it lives. */
static enum sight present(const struct kind *kind, enum event event)
{
	switch (event) {
	case NOTHING:
	case CHILD_WRITES:
		return event == CHILD_WRITES && kind->shared ? NEW : OLD;
	case PARENT_WRITES:
	case REMAP:
	case REMAP_FILE:
		return NEW;
	case REMAP_ONLY:
		return ZERO;
	case GIVE_BACK:
		if (kind->shared)
			return OLD;
		return kind->file ? FILED : ZERO;
	default:
		return FAULT;
	}
}

/* What iommud sees of private memory that the kernel holds. */
static enum sight not_held(const struct kind *kind, enum event event)
{
	switch (event) {
	case REMAP:
		/* Anonymous memory that was written to cannot be told from what was there. */
		return kind->file || kind->huge ? FAULT : NEW;
	case GIVE_BACK:
		/* A page of a file may go away at any time: whose doing it was cannot be seen. */
		if (kind->file)
			return FILED;
		return kind->huge ? ZERO : FAULT;
	case NO_ACCESS:
		return OLD;
	default:
		return FAULT;
	}
}

static enum sight expected(const struct kind *kind, enum state state, enum event event, bool single)
{
	bool alive = event != EXEC && event != EXIT;

	if (event <= PARENT_WRITES)
		return present(kind, event);
	/* A single page is reached through the process, as long as there is one. */
	if (state == REMEMBERED || (single && alive))
		return alive ? present(kind, event) : FAULT;
	if (iommud && !kind->shared)
		return not_held(kind, event);
	if (iommud && event == TRUNCATE)
		return FAULT;
	return OLD;
}

#endif
