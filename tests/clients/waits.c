// SPDX-License-Identifier: MIT
/*
 * waits PATH [COUNT]: an ioctl on PATH that does not end, because the page with its struct never
 * comes; after COUNT that do. Says "waiting" once it waits, and "errno N" when it has ended after
 * all.
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
	struct iommu_ioas_alloc quick = { .size = sizeof(quick) };
	pthread_t thread;
	int uffd, count;

	checks_begin();
	fd = open(argc > 1 ? argv[1] : DEVICE, O_RDWR | O_CLOEXEC);
	uffd = slow_pages(1, &where);
	NEED(fd >= 0 && uffd >= 0);
	for (count = argc > 2 ? atoi(argv[2]) : 0; count; count--)
		NEED(ioctl(fd, IOMMU_IOAS_ALLOC, &quick) == 0);
	NEED(pthread_create(&thread, NULL, allocate, NULL) == 0);
	wait_wanted(uffd);
	puts("waiting");
	NEED(pthread_join(thread, NULL) == 0);
	return 0;
}
