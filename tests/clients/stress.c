// SPDX-License-Identifier: MIT
/*
 * stress PATH SECONDS SEED [PROCESSES THREADS]
 *
 * Processes with threads that map, unmap, copy, attach, replace, pin, copy by an access, change
 * their memory, and die: by SIGKILL, by _exit, by exec, each at any moment, and come again. Half of
 * them are a user without capabilities, whose pages are counted. PATH is a mock device.
 *
 * All answers must be such as Linux gives; what a thread maps alone must be what its device sees.
 * In the end nothing may be pinned or counted, and the device must answer as a new one. Says how
 * long the longest call of each kind took, as its thread saw it, and how long it took a killed
 * process to be gone. Exit status: 1 something was wrong, 2 the test itself failed.
 */
#include "stress_calls.h"

#include <poll.h>
#include <pthread.h>
#include <sys/resource.h>

#define MAX_PROCESSES 16
#define MAX_THREADS 8
#define USER 65534
#define ALLOWANCE 512UL /* pages */
#define LIFETIME 4000 /* in 2000 of that many calls a thread ends its process */

static struct shared {
	bool stop;
	uint64_t killed, exited, longest_death;
	unsigned int failures; /* found by workers at the end */
	unsigned int parked; /* workers that will not end by themselves any more */
	pthread_barrier_t closed, checked;
	struct tally tallies[MAX_PROCESSES][MAX_THREADS];
} *shared;

static struct worker worker;
static unsigned int processes = 8, threads = 4, slot;
static uint64_t seed;

static void fail(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
	__atomic_add_fetch(&shared->failures, 1, __ATOMIC_SEQ_CST);
}

static char *anonymous(size_t pages, int flags)
{
	char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0);

	NEED(p != MAP_FAILED);
	return p;
}

static void end_process(struct thread *t)
{
	if (pick(t, 2))
		_exit(0);
	execl("/proc/self/exe", "stress", NULL);
	_exit(3);
}

static void *loop(void *arg)
{
	struct thread *t = arg;

	t->device = timed_open(t);
	t->own = anonymous(OWN_PAGES, MAP_PRIVATE);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_RELAXED)) {
		one_call(t);
		if (pick(t, LIFETIME) == 0 && !__atomic_load_n(&shared->stop, __ATOMIC_RELAXED))
			end_process(t);
	}
	return NULL;
}

/* All the process has is closed by all of them; then nobody can have its memory pinned. */
static void finish(void)
{
	long rc;
	int fd;

	NEED(close_range(3, UINT_MAX, 0) == 0);
	__atomic_add_fetch(&shared->parked, 1, __ATOMIC_SEQ_CST);
	pthread_barrier_wait(&shared->closed);
	/* What was unmapped or protected is there again. */
	NEED(mmap(worker.private, PAGES * PAGE, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == worker.private);
	fd = open(path, O_RDWR | O_CLOEXEC);
	NEED(fd >= 0);
	rc = check_refs(fd, worker.private, PAGES * PAGE, 0);
	rc = rc ? rc : check_refs(fd, worker.big, BIG, 0);
	rc = rc ? rc : check_refs(fd, worker.shared, PAGES * PAGE, 0);
	if (rc)
		fail("process %u: MD_CHECK_REFS 0: %s", slot, errno_name(rc));
	fflush(stdout);
	pthread_barrier_wait(&shared->checked);
	_exit(0);
}

static void work(unsigned int generation)
{
	struct thread states[MAX_THREADS];
	pthread_t ids[MAX_THREADS];
	struct rlimit limit = { ALLOWANCE * PAGE, ALLOWANCE * PAGE };
	unsigned int i;

	NEED(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
	worker.private = anonymous(PAGES, MAP_PRIVATE);
	worker.big = anonymous(BIG / PAGE, slot % 4 < 2 ? MAP_PRIVATE : MAP_SHARED);
	memset(worker.private, 1, PAGES * PAGE);
	worker.device = open(path, O_RDWR | O_CLOEXEC);
	NEED(worker.device >= 0);
	for (i = 0; i < ACCESSES; i++)
		worker.accesses[i] = -1;
	if (slot % 2) {
		NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
		NEED(setresuid(USER, USER, USER) == 0);
		NEED(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
	}
	for (i = 0; i < threads; i++) {
		states[i] = (struct thread){
			.worker = &worker, .tally = &shared->tallies[slot][i],
			.random = (seed * 1000003 + generation * 64 + slot * MAX_THREADS + i + 1) *
				  0x9e3779b97f4a7c15,
		};
		NEED(pthread_create(&ids[i], NULL, loop, &states[i]) == 0);
	}
	for (i = 0; i < threads; i++)
		NEED(pthread_join(ids[i], NULL) == 0);
	finish();
}

static pid_t start(unsigned int generation)
{
	pid_t pid;

	fflush(stdout);
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0)
		work(generation);
	return pid;
}

/* Start those anew that ended by themselves; returns the generation after the last. */
static unsigned int restart(pid_t *pids, unsigned int generation)
{
	int status;
	pid_t gone;

	while ((gone = waitpid(-1, &status, WNOHANG)) > 0) {
		for (slot = 0; pids[slot] != gone; slot++)
			NEED(slot < processes);
		if (status)
			fail("process %u ended with status %#x", slot, status);
		shared->exited++;
		pids[slot] = start(generation++);
	}
	return generation;
}

/* Kill one now and then until the time is over; then see to it that all are there. */
static void stir(pid_t *pids, unsigned int seconds)
{
	uint64_t end = nanoseconds() + seconds * 1000000000UL, taken, since;
	struct thread chance = { .random = seed * 0x9e3779b97f4a7c15 + 1 };
	unsigned int generation = 1;
	struct pollfd death = { .events = POLLIN };
	int status;

	while (nanoseconds() < end) {
		poll(NULL, 0, 20 + (int)pick(&chance, 200));
		slot = (unsigned int)pick(&chance, processes);
		death.fd = (int)syscall(SYS_pidfd_open, pids[slot], 0);
		NEED(death.fd >= 0);
		since = nanoseconds();
		NEED(kill(pids[slot], SIGKILL) == 0);
		NEED(poll(&death, 1, -1) == 1);
		taken = nanoseconds() - since;
		/* Not counted: that takes all of it out of /proc, at the kernel's leisure. */
		NEED(waitpid(pids[slot], &status, 0) == pids[slot] && close(death.fd) == 0);
		if (taken > shared->longest_death)
			shared->longest_death = taken;
		if (WIFSIGNALED(status))
			shared->killed++;
		else if (status)
			fail("process %u ended with status %#x", slot, status);
		pids[slot] = start(generation++);
		generation = restart(pids, generation);
	}
	__atomic_store_n(&shared->stop, true, __ATOMIC_SEQ_CST);
	while (__atomic_load_n(&shared->parked, __ATOMIC_SEQ_CST) < processes) {
		generation = restart(pids, generation);
		poll(NULL, 0, 1);
	}
}

/* The user's allowance is what it was: nothing that is gone is counted. */
static void check_allowance(void)
{
	struct rlimit limit = { ALLOWANCE * PAGE, ALLOWANCE * PAGE };
	int fd = open(path, O_RDWR | O_CLOEXEC), status;
	char *memory = anonymous(ALLOWANCE + 1, MAP_PRIVATE);
	uint32_t ioas = new_ioas(fd);
	pid_t pid;
	long rc;

	NEED(try_mock(fd, ioas) == 0);
	fflush(stdout);
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
		NEED(setresuid(USER, USER, USER) == 0);
		rc = map_at(fd, ioas, (uintptr_t)memory, ALLOWANCE * PAGE, BASE);
		if (rc)
			fail("all of the allowance cannot be had: %s", errno_name(rc));
		rc = map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE + 4 * MIB);
		if (rc != -ENOMEM)
			fail("more than the allowance: %s", errno_name(rc));
		fflush(stdout);
		_exit(0);
	}
	NEED(waitpid(pid, &status, 0) == pid && status == 0);
	NEED(close(fd) == 0);
}

static unsigned int report(unsigned int seconds)
{
	uint64_t all = 0, wrong = 0, longest = 0, bad = 0, calls, most, count;
	unsigned int op, error, process, thread, found = shared->failures;

	for (op = 0; op < OPERATION_COUNT; op++) {
		calls = most = 0;
		for (process = 0; process < processes * MAX_THREADS; process++) {
			struct tally *tally = &shared->tallies[0][process];

			calls += tally->calls[op];
			if (tally->longest[op] > most)
				most = tally->longest[op];
		}
		printf("%-14s %8lu calls, longest %7.1f ms:", operation_names[op],
		       (unsigned long)calls, (double)most / 1e6);
		for (error = 0; error < MAX_ERROR; error++) {
			count = 0;
			for (process = 0; process < processes; process++) {
				for (thread = 0; thread < threads; thread++)
					count += shared->tallies[process][thread].errors[op][error];
			}
			if (count)
				printf(" %s %lu", error ? errno_name(-(long)error) : "ok",
				       (unsigned long)count);
			if (count && !expected(op, -(long)error)) {
				printf(" (WRONG)");
				bad += count;
			}
		}
		putchar('\n');
		all += calls;
		if (most > longest)
			longest = most;
	}
	for (process = 0; process < processes * MAX_THREADS; process++)
		wrong += shared->tallies[0][process].wrong;
	printf("seed %lu: %lu calls in %u s by %u processes x %u threads, %lu killed, %lu ended, "
	       "%lu bad answers, %lu wrong bytes, longest call %.1f ms, longest death %.1f ms\n",
	       (unsigned long)seed, (unsigned long)all, seconds, processes, threads,
	       (unsigned long)shared->killed, (unsigned long)shared->exited, (unsigned long)bad,
	       (unsigned long)wrong, (double)longest / 1e6, (double)shared->longest_death / 1e6);
	return found || bad || wrong;
}

int main(int argc, char **argv)
{
	pthread_barrierattr_t across;
	pid_t pids[MAX_PROCESSES];
	unsigned int seconds;
	int status, common;

	if (argc == 1)
		return 0; /* what a process executes to be gone */
	NEED(argc >= 4);
	path = argv[1];
	seconds = (unsigned int)atoi(argv[2]);
	seed = strtoul(argv[3], NULL, 0);
	if (argc >= 6) {
		processes = (unsigned int)atoi(argv[4]);
		threads = (unsigned int)atoi(argv[5]);
	}
	NEED(processes <= MAX_PROCESSES && threads <= MAX_THREADS && processes && threads);
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		      -1, 0);
	NEED(shared != MAP_FAILED);
	NEED(pthread_barrierattr_init(&across) == 0);
	NEED(pthread_barrierattr_setpshared(&across, PTHREAD_PROCESS_SHARED) == 0);
	NEED(pthread_barrier_init(&shared->closed, &across, processes + 1) == 0);
	NEED(pthread_barrier_init(&shared->checked, &across, processes + 1) == 0);
	/* A call that is never answered shows here. */
	alarm(2 * seconds + 60);

	common = open(path, O_RDWR | O_CLOEXEC);
	NEED(common >= 0);
	worker.common = common;
	worker.shared = shared_pages(PAGES, &worker.memfd);
	for (slot = 0; slot < processes; slot++)
		pids[slot] = start(0);
	stir(pids, seconds);
	NEED(close(common) == 0 && close(worker.memfd) == 0);
	pthread_barrier_wait(&shared->closed);
	pthread_barrier_wait(&shared->checked);
	for (slot = 0; slot < processes; slot++)
		NEED(waitpid(pids[slot], &status, 0) == pids[slot] && status == 0);
	check_allowance();
	return (int)report(seconds);
}
