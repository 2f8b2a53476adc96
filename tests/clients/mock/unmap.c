// SPDX-License-Identifier: MIT
/*
 * Who has pinned must let go: IOAS_UNMAP, and a move of the access to another IOAS, ask it to, and
 * return when it has. The mock's access lets go of everything that touches the range.
 */
#include "mock.h"

#include <pthread.h>

static int fd, one, two;
static uint32_t ioas;
static char *memory;

#define PAGES 8UL

static uint32_t pinned(int access, uint64_t iova, uint64_t length)
{
	uint32_t item;

	NEED(access_pages(fd, access, iova, length, NULL, 0, &item) == 0);
	return item;
}

static void set_up(void)
{
	fd = open_iommu();
	ioas = new_ioas(fd);
	one = new_access(fd, ioas, PINS);
	two = new_access(fd, ioas, PINS);
	NEED(map_at(fd, ioas, (uintptr_t)memory, 4 * PAGE, BASE) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)memory + 4 * PAGE, 4 * PAGE, BASE + 4 * PAGE) == 0);
}

static void tear_down(void)
{
	CHECK_OK(check_refs(fd, memory, PAGES * PAGE, 0), "nothing is pinned");
	CHECK_OK(close(one), "close an access");
	CHECK_OK(close(two), "and the other");
	CHECK_OK(close(fd), "close");
}

static void unmaps(void)
{
	uint32_t a, b, c, d;
	uint64_t length;

	set_up();
	a = pinned(one, BASE, PAGE);
	b = pinned(one, BASE + PAGE, 2 * PAGE);
	c = pinned(two, BASE + 3 * PAGE, 2 * PAGE);
	d = pinned(two, BASE + 6 * PAGE, PAGE);
	CHECK_ERR(ENOENT, unmap_at(fd, ioas, BASE, 3 * PAGE), "a part of an area");
	CHECK_OK(check_refs(fd, memory, 5 * PAGE, 1), "nobody was asked to let go");
	CHECK_OK(unmap_at(fd, ioas, BASE, 4 * PAGE), "unmap a pinned area");
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 0), "its pages are free");
	CHECK_OK(check_refs(fd, memory + 4 * PAGE, PAGE, 0),
		 "and the page that was pinned with them, in the next area");
	CHECK_OK(check_refs(fd, memory + 6 * PAGE, PAGE, 1), "what does not touch it is not");
	CHECK_ERR(ENOENT, unpin(fd, one, a), "the first is gone");
	CHECK_ERR(ENOENT, unpin(fd, one, b), "the second");
	CHECK_ERR(ENOENT, unpin(fd, two, c), "the third");
	CHECK_ERR(ENOENT, pin(fd, one, BASE, PAGE), "there is nothing to pin");
	CHECK_ERR(ENOENT, access_rw(fd, one, BASE, 8, &a, 0), "nor to read");
	CHECK_OK(unpin(fd, two, d), "the fourth is there");
	pinned(one, BASE + 4 * PAGE, 4 * PAGE);
	pinned(two, BASE + 5 * PAGE, PAGE);
	length = U64_MAX;
	CHECK_OK(unmap(fd, ioas, 0, &length), "unmap all");
	CHECK_EQ(length, 4 * PAGE, "its bytes");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE), "map there again");
	CHECK_OK(pin(fd, one, BASE, PAGE), "and pin");
	CHECK_OK(check_refs(fd, memory, PAGE, 1), "it is");
	CHECK_ERR(EBUSY, destroy(fd, ioas), "the IOAS cannot be destroyed");
	CHECK_OK(unmap_at(fd, ioas, BASE, PAGE), "unmap");
	tear_down();
}

/* Two areas, the second of which reaches out: the first is gone all the same. */
static void half_way(void)
{
	uint64_t length = 6 * PAGE;

	set_up();
	pinned(one, BASE, PAGES * PAGE);
	CHECK_ERR(ENOENT, unmap(fd, ioas, BASE, &length), "unmap one and a half");
	CHECK_EQ(length, 6 * PAGE, "the length is as it was");
	CHECK_ERR(ENOENT, unmap_at(fd, ioas, BASE, 4 * PAGE), "the first is gone");
	CHECK_OK(check_refs(fd, memory, PAGES * PAGE, 0), "the pin that spanned both went");
	CHECK_OK(pin(fd, one, BASE + 4 * PAGE, 4 * PAGE), "the second can be pinned");
	CHECK_OK(unmap_at(fd, ioas, BASE + 4 * PAGE, 4 * PAGE), "and unmapped");
	tear_down();
}

static void moves(void)
{
	uint32_t other, odd, a, b;
	char got[4];

	set_up();
	other = new_ioas(fd);
	odd = new_ioas(fd);
	NEED(map_at(fd, other, (uintptr_t)memory + PAGE, PAGE, BASE) == 0);
	NEED(map_at(fd, odd, (uintptr_t)memory, HALF, BASE) == 0);
	fill(memory, PAGES * PAGE, 1);
	a = pinned(one, BASE, 2 * PAGE);
	CHECK_ERR(ENOENT, access_replace(fd, one, NO_ID), "to no IOAS");
	CHECK_ERR(EADDRINUSE, access_replace(fd, one, odd), "to one with an odd area");
	CHECK_EQ(iova_alignment(fd, odd), 1, "which is as it was");
	CHECK_OK(destroy(fd, odd), "and unused");
	CHECK_OK(check_refs(fd, memory, 2 * PAGE, 1), "what was pinned still is");
	CHECK_OK(access_replace(fd, one, ioas), "to where it is");
	CHECK_OK(check_refs(fd, memory, 2 * PAGE, 1), "what was pinned still is");
	CHECK_OK(access_replace(fd, one, other), "to another");
	CHECK_OK(check_refs(fd, memory, 2 * PAGE, 0), "all is unpinned");
	CHECK_ERR(ENOENT, unpin(fd, one, a), "and forgotten");
	CHECK_EQ(iova_alignment(fd, other), PAGE, "the new IOAS has its alignment");
	CHECK_EQ(iova_alignment(fd, ioas), PAGE, "the old one that of the other access");
	CHECK_OK(access_rw(fd, one, BASE, 4, got, 0), "read at the same IOVA");
	CHECK_TRUE(!memcmp(got, memory + PAGE, 4), "what is there now");
	CHECK_OK(access_pages(fd, one, BASE, PAGE, memory + PAGE, 0, &b), "pin it");
	CHECK_EQ(b, a + 1, "with the next number");
	CHECK_ERR(EBUSY, destroy(fd, other), "the new IOAS is used");
	CHECK_OK(access_replace(fd, one, ioas), "back");
	CHECK_OK(destroy(fd, other), "the new one can go");
	CHECK_OK(access_replace(fd, two, ioas), "the other, to where it is");
	/* A device does not keep an access from going. */
	CHECK_OK(close(two), "close the other access");
	two = dup(one);
	tear_down();
}

/* The IOAS the access leaves, with a device on it: the pages stay pinned for the device. */
static void with_device(void)
{
	struct mock mock;
	uint32_t other;

	set_up();
	mock = new_mock(fd, ioas);
	other = new_ioas(fd);
	pinned(one, BASE, 4 * PAGE);
	CHECK_OK(check_refs(fd, memory, PAGES * PAGE, 1), "pinned once");
	CHECK_OK(access_replace(fd, one, other), "the access leaves");
	CHECK_OK(check_refs(fd, memory, PAGES * PAGE, 1), "pinned by the device");
	CHECK_OK(copy_at(fd, other, BASE, ioas, BASE + 4 * PAGE, 4 * PAGE), "copy to it");
	CHECK_OK(pin(fd, one, BASE, 4 * PAGE), "pin the copy");
	CHECK_OK(unmap_at(fd, ioas, BASE + 4 * PAGE, 4 * PAGE), "unmap the original");
	CHECK_OK(check_refs(fd, memory + 4 * PAGE, 4 * PAGE, 1), "the copy is pinned");
	CHECK_OK(unmap_at(fd, ioas, BASE, 4 * PAGE), "unmap the rest");
	CHECK_OK(check_refs(fd, memory, 4 * PAGE, 0), "that is free");
	CHECK_OK(unmap_at(fd, other, BASE, 4 * PAGE), "unmap the copy");
	CHECK_OK(destroy(fd, mock.stdev), "unplug the device");
	tear_down();
}

#define ROUNDS 200

static volatile int stop;

/* Pins and unpins what the main thread maps and unmaps; returns the answers that cannot be. */
static void *pins_always(void *arg)
{
	uintptr_t wrong = 0;
	int access = *(int *)arg;
	uint32_t item;
	long rc;

	while (!stop) {
		rc = access_pages(fd, access, BASE + MIB, PAGE, NULL, 0, &item);
		/* EINVAL: the area is just being unmapped. */
		wrong += rc != 0 && rc != -ENOENT && rc != -EINVAL;
		if (rc == 0 && item % 2) {
			rc = unpin(fd, access, item);
			wrong += rc != 0 && rc != -ENOENT;
		}
	}
	return (void *)wrong;
}

static void *moves_always(void *arg)
{
	uintptr_t wrong = 0;
	uint32_t other = new_ioas(fd);
	long rc;

	while (!stop) {
		rc = access_replace(fd, *(int *)arg, other);
		wrong += rc != 0 && rc != -EBUSY;
		rc = access_replace(fd, *(int *)arg, ioas);
		wrong += rc != 0 && rc != -EBUSY;
	}
	return (void *)wrong;
}

static void races(void)
{
	pthread_t threads[3];
	uintptr_t wrong = 0;
	void *result;
	long rc;
	unsigned int i;

	set_up();
	NEED(pthread_create(&threads[0], NULL, pins_always, &one) == 0);
	NEED(pthread_create(&threads[1], NULL, pins_always, &two) == 0);
	NEED(pthread_create(&threads[2], NULL, moves_always, &two) == 0);
	for (i = 0; i < often(ROUNDS); i++) {
		wrong += map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE + MIB) != 0;
		rc = unmap_at(fd, ioas, BASE + MIB, PAGE);
		/* EDEADLK: they were quicker a hundred times; then nobody can pin it any more. */
		if (rc == -EDEADLK)
			rc = unmap_at(fd, ioas, BASE + MIB, PAGE);
		wrong += rc != 0;
	}
	stop = 1;
	for (i = 0; i < 3; i++) {
		NEED(pthread_join(threads[i], &result) == 0);
		wrong += (uintptr_t)result;
	}
	CHECK_EQ(wrong, 0, "map and unmap while others pin and move");
	tear_down();
}

int main(void)
{
	checks_begin();
	memory = new_pages(PAGES);
	memset(memory, 1, PAGES * PAGE);
	unmaps();
	half_way();
	moves();
	with_device();
	races();
	return checks_end();
}
