// SPDX-License-Identifier: MIT
/*
 * CREATE_ACCESS answers with a descriptor. It is one like any other: it can be duplicated,
 * inherited and sent, and what stands behind it goes with the last of them, which may be long
 * after the device's own descriptor was closed.
 */
#include "mock.h"

#include <pthread.h>
#include <sys/resource.h>

static int fd;
static uint32_t ioas;
static char *memory;

static void creation(void)
{
	struct iommu_test_cmd cmd = { .size = sizeof(cmd), .op = IOMMU_TEST_OP_CREATE_ACCESS };
	int a, b, hole = dup(fd);
	unsigned int bit;

	for (bit = 1; bit < 32; bit++)
		CHECK_ERR(EOPNOTSUPP, create_access(fd, NO_ID, 1U << bit, &a),
			  "1. flag bit %u", bit);
	CHECK_ERR(ENOENT, create_access(fd, NO_ID, 0, &a), "2. no such IOAS");
	CHECK_TRUE(a == -1, "its descriptor is not written");
	CHECK_EQ(new_ioas(fd), 2, "it took no ID");
	cmd.id = ioas;
	CHECK_ERR(EFAULT, call(fd, IOMMU_TEST_CMD, read_only(&cmd, sizeof(cmd))),
		  "3. a struct that cannot be written");
	CHECK_EQ(new_ioas(fd), 3, "it took no ID");
	NEED(close(hole) == 0);
	CHECK_OK(create_access(fd, ioas, 0, &a), "create");
	CHECK_EQ(a, hole, "the lowest free descriptor");
	CHECK_EQ(fcntl(a, F_GETFD), FD_CLOEXEC, "closed on exec");
	CHECK_OK(create_access(fd, ioas, PINS, &b), "create one that pins");
	CHECK_TRUE(b > a, "another descriptor");
	CHECK_EQ(new_ioas(fd), 6, "each has an ID");
	CHECK_ERR(EBUSY, destroy(fd, 4), "that cannot be destroyed");
	CHECK_ERR(EBUSY, destroy(fd, 5), "the other neither");
	CHECK_ERR(EBUSY, destroy(fd, ioas), "nor the IOAS");
	CHECK_ERR(EINVAL, try_mock(fd, 4), "a device cannot be attached to one");
	CHECK_ERR(ENOENT, create_access(fd, 4, 0, &hole), "nor an access created on one");
	CHECK_ERR(ENOENT, map_at(fd, 4, PAGE, PAGE, PAGE), "nor can it be mapped into");
	CHECK_OK(close(a), "close");
	CHECK_OK(close(b), "close");
	b = open_iommu(); /* What was closed is gone before this one is open. */
	CHECK_EQ(new_ioas(fd), 4, "the ID is free");
	CHECK_EQ(new_ioas(fd), 5, "the other too");
	CHECK_OK(destroy(fd, ioas), "the IOAS can go");
	NEED(close(b) == 0);
}

static void no_room(void)
{
	struct rlimit limit, none;
	int a, last = dup(fd);

	NEED(close(last) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
	none = limit;
	none.rlim_cur = (rlim_t)last;
	NEED(setrlimit(RLIMIT_NOFILE, &none) == 0);
	CHECK_ERR(ENOMEM, create_access(fd, ioas, 0, &a), "no descriptor is free");
	CHECK_ERR(EOPNOTSUPP, create_access(fd, ioas, 2, &a), "the flags are looked at first");
	NEED(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	CHECK_EQ(new_ioas(fd), 2, "no ID was taken");
	CHECK_OK(destroy(fd, 2), "destroy it");
	CHECK_OK(create_access(fd, ioas, 0, &a), "with room again");
	CHECK_EQ(a, last, "the lowest free descriptor");
	CHECK_OK(close(a), "close");
}

/* By itself it does nothing. */
static void file_operations(void)
{
	static const int empty[] = { EINVAL, EINVAL, ESPIPE, ESPIPE, EINVAL, EINVAL };
	int a = new_access(fd, ioas, 0);
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };
	char byte = 0;

	check_empty(a, empty, "an access");
	CHECK_ERR(ENODEV, try_mmap(a, PAGE, PROT_READ, MAP_SHARED, 0), "mmap");
	CHECK_ERR(ENODEV, try_mmap(a, PAGE, PROT_WRITE, MAP_PRIVATE, 0), "a copy");
	CHECK_ERR(EPERM, try_mmap(a, PAGE, PROT_EXEC, MAP_SHARED, 0), "to run");
	CHECK_ERR(ENODEV, try_mmap(a, PAGE, PROT_READ, MAP_SHARED | MAP_GROWSDOWN, 0), "to grow");

	CHECK_ERR(EINVAL, read(a, &byte, 1) < 0 ? -errno : 0, "read");
	CHECK_ERR(EINVAL, write(a, &byte, 1) < 0 ? -errno : 0, "write");
	CHECK_ERR(ENOTTY, call(a, IOMMU_IOAS_ALLOC, &cmd), "an ioctl of the device");
	CHECK_ERR(ENOTTY, access_rw(a, a, BASE, 1, &byte, 0), "a test command");
	CHECK_EQ(fcntl(a, F_GETFL) & O_ACCMODE, O_RDWR, "its mode");
	CHECK_OK(access_rw(fd, a, BASE, 1, &byte, 0), "it works all the same");
	CHECK_OK(close(a), "close");
}

/* Every operation wants a descriptor of the right kind, and says so the same way. */
static void other_descriptors(void)
{
	int pipes[2], other = open_iommu(), a = new_access(fd, ioas, PINS), path, numbers[9];
	char name[32], byte = 0;
	unsigned int i;

	NEED(pipe(pipes) == 0);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", a);
	path = open(name, O_PATH);
	NEED(path >= 0);
	memcpy(numbers, (int[]){ -1, INT_MIN, INT_MAX, 1000, fd, other, pipes[0], 0, path },
	       sizeof(numbers));
	for (i = 0; i < ARRAY_LEN(numbers); i++) {
		int n = numbers[i];

		CHECK_ERR(EBADFD, pin(fd, n, BASE, PAGE), "ACCESS_PAGES of descriptor %d", n);
		CHECK_ERR(EBADFD, unpin(fd, n, 0), "DESTROY_ACCESS_PAGES");
		CHECK_ERR(EBADFD, access_rw(fd, n, BASE, 1, &byte, 0), "ACCESS_RW");
		CHECK_ERR(EBADFD, access_replace(fd, n, ioas), "ACCESS_REPLACE_IOAS");
	}
	CHECK_OK(access_rw(fd, a, BASE, 1, &byte, 0), "the right one");
	NEED(close(pipes[0]) == 0 && close(pipes[1]) == 0 && close(other) == 0 && close(path) == 0);
	CHECK_OK(close(a), "close");
	CHECK_ERR(EBADFD, access_rw(fd, a, BASE, 1, &byte, 0), "it is closed");
}

static bool reads(int device, int access)
{
	char got[64];

	return access_rw(device, access, BASE, sizeof(got), got, 0) == 0 &&
	       !memcmp(got, memory, sizeof(got));
}

static void copies(void)
{
	int a = new_access(fd, ioas, PINS), b = dup(a), sockets[2], inherited, status;
	uint32_t item;
	pid_t pid;

	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	CHECK_OK(access_pages(fd, a, BASE, PAGE, memory, 0, &item), "pin a page");
	CHECK_TRUE(reads(fd, b), "a duplicate is the same access");
	CHECK_OK(close(a), "close the first");
	CHECK_ERR(EBADFD, unpin(fd, a, item), "it is gone");
	CHECK_TRUE(reads(fd, b), "the second is there");
	CHECK_OK(check_refs(fd, memory, PAGE, 1), "the page is pinned");
	CHECK_OK(unpin(fd, b, item), "and unpinned by it");
	CHECK_OK(access_pages(fd, b, BASE, PAGE, memory, 0, &item), "pin again");
	CHECK_EQ(item, 1, "its numbers go on");

	IN_CHILD({
		CHECK_TRUE(reads(fd, b), "a child inherits it");
		CHECK_OK(unpin(fd, b, item), "and can unpin what the parent pinned");
		CHECK_OK(access_pages(fd, b, BASE, PAGE, NULL, 0, &item), "and pin");
		CHECK_EQ(item, 2, "with the next number");
		CHECK_OK(close(b), "it closes it");
		CHECK_ERR(EBADFD, unpin(fd, b, item), "gone in the child");
	});
	CHECK_OK(unpin(fd, b, 2), "the parent has it, and the child's pages");
	CHECK_OK(check_refs(fd, memory, PAGE, 0), "none is pinned");

	/* Sent away: the descriptor is in nobody's table while it is on its way. */
	CHECK_OK(access_pages(fd, b, BASE, PAGE, memory, 0, &item), "pin");
	pass(sockets[0], &b, true);
	CHECK_OK(close(b), "close what was sent");
	CHECK_OK(check_refs(fd, memory, PAGE, 1), "the page stays pinned");
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		int alone = open_iommu();

		pass(sockets[1], &a, false);
		CHECK_TRUE(reads(alone, a), "another process has it, with a device of its own");
		fflush(stdout);
		pass(sockets[1], &a, true);
		_exit(0);
	}
	NEED(waitpid(pid, &status, 0) == pid && status == 0);
	pass(sockets[0], &inherited, false);
	CHECK_TRUE(reads(fd, inherited), "it came back");
	CHECK_OK(unpin(fd, inherited, item), "with its pages");
	CHECK_OK(access_pages(fd, inherited, BASE, PAGE, memory, 0, &item), "pin, and leave it");
	CHECK_OK(close(inherited), "close the last");
	NEED(close(sockets[0]) == 0 && close(sockets[1]) == 0);
	a = open_iommu();
	CHECK_OK(check_refs(a, memory, PAGE, 0), "the last close unpins");
	CHECK_OK(close(a), "close");
}

static char *program;

/* The program that closed_on_exec() starts, with both descriptors as arguments. */
static int in_program(int device, int closed, int kept)
{
	char byte;

	if (access_rw(device, closed, BASE, 1, &byte, 0) != -EBADFD)
		return 4;
	/* The memory went with the old program; the access is there. */
	return access_rw(device, kept, BASE, 1, &byte, 0) != -EFAULT ||
	       unpin(device, kept, 0) != -ENOENT;
}

static void executed(void)
{
	char numbers[3][16];
	int a, b, child;

	IN_CHILD({
		child = open_iommu();
		ioas = new_ioas(child);
		NEED(map_at(child, ioas, (uintptr_t)new_pages(1), PAGE, BASE) == 0);
		a = new_access(child, ioas, 0);
		b = dup(new_access(child, ioas, PINS));
		NEED(b >= 0 && fcntl(child, F_SETFD, 0) == 0);
		snprintf(numbers[0], 16, "%d", child);
		snprintf(numbers[1], 16, "%d", a);
		snprintf(numbers[2], 16, "%d", b);
		execl("/proc/self/exe", program, numbers[0], numbers[1], numbers[2], NULL);
		_exit(3);
	});
}

/* The access holds what the device's descriptor held. */
static void outlives_device(void)
{
	int device = open_iommu(), other = open_iommu(), a, file;
	uint32_t own = new_ioas(device), item;
	char *shared = shared_pages(2, &file), got[64];
	struct mock mock;

	fill(shared, 2 * PAGE, 1);
	NEED(map_at(device, own, (uintptr_t)shared, 2 * PAGE, BASE) == 0);
	mock = new_mock(device, own);
	a = new_access(device, own, PINS);
	CHECK_OK(access_pages(device, a, BASE, PAGE, shared, 0, &item), "pin a page");
	CHECK_OK(close(device), "close the device");
	CHECK_OK(check_refs(other, shared, 2 * PAGE, 1), "all is held: page table and all");
	CHECK_OK(access_rw(other, a, BASE + PAGE, sizeof(got), got, 0),
		 "read through another open file");
	CHECK_TRUE(!memcmp(got, shared + PAGE, sizeof(got)), "what is mapped");
	CHECK_OK(access_pages(other, a, BASE + PAGE, PAGE, shared + PAGE, 1, &item), "pin more");
	CHECK_EQ(item, 1, "the next number");
	CHECK_OK(unpin(other, a, 0), "unpin the first");
	CHECK_ERR(ENOENT, access_replace(other, a, NO_ID), "IDs are those of the access's own");
	CHECK_OK(access_replace(other, a, own), "where its IOAS is");
	CHECK_ERR(ENOENT, check_map(other, mock.hwpt, BASE, PAGE, shared), "not of the caller's");
	CHECK_OK(close(a), "close the access: the last of all");
	device = open_iommu();
	CHECK_OK(check_refs(device, shared, 2 * PAGE, 0), "nothing is pinned");
	NEED(close(device) == 0 && close(other) == 0 && close(file) == 0);
}

/* The device goes with a process, the access stays with another. */
static void outlives_process(void)
{
	int sockets[2], a;
	char *own, got[16];

	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	IN_CHILD({
		int device = open_iommu();
		uint32_t id = new_ioas(device);
		int file;

		own = shared_pages(1, &file);
		memcpy(own, "shared memory..", 16);
		NEED(map_file_at(device, id, file, 0, PAGE, BASE) == 0);
		a = new_access(device, id, 0);
		pass(sockets[0], &a, true);
	});
	pass(sockets[1], &a, false);
	CHECK_OK(access_rw(fd, a, BASE, 16, got, 0), "read a file that a dead process mapped");
	CHECK_TRUE(!memcmp(got, "shared memory..", 16), "its bytes");
	CHECK_OK(close(a), "close");
	NEED(close(sockets[0]) == 0 && close(sockets[1]) == 0);
}

#define THREADS 4
#define ROUNDS 25

/* `seen`: the memory as this process sees it, to compare with what is pinned. */
static void *make_and_close(void *seen)
{
	uintptr_t wrong = 0;
	unsigned int i;
	uint32_t item;
	int a;

	for (i = 0; i < ROUNDS; i++) {
		if (create_access(fd, ioas, PINS, &a)) {
			wrong++;
			continue;
		}
		wrong += fcntl(a, F_GETFD) != FD_CLOEXEC;
		wrong += access_pages(fd, a, BASE, PAGE, seen, 0, &item) != 0 || item != 0;
		wrong += !reads(fd, a);
		wrong += i % 2 && unpin(fd, a, item) != 0;
		wrong += close(a) != 0;
	}
	return (void *)wrong;
}

/* Many at once, by threads that share all descriptors, and by processes. */
static void many(void)
{
	int others[50], i, wrong = 0, again;
	pthread_t threads[THREADS];
	void *result;

	for (i = 0; i < 50; i++)
		wrong += create_access(fd, ioas, 0, &others[i]) != 0 || !reads(fd, others[i]);
	CHECK_EQ(wrong, 0, "fifty accesses");
	for (i = 0; i < THREADS; i++)
		NEED(pthread_create(&threads[i], NULL, make_and_close, memory) == 0);
	for (i = 0; i < THREADS; i++) {
		NEED(pthread_join(threads[i], &result) == 0);
		wrong += (int)(uintptr_t)result;
	}
	CHECK_EQ(wrong, 0, "threads that create, use and close");
	IN_CHILD(CHECK_EQ((uintptr_t)make_and_close(NULL) != 0, 0, "and a child"));
	for (i = 0; i < 50; i++)
		wrong += !reads(fd, others[i]) || close(others[i]) != 0;
	CHECK_EQ(wrong, 0, "the fifty were there all the time");
	again = open_iommu();
	CHECK_OK(check_refs(again, memory, PAGE, 0), "nothing is pinned");
	NEED(close(again) == 0);
}

int main(int argc, char **argv)
{
	if (argc == 4)
		return in_program(atoi(argv[1]), atoi(argv[2]), atoi(argv[3]));
	program = argv[0];
	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	creation();
	NEED(close(fd) == 0);
	fd = open_iommu();
	ioas = new_ioas(fd);
	memory = new_pages(2);
	fill(memory, 2 * PAGE, 0);
	NEED(map_at(fd, ioas, (uintptr_t)memory, 2 * PAGE, BASE) == 0);
	no_room();
	file_operations();
	other_descriptors();
	copies();
	executed();
	outlives_device();
	outlives_process();
	many();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
