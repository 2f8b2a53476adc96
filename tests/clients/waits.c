// SPDX-License-Identifier: MIT
/*
 * waits PATH: an ioctl on PATH that does not end, because the page with its struct never comes.
 * Says "waiting" once it waits, and "errno N" when it has ended after all.
 */
#include "slow.h"

#include <pthread.h>

static void *where;
static int fd;

static void *allocate(void *arg)
{
	(void)arg;
	printf("errno %d\n", ioctl(fd, IOMMU_IOAS_ALLOC, where) ? errno : 0);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	int uffd;

	checks_begin();
	fd = open(argc > 1 ? argv[1] : DEVICE, O_RDWR | O_CLOEXEC);
	uffd = slow_pages(1, &where);
	NEED(fd >= 0 && uffd >= 0);
	NEED(pthread_create(&thread, NULL, allocate, NULL) == 0);
	wait_wanted(uffd);
	puts("waiting");
	NEED(pthread_join(thread, NULL) == 0);
	return 0;
}
