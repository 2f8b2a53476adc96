// SPDX-License-Identifier: MIT
/*
 * Whose memory it is: the address space's that it was mapped from, whichever thread or process
 * asks. Threads share it, and so does a vfork()ed child; a forked one has its own.
 *
 * What the kernel holds although its process unmapped it, iommud cannot hold if it is private: with
 * --iommud its answers are expected there.
 */
#include "mock.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

static int fd, access_fd;
static uint32_t ioas;
static bool iommud;

#define PAGES 4UL
#define LENGTH (PAGES * PAGE)

static char *filled(unsigned int round)
{
	char *p = new_pages(PAGES);

	fill(p, LENGTH, round);
	return p;
}

static bool shows_by(uint32_t flags, unsigned int round)
{
	char got[LENGTH];

	return access_rw(fd, access_fd, BASE, LENGTH, got, flags) == 0 &&
	       !differing(got, LENGTH, round);
}

/* The whole as its process sees it, as a device does, and in small pieces. */
static bool shows(unsigned int round)
{
	char got[64];

	return shows_by(0, round) && shows_by(SLOW, round) &&
	       access_rw(fd, access_fd, BASE, 64, got, SLOW) == 0 && !differing(got, 64, round);
}

static long writes(unsigned int round)
{
	char bytes[LENGTH];

	fill(bytes, LENGTH, round);
	return access_rw(fd, access_fd, BASE, LENGTH, bytes, SLOW | WRITE);
}

static void start(pthread_t *thread, void *(*body)(void *), void *arg)
{
	NEED(pthread_create(thread, NULL, body, arg) == 0);
}

static void *maps(void *memory)
{
	return (void *)(uintptr_t)map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE);
}

static void *copies_it(void *arg)
{
	return (void *)(uintptr_t)!(shows(*(int *)arg) && writes(*(int *)arg + 1) == 0);
}

/* A thread maps and ends; others, begun before and after, copy. */
static void threads(bool held)
{
	char *memory = filled(1);
	struct mock mock;
	pthread_t thread;
	void *result;
	int round = 1;

	start(&thread, maps, memory);
	NEED(pthread_join(thread, &result) == 0);
	CHECK_EQ((uintptr_t)result, 0, "a thread maps, and ends");
	if (held)
		mock = new_mock(fd, ioas);
	CHECK_TRUE(shows(1), "the main thread copies");
	start(&thread, copies_it, &round);
	NEED(pthread_join(thread, &result) == 0);
	CHECK_EQ((uintptr_t)result, 0, "and another");
	CHECK_EQ(differing(memory, LENGTH, 2), 0, "which wrote");
	if (held)
		NEED(destroy(fd, mock.stdev) == 0);
	NEED(unmap_at(fd, ioas, BASE, LENGTH) == 0 && munmap(memory, LENGTH) == 0);
}

static pthread_t main_thread;
static char *mains_memory;

/* The main thread is a zombie now; the process lives. */
static void *goes_on(void *arg)
{
	char *other = filled(5);

	(void)arg;
	NEED(pthread_join(main_thread, NULL) == 0);
	CHECK_TRUE(shows(3), "the main thread mapped, and ended");
	CHECK_OK(writes(4), "write");
	CHECK_EQ(differing(mains_memory, LENGTH, 4), 0, "it is there");
	CHECK_OK(unmap_at(fd, ioas, BASE, LENGTH), "unmap");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)other, LENGTH, BASE), "map without a main thread");
	CHECK_TRUE(shows(5), "read");
	CHECK_OK(try_mock(fd, ioas), "with a device");
	CHECK_TRUE(shows(5), "read");
	CHECK_OK(writes(6), "write");
	CHECK_EQ(differing(other, LENGTH, 6), 0, "it is there");
	CHECK_OK(check_refs(fd, other, LENGTH, 1), "it is held");
	fflush(stdout);
	_exit(0);
}

static void without_main_thread(void)
{
	int status;
	pid_t pid;

	fflush(stdout);
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		pthread_t thread;

		fd = open_iommu();
		ioas = new_ioas(fd);
		access_fd = new_access(fd, ioas, 0);
		mains_memory = filled(3);
		NEED(map_at(fd, ioas, (uintptr_t)mains_memory, LENGTH, BASE) == 0);
		main_thread = pthread_self();
		start(&thread, goes_on, NULL);
		pthread_exit(NULL);
	}
	NEED(waitpid(pid, &status, 0) == pid);
	CHECK_EQ((unsigned int)status, 0, "the process ended well");
}

static char *vforks_memory;

static int maps_and_ends(void *arg)
{
	(void)arg;
	return map_at(fd, ioas, (uintptr_t)vforks_memory, LENGTH, BASE) != 0;
}

/* A child that shares the memory maps it; it is the parent's too, and stays when the child ends. */
static void vforked(bool shared)
{
	char *stack = new_pages(64);
	int status, file = -1;
	struct mock mock;
	pid_t pid;

	vforks_memory = shared ? shared_pages(PAGES, &file) : new_pages(PAGES);
	fill(vforks_memory, LENGTH, 1);
	pid = clone(maps_and_ends, stack + 64 * PAGE, CLONE_VM | CLONE_VFORK | SIGCHLD, NULL);
	NEED(pid > 0 && waitpid(pid, &status, 0) == pid);
	CHECK_EQ((unsigned int)status, 0, "a vfork()ed child maps %s memory",
		 shared ? "shared" : "private");
	CHECK_TRUE(shows(1), "the parent reads it");
	CHECK_OK(writes(2), "and writes");
	CHECK_EQ(differing(vforks_memory, LENGTH, 2), 0, "to its own memory");
	CHECK_OK(mock_domain(fd, ioas, &mock), "a device comes");
	CHECK_OK(check_map(fd, mock.hwpt, BASE, LENGTH, vforks_memory), "it shows that");
	CHECK_OK(check_refs(fd, vforks_memory, LENGTH, 1), "it is held");
	CHECK_TRUE(shows(2), "read");
	CHECK_OK(writes(3), "write");
	CHECK_EQ(differing(vforks_memory, LENGTH, 3), 0, "it is there");
	NEED(destroy(fd, mock.stdev) == 0 && unmap_at(fd, ioas, BASE, LENGTH) == 0);
	NEED(munmap(vforks_memory, LENGTH) == 0 && munmap(stack, 64 * PAGE) == 0);
	if (file >= 0)
		NEED(close(file) == 0);
}

/* Several processes map into one IOAS, each its own memory at the same address. */
static void together(bool held)
{
	enum { PROCESSES = 4 };
	char *memory = filled(0), got[LENGTH], byte;
	int ready[2], go[2], i, wrong = 0, status;
	pid_t pids[PROCESSES];
	struct mock mock;

	NEED(pipe(ready) == 0 && pipe(go) == 0);
	fflush(stdout);
	for (i = 0; i < PROCESSES; i++) {
		pids[i] = fork();
		NEED(pids[i] >= 0);
		if (pids[i] == 0) {
			fill(memory, LENGTH, 10 + i);
			NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE + i * LENGTH) == 0);
			NEED(write(ready[1], "r", 1) == 1 && read(go[0], &byte, 1) == 1);
			_exit(differing(memory, LENGTH, 20 + i) != 0);
		}
	}
	for (i = 0; i < PROCESSES; i++)
		NEED(read(ready[0], &byte, 1) == 1);
	if (held)
		mock = new_mock(fd, ioas);
	for (i = 0; i < PROCESSES; i++) {
		wrong += access_rw(fd, access_fd, BASE + i * LENGTH, LENGTH, got, 0) != 0;
		wrong += differing(got, LENGTH, 10 + i) != 0;
		fill(got, LENGTH, 20 + i);
		wrong += access_rw(fd, access_fd, BASE + i * LENGTH, LENGTH, got, WRITE) != 0;
	}
	CHECK_EQ(wrong, 0, "four processes' memory, each at the same address");
	CHECK_EQ(differing(memory, LENGTH, 0), 0, "not this process's");
	NEED(write(go[1], "go!!", PROCESSES) == PROCESSES);
	for (i = 0; i < PROCESSES; i++)
		NEED(waitpid(pids[i], &status, 0) == pids[i] && (wrong += status != 0, true));
	CHECK_EQ(wrong, 0, "each saw what was written to it, and no other");
	if (held)
		NEED(destroy(fd, mock.stdev) == 0);
	CHECK_EQ(unmap_all(fd, ioas), PROCESSES * LENGTH, "unmap");
	CHECK_ERR(ENOENT, access_rw(fd, access_fd, BASE, 1, got, 0), "nothing is mapped");
	NEED(close(ready[0]) == 0 && close(ready[1]) == 0);
	NEED(close(go[0]) == 0 && close(go[1]) == 0);
	NEED(munmap(memory, LENGTH) == 0);
}

/* The process itself sees its mappings of now; a device what was there when it was mapped. */
static void itself(bool shared)
{
	int file = -1;
	char *memory = shared ? shared_pages(PAGES, &file) : new_pages(PAGES), got[LENGTH];
	struct mock mock = new_mock(fd, ioas);
	long lost = iommud && !shared ? -EFAULT : 0;

	fill(memory, LENGTH, 1);
	NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE) == 0);
	CHECK_TRUE(shows(1), "held by a device");
	NEED(munmap(memory, LENGTH) == 0);
	CHECK_ERR(EFAULT, access_rw(fd, access_fd, BASE, LENGTH, got, 0), "unmapped: as itself");
	CHECK_ERR(EFAULT, access_rw(fd, access_fd, BASE, 64, got, 0), "a few bytes");
	CHECK_ERR(EFAULT, access_rw(fd, access_fd, BASE, 64, got, SLOW), "as anybody");
	CHECK_ERR(-lost, access_rw(fd, access_fd, BASE, LENGTH, got, SLOW), "as a device");
	CHECK_ERR(-lost, lost ? lost : differing(got, LENGTH, 1) != 0, "what was there");
	NEED(mmap(memory, LENGTH, PROT_READ | PROT_WRITE,
		  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory);
	CHECK_ERR(-lost, access_rw(fd, access_fd, BASE, LENGTH, got, SLOW), "others: a device");
	fill(memory, LENGTH, 2);
	CHECK_TRUE(shows_by(0, 2), "as itself, what is there now");
	/* Which the device of iommud sees too, if it was private. */
	CHECK_TRUE(shows_by(SLOW, lost ? 2 : 1), "as a device");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	CHECK_TRUE(shows(2), "nobody holds anything: what is there now");
	NEED(unmap_at(fd, ioas, BASE, LENGTH) == 0 && munmap(memory, LENGTH) == 0);
	if (file >= 0)
		NEED(close(file) == 0);
}

/* Memory that a device can have in no way. */
static void unfit(void)
{
	struct mock mock = new_mock(fd, ioas);
	int secret = (int)syscall(SYS_memfd_secret, 0), null = open("/dev/zero", O_RDWR);
	uint64_t iova = BASE;
	char *p;

	if (secret >= 0) {
		NEED(ftruncate(secret, LENGTH) == 0);
		p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, secret, 0);
		NEED(p != MAP_FAILED);
		p[0] = 1;
		CHECK_ERR(EFAULT, map_at(fd, ioas, (uintptr_t)p, PAGE, BASE), "secret memory");
		NEED(munmap(p, LENGTH) == 0 && close(secret) == 0);
	} else {
		printf("# no secret memory here\n");
	}
	p = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE, null, 0);
	NEED(p != MAP_FAILED);
	fill(p, LENGTH, 1);
	CHECK_OK(map_at(fd, ioas, (uintptr_t)p, LENGTH, BASE), "/dev/zero, which is plain memory");
	CHECK_TRUE(shows(1), "it shows");
	CHECK_OK(unmap_at(fd, ioas, BASE, LENGTH), "unmap");
	NEED(munmap(p, LENGTH) == 0 && close(null) == 0);
	/* The program itself: a file, mapped privately and read-only. */
	p = (char *)((uintptr_t)unfit & ~(PAGE - 1));
	CHECK_ERR(EFAULT, map_at(fd, ioas, (uintptr_t)p, PAGE, BASE), "the program, to write");
	CHECK_OK(map_flags(fd, ioas, FIXED | R, (uintptr_t)p, PAGE, &iova), "to read");
	CHECK_OK(check_map(fd, mock.hwpt, BASE, PAGE, p), "it shows");
	CHECK_OK(unmap_at(fd, ioas, BASE, PAGE), "unmap");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
}

int main(int argc, char **argv)
{
	checks_begin();
	iommud = argc > 1 && !strcmp(argv[1], "--iommud");
	fd = open_iommu();
	ioas = new_ioas(fd);
	access_fd = new_access(fd, ioas, 0);
	threads(false);
	threads(true);
	without_main_thread();
	vforked(false);
	vforked(true);
	together(false);
	together(true);
	itself(false);
	itself(true);
	unfit();
	CHECK_OK(close(access_fd), "close the access");
	CHECK_OK(close(fd), "close");
	return checks_end();
}
