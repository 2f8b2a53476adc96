/* SPDX-License-Identifier: MIT */
/* What one thread of the stress test does: random operations, each timed, and its answer judged. */
#ifndef STRESS_CALLS_H
#define STRESS_CALLS_H

#include "mock/mock.h"
#include "stress_answers.h"

#include <signal.h>
#include <sys/prctl.h>
#include <time.h>

#define IDS 9 /* IDs above it are not used by others than who made them */
#define PLACES 48
#define ACCESSES 4
#define PAGES 64UL
#define BIG (2 * MIB)
#define OWN_PAGES 3UL

/* What the threads of one process share. */
struct worker {
	int device, common; /* an open file of the process's own, and one that processes share */
	int memfd;
	char *private, *shared, *big;
	int accesses[ACCESSES];
};

struct thread {
	struct worker *worker;
	struct tally *tally;
	uint64_t random;
	int device; /* a third, of its own */
	char *own;  /* memory that nobody else maps */
	unsigned int round;
};

static uint64_t nanoseconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static uint64_t pick(struct thread *t, uint64_t limit)
{
	t->random ^= t->random << 13;
	t->random ^= t->random >> 7;
	t->random ^= t->random << 17;
	return (t->random >> 11) % limit;
}

static long ended(struct thread *t, enum operation op, long rc, uint64_t since)
{
	uint64_t taken = nanoseconds() - since;

	t->tally->calls[op]++;
	if (taken > t->tally->longest[op])
		t->tally->longest[op] = taken;
	t->tally->errors[op][rc < 0 ? -rc % MAX_ERROR : 0]++;
	return rc;
}

#define TIMED(op, expression)                                                                      \
	({                                                                                         \
		uint64_t since_ = nanoseconds();                                                   \
		long rc_ = (expression);                                                           \
		ended(t, OP_##op, rc_ == -1 ? -errno : rc_, since_);                    \
	})

static const char *path;

static int timed_open(struct thread *t)
{
	return (int)TIMED(OPEN, open(path, O_RDWR | O_CLOEXEC));
}

static int any_device(struct thread *t)
{
	switch (pick(t, 4)) {
	case 0:
		return t->worker->common;
	case 1:
		return t->worker->device;
	default:
		return t->device;
	}
}

static uint32_t any_id(struct thread *t)
{
	return (uint32_t)pick(t, IDS) + 1;
}

static uint64_t any_iova(struct thread *t)
{
	return BASE + pick(t, PLACES) * PAGE + (pick(t, 8) ? 0 : HALF);
}

static uint64_t any_length(struct thread *t)
{
	switch (pick(t, 8)) {
	case 0:
		return HALF;
	case 1:
		return 1 + pick(t, 3 * PAGE);
	default:
		return (1 + pick(t, 16)) * PAGE;
	}
}

static char *any_memory(struct thread *t, uint64_t length)
{
	char *from = pick(t, 2) ? t->worker->private : t->worker->shared;
	uint64_t room = PAGES * PAGE - length;

	return from + (pick(t, 8) ? pick(t, room / PAGE + 1) * PAGE : pick(t, room / HALF) * HALF);
}

static uint32_t any_flags(struct thread *t)
{
	return (pick(t, 4) ? FIXED : 0) | (pick(t, 3) ? RW : pick(t, 2) ? R : W);
}

static void do_map(struct thread *t)
{
	uint64_t length = any_length(t), iova = any_iova(t);
	char *memory = any_memory(t, length);

	if (pick(t, 16) == 0) {
		memory = t->worker->big;
		length = BIG;
	}
	TIMED(MAP, map_flags(any_device(t), any_id(t), any_flags(t), (uintptr_t)memory, length,
			     &iova));
}

static void do_map_file(struct thread *t)
{
	uint64_t length = any_length(t), iova = any_iova(t);

	/* Now and then beyond its end. */
	TIMED(MAP_FILE, map_file_flags(any_device(t), any_id(t), any_flags(t), t->worker->memfd,
				       pick(t, PAGES) * PAGE, length, &iova));
}

static void do_unmap(struct thread *t)
{
	int fd = any_device(t);

	if (pick(t, 4) == 0)
		TIMED(UNMAP, unmap_at(fd, any_id(t), 0, U64_MAX));
	else
		TIMED(UNMAP, unmap_at(fd, any_id(t), any_iova(t), (1 + pick(t, 32)) * PAGE));
}

static void do_copy(struct thread *t)
{
	uint64_t iova = any_iova(t);

	TIMED(COPY, copy_flags(any_device(t), any_flags(t), any_id(t), &iova, any_id(t),
			       any_iova(t), any_length(t)));
}

static void do_alloc(struct thread *t)
{
	int fd = any_device(t);
	uint32_t id;

	if (TIMED(IOAS_ALLOC, ioas_alloc(fd, &id)) == 0 && id > IDS)
		TIMED(DESTROY, destroy(fd, id));
}

static void do_mock(struct thread *t)
{
	int fd = any_device(t);
	struct mock mock;

	if (TIMED(MOCK_DOMAIN, mock_domain(fd, any_id(t), &mock)) == 0 &&
	    (mock.stdev > IDS || pick(t, 4) == 0))
		TIMED(DESTROY, destroy(fd, mock.stdev));
}

static void do_ranges(struct thread *t)
{
	struct iommu_iova_range ranges[2] = { { BASE, TOP / 2 }, { TOP / 2 + 1, TOP - 1 } };
	int fd = any_device(t);
	uint32_t count = 2;
	uint64_t alignment;

	switch (pick(t, 3)) {
	case 0:
		TIMED(IOVA_RANGES, iova_ranges(fd, any_id(t), ranges, &count, &alignment));
		break;
	case 1:
		TIMED(ALLOW_IOVAS, allow_iovas(fd, any_id(t), ranges, (uint32_t)pick(t, 3)));
		break;
	default:
		TIMED(HUGE_PAGES, option_set(fd, IOMMU_OPTION_HUGE_PAGES, any_id(t), pick(t, 2)));
	}
}

/* Where the process's threads find an access to use; -1: none. */
static int *any_place(struct thread *t)
{
	return &t->worker->accesses[pick(t, ACCESSES)];
}

static int any_access(struct thread *t)
{
	return __atomic_load_n(any_place(t), __ATOMIC_SEQ_CST);
}

static void do_access(struct thread *t)
{
	int *place = any_place(t), access, old;

	if (TIMED(CREATE_ACCESS, create_access(any_device(t), any_id(t), pick(t, 4) ? PINS : 0,
					       &access)) != 0 && pick(t, 8))
		return;
	old = __atomic_exchange_n(place, access, __ATOMIC_SEQ_CST);
	if (old >= 0)
		TIMED(CLOSE, close(old));
}

static void do_pin(struct thread *t)
{
	uint64_t iova = any_iova(t), length = any_length(t);
	char *memory = pick(t, 2) ? any_memory(t, length) : NULL;
	uint32_t item;

	TIMED(ACCESS_PAGES, access_pages(any_device(t), any_access(t), iova, length, memory,
					 pick(t, 2) ? WRITE : 0, &item));
}

static void do_rw(struct thread *t)
{
	uint64_t length = any_length(t), iova = any_iova(t);
	char *buffer = any_memory(t, length);

	if (pick(t, 64) == 0) {
		length = BIG;
		buffer = t->worker->big;
	}
	TIMED(ACCESS_RW, access_rw(any_device(t), any_access(t), iova, length, buffer,
				   (pick(t, 2) ? WRITE : 0) | (pick(t, 2) ? SLOW : 0)));
}

/* In a context of its own, where nobody is in its way: a device sees exactly what it should. */
static void do_own(struct thread *t)
{
	uint64_t length = OWN_PAGES * PAGE;
	char got[OWN_PAGES * PAGE];
	int fd = timed_open(t), access;
	bool held = pick(t, 2);
	struct mock mock = { 0 };
	uint32_t ioas;
	long rc;

	if (fd < 0)
		return;
	t->round++;
	fill(t->own, length, t->round);
	rc = ioas_alloc(fd, &ioas);
	rc = rc ? rc : map_at(fd, ioas, (uintptr_t)t->own, length, BASE);
	/* No memory is left of a user's allowance: all of its processes share it. */
	if (rc == 0 && held && mock_domain(fd, ioas, &mock) == -ENOMEM)
		held = false;
	rc = rc ? rc : TIMED(CREATE_ACCESS, create_access(fd, ioas, 0, &access));
	if (rc == 0) {
		rc = access_rw(fd, access, BASE, length, got, pick(t, 2) ? SLOW : 0);
		t->tally->wrong += rc == 0 ? differing(got, length, t->round) : 0;
		t->round++;
		fill(got, length, t->round);
		rc = rc ? rc : access_rw(fd, access, BASE, length, got, WRITE);
		t->tally->wrong += rc == 0 ? differing(t->own, length, t->round) : 0;
		if (rc == 0 && held)
			rc = check_map(fd, mock.hwpt, BASE, length, t->own);
		TIMED(CLOSE, close(access));
	}
	ended(t, OP_OWN_DMA, rc, nanoseconds());
	TIMED(CLOSE, close(fd));
}

static void change_memory(struct thread *t)
{
	char *page = t->worker->private + pick(t, PAGES) * PAGE;

	switch (pick(t, 4)) {
	case 0:
		munmap(page, PAGE);
		break;
	case 1:
		mprotect(page, PAGE, pick(t, 2) ? PROT_NONE : PROT_READ);
		break;
	case 2:
		madvise(page, PAGE, MADV_DONTNEED);
		break;
	default:
		/* There again, so that not all of it goes. */
		mmap(t->worker->private, PAGES * PAGE, PROT_READ | PROT_WRITE,
		     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	}
}

/* A child that maps, and ends at once or is killed. */
static void have_child(struct thread *t)
{
	pid_t pid = fork();
	uint64_t iova = BASE;

	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		t->tally = mmap(NULL, sizeof(*t->tally), PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		do_map(t);
		map_flags(t->worker->common, any_id(t), RW, (uintptr_t)t->worker->private, PAGE,
			  &iova);
		do_rw(t);
		_exit(0);
	}
	if (pid > 0) {
		if (pick(t, 2))
			kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
}

static void one_call(struct thread *t)
{
	switch (pick(t, 40)) {
	case 0 ... 2: return do_alloc(t);
	case 3:
		TIMED(DESTROY, destroy(any_device(t), any_id(t)));
		return;
	case 4 ... 11: return do_map(t);
	case 12 ... 14: return do_map_file(t);
	case 15 ... 17: return do_unmap(t);
	case 18 ... 20: return do_copy(t);
	case 21 ... 22: return do_mock(t);
	case 23 ... 24:
		TIMED(MOCK_REPLACE, try_replace(any_device(t), any_id(t), any_id(t)));
		return;
	case 25: return do_ranges(t);
	case 26 ... 27: return do_access(t);
	case 28 ... 30: return do_pin(t);
	case 31:
		TIMED(UNPIN, unpin(any_device(t), any_access(t), (uint32_t)pick(t, 8)));
		return;
	case 32 ... 35: return do_rw(t);
	case 36:
		TIMED(ACCESS_MOVE, access_replace(any_device(t), any_access(t), any_id(t)));
		return;
	case 37:
		if (pick(t, 2))
			TIMED(CHECK_MAP, check_map(any_device(t), any_id(t), any_iova(t), PAGE,
						   t->worker->shared));
		else
			TIMED(CHECK_REFS, check_refs(any_device(t), t->worker->shared, PAGE,
						     (uint32_t)pick(t, 4)));
		return;
	case 38:
		change_memory(t);
		return;
	default:
		if (pick(t, 2))
			return do_own(t);
		if (pick(t, 16) == 0)
			return have_child(t);
		TIMED(CLOSE, close(t->device));
		t->device = timed_open(t);
	}
}

#endif
