// SPDX-License-Identifier: MIT
/*
 * The attacker's memory is what makes others wait: pages that never come, pages that can never be
 * written, and an mmap_lock that is never let go.
 */
#include "attack.h"

#include "../../clients/mock/mock.h"

#include <linux/userfaultfd.h>

#define THREADS 64

/* A struct of IOAS_ALLOC, as every thread of them calls it again and again. */
static void *alloc_there(void *arg)
{
	int fd = open_device();

	for (;;)
		attack(fd, IOMMU_IOAS_ALLOC, arg);
	return NULL;
}

/* All threads on one open file. */
static int shared_fd;

static void *alloc_on_one_file(void *arg)
{
	for (;;)
		attack(shared_fd, IOMMU_IOAS_ALLOC, arg);
	return NULL;
}

/* --- mmap_lock --- */

static void *put_over(void *page)
{
	mmap(page, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	return NULL;
}

static void *move_over(void *page)
{
	void *from = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	mremap(from, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page);
	return NULL;
}

/* What replaces a dirty mapping of the own file waits for its WRITE, and holds the lock meanwhile. */
static void lock_held(void *(*take)(void *))
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	int fd = open_device();
	char *page = own_pages(own_file(), 1);

	*unanswered |= WRITES;
	*page = 1;
	begin_thread(take, page);
	wait_asked(WRITES);
	ready();
	for (;;)
		attack(fd, IOMMU_IOAS_ALLOC, &alloc);
}

static void mmap_lock(void)
{
	lock_held(put_over);
}

static void mremap_lock(void)
{
	lock_held(move_over);
}

/* --- pages that never come --- */

static void pages(void)
{
	char *memory = own_pages(own_file(), THREADS);
	unsigned int i;

	*unanswered |= READS;
	shared_fd = open_device();
	for (i = 0; i < THREADS; i++)
		begin_thread(i % 2 ? alloc_there : alloc_on_one_file, memory + i * PAGE);
	wait_asked(READS);
	ready();
}

static void faults_of_user(void)
{
	char name[256];
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register all = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	char *memory = mmap(NULL, THREADS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct pollfd fault = { .events = POLLIN };
	unsigned int i;
	int maker;

	snprintf(name, sizeof(name), "%s/userfaultfd", getenv("HOSTILE_NODES"));
	NEED((maker = open(name, O_RDWR | O_CLOEXEC)) >= 0);
	NEED((fault.fd = ioctl(maker, USERFAULTFD_IOC_NEW, O_CLOEXEC)) >= 0);
	NEED(ioctl(fault.fd, UFFDIO_API, &api) == 0);
	all.range.start = (uintptr_t)memory;
	all.range.len = THREADS * PAGE;
	NEED(ioctl(fault.fd, UFFDIO_REGISTER, &all) == 0);
	shared_fd = open_device();
	for (i = 0; i < THREADS; i++)
		begin_thread(i % 2 ? alloc_there : alloc_on_one_file, memory + i * PAGE);
	NEED(poll(&fault, 1, -1) == 1);
	ready();
}

/* The struct is there, the array that it names is not. */
static void *allow_there(void *arg)
{
	int fd = open_device();
	struct iommu_ioas_allow_iovas cmd = { .size = sizeof(cmd), .ioas_id = new_ioas(fd), .num_iovas = 16,
					      .allowed_iovas = (uintptr_t)arg };

	for (;;)
		attack(fd, IOMMU_IOAS_ALLOW_IOVAS, &cmd);
	return NULL;
}

static void *ranges_there(void *arg)
{
	int fd = open_device();
	struct iommu_ioas_iova_ranges cmd = { .size = sizeof(cmd), .ioas_id = new_ioas(fd), .num_iovas = 16,
					      .allowed_iovas = (uintptr_t)arg };

	for (;;)
		attack(fd, IOMMU_IOAS_IOVA_RANGES, &cmd);
	return NULL;
}

static void arrays(void)
{
	char *memory = own_pages(own_file(), THREADS);
	unsigned int i;

	*unanswered |= READS;
	for (i = 0; i < THREADS; i++)
		begin_thread(i % 2 ? allow_there : ranges_there, memory + i * PAGE);
	wait_asked(READS);
	ready();
}

/* --- memory for devices that never comes --- */

static void *pin_there(void *arg)
{
	int fd = open_device();
	uint32_t ioas = new_ioas(fd);
	struct iommu_ioas_map map = { .size = sizeof(map), .flags = RW, .ioas_id = ioas,
				      .user_va = (uintptr_t)arg, .length = PAGE };

	new_mock(fd, ioas);
	for (;;)
		attack(fd, IOMMU_IOAS_MAP, &map);
	return NULL;
}

/* An access of a device copies from and to memory that never comes. */
static void *copy_there(void *arg)
{
	int fd = open_device();
	uint32_t ioas = new_ioas(fd);
	int access = new_access(fd, ioas, 0);
	char *there = new_pages(1);
	struct iommu_test_cmd cmd = { .size = sizeof(cmd), .op = IOMMU_TEST_OP_ACCESS_RW, .id = (uint32_t)access,
				      .access_rw = { .iova = MIB, .length = PAGE, .uptr = (uintptr_t)there } };

	NEED(map_at(fd, ioas, (uintptr_t)arg, PAGE, MIB) == 0);
	for (;;)
		attack(fd, IOMMU_TEST_CMD, &cmd);
	return NULL;
}

static void pins(void)
{
	char *memory = own_pages(own_file(), THREADS);
	unsigned int i;

	*unanswered |= READS;
	for (i = 0; i < THREADS / 2; i++)
		begin_thread(i % 2 ? pin_there : copy_there, memory + i * PAGE);
	wait_asked(READS);
	ready();
}

/* --- pages that can be read, and not be written --- */

/* Several calls, as each may cost a process of the daemon's. */
#define STUCK 4

static void mkwrite(void)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	char *page = page_under_writeback(&alloc, sizeof(alloc));
	unsigned int i;

	for (i = 0; i < STUCK; i++)
		begin_thread(alloc_there, page);
	ready();
}

static void mkwrite_array(void)
{
	char *page = page_under_writeback("x", 1);
	unsigned int i;

	for (i = 0; i < STUCK; i++)
		begin_thread(ranges_there, page);
	ready();
}

/* A descriptor is to be handed over, and its number cannot be written. */
static void mkwrite_number(void)
{
	struct iommu_fault_alloc alloc = { .size = sizeof(alloc) };
	char *page = page_under_writeback(&alloc, sizeof(alloc));
	int fd = open_device();

	ready();
	for (;;)
		attack(fd, IOMMU_FAULT_QUEUE_ALLOC, page);
}

/* What a device reads is written by the daemon. */
static void mkwrite_access(void)
{
	int fd = open_device();
	uint32_t ioas = new_ioas(fd);
	int access = new_access(fd, ioas, 0);
	char *page = page_under_writeback("x", 1);
	struct iommu_test_cmd cmd = { .size = sizeof(cmd), .op = IOMMU_TEST_OP_ACCESS_RW, .id = (uint32_t)access,
				      .access_rw = { .iova = MIB, .length = 8, .uptr = (uintptr_t)page } };

	NEED(map_at(fd, ioas, (uintptr_t)new_pages(1), PAGE, MIB) == 0);
	ready();
	for (;;)
		attack(fd, IOMMU_TEST_CMD, &cmd);
}

/* A client that calls in quick succession gets the reading of the device lent (cuse_glue/broker's
 * lending.py), and then makes the one who has it sleep. */
static void *quick_then_stuck(void *arg)
{
	static unsigned int threads;
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	int fd = open_device();
	unsigned int i;

	/* One after the other. No thread can be made once one is stuck, as that holds mmap_lock. */
	usleep(200000 * __atomic_fetch_add(&threads, 1, __ATOMIC_SEQ_CST));
	for (i = 0; i < 500; i++) {
		if (attack(fd, IOMMU_IOAS_ALLOC, &alloc) == 0)
			destroy(fd, alloc.out_ioas_id);
	}
	attack(fd, IOMMU_IOAS_ALLOC, arg);
	return NULL;
}

static void mkwrite_lent(void)
{
	struct iommu_ioas_alloc alloc = { .size = sizeof(alloc) };
	char *page = page_under_writeback(&alloc, sizeof(alloc));
	unsigned int i;

	for (i = 0; i < 6 * STUCK; i++)
		begin_thread(quick_then_stuck, page);
	ready();
}

static const struct attack_entry entries[] = {
	{ "mmap_lock", mmap_lock },
	{ "mremap_lock", mremap_lock },
	{ "pages", pages },
	{ "userfaultfd", faults_of_user },
	{ "arrays", arrays },
	{ "pins", pins },
	{ "mkwrite", mkwrite },
	{ "mkwrite_array", mkwrite_array },
	{ "mkwrite_number", mkwrite_number },
	{ "mkwrite_access", mkwrite_access },
	{ "mkwrite_lent", mkwrite_lent },
};

ATTACK_MAIN(entries)
