// SPDX-License-Identifier: MIT
/*
 * Memory that is slow to come: the struct lies in a page that its own program brings in when it
 * likes (userfaultfd). The ioctl waits for it, nobody else does, a signal does not end it, and a
 * kill does.
 */
#include "slow.h"
#include "vfio.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>

static atomic_int handled;

static void on_signal(int number)
{
	(void)number;
	handled++;
}

struct slow {
	int fd;
	unsigned long number;
	void *cmd;
	int result;
	int error;
	atomic_int done;
};

static void *make_call(void *arg)
{
	struct slow *slow = arg;

	errno = 0;
	slow->result = ioctl(slow->fd, slow->number, slow->cmd);
	slow->error = errno;
	slow->done = 1;
	return NULL;
}

static void slow_but_right(void)
{
	struct iommu_ioas_alloc good = { .size = sizeof(good) };
	struct sigaction action = { .sa_handler = on_signal };
	struct iommu_ioas_alloc other = { .size = sizeof(other) };
	struct slow slow = { .fd = open_iommu(), .number = IOMMU_IOAS_ALLOC };
	pthread_t thread;
	void *where;
	int uffd = slow_pages(1, &where);

	sigaction(SIGUSR1, &action, NULL);
	slow.cmd = where;
	pthread_create(&thread, NULL, make_call, &slow);
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
	CHECK_TRUE(((struct iommu_ioas_alloc *)where)->out_ioas_id != 0, "it has its answer");
	close(slow.fd);
	close(uffd);
}

/* An ioctl whose struct is there, and what it writes besides is slow: its IOAS is in use meanwhile. */
static void slow_room(unsigned long number)
{
	struct slow slow = { .fd = open_iommu(), .number = number };
	struct iommu_ioas_iova_ranges ranges = { .size = sizeof(ranges), .num_iovas = 1 };
	struct vfio_iommu_type1_info *info;
	uint32_t ioas = new_ioas(slow.fd);
	pthread_t thread;
	void *where;
	int uffd = slow_pages(2, &where);

	NEED(uffd >= 0 && set_compat(slow.fd, ioas) == 0);
	info = (void *)((char *)where + PAGE - sizeof(*info));
	*info = (struct vfio_iommu_type1_info){ .argsz = 256 };
	ranges.ioas_id = ioas;
	ranges.allowed_iovas = (uintptr_t)(info + 1);
	slow.cmd = number == VFIO_IOMMU_GET_INFO ? (void *)info : &ranges;
	pthread_create(&thread, NULL, make_call, &slow);
	wait_wanted(uffd);
	CHECK_TRUE(!slow.done, "the ioctl waits for the room that it was given");
	CHECK_OK(destroy(slow.fd, new_ioas(slow.fd)), "another ioctl of the same file does not");
	CHECK_ERR(EBUSY, destroy(slow.fd, ioas), "its IOAS is in use");
	fill_page(uffd, info + 1, "", 1);
	pthread_join(thread, NULL);
	CHECK_OK(slow.result, "then it has its answer");
	if (number == VFIO_IOMMU_GET_INFO)
		CHECK_EQ(info->cap_offset, sizeof(*info), "with the capabilities");
	else
		CHECK_EQ(((struct iommu_iova_range *)(info + 1))->last, U64_MAX, "with the ranges");
	CHECK_OK(destroy(slow.fd, ioas), "and its IOAS can go");
	close(slow.fd);
	close(uffd);
}

static void ended_while_it_waits(int number, const char *text)
{
	int ends[2], status;
	char byte;
	pid_t child;

	if (pipe(ends))
		exit(3);
	child = fork();
	if (!child) {
		struct slow slow = { .fd = open_iommu(), .number = IOMMU_IOAS_ALLOC };
		pthread_t thread;
		void *where;
		int uffd = slow_pages(1, &where);

		slow.cmd = where;
		pthread_create(&thread, NULL, make_call, &slow);
		wait_wanted(uffd);
		if (write(ends[1], "", 1) != 1)
			_exit(3);
		pause();
	}
	if (read(ends[0], &byte, 1) != 1)
		exit(3);
	kill(child, number);
	CHECK_TRUE(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == number,
		   "%s ends one that waits", text);
}

int main(void)
{
	struct iommu_ioas_alloc after = { .size = sizeof(after) };
	int fd;

	checks_begin();
	slow_but_right();
	slow_room(VFIO_IOMMU_GET_INFO);
	slow_room(IOMMU_IOAS_IOVA_RANGES);
	ended_while_it_waits(SIGINT, "SIGINT");
	ended_while_it_waits(SIGKILL, "SIGKILL");
	fd = open_iommu();
	CHECK_TRUE(!ioctl(fd, IOMMU_IOAS_ALLOC, &after), "the next client is served");
	close(fd);
	return checks_end();
}
