// SPDX-License-Identifier: MIT
/*
 * Memory that is slow to come: the struct lies in a page that its own program brings in when it
 * likes (userfaultfd). The ioctl waits for it, nobody else does, a signal does not end it, and a
 * kill does.
 */
#include "slow.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>

static atomic_int handled;

static void on_signal(int number)
{
	(void)number;
	handled++;
}

struct slow {
	int fd;
	struct iommu_ioas_alloc *cmd;
	int result;
	int error;
	atomic_int done;
};

static void *allocate(void *arg)
{
	struct slow *slow = arg;

	errno = 0;
	slow->result = ioctl(slow->fd, IOMMU_IOAS_ALLOC, slow->cmd);
	slow->error = errno;
	slow->done = 1;
	return NULL;
}

static void slow_but_right(void)
{
	struct iommu_ioas_alloc good = { .size = sizeof(good) };
	struct sigaction action = { .sa_handler = on_signal };
	struct iommu_ioas_alloc other = { .size = sizeof(other) };
	struct slow slow = { .fd = open_iommu() };
	pthread_t thread;
	void *where;
	int uffd = slow_page(&where);

	sigaction(SIGUSR1, &action, NULL);
	slow.cmd = where;
	pthread_create(&thread, NULL, allocate, &slow);
	wait_wanted(uffd);
	CHECK_TRUE(!slow.done, "the ioctl waits for its struct");
	CHECK_TRUE(!ioctl(slow.fd, IOMMU_IOAS_ALLOC, &other), "another ioctl of the same file does not");
	pthread_kill(thread, SIGUSR1);
	/* The signal is handled when the ioctl is being made again, or while it goes on waiting. */
	CHECK_TRUE(!ioctl(slow.fd, IOMMU_IOAS_ALLOC, &other), "nor after a signal to the one that waits");
	fill_page(uffd, where, &good, sizeof(good));
	pthread_join(thread, NULL);
	CHECK_TRUE(slow.result == 0 && slow.error == 0, "a signal does not end it (errno %d)", slow.error);
	CHECK_TRUE(handled == 1, "the signal was handled");
	CHECK_TRUE(slow.cmd->out_ioas_id != 0, "it has its answer");
	close(slow.fd);
	close(uffd);
}

static void killed_while_it_waits(void)
{
	int ends[2], status;
	char byte;
	pid_t child;

	if (pipe(ends))
		exit(3);
	child = fork();
	if (!child) {
		struct slow slow = { .fd = open_iommu() };
		pthread_t thread;
		void *where;
		int uffd = slow_page(&where);

		slow.cmd = where;
		pthread_create(&thread, NULL, allocate, &slow);
		wait_wanted(uffd);
		if (write(ends[1], "", 1) != 1)
			_exit(3);
		pause();
	}
	if (read(ends[0], &byte, 1) != 1)
		exit(3);
	kill(child, SIGKILL);
	CHECK_TRUE(waitpid(child, &status, 0) == child && WIFSIGNALED(status), "a kill ends one that waits");
}

int main(void)
{
	struct iommu_ioas_alloc after = { .size = sizeof(after) };
	int fd;

	checks_begin();
	slow_but_right();
	killed_while_it_waits();
	fd = open_iommu();
	CHECK_TRUE(!ioctl(fd, IOMMU_IOAS_ALLOC, &after), "the next client is served");
	close(fd);
	return checks_end();
}
