// SPDX-License-Identifier: MIT
/*
 * fuzz [--seed S] [--calls N] [--threads T] [--seconds MAX] [--areas] [--trace] PATH
 *
 * Random ioctls on PATH from several threads and now and then from children. All share a few open
 * files, each of which is closed and opened anew now and then. Each second child has files of its
 * own and is killed while at it. Prints what each command answered and how often, and a checksum
 * of each thread's calls and answers: with one thread it depends on the seed alone. --areas: no
 * children, no CAP_SYS_RESOURCE, and only the commands that need no device, so that the checksum
 * of one thread is the same wherever the answers are. --trace: print them, to find out where they
 * are not. Exit status: 1 an answer Linux never gives, 2 the test itself failed, 3 a call took
 * longer than 10 s.
 */
#include "fuzz_calls.h"

#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>

#define SLOTS 4
#define HANG 10
#define MAX_THREADS 32
#define MAX_ERROR 160

/* In memory shared with the children. */
static struct shared {
	uint64_t calls;
	uint64_t forks;
	uint64_t killed;
	uint64_t opens;
	uint64_t checksums[MAX_THREADS];
	uint64_t counts[ROWS][MAX_ERROR];
	/* What each thread, or its child, does since when; since 0: nothing. */
	struct {
		time_t since;
		unsigned int number;
	} now[MAX_THREADS];
} *shared;

static const char *path;
static int slots[SLOTS];
static uint64_t seed = 1, calls = 200000;
static unsigned int threads = 4, seconds = 300;
static bool stop, areas_only, trace;

static time_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec;
}

static void count(unsigned int thread, unsigned int row, int error)
{
	__atomic_store_n(&shared->now[thread].since, 0, __ATOMIC_SEQ_CST);
	__atomic_add_fetch(&shared->counts[row][error < MAX_ERROR ? error : MAX_ERROR - 1], 1,
			   __ATOMIC_SEQ_CST);
}

static void begin(unsigned int thread, unsigned int number)
{
	__atomic_add_fetch(&shared->calls, 1, __ATOMIC_SEQ_CST);
	__atomic_store_n(&shared->now[thread].number, number, __ATOMIC_SEQ_CST);
	__atomic_store_n(&shared->now[thread].since, now(), __ATOMIC_SEQ_CST);
}

static uint64_t mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value ^ value >> 32) * 0x100000001b3;
}

/* The children that are killed do not count. */
static bool uncounted;

static void sum(unsigned int thread, const struct random_call *c, int error, struct area out)
{
	uint64_t checksum = shared->checksums[thread];

	if (uncounted)
		return;
	checksum = mix(mix(checksum, c->number), (uint64_t)error);
	checksum = mix(mix(mix(checksum, out.ioas), out.iova), out.length);
	shared->checksums[thread] = checksum;
	if (trace)
		printf("%s %#x %s %u %#llx %#llx\n",
		       c->row < COMMANDS ? commands[c->row].name : "other", c->number,
		       error ? errno_name(-error) : "ok", out.ioas, (unsigned long long)out.iova,
		       (unsigned long long)out.length);
}

/* The descriptor a queue's allocation gave, when it is one at all, is closed again. */
static void close_given(const struct random_call *c)
{
	uint32_t fd;

	if (c->number != IOMMU_FAULT_QUEUE_ALLOC || !c->body)
		return;
	memcpy(&fd, (char *)c->body + offsetof(struct iommu_fault_alloc, out_fault_fd), sizeof(fd));
	close((int)fd);
}

static void one_call(struct player *p, unsigned int thread)
{
	int fd = slots[below(p, SLOTS)], error;
	struct random_call c = { .row = ROW_READ };
	struct area out = { 0 };

	if (one_in(p, 200)) {
		begin(thread, 0);
		error = read(fd, p->arena.pages, PAGE) < 0 ? errno : 0;
	} else {
		c = random_call(p);
		begin(thread, c.number);
		error = ioctl(fd, c.number, c.arg) < 0 ? errno : 0;
		out = outcome(&c);
	}
	count(thread, c.row, error);
	sum(thread, &c, error, out);
	if (!allowed(c.row, error))
		fprintf(stderr, "fuzz: %s (%#x) answered %s\n",
			c.row < COMMANDS ? commands[c.row].name : "other", c.number,
			errno_name(-error));
	if (error == 0) {
		close_given(&c);
		remember(p, &c, out);
	}
}

/* A new open file in the place of another, which others may be using meanwhile. */
static void reopen(struct player *p)
{
	int slot = slots[below(p, SLOTS)], fd = open(path, O_RDWR | O_CLOEXEC);

	NEED(fd >= 0);
	NEED(dup3(fd, slot, O_CLOEXEC) == slot);
	NEED(close(fd) == 0);
	__atomic_add_fetch(&shared->opens, 1, __ATOMIC_SEQ_CST);
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
		p->random = child_seed;
		uncounted = kill_it;
		for (i = 0; i < SLOTS && kill_it; i++)
			NEED((slots[i] = open(path, O_RDWR | O_CLOEXEC)) >= 0);
		for (i = 0; i < 50 || kill_it; i++)
			one_call(p, thread);
		_exit(0);
	}
	__atomic_add_fetch(&shared->forks, 1, __ATOMIC_SEQ_CST);
	if (kill_it) {
		while (__atomic_load_n(&shared->calls, __ATOMIC_SEQ_CST) < start + 40)
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
	struct player p = { .random = seed * 1000003 + thread,
			    .areas_only = areas_only };
	int pipes[2];
	uint64_t i;

	arena_init(&p.arena);
	arena_init(&p.arrays);
	NEED(pipe2(pipes, O_CLOEXEC) == 0);
	p.files[0] = memfd_create("fuzz", MFD_CLOEXEC);
	NEED(p.files[0] >= 0 && ftruncate(p.files[0], MIB) == 0);
	p.files[1] = p.files[0];
	p.files[2] = pipes[0];
	p.files[3] = -1;
	p.files[4] = 900000;
	for (i = 0; i < calls / threads + (thread < calls % threads); i++) {
		if (__atomic_load_n(&stop, __ATOMIC_SEQ_CST))
			break;
		one_call(&p, thread);
		if (one_in(&p, 1000))
			reopen(&p);
		if (one_in(&p, 2000) && !areas_only)
			child(&p, thread);
	}
	NEED(close(pipes[0]) == 0 && close(pipes[1]) == 0 && close(p.files[0]) == 0);
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
				fprintf(stderr, "fuzz: call %#x of thread %u hangs\n",
					shared->now[i].number, i);
				_exit(3);
			}
		}
	}
	return NULL;
}

/* Prints the histogram; returns the number of answers that are not allowed. */
static uint64_t report(double took)
{
	static const char *const others[] = { "other numbers", "read()" };
	uint64_t bad = 0, n;
	unsigned int row;
	int error;

	for (row = 0; row < ROWS; row++) {
		printf("%-24s", row < COMMANDS ? commands[row].name : others[row - COMMANDS]);
		for (error = 0; error < MAX_ERROR; error++) {
			n = shared->counts[row][error];
			if (!n)
				continue;
			printf(" %s%s %llu", allowed(row, error) ? "" : "!",
			       error ? errno_name(-error) : "ok", (unsigned long long)n);
			bad += allowed(row, error) ? 0 : n;
		}
		printf("\n");
	}
	printf("%llu calls in %.1f s, %llu opens, %llu children, %llu of them killed, %llu wrong "
	       "answers\n", (unsigned long long)shared->calls, took,
	       (unsigned long long)shared->opens, (unsigned long long)shared->forks,
	       (unsigned long long)shared->killed, (unsigned long long)bad);
	for (row = 0; row < threads; row++)
		printf("thread %u: checksum %016llx\n", row,
		       (unsigned long long)shared->checksums[row]);
	return bad;
}

static void usage(void)
{
	fprintf(stderr, "usage: fuzz [--seed S] [--calls N] [--threads T] [--seconds MAX] "
			"[--areas] [--trace] PATH\n");
	exit(2);
}

static void arguments(int argc, char **argv)
{
	static const struct option names[] = {
		{ "seed", required_argument, NULL, 's' },
		{ "calls", required_argument, NULL, 'c' },
		{ "threads", required_argument, NULL, 't' },
		{ "seconds", required_argument, NULL, 'm' },
		{ "areas", no_argument, NULL, 'a' },
		{ "trace", no_argument, NULL, 'v' },
		{ 0 },
	};
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (c == 's')
			seed = strtoull(optarg, NULL, 0);
		else if (c == 'c')
			calls = strtoull(optarg, NULL, 0);
		else if (c == 't')
			threads = (unsigned int)strtoul(optarg, NULL, 0);
		else if (c == 'm')
			seconds = (unsigned int)strtoul(optarg, NULL, 0);
		else if (c == 'a')
			areas_only = true;
		else if (c == 'v')
			trace = true;
		else
			usage();
	}
	if (optind != argc - 1 || !threads || threads > MAX_THREADS)
		usage();
	path = argv[optind];
}

int main(int argc, char **argv)
{
	pthread_t players[MAX_THREADS], watcher;
	struct timespec start, end;
	uintptr_t i;

	arguments(argc, argv);
	if (areas_only)
		drop_capability(CAP_SYS_RESOURCE);
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
		      (double)(end.tv_nsec - start.tv_nsec) / 1e9) != 0;
}
