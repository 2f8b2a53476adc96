/* SPDX-License-Identifier: MIT */
/*
 * What attackers share. Each program holds several attacks; `PROGRAM NAME PATH` begins one on the
 * device at PATH and goes on until it is killed. What came of it stands in shared memory that the
 * test hands over, so that it can be read whatever the attacker hangs in:
 *
 * HOSTILE_COUNTERS  number of that memory's descriptor
 * HOSTILE_READY     an eventfd for the moment in which the attack is under way
 * HOSTILE_FILE      a file of the attacker's own filesystem (FUSE), which HOSTILE_CONNECTION serves
 * HOSTILE_NODES     a directory with /dev/fuse and /dev/userfaultfd for everybody
 */
#ifndef ATTACK_H
#define ATTACK_H

#include "../../clients/client.h"

#include <linux/fuse.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#define ERRNOS 160
#define OWN_SIZE (1UL << 20)

/* The same as in attacker.py. */
struct counters {
	uint64_t tries;
	uint64_t astray; /* writes that came where they must not */
	uint64_t answers[ERRNOS]; /* by errno, 0: success */
};

static struct counters *counters;
static const char *device;

/* The attack is under way. Again and again does no harm. */
static inline void ready(void)
{
	static bool said;

	if (!said)
		NEED(write(atoi(getenv("HOSTILE_READY")), "\1\0\0\0\0\0\0\0", 8) == 8);
	said = true;
}

/* One ioctl of an attack, counted even if it never returns: its result, or -errno. */
static inline long attack(int fd, unsigned long number, const void *arg)
{
	long rc;

	__atomic_add_fetch(&counters->tries, 1, __ATOMIC_SEQ_CST);
	rc = call(fd, number, arg);
	__atomic_add_fetch(&counters->answers[rc < 0 ? -rc % ERRNOS : 0], 1, __ATOMIC_SEQ_CST);
	return rc;
}

static inline int open_device(void)
{
	int fd = open(device, O_RDWR | O_CLOEXEC);

	NEED(fd >= 0);
	return fd;
}

static inline void rest(void)
{
	for (;;)
		pause();
}

static inline void nap(unsigned int microseconds)
{
	struct timespec t = { .tv_nsec = microseconds * 1000L };

	nanosleep(&t, NULL);
}

/* A number that nobody needs to know again. */
static inline unsigned int chance(unsigned int below)
{
	static __thread uint64_t x;

	if (!x)
		x = (uint64_t)gettid() * 0x9e3779b97f4a7c15 | 1;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return (unsigned int)(x >> 33) % below;
}

static inline void begin_thread(void *(*run)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64 << 10);
	NEED(pthread_create(&thread, &attr, run, arg) == 0);
}

/* A child that ends with its parent, and runs `run` for ever. */
static inline pid_t begin_process(void (*run)(void))
{
	pid_t parent = getpid(), pid = fork();

	NEED(pid >= 0);
	if (pid)
		return pid;
	NEED(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
	if (getppid() != parent)
		_exit(1);
	run();
	_exit(0);
}

static inline void write_line(const char *path, const char *line)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	NEED(fd >= 0 && write(fd, line, strlen(line)) == (ssize_t)strlen(line) && close(fd) == 0);
}

/* Root of namespaces of one's own, as everybody may be. */
static inline void own_namespaces(void)
{
	char uid[32], gid[32];

	snprintf(uid, sizeof(uid), "0 %u 1", getuid());
	snprintf(gid, sizeof(gid), "0 %u 1", getgid());
	NEED(unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0);
	write_line("/proc/self/setgroups", "deny");
	write_line("/proc/self/uid_map", uid);
	write_line("/proc/self/gid_map", gid);
}

/* What the attacker's own filesystem does not answer, at any moment; and what it has been asked. */
enum { READS = 1, WRITES = 2, FLUSHES = 4, OPENS = 8, ATTRIBUTES = 16, LOOKUPS = 32 };

static volatile unsigned int *unanswered, *asked;

static inline void own_attributes(struct fuse_attr *attr, bool directory)
{
	*attr = (struct fuse_attr){ .ino = 1, .size = OWN_SIZE, .blocks = OWN_SIZE / 512,
				    .mode = directory ? S_IFDIR | 0777 : S_IFREG | 0777,
				    .nlink = 1, .blksize = PAGE };
}

static inline void own_reply(int fd, uint64_t unique, int error, const void *body, size_t size)
{
	struct fuse_out_header head = { .len = (uint32_t)(sizeof(head) + size), .error = error,
					.unique = unique };
	struct iovec parts[] = { { &head, sizeof(head) }, { (void *)(uintptr_t)body, size } };

	(void)!writev(fd, parts, 2);
}

/* One request of the kernel to the attacker's own filesystem. */
static inline void own_request(int fd, const struct fuse_in_header *head, bool directory)
{
	static const char zeros[OWN_SIZE];
	const void *body = head + 1;
	struct fuse_attr_out attr = { 0 };
	struct fuse_open_out opened = { .fh = 1 };
	struct fuse_write_out wrote = { 0 };
	struct fuse_init_out init = { .major = FUSE_KERNEL_VERSION, .minor = 31,
				      .max_readahead = 65536, .max_background = 16,
				      .congestion_threshold = 12, .max_write = 131072,
				      .time_gran = 1 };
	static const struct { uint32_t opcode; unsigned int bit; } bits[] = {
		{ FUSE_READ, READS }, { FUSE_WRITE, WRITES }, { FUSE_FLUSH, FLUSHES },
		{ FUSE_OPEN, OPENS }, { FUSE_GETATTR, ATTRIBUTES }, { FUSE_LOOKUP, LOOKUPS },
	};
	unsigned int i;

	for (i = 0; i < ARRAY_LEN(bits); i++)
		if (bits[i].opcode == head->opcode) {
			__atomic_or_fetch(asked, bits[i].bit, __ATOMIC_SEQ_CST);
			if (*unanswered & bits[i].bit)
				return;
		}
	switch (head->opcode) {
	case FUSE_INIT:
		own_reply(fd, head->unique, 0, &init, sizeof(init));
		return;
	case FUSE_GETATTR:
	case FUSE_SETATTR:
		own_attributes(&attr.attr, directory);
		own_reply(fd, head->unique, 0, &attr, sizeof(attr));
		return;
	case FUSE_OPEN:
	case FUSE_OPENDIR:
		own_reply(fd, head->unique, 0, &opened, sizeof(opened));
		return;
	case FUSE_READ:
		own_reply(fd, head->unique, 0, zeros, ((const struct fuse_read_in *)body)->size);
		return;
	case FUSE_WRITE:
		wrote.size = ((const struct fuse_write_in *)body)->size;
		own_reply(fd, head->unique, 0, &wrote, sizeof(wrote));
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		return;
	case FUSE_RELEASE:
	case FUSE_FLUSH:
	case FUSE_FSYNC:
		own_reply(fd, head->unique, 0, NULL, 0);
		return;
	default:
		own_reply(fd, head->unique, -ENOSYS, NULL, 0);
	}
}

static inline void own_serve(int fd, bool directory)
{
	static char buffer[OWN_SIZE];
	ssize_t got;

	for (;;) {
		got = read(fd, buffer, sizeof(buffer));
		if (got > 0)
			own_request(fd, (struct fuse_in_header *)buffer, directory);
		else if (got == 0 || (errno != ENOENT && errno != EINTR && errno != EAGAIN))
			_exit(0);
	}
}

static inline void own_begin(int connection, bool directory)
{
	unsigned int *flags = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t server;

	NEED(flags != MAP_FAILED);
	unanswered = flags;
	asked = flags + 1;
	server = fork();
	NEED(server >= 0);
	if (server == 0) {
		NEED(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
		/* It has nothing of the device's. */
		NEED(dup2(connection, 3) == 3);
		close_range(4, ~0U, 0);
		own_serve(3, directory);
	}
	NEED(close(connection) == 0);
}

/* The attacker's own file, open, which answers everything yet. */
static inline int own_file(void)
{
	static bool served;
	struct stat st;
	int fd;

	if (!served)
		own_begin(atoi(getenv("HOSTILE_CONNECTION")), false);
	served = true;
	fd = open(getenv("HOSTILE_FILE"), O_RDWR | O_CLOEXEC);
	NEED(fd >= 0 && fstat(fd, &st) == 0);
	return fd;
}

/* `pages` of the own file, whose reads are answered or not as it is now. */
static inline char *own_pages(int fd, size_t pages)
{
	char *p = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	NEED(p != MAP_FAILED);
	return p;
}

/* Returns when the own filesystem has been asked for this. */
static inline void wait_asked(unsigned int bit)
{
	while (!(__atomic_load_n(asked, __ATOMIC_SEQ_CST) & bit))
		nap(1000);
}

static inline void *synchronize(void *arg)
{
	fsync((int)(intptr_t)arg);
	return NULL;
}

/*
 * A page of the own file that can be read, and is under writeback that never ends: who writes to it
 * waits in D.
 */
static inline char *page_under_writeback(const void *content, size_t size)
{
	int fd = own_file();
	char *page = own_pages(fd, 1);

	/* First, as the kernel may begin to write the page back as soon as it is dirty. */
	*unanswered |= WRITES;
	memcpy(page, content, size);
	begin_thread(synchronize, (void *)(intptr_t)fd);
	wait_asked(WRITES);
	NEED(*(volatile char *)page == *(const char *)content);
	return page;
}

struct attack_entry {
	const char *name;
	void (*run)(void);
};

/* The whole of an attacker's main. */
static inline int attack_main(int argc, char **argv, const struct attack_entry *entries, size_t count)
{
	size_t i;

	NEED(argc > 2 && getenv("HOSTILE_COUNTERS"));
	/* Whatever happens to the test, no attack outlives it. */
	NEED(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
	counters = mmap(NULL, sizeof(*counters), PROT_READ | PROT_WRITE, MAP_SHARED,
			atoi(getenv("HOSTILE_COUNTERS")), 0);
	NEED(counters != MAP_FAILED);
	device = argv[2];
	for (i = 0; i < count; i++)
		if (!strcmp(entries[i].name, argv[1])) {
			entries[i].run();
			rest();
		}
	fprintf(stderr, "%s: there is no attack %s\n", argv[0], argv[1]);
	return 2;
}

#define ATTACK_MAIN(entries)                                                                       \
	int main(int argc, char **argv)                                                            \
	{                                                                                          \
		return attack_main(argc, argv, entries, ARRAY_LEN(entries));                       \
	}

#endif
