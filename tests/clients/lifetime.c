// SPDX-License-Identifier: MIT
/*
 * What belongs to the open file: all descriptors of it share it, whichever process or thread they
 * are in, and it goes with the last of them. It does not belong to the process that made it.
 */
#include "client.h"

#include <pthread.h>

static char *program;

static void descriptors(void)
{
	int fd = open_iommu(), copy = dup(fd), again, fds[100];
	uint32_t ioas, id;
	char path[64];
	unsigned int i, wrong = 0;

	CHECK_OK(ioas_alloc(fd, &ioas), "allocate");
	CHECK_OK(map_at(copy, ioas, PAGE, PAGE, PAGE), "use it through dup()");
	CHECK_OK(close(fd), "close the first descriptor");
	CHECK_OK(unmap_at(copy, ioas, PAGE, PAGE), "the second has it still");
	snprintf(path, sizeof(path), "/proc/self/fd/%d", copy);
	again = open(path, O_RDWR);
	CHECK_TRUE(again >= 0, "open it again through /proc");
	CHECK_ERR(ENOENT, destroy(again, ioas), "that is another open file");
	CHECK_OK(ioas_alloc(again, &id), "with IDs of its own");
	CHECK_EQ(id, 1, "from 1");
	CHECK_OK(close(again), "close it");
	CHECK_OK(close(copy), "close the second descriptor");
	CHECK_ERR(EBADF, destroy(copy, ioas), "no descriptor is left");
	fd = open_iommu();
	CHECK_ERR(ENOENT, destroy(fd, ioas), "a new open file is empty");
	CHECK_EQ(new_ioas(fd), 1, "and counts from 1");
	CHECK_OK(close(fd), "close");

	for (i = 0; i < ARRAY_LEN(fds); i++) {
		fds[i] = open_iommu();
		wrong += ioas_alloc(fds[i], &id) != 0 || id != 1;
		wrong += map_at(fds[i], 1, PAGE, PAGE * (i + 1), 0) != 0;
	}
	for (i = 0; i < ARRAY_LEN(fds); i++) {
		wrong += unmap_all(fds[i], 1) != PAGE * (i + 1);
		wrong += close(fds[i]) != 0;
	}
	CHECK_EQ(wrong, 0, "a hundred open files at once, each its own");
}

static void forked(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), id;

	IN_CHILD({
		CHECK_OK(ioas_alloc(fd, &id), "allocate in the child");
		CHECK_EQ(id, 2, "the next ID");
		CHECK_OK(map_at(fd, ioas, (uintptr_t)new_pages(1), PAGE, PAGE), "map its memory");
		CHECK_OK(map_at(fd, id, PAGE, PAGE, PAGE), "in its own IOAS too");
		CHECK_OK(close(fd), "close in the child");
	});
	CHECK_EQ(new_ioas(fd), 3, "the parent sees the child's ID taken");
	CHECK_OK(copy_at(fd, 2, MIB, ioas, PAGE, PAGE), "and copies what the dead child mapped");
	CHECK_EQ(unmap_all(fd, 2), 2 * PAGE, "and unmaps it");
	CHECK_OK(unmap_at(fd, ioas, PAGE, PAGE), "all of it");
	IN_CHILD({
		CHECK_OK(destroy(fd, ioas), "a second child destroys the parent's IOAS");
		IN_CHILD(CHECK_OK(destroy(fd, 2), "its child destroys another"));
	});
	CHECK_ERR(ENOENT, destroy(fd, ioas), "it is gone for the parent");
	CHECK_ERR(ENOENT, destroy(fd, 2), "the other too");
	CHECK_OK(destroy(fd, 3), "the last is there");
	CHECK_OK(close(fd), "close");
}

/* What processes mapped that are gone: more of them than a process may have files open. */
static void many_processes(void)
{
	int fd = open_iommu(), status;
	uint32_t ioas = new_ioas(fd);
	unsigned int i, wrong = 0, children = often(1200);
	pid_t pid;

	for (i = 0; i < children; i++) {
		pid = fork();
		NEED(pid >= 0);
		if (pid == 0)
			_exit(map_at(fd, ioas, (uintptr_t)&pid, PAGE, i * PAGE) != 0);
		NEED(waitpid(pid, &status, 0) == pid);
		wrong += status != 0;
	}
	CHECK_EQ(wrong, 0, "%u children map a page each and end", children);
	CHECK_EQ(unmap_all(fd, ioas), children * PAGE, "bytes mapped");
	CHECK_OK(close(fd), "close");
}

static void executed(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd);
	char number[16];

	NEED(fcntl(fd, F_SETFD, 0) == 0);
	NEED(map_at(fd, ioas, (uintptr_t)new_pages(1), PAGE, PAGE) == 0);
	snprintf(number, sizeof(number), "%d", fd);
	IN_CHILD({
		execl("/proc/self/exe", program, number, NULL);
		_exit(3);
	});
	CHECK_OK(unmap_at(fd, ioas, 2 * PAGE, PAGE), "what the program mapped is there");
	CHECK_EQ(unmap_all(fd, ioas), 2 * PAGE, "its copy of the area, and the area");
	CHECK_OK(destroy(fd, 2), "and the IOAS it made");
	CHECK_OK(close(fd), "close");
}

/* The program executed() starts, with the descriptor as its argument. */
static int in_program(int fd)
{
	uint32_t id;

	if (map_at(fd, 1, (uintptr_t)new_pages(1), PAGE, 2 * PAGE) != 0)
		return 4;
	if (copy_at(fd, 1, 3 * PAGE, 1, PAGE, PAGE) != 0)
		return 5;
	return ioas_alloc(fd, &id) != 0 || id != 2;
}

static void passed(void)
{
	int sockets[2], fd;

	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	IN_CHILD({
		fd = open_iommu();
		CHECK_EQ(new_ioas(fd), 1, "the child's IOAS");
		CHECK_OK(map_at(fd, 1, (uintptr_t)new_pages(2), 2 * PAGE, PAGE), "its memory");
		pass(sockets[0], &fd, true);
	});
	/* The child is gone; what it opened is on its way in the socket. */
	pass(sockets[1], &fd, false);
	CHECK_OK(copy_at(fd, 1, MIB, 1, PAGE, PAGE), "copy the dead child's area");
	CHECK_OK(map_at(fd, 1, PAGE, PAGE, 0), "map one's own");
	CHECK_EQ(unmap_all(fd, 1), 4 * PAGE, "unmap all");
	CHECK_EQ(new_ioas(fd), 2, "allocate another");
	CHECK_OK(close(fd), "close");
	NEED(close(sockets[0]) == 0 && close(sockets[1]) == 0);
}

#define THREADS 4
#define ROUNDS often(100)

static int shared_fd;
static uint32_t shared_ioas;

/* In its own corner of the shared IOAS each thread is alone; returns what went wrong. */
static void *corner(void *arg)
{
	uintptr_t wrong = 0, n = (uintptr_t)arg;
	uint64_t base = (uint64_t)(n + 1) << 32, iova, length;
	uint32_t own;
	unsigned int i;

	for (i = 0; i < ROUNDS; i++) {
		wrong += ioas_alloc(shared_fd, &own) != 0;
		wrong += map_at(shared_fd, shared_ioas, PAGE, PAGE, base + i * PAGE) != 0;
		wrong += map_any(shared_fd, own, PAGE, PAGE, &iova) != 0 || iova != PAGE;
		wrong += copy_at(shared_fd, own, MIB, shared_ioas, base, (i + 1) * PAGE) != 0;
		length = U64_MAX;
		wrong += unmap(shared_fd, own, 0, &length) != 0 || length != (i + 2) * PAGE;
		wrong += destroy(shared_fd, own) != 0;
	}
	length = ROUNDS * PAGE;
	wrong += unmap(shared_fd, shared_ioas, base, &length) != 0 || length != ROUNDS * PAGE;
	return (void *)wrong;
}

/* All threads want the same place and the same ID; returns the answers that cannot be. */
static void *fight(void *arg)
{
	uintptr_t wrong = 0;
	unsigned int i;
	long rc;

	(void)arg;
	for (i = 0; i < ROUNDS; i++) {
		rc = map_at(shared_fd, shared_ioas, PAGE, PAGE, PAGE);
		wrong += rc != 0 && rc != -EEXIST;
		rc = copy_at(shared_fd, shared_ioas, MIB, shared_ioas, PAGE, PAGE);
		wrong += rc != 0 && rc != -EEXIST && rc != -ENOENT;
		rc = unmap_at(shared_fd, shared_ioas, PAGE, MIB);
		wrong += rc != 0 && rc != -ENOENT && rc != -EBUSY;
		rc = destroy(shared_fd, shared_ioas + 1);
		wrong += rc != 0 && rc != -ENOENT && rc != -EBUSY;
		rc = map_at(shared_fd, shared_ioas + 1, PAGE, PAGE, PAGE);
		wrong += rc != 0 && rc != -ENOENT && rc != -EEXIST;
		wrong += i % 8 == 0 && call(shared_fd, IOMMU_IOAS_ALLOC,
					    &(struct iommu_ioas_alloc){ .size = 12 }) != 0;
	}
	return (void *)wrong;
}

static void threads(void *(*body)(void *), const char *text)
{
	pthread_t ids[THREADS];
	uintptr_t wrong = 0;
	void *result;
	uintptr_t i;

	for (i = 0; i < THREADS; i++)
		NEED(pthread_create(&ids[i], NULL, body, (void *)i) == 0);
	for (i = 0; i < THREADS; i++) {
		NEED(pthread_join(ids[i], &result) == 0);
		wrong += (uintptr_t)result;
	}
	CHECK_EQ(wrong, 0, "%s", text);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		return in_program(atoi(argv[1]));
	program = argv[0];
	checks_begin();
	descriptors();
	forked();
	many_processes();
	executed();
	passed();
	shared_fd = open_iommu();
	shared_ioas = new_ioas(shared_fd);
	threads(corner, "threads each in their corner");
	CHECK_EQ(unmap_all(shared_fd, shared_ioas), 0, "nothing is left");
	threads(fight, "threads in each other's way");
	CHECK_OK(close(shared_fd), "close");
	return checks_end();
}
