/* SPDX-License-Identifier: MIT */
/* Memory that comes when its own program likes (userfaultfd). */
#ifndef SLOW_PAGE_H
#define SLOW_PAGE_H

#include "client.h"

#include <linux/userfaultfd.h>
#include <poll.h>

static long page; /* its size in bytes; to be set first */

/* New pages, of which the last is not there until somebody fills it; a descriptor tells when. */
static inline int slow_pages(int count, void **where)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC);

	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api))
		return -1;
	*where = mmap(NULL, count * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	range.range.start = (uintptr_t)*where + (count - 1) * page;
	range.range.len = page;
	return ioctl(uffd, UFFDIO_REGISTER, &range) ? -1 : uffd;
}

static inline void wait_wanted(int uffd)
{
	struct pollfd wanted = { .fd = uffd, .events = POLLIN };
	struct uffd_msg message;

	if (poll(&wanted, 1, 20000) != 1 || read(uffd, &message, sizeof(message)) != sizeof(message))
		exit(3);
}

#endif
