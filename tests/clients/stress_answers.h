/* SPDX-License-Identifier: MIT */
/* The operations of the stress test, what Linux can answer to each, and how that is counted. */
#ifndef STRESS_ANSWERS_H
#define STRESS_ANSWERS_H

#include "checks.h"

#define MAX_ERROR 160
#define ERRORS 10

#define OPERATIONS(X)                                                                              \
	X(OPEN, 0)                                                                                 \
	X(CLOSE, 0)                                                                                \
	X(IOAS_ALLOC, 0)                                                                           \
	X(DESTROY, ENOENT, EBUSY)                                                                  \
	X(MAP, EINVAL, ENOENT, EEXIST, EFAULT, ENOMEM, ENOSPC)                                     \
	X(MAP_FILE, EINVAL, ENOENT, EEXIST, ENOMEM, ENOSPC)                                        \
	X(UNMAP, ENOENT, EBUSY, EDEADLK)                                                           \
	X(COPY, EINVAL, ENOENT, EEXIST, EFAULT, ENOMEM, ENOSPC, EPERM)                             \
	X(IOVA_RANGES, ENOENT, EMSGSIZE)                                                           \
	X(ALLOW_IOVAS, ENOENT, EADDRINUSE)                                                         \
	X(HUGE_PAGES, ENOENT, EINVAL, EADDRINUSE)                                                  \
	X(MOCK_DOMAIN, ENOENT, EINVAL, EADDRINUSE, EFAULT, ENOMEM)                                 \
	X(MOCK_REPLACE, ENOENT, EINVAL, EADDRINUSE, EFAULT, ENOMEM)                                \
	X(CREATE_ACCESS, ENOENT, EADDRINUSE)                                                       \
	X(ACCESS_PAGES, ENOENT, EINVAL, EPERM, EFAULT, ENOMEM, EBADFD, EOPNOTSUPP, EBADE)          \
	X(UNPIN, ENOENT, EBADFD)                                                                   \
	X(ACCESS_RW, ENOENT, EINVAL, EPERM, EFAULT, EBADFD)                                        \
	X(ACCESS_MOVE, ENOENT, EADDRINUSE, EBUSY, EBADFD)                                          \
	X(CHECK_MAP, ENOENT, EINVAL, EFAULT)                                                       \
	X(CHECK_REFS, EIO, EFAULT)                                                                 \
	X(OWN_DMA, 0)

enum operation {
#define X(name, ...) OP_##name,
	OPERATIONS(X)
#undef X
	OPERATION_COUNT,
};

static const char *const operation_names[] = {
#define X(name, ...) #name,
	OPERATIONS(X)
#undef X
};

/* What the kernel can answer; 0 always. */
static const int operation_errors[][ERRORS] = {
#define X(name, ...) { __VA_ARGS__ },
	OPERATIONS(X)
#undef X
};

/* In shared memory; each thread writes its own. */
struct tally {
	uint64_t calls[OPERATION_COUNT], longest[OPERATION_COUNT]; /* ns */
	uint64_t errors[OPERATION_COUNT][MAX_ERROR];
	uint64_t wrong; /* bytes that were not what they had to be */
};

static bool expected(enum operation op, long rc)
{
	unsigned int i;

	if (rc >= 0)
		return true;
	for (i = 0; i < ERRORS; i++) {
		if (operation_errors[op][i] == -rc)
			return rc != 0;
	}
	return false;
}

#endif
