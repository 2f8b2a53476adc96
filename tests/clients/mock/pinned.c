// SPDX-License-Identifier: MIT
/*
 * What pins look like from outside: VmPin and VmLck of the process that pays for them, through
 * everything that pins and lets go; and that pinned pages stay when their process does not. A client
 * notices nothing else: no descriptor, no mapping, no system call that ends otherwise.
 *
 * --mm: RLIMIT_MODE 1, which takes CAP_SYS_RESOURCE to set; then what is pinned is locked as well.
 */
#include "pinned.h"

static int fd;
static uint32_t ioas;
static bool mm_mode;

#define PAGES 5UL
#define LENGTH (PAGES * PAGE)
#define MAPS 12

/* Another process may have to be waited for: one that gets no processor cannot be stopped. */
static void shows(pid_t pid, uint64_t pages, const char *when)
{
	uint64_t locked = mm_mode ? pages : 0;
	int tries = pid == getpid() ? 0 : 2000;

	while (tries-- && (status_pages(pid, "VmPin:") != pages || status_pages(pid, "VmLck:") != locked))
		usleep(1000);
	CHECK_EQ(status_pages(pid, "VmPin:"), pages, "VmPin: %s", when);
	CHECK_EQ(status_pages(pid, "VmLck:"), locked, "VmLck: %s", when);
}

static void fresh(void)
{
	fd = open_iommu();
	if (mm_mode)
		NEED(option_set(fd, IOMMU_OPTION_RLIMIT_MODE, 0, 1) == 0);
	ioas = new_ioas(fd);
}

/* Closes the device, and returns when all of it has gone. */
static void gone(void)
{
	int tries;

	NEED(close(fd) == 0);
	fd = open_iommu();
	NEED(close(fd) == 0);
	for (tries = 0; tries < 1000 && status_pages(getpid(), "VmLck:"); tries++)
		usleep(1000);
}

static void tables(void)
{
	char *memory = new_pages(PAGES);
	struct mock mock, other;
	uint32_t second;

	fresh();
	NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE) == 0);
	shows(getpid(), 0, "only remembered");
	mock = new_mock(fd, ioas);
	shows(getpid(), PAGES, "a device comes");
	other = new_mock(fd, ioas);
	shows(getpid(), PAGES, "another, which changes nothing");
	NEED(map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, BASE + MIB) == 0);
	shows(getpid(), PAGES + 2, "some of it twice");
	second = new_ioas(fd);
	NEED(copy_at(fd, second, BASE, ioas, BASE, LENGTH) == 0);
	NEED(try_replace(fd, other.stdev, second) == 0);
	shows(getpid(), PAGES + 2, "a copy in another IOAS");
	NEED(unmap_at(fd, ioas, BASE, LENGTH) == 0);
	shows(getpid(), PAGES + 2, "the copy holds it");
	NEED(unmap_at(fd, ioas, BASE + MIB, 2 * PAGE) == 0);
	shows(getpid(), PAGES, "what was there twice");
	NEED(destroy(fd, other.stdev) == 0);
	shows(getpid(), 0, "the copy's device leaves");
	NEED(map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE) == 0);
	shows(getpid(), 1, "a page for the first");
	NEED(destroy(fd, mock.stdev) == 0);
	shows(getpid(), 0, "it leaves");
	gone();
	NEED(munmap(memory, LENGTH) == 0);
}

static void files(void)
{
	int file;
	char *memory = shared_pages(PAGES, &file);

	fresh();
	new_mock(fd, ioas);
	NEED(map_file_at(fd, ioas, file, 0, LENGTH, BASE) == 0);
	shows(getpid(), PAGES, "a file");
	NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE + MIB) == 0);
	shows(getpid(), 2 * PAGES, "the same by address");
	NEED(unmap_at(fd, ioas, BASE, LENGTH) == 0);
	shows(getpid(), PAGES, "without the first");
	gone();
	shows(getpid(), 0, "closed");
	NEED(munmap(memory, LENGTH) == 0 && close(file) == 0);
}

static void accesses(void)
{
	char *memory = new_pages(PAGES);
	uint32_t one, two;
	int access_fd;

	fresh();
	access_fd = new_access(fd, ioas, PINS);
	NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE) == 0);
	NEED(access_pages(fd, access_fd, BASE + PAGE, 2 * PAGE, NULL, WRITE, &one) == 0);
	shows(getpid(), 2, "two pages for an access");
	NEED(access_pages(fd, access_fd, BASE, LENGTH, NULL, WRITE, &two) == 0);
	shows(getpid(), PAGES, "all");
	NEED(unpin(fd, access_fd, one) == 0);
	shows(getpid(), PAGES, "once less");
	NEED(unpin(fd, access_fd, two) == 0);
	shows(getpid(), 0, "none");
	NEED(close(access_fd) == 0);
	gone();
	NEED(munmap(memory, LENGTH) == 0);
}

static void refused(void)
{
	char *memory = new_pages(PAGES);

	fresh();
	new_mock(fd, ioas);
	NEED(map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE) == 0);
	CHECK_ERR(EFAULT, map_at(fd, ioas, (uintptr_t)memory, LENGTH + PAGE, BASE + MIB), "too far");
	shows(getpid(), 1, "nothing was changed");
	limit_to(PAGES);
	CHECK_ERR(ENOMEM, map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE + MIB), "too much");
	shows(getpid(), 1, "nor by the limit");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, LENGTH - PAGE, BASE + MIB), "just enough");
	shows(getpid(), PAGES, "all that is allowed");
	CHECK_EQ(limit(), PAGES, "the limit is what it was");
	gone();
	shows(getpid(), 0, "closed");
	NEED(munmap(memory, LENGTH) == 0);
}

/* Each pays for what it mapped, whoever has it pinned. */
static void processes(void)
{
	char *memory = new_pages(PAGES);
	struct mock mock;
	int go[2], ready[2], file;
	pid_t pid;
	char byte;

	fresh();
	file = memfd_create("file", MFD_CLOEXEC);
	NEED(file >= 0 && ftruncate(file, LENGTH) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, BASE) == 0);
	NEED(pipe(go) == 0 && pipe(ready) == 0);
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		NEED(map_at(fd, ioas, (uintptr_t)memory, 3 * PAGE, BASE + MIB) == 0);
		NEED(write(ready[1], "r", 1) == 1 && read(go[0], &byte, 1) == 1);
		NEED(unmap_all(fd, ioas) == 5 * PAGE);
		NEED(write(ready[1], "r", 1) == 1 && read(go[0], &byte, 1) == 1);
		CHECK_OK(change_process(fd), "the child takes it over");
		shows(getpid(), PAGES, "which pays");
		shows(getppid(), 0, "and the parent does not");
		NEED(write(ready[1], "r", 1) == 1 && read(go[0], &byte, 1) == 1);
		_exit(0);
	}
	NEED(read(ready[0], &byte, 1) == 1);
	shows(pid, 0, "a child maps");
	mock = new_mock(fd, ioas);
	shows(pid, 3, "the parent has it pinned");
	shows(getpid(), 2, "and its own");
	NEED(write(go[1], "g", 1) == 1 && read(ready[0], &byte, 1) == 1);
	shows(pid, 0, "the child unmaps all");
	shows(getpid(), 0, "the parent's as well");
	NEED(map_file_at(fd, ioas, file, 0, LENGTH, BASE) == 0);
	shows(getpid(), PAGES, "a file");
	NEED(write(go[1], "g", 1) == 1);
	NEED(read(ready[0], &byte, 1) == 1);
	CHECK_OK(change_process(fd), "the parent takes it back");
	shows(getpid(), PAGES, "and pays");
	shows(pid, 0, "and the child does not");
	NEED(write(go[1], "g", 1) == 1);
	CHECK_EQ(end_of(pid), 0, "the child ended well");
	NEED(destroy(fd, mock.stdev) == 0);
	shows(getpid(), 0, "nothing is pinned");
	gone();
	NEED(close(file) == 0 && munmap(memory, LENGTH) == 0);
	close_pipes(go, ready);
}

static void *maps_and_unmaps(void *arg)
{
	uint64_t iova = BASE + (uintptr_t)arg * MIB;
	char *memory = new_pages(PAGES);
	int i;

	for (i = 0; i < 50; i++) {
		NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, iova) == 0);
		NEED(unmap_at(fd, ioas, iova, LENGTH) == 0);
	}
	NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, iova) == 0);
	return NULL;
}

static void threads(void)
{
	enum { THREADS = 4 };
	pthread_t thread[THREADS];
	uintptr_t i;

	fresh();
	new_mock(fd, ioas);
	limit_to(64);
	for (i = 0; i < THREADS; i++)
		NEED(pthread_create(&thread[i], NULL, maps_and_unmaps, (void *)i) == 0);
	for (i = 0; i < THREADS; i++)
		NEED(pthread_join(thread[i], NULL) == 0);
	shows(getpid(), THREADS * PAGES, "four threads");
	NEED(unmap_all(fd, ioas) == THREADS * LENGTH);
	shows(getpid(), 0, "all unmapped");
	gone();
}

/* A device goes on with the pages of a process that has given them up, and gives them back. */
static void given_up(enum end end)
{
	char *memory = new_pages(PAGES), got[LENGTH];
	int access_fd, ready[2], go[2];
	char byte;
	pid_t pid;

	fresh();
	access_fd = new_access(fd, ioas, 0);
	new_mock(fd, ioas);
	NEED(pipe(ready) == 0 && pipe(go) == 0);
	fflush(stdout);
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		fill(memory, LENGTH, 1);
		NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE) == 0);
		give_up(end, memory, LENGTH, ready[1], go[0]);
	}
	NEED(read(ready[0], &byte, 1) == 1);
	if (end == EXITS)
		NEED(end_of(pid) == 0);
	memset(got, 0, LENGTH);
	CHECK_OK(access_rw(fd, access_fd, BASE, LENGTH, got, SLOW), "%s: read", ends[end]);
	CHECK_EQ(differing(got, LENGTH, 1), 0, "what was there");
	fill(got, LENGTH, 3);
	CHECK_OK(access_rw(fd, access_fd, BASE, LENGTH, got, SLOW | WRITE), "write");
	CHECK_OK(access_rw(fd, access_fd, BASE + 7, LENGTH - 9, got, SLOW), "read a part");
	memset(got, 0, LENGTH);
	CHECK_OK(access_rw(fd, access_fd, BASE, LENGTH, got, SLOW), "and all again");
	CHECK_EQ(differing(got, LENGTH, 3), 0, "what was written");
	if (end == UNMAPS || end == MAPS_OTHER)
		shows(pid, PAGES, "pinned as before");
	if (end == EXECUTES)
		shows(pid, 0, "another program has nothing pinned");
	NEED(unmap_at(fd, ioas, BASE, LENGTH) == 0);
	if (end != EXITS) {
		shows(pid, 0, "not pinned any more");
		NEED(write(go[1], "g", 1) == 1);
		CHECK_EQ(end_of(pid), 0, "its own memory was left alone");
	}
	NEED(close(access_fd) == 0);
	gone();
	NEED(munmap(memory, LENGTH) == 0);
	close_pipes(go, ready);
}

/* A process that waits for something else, while another changes what it pays for. */
static void waits(enum call call)
{
	char *memory = new_pages(PAGES);
	int ready[2], go[2], i;
	char byte;
	pid_t pid;

	fresh();
	new_mock(fd, ioas);
	NEED(pipe(ready) == 0 && pipe(go) == 0);
	fflush(stdout);
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		struct traces before = traces_of_us();
		bool well;

		for (i = 0; i < MAPS; i++)
			NEED(map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE + i * MIB) == 0);
		NEED(write(ready[1], "r", 1) == 1);
		well = wait_in(call, go[0]);
		NEED(write(ready[1], "r", 1) == 1);
		NEED(read(go[0], &byte, 1) == 1);
		_exit(!well + 2 * !same_traces(before, traces_of_us()));
	}
	NEED(read(ready[0], &byte, 1) == 1);
	shows(pid, MAPS, calls[call]);
	for (i = 1; i <= MAPS; i++) {
		until_it_waits(pid, call);
		NEED(unmap_at(fd, ioas, BASE + (MAPS - i) * MIB, PAGE) == 0);
		shows(pid, MAPS - i, "unmapped by another");
	}
	wake(pid, call, go[1]);
	NEED(read(ready[0], &byte, 1) == 1);
	NEED(write(go[1], "g", 1) == 1);
	CHECK_EQ(end_of(pid), 0, "%s: it noticed nothing", calls[call]);
	gone();
	NEED(munmap(memory, LENGTH) == 0);
	close_pipes(go, ready);
}

int main(int argc, char **argv)
{
	enum end end;
	enum call call;

	if (argc > 3 && !strcmp(argv[1], "--executed"))
		return executed(atoi(argv[2]), atoi(argv[3]));
	checks_begin();
	mm_mode = argc > 1 && !strcmp(argv[1], "--mm");
	limit_to(64);
	if (!mm_mode) {
		files();
		tables(); /* with CAP_IPC_LOCK, if there is any */
	}
	if (have_capability(CAP_IPC_LOCK))
		drop_capability(CAP_IPC_LOCK);
	tables();
	files();
	accesses();
	refused();
	limit_to(64);
	processes();
	threads();
	for (end = UNMAPS; end < ENDS; end++)
		given_up(end);
	for (call = NANOSLEEP; call < CALLS; call++)
		waits(call);
	return checks_end();
}
