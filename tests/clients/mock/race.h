/* SPDX-License-Identifier: MIT */
/*
 * A race: one thread makes an object and destroys it, again and again, while others make one call
 * after the other that names it. The destroyer gets EBUSY while the object is in use; when that
 * lasts, it lets the others finish what they are at and keeps them waiting, and then DESTROY must
 * succeed: whatever they did to the object has been undone.
 */
#ifndef RACE_H
#define RACE_H

#include "viommu.h"

#include <pthread.h>
#include <sched.h>

#define RUNNERS 7
#define ROUNDS 60
#define CALLS_A_ROUND 40
#define PATIENCE_EBUSY 20
#define MOST_MOVES 20
#define MAX_ERROR 160
/* What a move returns when an answer came from another object than the one it asked for. */
#define WRONG (-(MAX_ERROR - 1))

/* What a runner has of its own. */
struct runner {
	unsigned int number;
	int access;
	struct mock mock, pasids;
	char *memory;
};

/* Something that is done to the object; all is undone when it returns. The first answer counts. */
struct move {
	const char *name;
	long (*make)(struct runner *r, uint32_t id);
	/* Answers besides 0, ENOENT and EBUSY. */
	int also[4];
};

struct victim {
	const char *name;
	/* Makes one, and says which ID is to be destroyed. */
	uint32_t (*new)(void);
	/* Before it is destroyed; may be NULL. */
	void (*close)(void);
	/* Microseconds between two moves. DESTROY of a device does not answer EBUSY, it waits until
	 * nobody uses the device; on one processor it would wait for ever. */
	unsigned int pause;
	struct move moves[MOST_MOVES];
};

/* What stands while all else comes and goes: a context, a file of one page, an IOAS with `page` at
 * APERTURE and a device, a HWPT for devices with PASIDs, a nest parent, a vIOMMU in that. */
static int fd, memfd;
static char *page;
static struct mock standing;
static uint32_t base, for_pasids, parent, viommu;

static const struct victim *victim;
static struct runner runners[RUNNERS];
/* The ID that others name; 0 when the round is over. */
static uint32_t target;
static uint64_t moves_made;
static unsigned int waiting;
static bool gate_closed, race_over;
static uint64_t answers[MOST_MOVES][MAX_ERROR];

static inline bool expected(const struct move *move, int error)
{
	unsigned int i;

	if (error == 0 || error == ENOENT || error == EBUSY)
		return true;
	for (i = 0; i < ARRAY_LEN(move->also); i++)
		if (move->also[i] == error)
			return true;
	return false;
}

static void *run(void *arg)
{
	struct runner *r = arg;
	unsigned int at = r->number;
	uint32_t id;
	long rc;

	while (!__atomic_load_n(&race_over, __ATOMIC_SEQ_CST)) {
		if (__atomic_load_n(&gate_closed, __ATOMIC_SEQ_CST)) {
			__atomic_add_fetch(&waiting, 1, __ATOMIC_SEQ_CST);
			while (__atomic_load_n(&gate_closed, __ATOMIC_SEQ_CST))
				sched_yield();
			__atomic_sub_fetch(&waiting, 1, __ATOMIC_SEQ_CST);
		}
		id = __atomic_load_n(&target, __ATOMIC_SEQ_CST);
		if (!victim->moves[at].name)
			at = 0;
		rc = victim->moves[at].make(r, id);
		if (rc > 0)
			rc = 0;
		__atomic_add_fetch(&answers[at][rc > -MAX_ERROR ? -rc : 0], 1, __ATOMIC_SEQ_CST);
		__atomic_add_fetch(&moves_made, 1, __ATOMIC_SEQ_CST);
		at++;
		if (victim->pause)
			usleep(victim->pause);
	}
	return NULL;
}

static inline void close_gate(void)
{
	__atomic_store_n(&gate_closed, true, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&waiting, __ATOMIC_SEQ_CST) != RUNNERS)
		sched_yield();
}

static inline void open_gate(void)
{
	__atomic_store_n(&gate_closed, false, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&waiting, __ATOMIC_SEQ_CST))
		sched_yield();
}

/* How often DESTROY answered something that it must not. */
static inline unsigned int destroy_it(uint32_t id)
{
	unsigned int tries, wrong = 0;
	long rc = -EBUSY;

	for (tries = 0; rc && tries < PATIENCE_EBUSY; tries++) {
		rc = destroy(fd, id);
		wrong += rc && rc != -EBUSY;
	}
	if (rc) {
		close_gate();
		wrong += destroy(fd, id) != 0;
		open_gate();
	}
	return wrong;
}

static inline void race(const struct victim *v)
{
	pthread_t threads[RUNNERS];
	unsigned int i, error, wrong = 0, odd;
	uint64_t until;

	victim = v;
	memset(answers, 0, sizeof(answers));
	race_over = false;
	target = v->new();
	for (i = 0; i < RUNNERS; i++)
		NEED(pthread_create(&threads[i], NULL, run, &runners[i]) == 0);
	for (i = 0; i < ROUNDS; i++) {
		until = __atomic_load_n(&moves_made, __ATOMIC_SEQ_CST) + CALLS_A_ROUND;
		while (__atomic_load_n(&moves_made, __ATOMIC_SEQ_CST) < until)
			sched_yield();
		if (v->close)
			v->close();
		wrong += destroy_it(target);
		__atomic_store_n(&target, v->new(), __ATOMIC_SEQ_CST);
	}
	__atomic_store_n(&race_over, true, __ATOMIC_SEQ_CST);
	for (i = 0; i < RUNNERS; i++)
		NEED(pthread_join(threads[i], NULL) == 0);
	if (v->close)
		v->close();
	wrong += destroy(fd, target) != 0;
	CHECK_EQ(wrong, 0, "%s: destroyed each time, or busy while it was in use", v->name);
	for (i = 0; v->moves[i].name; i++) {
		for (error = 0, odd = 0; error < MAX_ERROR; error++)
			if (answers[i][error] && !expected(&v->moves[i], (int)error)) {
				odd++;
				printf("# %s: %s\n", v->moves[i].name,
				       error == -WRONG ? "wrong object" : errno_name(-(long)error));
			}
		CHECK_EQ(odd, 0, "%s: %s", v->name, v->moves[i].name);
		CHECK_TRUE(answers[i][0], "%s: %s: succeeded at times", v->name, v->moves[i].name);
	}
}

#endif
