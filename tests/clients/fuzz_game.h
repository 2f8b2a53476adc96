/* SPDX-License-Identifier: MIT */
/*
 * The game that the fuzzers play: threads that share a few open files and make random calls, each
 * file closed and opened anew now and then, children, of which each second one is killed, a watch
 * for calls that hang, and a histogram of the answers.
 *
 * A fuzzer defines GAME (its name), GAME_ROWS, REOPEN_EVERY and CHILD_EVERY (calls), and the
 * functions that are declared first; it includes this, and its main calls play_all().
 */
#ifndef FUZZ_GAME_H
#define FUZZ_GAME_H

#include "fuzz_calls.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#define SLOTS 4
#define HANG 20
#define MAX_THREADS 32
#define MAX_ERROR 160

/* One random call, from begin() to count(). */
static void one_call(struct player *p, unsigned int thread);
/* A new player for a thread, its generator not set; and its end. */
static struct player *new_player(void);
static void end_player(struct player *p);
/* The file of this slot is about to be closed. */
static void before_reopen(struct player *p, uint32_t slot);
/* What a child does before it plays. */
static void begin_child(bool killed);
static const char *row_name(unsigned int row);
static bool right(unsigned int row, int error);

/* In memory shared with the children. */
static struct shared {
	uint64_t calls;
	uint64_t forks;
	uint64_t killed;
	uint64_t opens;
	uint64_t checksums[MAX_THREADS];
	uint64_t counts[GAME_ROWS][MAX_ERROR];
	/* What each thread, or its child, does since when; since 0: nothing. */
	struct {
		time_t since;
		unsigned int row;
	} now[MAX_THREADS];
} *shared;

static const char *path;
static int slots[SLOTS];
static uint64_t seed = 1, calls = 200000;
static unsigned int threads = 4, seconds = 300;
static bool stop, with_children = true;

static time_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

static void begin(unsigned int thread, unsigned int row)
{
	__atomic_add_fetch(&shared->calls, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&shared->now[thread].row, row, __ATOMIC_SEQ_CST);
	__atomic_store_n(&shared->now[thread].since, now(), __ATOMIC_SEQ_CST);
}

static void count(unsigned int thread, unsigned int row, int error)
{
	__atomic_store_n(&shared->now[thread].since, 0, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&shared->counts[row][error < MAX_ERROR ? error : MAX_ERROR - 1], 1,
			   __ATOMIC_SEQ_CST);
	if (!right(row, error))
		fprintf(stderr, GAME ": %s answered %s\n", row_name(row), errno_name(-error));
}

/* A new open file in the place of another, which others may be using meanwhile. */
static void reopen(struct player *p)
{
	uint32_t slot = (uint32_t)below(p, SLOTS);
	int fd = open(path, O_RDWR | O_CLOEXEC);

	NEED(fd >= 0);
	before_reopen(p, slot);
	NEED(dup3(fd, slots[slot], O_CLOEXEC) == slots[slot]);
	NEED(close(fd) == 0);
	__atomic_add_fetch(&shared->opens, 1, __ATOMIC_SEQ_CST);
}

static bool has_ended(pid_t pid)
{
	siginfo_t info = { .si_pid = 0 };

	return waitid(P_PID, pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
}

/* A child that makes calls of its own, and each second one until it is killed. */
static void child(struct player *p, unsigned int thread)
{
	bool kill_it = one_in(p, 2);
	uint64_t start = __atomic_load_n(&shared->calls, __ATOMIC_SEQ_CST), child_seed = draw(p);
	unsigned int i;
	int status;
	pid_t pid = fork();

	NEED(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL); /* it plays for ever, and is nobody's when its parent is killed */
		p->random = child_seed;
		begin_child(kill_it);
		for (i = 0; i < 50 || kill_it; i++)
			one_call(p, thread);
		_exit(0);
	}
	__atomic_add_fetch(&shared->forks, 1, __ATOMIC_SEQ_CST);
	if (kill_it) {
		/* It ends by itself when it is answered wrongly, or its daemon is gone. */
		while (__atomic_load_n(&shared->calls, __ATOMIC_SEQ_CST) < start + 40 && !has_ended(pid))
			sched_yield();
		kill(pid, SIGKILL);
		__atomic_add_fetch(&shared->killed, 1, __ATOMIC_SEQ_CST);
	}
	NEED(waitpid(pid, &status, 0) == pid);
	NEED(kill_it || status == 0);
	/* It may have been killed in a call. */
	__atomic_store_n(&shared->now[thread].since, 0, __ATOMIC_SEQ_CST);
}

static void *play(void *arg)
{
	unsigned int thread = (unsigned int)(uintptr_t)arg;
	struct player *p = new_player();
	int pipes[2];
	uint64_t i;

	p->random = seed * 1000003 + thread;
	arena_init(&p->arena);
	arena_init(&p->arrays);
	NEED(pipe2(pipes, O_CLOEXEC) == 0);
	p->files[0] = memfd_create("fuzz", MFD_CLOEXEC);
	NEED(p->files[0] >= 0 && ftruncate(p->files[0], MIB) == 0);
	p->files[1] = p->files[0];
	p->files[2] = pipes[0];
	p->files[3] = -1;
	p->files[4] = 900000;
	for (i = 0; i < calls / threads + (thread < calls % threads); i++) {
		if (__atomic_load_n(&stop, __ATOMIC_SEQ_CST))
			break;
		one_call(p, thread);
		if (one_in(p, REOPEN_EVERY))
			reopen(p);
		if (one_in(p, CHILD_EVERY) && with_children)
			child(p, thread);
	}
	NEED(close(pipes[0]) == 0 && close(pipes[1]) == 0 && close(p->files[0]) == 0);
	end_player(p);
	return NULL;
}

/* Looks once a second for a call that hangs, and ends the game when its time is over. */
static void *watch(void *arg)
{
	time_t end = now() + seconds, since;
	unsigned int i;

	(void)arg;
	for (;;) {
		sleep(1);
		if (now() >= end)
			__atomic_store_n(&stop, true, __ATOMIC_SEQ_CST);
		for (i = 0; i < threads; i++) {
			since = __atomic_load_n(&shared->now[i].since, __ATOMIC_SEQ_CST);
			if (since && now() - since > HANG) {
				fprintf(stderr, GAME ": %s of thread %u hangs\n",
					row_name(shared->now[i].row), i);
				_exit(3);
			}
		}
	}
	return NULL;
}

/* Prints the histogram; returns the number of answers that are not right. */
static uint64_t report(double took)
{
	uint64_t bad = 0, n;
	unsigned int row;
	int error;

	for (row = 0; row < GAME_ROWS; row++) {
		printf("%-24s", row_name(row));
		for (error = 0; error < MAX_ERROR; error++) {
			n = shared->counts[row][error];
			if (!n)
				continue;
			printf(" %s%s %llu", right(row, error) ? "" : "!",
			       error ? errno_name(-error) : "ok", (unsigned long long)n);
			bad += right(row, error) ? 0 : n;
		}
		printf("\n");
	}
	printf("%llu calls in %.1f s, %llu opens, %llu children, %llu of them killed, %llu wrong "
	       "answers\n", (unsigned long long)shared->calls, took,
	       (unsigned long long)shared->opens, (unsigned long long)shared->forks,
	       (unsigned long long)shared->killed, (unsigned long long)bad);
	return bad;
}

/* One of the options that all fuzzers have, as getopt_long gives it. */
static bool common_option(int c, const char *value)
{
	switch (c) {
	case 's':
		seed = strtoull(value, NULL, 0);
		return true;
	case 'c':
		calls = strtoull(value, NULL, 0);
		return true;
	case 't':
		threads = (unsigned int)strtoul(value, NULL, 0);
		return threads && threads <= MAX_THREADS;
	case 'm':
		seconds = (unsigned int)strtoul(value, NULL, 0);
		return true;
	default:
		return false;
	}
}

#define COMMON_OPTIONS                                                                             \
	{ "seed", required_argument, NULL, 's' }, { "calls", required_argument, NULL, 'c' },       \
	{ "threads", required_argument, NULL, 't' }, { "seconds", required_argument, NULL, 'm' }

/* Plays on the device at `path`; returns the number of wrong answers. */
static uint64_t play_all(void)
{
	pthread_t players[MAX_THREADS], watcher;
	struct timespec start, end;
	uintptr_t i;

	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		      0);
	NEED(shared != MAP_FAILED);
	for (i = 0; i < SLOTS; i++) {
		slots[i] = open(path, O_RDWR | O_CLOEXEC);
		NEED(slots[i] >= 0);
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	NEED(pthread_create(&watcher, NULL, watch, NULL) == 0);
	for (i = 0; i < threads; i++)
		NEED(pthread_create(&players[i], NULL, play, (void *)i) == 0);
	for (i = 0; i < threads; i++)
		NEED(pthread_join(players[i], NULL) == 0);
	clock_gettime(CLOCK_MONOTONIC, &end);
	for (i = 0; i < SLOTS; i++)
		NEED(close(slots[i]) == 0);
	return report((double)(end.tv_sec - start.tv_sec) +
		      (double)(end.tv_nsec - start.tv_nsec) / 1e9);
}

#endif
