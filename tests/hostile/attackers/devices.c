// SPDX-License-Identifier: MIT
/*
 * PCI devices and their groups: files that move from one worker to another, that only one client
 * has at a time, and whose registers are mapped. The files lie beside the device's own, and are the
 * attacker's.
 */
#include "attack.h"

#include <dirent.h>
#include <libgen.h>
#include <linux/vfio.h>

#define FIRST "0000:e0:00.0"
#define STUCK 16

static char directory[256];

static const char *beside(const char *name)
{
	static __thread char path[512];

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	return path;
}

static int try_open(const char *name)
{
	__atomic_add_fetch(&counters->tries, 1, __ATOMIC_SEQ_CST);
	return open(beside(name), O_RDWR | O_CLOEXEC);
}

/* The group of the first device: the lowest number. */
static const char *first_group(void)
{
	static char name[300];
	DIR *all = opendir(beside("vfio"));
	long lowest = LONG_MAX;
	struct dirent *entry;

	NEED(all);
	while ((entry = readdir(all)))
		if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && atol(entry->d_name) < lowest)
			lowest = atol(entry->d_name);
	closedir(all);
	snprintf(name, sizeof(name), "vfio/%ld", lowest);
	return name;
}

static void find_files(void)
{
	char copy[256];

	snprintf(copy, sizeof(copy), "%s", device);
	snprintf(directory, sizeof(directory), "%s", dirname(copy));
}

static long bind_to(int file, int iommu)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind), .iommufd = iommu };

	return attack(file, VFIO_DEVICE_BIND_IOMMUFD, &bind);
}

/* --- open, bind, close, again and again, by many at once --- */

static void bind_for_ever(void)
{
	int file, iommu;

	for (;;) {
		file = try_open("vfio/devices/vfio0");
		iommu = chance(4) ? open_device() : -1;
		if (file >= 0) {
			bind_to(file, iommu);
			if (chance(2))
				close(file);
		}
		if (iommu >= 0)
			close(iommu);
		if (file >= 0)
			close(file);
	}
}

static void by_many(void (*run)(void))
{
	unsigned int i;

	find_files();
	for (i = 0; i < 8; i++)
		begin_process(run);
	ready();
}

static void binds(void)
{
	by_many(bind_for_ever);
}

static void group_for_ever(void)
{
	const char *name = first_group();
	int group, container;

	for (;;) {
		group = try_open(name);
		container = try_open("vfio/vfio");
		if (group >= 0 && container >= 0) {
			attack(group, VFIO_GROUP_SET_CONTAINER, &container);
			if (chance(2)) {
				int got = (int)attack(group, VFIO_GROUP_GET_DEVICE_FD, FIRST);

				if (got >= 0)
					close(got);
			}
		}
		if (container >= 0)
			close(container);
		if (group >= 0)
			close(group);
	}
}

static void groups(void)
{
	by_many(group_for_ever);
}

/* --- binds whose struct, and a group's names, never come --- */

static void *stuck_bind(void *page)
{
	int file = try_open("vfio/devices/vfio0");

	for (;;)
		attack(file, VFIO_DEVICE_BIND_IOMMUFD, page);
	return NULL;
}

static int shared_group;

static void *stuck_name(void *page)
{
	int group = shared_group;

	for (;;)
		attack(group, VFIO_GROUP_GET_DEVICE_FD, page);
	return NULL;
}

static void slow_binds(void)
{
	char *memory;
	unsigned int i;

	memory = own_pages(own_file(), STUCK);
	*unanswered |= READS;
	find_files();
	NEED((shared_group = try_open(first_group())) >= 0);
	for (i = 0; i < STUCK; i++)
		begin_thread(i % 2 ? stuck_bind : stuck_name, memory + i * PAGE);
	wait_asked(READS);
	ready();
}

/* --- binds to a context whose worker never comes back from the client's memory --- */

static int stuck_iommu;

static void *stuck_alloc(void *page)
{
	attack(stuck_iommu, IOMMU_IOAS_ALLOC, page);
	return NULL;
}

static void *bind_to_stuck(void *arg)
{
	int file;

	(void)arg;
	for (;;) {
		file = try_open("vfio/devices/vfio0");
		if (file >= 0) {
			bind_to(file, stuck_iommu);
			close(file);
		}
	}
	return NULL;
}

static void binds_to_stuck(void)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	char *page = page_under_writeback(&alloc, sizeof(alloc));
	unsigned int i;

	find_files();
	stuck_iommu = open_device();
	begin_thread(stuck_alloc, page);
	for (i = 0; i < STUCK; i++)
		begin_thread(bind_to_stuck, NULL);
	ready();
}

/* --- registers that many threads load and store without a pause --- */

static void *load_for_ever(void *bar)
{
	volatile uint32_t *registers = bar;

	for (;;) {
		__atomic_add_fetch(&counters->tries, 1, __ATOMIC_SEQ_CST);
		registers[chance(64)] = registers[chance(64)];
	}
	return NULL;
}

static void loads(void)
{
	int iommu = open_device(), file;
	unsigned int i;
	void *bar;

	find_files();
	file = try_open("vfio/devices/vfio0");
	NEED(file >= 0 && bind_to(file, iommu) == 0);
	bar = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	NEED(bar != MAP_FAILED);
	NEED(pwrite(file, "\2", 1, (7ULL << 40) + 4) == 1); /* its memory answers */
	for (i = 0; i < 16; i++)
		begin_thread(load_for_ever, bar);
	ready();
}

static const struct attack_entry entries[] = {
	{ "binds", binds },
	{ "groups", groups },
	{ "slow_binds", slow_binds },
	{ "binds_to_stuck", binds_to_stuck },
	{ "loads", loads },
};

ATTACK_MAIN(entries)
