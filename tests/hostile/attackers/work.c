// SPDX-License-Identifier: MIT
/* Calls that make the daemon work for long, or wake it for nothing, or come from very many. */
#include "attack.h"

#include "../../clients/mock/mock.h"

#include <sys/mount.h>
#include <sys/time.h>

#define VMAS 20000 /* of 65,530 that a process may have */

static void unmap_everything(int fd, uint32_t ioas)
{
	struct iommu_ioas_unmap all = { .size = sizeof(all), .ioas_id = ioas, .length = U64_MAX };

	attack(fd, IOMMU_IOAS_UNMAP, &all);
}

/* Memory in as many mappings as it has pages. */
static char *in_pieces(int file)
{
	char *memory = mmap(NULL, VMAS * PAGE, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_NORESERVE | (file < 0 ? MAP_ANONYMOUS : 0), file, 0);
	unsigned int i;

	NEED(memory != MAP_FAILED);
	for (i = 0; i < VMAS; i += 2)
		NEED(mprotect(memory + i * PAGE, PAGE, PROT_READ) == 0);
	return memory;
}

static void map_pieces(char *memory)
{
	int fd = open_device();
	uint32_t ioas = new_ioas(fd);
	struct iommu_ioas_map map = { .size = sizeof(map), .flags = R | FIXED, .ioas_id = ioas, .iova = BASE,
				      .user_va = (uintptr_t)memory, .length = VMAS * PAGE };

	new_mock(fd, ioas);
	ready();
	for (;;) {
		attack(fd, IOMMU_IOAS_MAP, &map);
		unmap_everything(fd, ioas);
	}
}

static void pieces_of_zero(void)
{
	int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);

	NEED(zero >= 0);
	map_pieces(in_pieces(zero));
}

static void pieces(void)
{
	map_pieces(in_pieces(-1));
}

static void pieces_of_file(void)
{
	int memfd = memfd_create("pieces", MFD_CLOEXEC);

	NEED(memfd >= 0 && ftruncate(memfd, VMAS * PAGE) == 0);
	map_pieces(in_pieces(memfd));
}

/* --- large things --- */

static void *huge_struct(void *arg)
{
	int fd = open_device();

	for (;;)
		attack(fd, IOMMU_IOAS_ALLOC, arg);
	return NULL;
}

static void size(void)
{
	uint32_t *memory = mmap(NULL, 1UL << 32, PROT_READ | PROT_WRITE,
				MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	unsigned int i;

	NEED(memory != MAP_FAILED);
	*memory = UINT32_MAX;
	ready();
	for (i = 0; i < 8; i++)
		begin_thread(huge_struct, memory);
}

static void allow_for_ever(void)
{
	const uint32_t count = 1000000;
	struct iommu_iova_range *ranges = calloc(count, sizeof(*ranges));
	int fd = open_device();
	struct iommu_ioas_allow_iovas cmd = { .size = sizeof(cmd), .ioas_id = new_ioas(fd), .num_iovas = count,
					      .allowed_iovas = (uintptr_t)ranges };
	uint32_t i;

	NEED(ranges);
	for (i = 0; i < count; i++) {
		ranges[i].start = i * 2 * PAGE;
		ranges[i].last = ranges[i].start + PAGE - 1;
	}
	for (;;)
		attack(fd, IOMMU_IOAS_ALLOW_IOVAS, &cmd);
}

static void allow(void)
{
	unsigned int i;

	for (i = 0; i < 8; i++)
		begin_process(allow_for_ever);
	ready();
}

/* The most entries that a list may have, from memory that reads as zeros. */
static void lists(void)
{
	void *zeros = mmap(NULL, 1UL << 32, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	int fd = open_device();
	uint32_t ioas = new_ioas(fd);
	struct iommu_ioas_allow_iovas allowed = { .size = sizeof(allowed), .ioas_id = ioas, .num_iovas = UINT32_MAX >> 4,
						  .allowed_iovas = (uintptr_t)zeros };
	struct iommu_hwpt_invalidate invalidate = { .size = sizeof(invalidate), .hwpt_id = ioas,
						    .data_uptr = (uintptr_t)zeros, .entry_len = PAGE,
						    .entry_num = UINT32_MAX };

	NEED(zeros != MAP_FAILED);
	ready();
	for (;;) {
		attack(fd, IOMMU_IOAS_ALLOW_IOVAS, &allowed);
		attack(fd, IOMMU_HWPT_INVALIDATE, &invalidate);
	}
}

/* 65,536 pages are pinned for an access and let go again, which is a list of as many. */
static void page_lists(void)
{
	const size_t length = 65536 * PAGE;
	void *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd = open_device(), access;
	uint32_t ioas = new_ioas(fd);
	struct iommu_test_cmd cmd;

	NEED(memory != MAP_FAILED);
	/* What may not be locked is refused, and the list is made all the same. */
	map_at(fd, ioas, (uintptr_t)memory, length, BASE);
	access = new_access(fd, ioas, PINS);
	ready();
	for (;;) {
		cmd = (struct iommu_test_cmd){ .size = sizeof(cmd), .op = IOMMU_TEST_OP_ACCESS_PAGES, .id = (uint32_t)access,
					       .access_pages = { .iova = BASE, .length = length, .uptr = (uintptr_t)memory } };
		if (attack(fd, IOMMU_TEST_CMD, &cmd) == 0)
			unpin(fd, access, cmd.access_pages.out_access_pages_id);
	}
}

/* So many areas that their end takes long; also the end of the open file. */
static void unmap_many(void)
{
	char *memory = new_pages(1);
	int fd;
	uint32_t ioas;
	unsigned int i;

	for (;;) {
		fd = open_device();
		ioas = new_ioas(fd);
		for (i = 0; i < 20000; i++) {
			if (i == 5000)
				ready();
			if (map_at(fd, ioas, (uintptr_t)memory, PAGE, (i + 1) * 2 * PAGE))
				break;
		}
		if (chance(2))
			unmap_everything(fd, ioas);
		close(fd);
	}
}

/* A table of mounts that takes long to read. */
static void mounts(void)
{
	int file = memfd_create("mounts", MFD_CLOEXEC), fd;
	char *memory, name[64];
	unsigned int i;

	fd = open_device();
	own_namespaces();
	NEED(mount("none", "/tmp", "tmpfs", 0, NULL) == 0);
	for (i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "/tmp/%u", i);
		NEED(mkdir(name, 0755) == 0);
		if (mount(name, name, NULL, MS_BIND, NULL))
			break;
	}
	file = open("/tmp/file", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	NEED(file >= 0 && ftruncate(file, PAGE) == 0);
	memory = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	NEED(memory != MAP_FAILED);
	ready();
	for (;;) {
		uint32_t ioas = new_ioas(fd);
		struct iommu_ioas_map map = { .size = sizeof(map), .flags = RW, .ioas_id = ioas,
					      .user_va = (uintptr_t)memory, .length = PAGE };

		new_mock(fd, ioas);
		attack(fd, IOMMU_IOAS_MAP, &map);
		unmap_everything(fd, ioas);
	}
}

/* --- many --- */

static void nothing(int number)
{
	(void)number;
}

static void *alloc_thread(void *arg)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };
	int fd = open_device();

	(void)arg;
	for (;;)
		if (attack(fd, IOMMU_IOAS_ALLOC, &cmd) == 0)
			destroy(fd, cmd.out_ioas_id);
	return NULL;
}

static void alloc_for_ever(void)
{
	alloc_thread(NULL);
}

/* Each signal is an INTERRUPT of the call that it comes into. */
static void signals(void)
{
	struct sigaction action = { .sa_handler = nothing };
	pid_t children[4];
	unsigned int i;

	sigaction(SIGINT, &action, NULL);
	for (i = 0; i < 3; i++)
		children[i] = begin_process(alloc_for_ever);
	children[3] = begin_process(allow_for_ever);
	ready();
	for (;;) {
		kill(children[chance(4)], SIGINT);
		nap(50);
	}
}

static void storm(void)
{
	unsigned int i;

	for (i = 0; i < 300; i++)
		begin_process(alloc_for_ever);
	ready();
}

static void come_and_go(void)
{
	int fd;

	for (;;) {
		fd = open_device();
		if (chance(2)) {
			struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

			attack(fd, IOMMU_IOAS_ALLOC, &cmd);
		}
		close(fd);
		__atomic_add_fetch(&counters->tries, 1, __ATOMIC_SEQ_CST);
	}
}

static void opens(void)
{
	unsigned int i;

	for (i = 0; i < 8; i++)
		begin_process(come_and_go);
	ready();
}

/* Requests that nothing will ever answer: reads of queues where no fault comes. */
static void *read_for_ever(void *arg)
{
	char fault[4096];

	while (read((int)(intptr_t)arg, fault, sizeof(fault)) || errno)
		__atomic_add_fetch(&counters->tries, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void reads(void)
{
	int fd = open_device();
	unsigned int i;

	for (i = 0; i < 200; i++) {
		struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };

		if (attack(fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd))
			break;
		begin_thread(read_for_ever, (void *)(intptr_t)cmd.out_fault_fd);
		if (i == 20)
			ready();
	}
	ready();
	alloc_for_ever();
}

static const struct attack_entry entries[] = {
	{ "pieces_of_zero", pieces_of_zero },
	{ "pieces_of_file", pieces_of_file },
	{ "pieces", pieces },
	{ "size", size },
	{ "allow", allow },
	{ "lists", lists },
	{ "page_lists", page_lists },
	{ "unmap_many", unmap_many },
	{ "mounts", mounts },
	{ "signals", signals },
	{ "storm", storm },
	{ "opens", opens },
	{ "reads", reads },
};

ATTACK_MAIN(entries)
