/* SPDX-License-Identifier: MIT */
/* What pinned.c looks at, and what its processes do: how they give memory up, and what they wait in. */
#ifndef PINNED_H
#define PINNED_H

#include "mock.h"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>

/* A line of /proc/PID/status that is in kB, in pages; none at all is 0. */
static inline uint64_t status_pages(pid_t pid, const char *name)
{
	char path[32], line[128];
	unsigned long kilobytes = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	file = fopen(path, "r");
	NEED(file);
	while (fgets(line, sizeof(line), file))
		if (!strncmp(line, name, strlen(name)))
			kilobytes = strtoul(line + strlen(name), NULL, 10);
	fclose(file);
	return kilobytes * 1024 / PAGE;
}

static inline void limit_to(uint64_t pages)
{
	struct rlimit limit;

	NEED(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	limit.rlim_cur = pages * PAGE;
	NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
}

/* In pages. */
static inline uint64_t limit(void)
{
	struct rlimit limit;

	NEED(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	return limit.rlim_cur / PAGE;
}

static inline long change_process(int fd)
{
	struct iommu_ioas_change_process cmd = { .size = sizeof(cmd) };

	return call(fd, IOMMU_IOAS_CHANGE_PROCESS, &cmd);
}

static inline unsigned int end_of(pid_t pid)
{
	int status;

	NEED(waitpid(pid, &status, 0) == pid);
	return (unsigned int)status;
}

static inline void close_pipes(int one[2], int two[2])
{
	NEED(close(one[0]) == 0 && close(one[1]) == 0);
	NEED(close(two[0]) == 0 && close(two[1]) == 0);
}

/* --- how memory is given up --- */

enum end { UNMAPS, MAPS_OTHER, EXECUTES, EXITS, ENDS };

static const char *const ends[] = { "unmapped", "other memory there", "another program", "ended" };

static inline int executed(int ready, int go)
{
	char byte;

	return !(write(ready, "r", 1) == 1 && read(go, &byte, 1) == 1);
}

/* Ends the process well if what is at the same address then was not written to by anybody else. */
static inline void give_up(enum end end, char *memory, size_t length, int ready, int go)
{
	char numbers[2][16], byte;
	bool well = true;

	if (end == EXECUTES) {
		snprintf(numbers[0], sizeof(numbers[0]), "%d", ready);
		snprintf(numbers[1], sizeof(numbers[1]), "%d", go);
		execl("/proc/self/exe", "pinned", "--executed", numbers[0], numbers[1], NULL);
		_exit(9);
	}
	if (end != EXITS)
		NEED(munmap(memory, length) == 0);
	if (end == MAPS_OTHER) {
		NEED(mmap(memory, length, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory);
		fill(memory, length, 2);
	}
	NEED(write(ready, "r", 1) == 1);
	if (end != EXITS)
		NEED(read(go, &byte, 1) == 1);
	if (end == MAPS_OTHER)
		well = !differing(memory, length, 2);
	_exit(!well);
}

/* --- what a process has --- */

struct traces {
	unsigned int descriptors, mappings;
	struct rlimit limit;
	sigset_t blocked;
};

static inline struct traces traces_of_us(void)
{
	struct traces found = { 0 };
	DIR *directory = opendir("/proc/self/fd");
	char line[512];
	FILE *maps;

	NEED(directory);
	while (readdir(directory))
		found.descriptors++;
	closedir(directory);
	maps = fopen("/proc/self/maps", "r");
	NEED(maps);
	while (fgets(line, sizeof(line), maps))
		found.mappings += !strstr(line, "[heap]");
	fclose(maps);
	NEED(getrlimit(RLIMIT_MEMLOCK, &found.limit) == 0);
	NEED(sigprocmask(SIG_BLOCK, NULL, &found.blocked) == 0);
	return found;
}

static inline bool same_traces(struct traces one, struct traces two)
{
	return one.descriptors == two.descriptors && one.mappings == two.mappings &&
	       one.limit.rlim_cur == two.limit.rlim_cur &&
	       one.limit.rlim_max == two.limit.rlim_max &&
	       !memcmp(&one.blocked, &two.blocked, sizeof(one.blocked));
}

/* --- what a process waits in --- */

enum call { NANOSLEEP, READING, POLL, EPOLL, PAUSE, SIGWAIT, SIGSUSPEND, FUTEX, SPIN, CALLS };

static const char *const calls[] = {
	"nanosleep", "read", "poll", "epoll_wait", "pause", "sigtimedwait", "ppoll", "a mutex",
	"its own code",
};

static volatile sig_atomic_t handled;

static inline void handle(int number)
{
	(void)number;
	handled++;
}

static pthread_mutex_t mutex;

static inline void *unlocks(void *arg)
{
	char byte;

	NEED(read(*(int *)arg, &byte, 1) == 1);
	pthread_mutex_unlock(&mutex);
	return NULL;
}

static inline void *sets(void *arg)
{
	char byte;

	NEED(read(*(int *)arg, &byte, 1) == 1);
	handled = 1;
	return NULL;
}

/* Whether the call ended as it does when nobody meddles. */
static inline bool wait_in(enum call call, int go)
{
	struct timespec time = { .tv_nsec = 400000000 }, long_time = { .tv_sec = 100 }, left;
	struct epoll_event event = { .events = EPOLLIN };
	struct pollfd one = { .fd = go, .events = POLLIN };
	struct sigaction action = { .sa_handler = handle };
	sigset_t usr1, none;
	pthread_t thread;
	siginfo_t info;
	char byte;
	int set;

	sigemptyset(&none);
	sigemptyset(&usr1);
	sigaddset(&usr1, SIGUSR1);
	switch (call) {
	case NANOSLEEP:
		return nanosleep(&time, &left) == 0;
	case READING:
		return read(go, &byte, 1) == 1;
	case POLL:
		return poll(&one, 1, 100000) == 1 && read(go, &byte, 1) == 1;
	case EPOLL:
		set = epoll_create1(0);
		NEED(epoll_ctl(set, EPOLL_CTL_ADD, go, &event) == 0);
		return epoll_wait(set, &event, 1, -1) == 1 && read(go, &byte, 1) == 1 &&
		       close(set) == 0;
	case PAUSE:
		NEED(sigaction(SIGUSR1, &action, NULL) == 0);
		return pause() == -1 && errno == EINTR && handled == 1;
	case SIGWAIT:
		NEED(sigprocmask(SIG_BLOCK, &usr1, NULL) == 0);
		return sigtimedwait(&usr1, &info, &long_time) == SIGUSR1 &&
		       sigprocmask(SIG_UNBLOCK, &usr1, NULL) == 0;
	case SIGSUSPEND: /* by ppoll, which changes the mask as well, and has a timeout */
		NEED(sigaction(SIGUSR1, &action, NULL) == 0);
		NEED(sigprocmask(SIG_BLOCK, &usr1, NULL) == 0);
		return ppoll(&one, 1, &long_time, &none) == -1 && errno == EINTR && handled == 1 &&
		       sigprocmask(SIG_UNBLOCK, &usr1, NULL) == 0;
	case FUTEX:
		NEED(pthread_mutex_lock(&mutex) == 0);
		NEED(pthread_create(&thread, NULL, unlocks, &go) == 0);
		NEED(pthread_mutex_lock(&mutex) == 0);
		return pthread_join(thread, NULL) == 0;
	case SPIN:
		NEED(pthread_create(&thread, NULL, sets, &go) == 0);
		while (!handled)
			;
		return pthread_join(thread, NULL) == 0;
	default:
		return false;
	}
}

/* Until it sleeps (spins, in its own code). Whatever it is in then, nothing may be noticed. */
static inline void until_it_waits(pid_t pid, enum call call)
{
	char path[32], text[512] = "";
	char want = call == SPIN ? 'R' : 'S';
	int file, tries;

	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	for (tries = 0; tries < 1000; tries++) {
		file = open(path, O_RDONLY);
		NEED(file >= 0 && read(file, text, sizeof(text) - 1) > 0);
		close(file);
		if (strrchr(text, ')')[2] == want)
			return;
		sched_yield();
	}
}

static inline void wake(pid_t pid, enum call call, int go)
{
	if (call == PAUSE || call == SIGWAIT || call == SIGSUSPEND)
		NEED(kill(pid, SIGUSR1) == 0);
	else if (call != NANOSLEEP)
		NEED(write(go, "w", 1) == 1);
}

#endif
