// SPDX-License-Identifier: MIT
/*
 * hold PATH THREADS: ioctls on PATH without an end, from that many threads and one child, until
 * killed. Says "ready" when each of them has made one.
 */
#include "client.h"

#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>

static int fd;
static pthread_barrier_t started;

static void round_trip(uint32_t ioas, int memfd)
{
	NEED(map_at(fd, ioas, (uintptr_t)&started, PAGE, 0) == 0);
	NEED(map_file_at(fd, ioas, memfd, 0, PAGE, PAGE) == 0);
	NEED(copy_at(fd, ioas, MIB, ioas, 0, 2 * PAGE) == 0);
	NEED(unmap_all(fd, ioas) == 4 * PAGE);
}

static void *loop(void *arg)
{
	int memfd = memfd_create("hold", MFD_CLOEXEC);
	uint32_t ioas = new_ioas(fd);

	(void)arg;
	NEED(memfd >= 0);
	round_trip(ioas, memfd);
	pthread_barrier_wait(&started);
	for (;;)
		round_trip(ioas, memfd);
	return NULL;
}

int main(int argc, char **argv)
{
	unsigned int threads = argc > 2 ? (unsigned int)atoi(argv[2]) : 1, i;
	pthread_t thread;
	pid_t parent;

	NEED(argc > 1);
	fd = open(argv[1], O_RDWR);
	NEED(fd >= 0);
	for (i = 0; i < threads; i++) {
		/* What the process leaves standing when it is killed. */
		uint32_t ioas = new_ioas(fd);

		NEED(map_at(fd, ioas, (uintptr_t)argv, 16 * PAGE, i * MIB) == 0);
	}
	parent = getpid();
	if (fork() == 0) {
		NEED(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
		/* Killed before that: nobody would ever end us. */
		if (getppid() != parent)
			_exit(1);
		NEED(pthread_barrier_init(&started, NULL, 1) == 0);
		loop(NULL);
	}
	NEED(pthread_barrier_init(&started, NULL, threads + 1) == 0);
	for (i = 0; i < threads; i++)
		NEED(pthread_create(&thread, NULL, loop, NULL) == 0);
	pthread_barrier_wait(&started);
	puts("ready");
	fflush(stdout);
	for (;;)
		pause();
}
