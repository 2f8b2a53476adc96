/* SPDX-License-Identifier: MIT */
/*
 * The harness: each check prints one TAP line, and what went wrong. The counters live in shared
 * memory, so that a forked child's checks count like the parent's own.
 */
#ifndef CHECKS_H
#define CHECKS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

struct checks {
	unsigned int count;
	unsigned int failed;
};

static struct checks *checks;

/* Call first. */
static inline void checks_begin(void)
{
	checks = mmap(NULL, sizeof(*checks), PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (checks == MAP_FAILED) {
		perror("mmap");
		exit(2);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
}

/* Prints the plan; returns main's exit status. */
static inline int checks_end(void)
{
	printf("1..%u\n", checks->count);
	if (checks->failed)
		printf("# %u of %u failed\n", checks->failed, checks->count);
	return checks->failed != 0;
}

/* How often: so many times, or with FEW_TIMES in the environment a twentieth, for a machine that is as much slower. */
static inline unsigned int often(unsigned int times)
{
	return getenv("FEW_TIMES") ? times / 20 : times;
}

static inline const char *errno_name(long rc)
{
	static char number[32];

	if (rc < 0 && strerrorname_np((int)-rc))
		return strerrorname_np((int)-rc);
	snprintf(number, sizeof(number), "%ld", rc);
	return number;
}

static inline bool check_rc(long got, long want, const char *file, int line, const char *format,
			    ...)
{
	unsigned int n = __atomic_add_fetch(&checks->count, 1, __ATOMIC_SEQ_CST);
	char text[256], got_name[32];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (got == want) {
		printf("ok %u - %s\n", n, text);
		return true;
	}
	__atomic_add_fetch(&checks->failed, 1, __ATOMIC_SEQ_CST);
	snprintf(got_name, sizeof(got_name), "%s", errno_name(got));
	printf("not ok %u - %s (got %s, expected %s) %s:%d\n", n, text, got_name, errno_name(want),
	       file, line);
	return false;
}

static inline bool check_u64(uint64_t got, uint64_t want, const char *file, int line,
			     const char *format, ...)
{
	unsigned int n = __atomic_add_fetch(&checks->count, 1, __ATOMIC_SEQ_CST);
	char text[256];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (got == want) {
		printf("ok %u - %s\n", n, text);
		return true;
	}
	__atomic_add_fetch(&checks->failed, 1, __ATOMIC_SEQ_CST);
	printf("not ok %u - %s (got %#llx, expected %#llx) %s:%d\n", n, text,
	       (unsigned long long)got, (unsigned long long)want, file, line);
	return false;
}

/* The call returned 0; failed with this errno; the number is this one. The text is a format. */
#define CHECK_OK(rc, ...) check_rc((rc), 0, __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_ERR(error, rc, ...) check_rc((rc), -(error), __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_EQ(got, want, ...) check_u64((got), (want), __FILE__, __LINE__, __VA_ARGS__)
#define CHECK_TRUE(condition, ...) check_u64(!!(condition), 1, __FILE__, __LINE__, __VA_ARGS__)

/* What the test itself cannot do without. */
#define NEED(condition)                                                                            \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			printf("Bail out! %s:%d: %s: %s\n", __FILE__, __LINE__, #condition,        \
			       strerror(errno));                                                   \
			exit(2);                                                                   \
		}                                                                                  \
	} while (0)

/* Runs body in a forked child and waits; a child that dies or exits non-zero is a failed check. */
#define IN_CHILD(...)                                                                              \
	do {                                                                                       \
		int status_ = -1;                                                                  \
		pid_t child_;                                                                      \
		fflush(stdout);                                                                    \
		child_ = fork();                                                                   \
		NEED(child_ >= 0);                                                                 \
		if (child_ == 0) {                                                                 \
			__VA_ARGS__;                                                               \
			fflush(stdout);                                                            \
			_exit(0);                                                                  \
		}                                                                                  \
		NEED(waitpid(child_, &status_, 0) == child_);                                      \
		CHECK_EQ((unsigned int)status_, 0, "the child ended well");                        \
	} while (0)

#endif
