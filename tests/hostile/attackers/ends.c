// SPDX-License-Identifier: MIT
/* Clients that are killed, exec or lose their leader in each phase of a call. */
#include "attack.h"

#include "../../clients/mock/mock.h"

#define CHILDREN 6

static int memfd;

/* One of the calls that take a while, each in some phase when its caller ends. */
static void one_call(int fd, uint32_t ioas, char *memory)
{
	struct iommu_fault_alloc fault = { .size = sizeof(fault) };
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	struct iommu_ioas_map map = { .size = sizeof(map), .flags = RW, .ioas_id = ioas,
				      .user_va = (uintptr_t)memory, .length = 64 * PAGE };
	struct iommu_ioas_map_file map_file = { .size = sizeof(map_file), .flags = RW, .ioas_id = ioas, .fd = memfd,
						.length = PAGE };
	struct iommu_ioas_unmap all = { .size = sizeof(all), .ioas_id = ioas, .length = U64_MAX };
	struct mock mock;

	switch (chance(6)) {
	case 0:
		if (attack(fd, IOMMU_FAULT_QUEUE_ALLOC, &fault) == 0)
			close((int)fault.out_fault_fd);
		break;
	case 1:
		if (attack(fd, IOMMU_IOAS_ALLOC, &alloc) == 0)
			destroy(fd, alloc.out_ioas_id);
		break;
	case 2:
		attack(fd, IOMMU_IOAS_MAP, &map);
		break;
	case 3:
		attack(fd, IOMMU_IOAS_MAP_FILE, &map_file);
		break;
	case 4:
		attack(fd, IOMMU_IOAS_UNMAP, &all);
		break;
	default:
		if (mock_domain(fd, ioas, &mock) == 0)
			destroy(fd, mock.stdev);
	}
}

static void call_for_ever(void)
{
	char *memory = new_pages(64);
	int fd = open_device();
	uint32_t ioas = new_ioas(fd);

	for (;;)
		one_call(fd, ioas, memory);
}

static void kills(void)
{
	pid_t children[CHILDREN];
	unsigned int i;

	memfd = memfd_create("ends", MFD_CLOEXEC);
	NEED(memfd >= 0 && ftruncate(memfd, PAGE) == 0);
	for (i = 0; i < CHILDREN; i++)
		children[i] = begin_process(call_for_ever);
	ready();
	for (;;) {
		i = chance(CHILDREN);
		nap(chance(4000));
		kill(children[i], SIGKILL);
		waitpid(children[i], NULL, 0);
		children[i] = begin_process(call_for_ever);
	}
}

/* A thread that executes the program anew: all others go, in whatever call they are. */
static void *exec_anew(void *arg)
{
	char *const *argv = arg;

	nap(chance(30000));
	execv("/proc/self/exe", argv);
	return NULL;
}

static void *call_thread(void *arg)
{
	(void)arg;
	call_for_ever();
	return NULL;
}

static void exec_in_calls(void)
{
	static char *argv[] = { "ends", "execs_again", NULL, NULL };
	unsigned int i;

	argv[2] = (char *)(uintptr_t)device;
	memfd = memfd_create("ends", MFD_CLOEXEC);
	NEED(memfd >= 0 && ftruncate(memfd, PAGE) == 0);
	for (i = 0; i < 3; i++)
		begin_thread(call_thread, NULL);
	begin_thread(exec_anew, argv);
	call_for_ever();
}

static void execs(void)
{
	unsigned int i;

	for (i = 0; i < CHILDREN; i++)
		begin_process(exec_in_calls);
	ready();
}

/* The process's first thread is gone, and the others call. */
static void leaderless(void)
{
	unsigned int i;

	memfd = memfd_create("ends", MFD_CLOEXEC);
	NEED(memfd >= 0 && ftruncate(memfd, PAGE) == 0);
	for (i = 0; i < CHILDREN; i++)
		begin_thread(call_thread, NULL);
	ready();
	pthread_exit(NULL);
}

static const struct attack_entry entries[] = {
	{ "kills", kills },
	{ "execs", execs },
	{ "execs_again", exec_in_calls },
	{ "leaderless", leaderless },
};

ATTACK_MAIN(entries)
