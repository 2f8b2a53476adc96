/* SPDX-License-Identifier: MIT */
/* A page of memory that comes when its own program likes (userfaultfd). */
#ifndef SLOW_H
#define SLOW_H

#include "client.h"

#include <linux/userfaultfd.h>
#include <poll.h>

#define PATIENCE_MS 20000

/* New pages, of which the last is not there until somebody fills it; a descriptor tells when. */
static inline int slow_pages(size_t count, void **where)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK); /* Else poll() tells nothing. */

	NEED(uffd >= 0 && ioctl(uffd, UFFDIO_API, &api) == 0);
	*where = mmap(NULL, count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		      0);
	range.range.start = (uintptr_t)*where + (count - 1) * PAGE;
	range.range.len = PAGE;
	NEED(ioctl(uffd, UFFDIO_REGISTER, &range) == 0);
	return uffd;
}

static inline void wait_wanted(int uffd)
{
	struct pollfd wanted = { .fd = uffd, .events = POLLIN };
	struct uffd_msg message;

	NEED(poll(&wanted, 1, PATIENCE_MS) == 1);
	NEED(read(uffd, &message, sizeof(message)) == sizeof(message));
}

/* The page at `where` comes, and begins with this. */
static inline void fill_page(int uffd, void *where, const void *data, size_t size)
{
	char *content = aligned_alloc(PAGE, PAGE);
	struct uffdio_copy copy = { .dst = (uintptr_t)where, .src = (uintptr_t)content, .len = PAGE };

	memset(content, 0, PAGE);
	memcpy(content, data, size);
	NEED(ioctl(uffd, UFFDIO_COPY, &copy) == 0);
	free(content);
}

#endif
