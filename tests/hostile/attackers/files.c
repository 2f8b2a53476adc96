// SPDX-License-Identifier: MIT
/*
 * Files of the attacker's own, which the daemon takes hold of: an OPEN, GETATTR, READ or FLUSH that
 * is never answered, and a lease that is never given back.
 */
#include "attack.h"

#include "../../clients/mock/mock.h"

#define THREADS 8

static int file;

static void *map_file_for_ever(void *arg)
{
	int fd = open_device();
	uint32_t ioas = new_ioas(fd);
	struct iommu_ioas_map_file map = { .size = sizeof(map), .flags = RW, .ioas_id = ioas, .fd = file,
					   .length = PAGE };
	struct iommu_ioas_unmap all = { .size = sizeof(all), .ioas_id = ioas };

	if (arg)
		new_mock(fd, ioas);
	for (;;) {
		attack(fd, IOMMU_IOAS_MAP_FILE, &map);
		all.length = U64_MAX;
		attack(fd, IOMMU_IOAS_UNMAP, &all);
	}
	return NULL;
}

/* The descriptor is fetched and closed again: its FLUSH does not return, or its GETATTR. */
static void of_own_file(unsigned int bit)
{
	uintptr_t i;

	file = own_file();
	*unanswered |= bit;
	ready();
	for (i = 0; i < THREADS; i++)
		begin_thread(map_file_for_ever, (void *)(i % 2));
}

static void flush(void)
{
	of_own_file(FLUSHES);
}

static void getattr(void)
{
	of_own_file(ATTRIBUTES);
}

/* A shared mapping of the own file. */
static char *shared;

static void *map_for_ever(void *arg)
{
	int fd = open_device();
	uint32_t ioas = new_ioas(fd);
	struct iommu_ioas_map map = { .size = sizeof(map), .flags = RW, .ioas_id = ioas,
				      .user_va = (uintptr_t)shared, .length = PAGE };
	struct iommu_ioas_unmap all = { .size = sizeof(all), .ioas_id = ioas };

	if (arg)
		new_mock(fd, ioas);
	for (;;) {
		attack(fd, IOMMU_IOAS_MAP, &map);
		all.length = U64_MAX;
		attack(fd, IOMMU_IOAS_UNMAP, &all);
	}
	return NULL;
}

static void map_on_all(void)
{
	uintptr_t i;

	ready();
	for (i = 0; i < THREADS; i++)
		begin_thread(map_for_ever, (void *)(i % 2));
}

/* Who opens it through /proc/PID/map_files asks the filesystem, which does not answer. */
static void map_open(void)
{
	file = own_file();
	shared = own_pages(file, 1);
	*(volatile char *)shared = 1;
	*unanswered |= OPENS | FLUSHES | ATTRIBUTES;
	map_on_all();
}

/* What a device would read of it never comes, and what was written is never taken. */
static void map_read(void)
{
	file = own_file();
	shared = own_pages(file, 1);
	*unanswered |= READS | WRITES | FLUSHES;
	map_on_all();
}

/* The first to open a file with a lease waits until it is given back, 45 s at most. */
static void lease(void)
{
	char name[] = "/tmp/iommud-test-lease-XXXXXX";

	signal(SIGIO, SIG_IGN);
	file = mkstemp(name);
	NEED(file >= 0 && unlink(name) == 0 && ftruncate(file, PAGE) == 0);
	shared = own_pages(file, 1);
	*(volatile char *)shared = 1;
	NEED(fcntl(file, F_SETLEASE, F_WRLCK) == 0);
	map_on_all();
}

static const struct attack_entry entries[] = {
	{ "flush", flush },
	{ "getattr", getattr },
	{ "map_open", map_open },
	{ "map_read", map_read },
	{ "lease", lease },
};

ATTACK_MAIN(entries)
