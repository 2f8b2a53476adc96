// SPDX-License-Identifier: MIT
/*
 * inject_churn PATH: two processes of two threads that are given descriptors until somebody kills
 * them, with a byte to stdout for each. inject_churn --watch PATH: ioctls until stdin ends, then
 * the longest one in microseconds.
 */
#include "inject_client.h"

#include <poll.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <time.h>

static void *churn(void *argument)
{
	int device = *(int *)argument;

	for (;;) {
		int fd = create(device);

		if (fd < 0)
			_exit(1); /* several threads at once may come here */
		close(fd);
		if (write(STDOUT_FILENO, ".", 1) != 1)
			_exit(1);
	}
	return NULL;
}

static long microseconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000L + now.tv_nsec / 1000;
}

static int watch(int device)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	long longest = 0;

	while (poll(&input, 1, 0) == 0) {
		long start = microseconds(), took;

		NEED(ioctl(device, LIVE, 0) >= 0);
		took = microseconds() - start;
		if (took > longest)
			longest = took;
	}
	printf("%ld\n", longest);
	return 0;
}

int main(int argc, char **argv)
{
	pthread_t thread;
	pid_t parent;
	int device;

	NEED(argc >= 2);
	device_path = argv[argc - 1];
	device = open_device();
	if (argc == 3)
		return watch(device);
	parent = getpid();
	if (fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		/* Killed before that: nobody would ever end us. */
		if (getppid() != parent)
			_exit(1);
	}
	NEED(!pthread_create(&thread, NULL, churn, &device));
	churn(&device);
}
