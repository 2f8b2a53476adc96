// SPDX-License-Identifier: MIT
/* Who takes all that there is, of one kind, until it is refused, and then goes on asking. */
#include "attack.h"

#define PROCESSES 4

static void take_objects(void)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };
	int fd = open_device();

	for (;;)
		attack(fd, IOMMU_IOAS_ALLOC, &cmd);
}

static void take_areas(void)
{
	char *memory = new_pages(1);
	int fd = open_device();
	struct iommu_ioas_map cmd = { .size = sizeof(cmd), .flags = RW | FIXED, .ioas_id = new_ioas(fd),
				      .user_va = (uintptr_t)memory, .length = PAGE };

	for (;;) {
		attack(fd, IOMMU_IOAS_MAP, &cmd);
		cmd.iova += 2 * PAGE;
	}
}

/* Each is a file of its own, of which the attacker keeps none. */
static void take_files(void)
{
	int fd = open_device(), file;
	struct iommu_ioas_map_file cmd = { .size = sizeof(cmd), .flags = RW | FIXED, .ioas_id = new_ioas(fd),
					   .length = PAGE };

	for (;;) {
		file = memfd_create("share", MFD_CLOEXEC);
		NEED(file >= 0 && ftruncate(file, PAGE) == 0);
		cmd.fd = file;
		attack(fd, IOMMU_IOAS_MAP_FILE, &cmd);
		cmd.iova += 2 * PAGE;
		close(file);
	}
}

/* Open files, each with an object; those that cannot be opened count as answers as well. */
static void take_opens(void)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };
	struct rlimit limit;
	int fd, error;

	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
	for (;;) {
		fd = open(device, O_RDWR | O_CLOEXEC);
		error = fd < 0 ? errno : 0;
		if (error) {
			__atomic_add_fetch(&counters->tries, 1, __ATOMIC_SEQ_CST);
			__atomic_add_fetch(&counters->answers[error % ERRNOS], 1, __ATOMIC_SEQ_CST);
			nap(1000);
		} else {
			attack(fd, IOMMU_IOAS_ALLOC, &cmd);
		}
	}
}

static void take_queues(void)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	int fd = open_device();

	for (;;)
		if (attack(fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd) == 0 && chance(2))
			close((int)cmd.out_fault_fd);
}

static void by_many(void (*take)(void))
{
	unsigned int i;

	for (i = 0; i < PROCESSES; i++)
		begin_process(take);
	ready();
}

static void objects(void)
{
	by_many(take_objects);
}

static void areas(void)
{
	by_many(take_areas);
}

static void files(void)
{
	by_many(take_files);
}

static void opens(void)
{
	by_many(take_opens);
}

static void queues(void)
{
	by_many(take_queues);
}

static const struct attack_entry entries[] = {
	{ "objects", objects },
	{ "areas", areas },
	{ "files", files },
	{ "opens", opens },
	{ "queues", queues },
};

ATTACK_MAIN(entries)
