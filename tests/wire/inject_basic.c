// SPDX-License-Identifier: MIT
/* A descriptor that an ioctl returned is one like any other. */
#include "inject_client.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>

static void works(int device)
{
	char text[8] = "";
	uint32_t id;
	int fd = create_flags(device, O_RDWR | O_CLOEXEC, &id);
	struct pollfd ready = { .fd = fd, .events = POLLIN | POLLOUT };

	NEED(fd >= 0);
	CHECK_EQ(ioctl(fd, IDENTITY, 0), id, "an ioctl reaches the object");
	CHECK_EQ(poll(&ready, 1, -1), 1, "poll reaches the object");
	CHECK_EQ(ready.revents, POLLOUT, "which has nothing to read");
	CHECK_EQ(write(fd, "hello", 5), 5, "write reaches the object");
	CHECK_EQ(poll(&ready, 1, -1), 1, "poll again");
	CHECK_EQ(ready.revents, POLLIN | POLLOUT, "which has something to read");
	CHECK_EQ(read(fd, text, sizeof(text)), 5, "read reaches the object");
	CHECK_EQ(strcmp(text, "hello"), 0, "and gives back what was written");
	CHECK_EQ(ioctl(device, LIVE, 0), 1, "there is one object");
	CHECK_OK(close(fd), "close");
	CHECK_EQ(wait_live(device, 0), 0, "the object went with its descriptor");
}

static void number_and_flags(int device)
{
	int hole = dup(device), above = dup(device), fd, second;

	NEED(hole >= 0 && above > hole);
	close(hole);
	fd = create(device);
	CHECK_EQ(fd, hole, "the lowest free number");
	second = create_flags(device, O_RDONLY, NULL);
	CHECK_EQ(second, above + 1, "and the next");
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC, "O_CLOEXEC is set");
	CHECK_EQ(fcntl(second, F_GETFD), 0, "unless not asked for");
	CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR, "read and write");
	CHECK_EQ(fcntl(second, F_GETFL) & O_ACCMODE, O_RDONLY, "read only");
	close(above);
	close(fd);
	close(second);
	CHECK_EQ(wait_live(device, 0), 0, "both went");
}

static void full(int device)
{
	struct rlimit limit, none;
	int fd = dup(device), others = 0;

	close(fd);
	NEED(!getrlimit(RLIMIT_NOFILE, &limit));
	none = limit;
	none.rlim_cur = fd;
	NEED(!setrlimit(RLIMIT_NOFILE, &none));
	CHECK_ERR(ENOMEM, create(device), "no descriptor is free: what the device says for EMFILE");
	CHECK_EQ(ioctl(device, LIVE, 0), 0, "no object stays, from that moment on");
	NEED(!setrlimit(RLIMIT_NOFILE, &limit));
	CHECK_EQ(create(device), fd, "no descriptor stays");
	close(fd);
	for (int i = 0; i < 200; i++) {
		NEED(!setrlimit(RLIMIT_NOFILE, &none) && create(device) == -ENOMEM);
		NEED(!setrlimit(RLIMIT_NOFILE, &limit));
		NEED(open_device() == fd);
		others += ioctl(fd, IDENTITY, 0) != -1;
		close(fd);
	}
	CHECK_EQ(others, 0, "an open just after it is an open of the device");
}

static void unwritable(int device)
{
	struct create *page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int fd = dup(device);

	NEED(page != MAP_FAILED);
	close(fd);
	CHECK_ERR(EFAULT, ioctl(device, CREATE, page) ? -errno : 0, "the struct is read-only");
	CHECK_EQ(wait_live(device, 0), 0, "no object stays");
	CHECK_EQ(create(device), fd, "no descriptor stays");
	close(fd);
}

static void forked(int device)
{
	int fd = create(device);

	NEED(fd >= 0);
	IN_CHILD({
		uint32_t id;
		int own = create_flags(device, O_RDWR, &id);

		CHECK_EQ(ioctl(own, IDENTITY, 0), id, "a child has its own");
		CHECK_EQ(write(fd, "child", 5), 5, "and uses its parent's");
	});
	CHECK_EQ(wait_live(device, 1), 1, "the child's went with it");
	close(fd);
	CHECK_EQ(wait_live(device, 0), 0, "the parent's is closed");
}

static void vforked(int device)
{
	struct create cmd = { .size = sizeof(cmd), .flags = O_RDWR };
	int status;
	pid_t child = vfork();

	if (child == 0)
		_exit(ioctl(device, CREATE, &cmd) ? 1 : 0);
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQ(status, 0, "a vfork child, in its parent's memory");
	CHECK_TRUE(cmd.out_id, "the struct is the parent's");
	CHECK_EQ(fcntl(cmd.out_fd, F_GETFD), (uint64_t)-1, "the descriptor is not");
	CHECK_EQ(wait_live(device, 0), 0, "it went with the child");
}

#define THREADS 8
#define EACH 100

static void *create_many(void *argument)
{
	int device = *(int *)argument;
	uintptr_t wrong = 0;

	for (int i = 0; i < EACH; i++) {
		uint32_t id = 0;
		int fd = create_flags(device, O_RDWR, &id);

		wrong += fd < 0 || ioctl(fd, IDENTITY, 0) != (int)id;
		close(fd);
	}
	return (void *)wrong;
}

static void threads(int device)
{
	pthread_t thread[THREADS];
	uintptr_t wrong = 0;

	for (int i = 0; i < THREADS; i++)
		NEED(!pthread_create(&thread[i], NULL, create_many, &device));
	for (int i = 0; i < THREADS; i++) {
		void *result;

		NEED(!pthread_join(thread[i], &result));
		wrong += (uintptr_t)result;
	}
	CHECK_EQ(wrong, 0, "%d threads, each with its own objects", THREADS);
	CHECK_EQ(wait_live(device, 0), 0, "all closed");
}

/* A thread that has its own table of descriptors: /proc/self would name its process's. */
static void *own_table(void *argument)
{
	int device = *(int *)argument, other, fd;

	NEED(!unshare(CLONE_FILES));
	other = fcntl(device, F_DUPFD, 700);
	NEED(other == 700);
	fd = create(other);
	CHECK_TRUE(fd >= 0, "in a table of descriptors that is the thread's own");
	close(fd);
	return NULL;
}

static void unshared(int device)
{
	pthread_t thread;

	NEED(!pthread_create(&thread, NULL, own_table, &device));
	NEED(!pthread_join(thread, NULL));
	CHECK_EQ(wait_live(device, 0), 0, "closed");
}

int main(int argc, char **argv)
{
	int device;

	NEED(argc == 2);
	device_path = argv[1];
	checks_begin();
	device = open_device();
	works(device);
	number_and_flags(device);
	full(device);
	unwritable(device);
	forked(device);
	vforked(device);
	threads(device);
	unshared(device);
	return checks_end();
}
