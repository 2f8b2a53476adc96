// SPDX-License-Identifier: MIT
/*
 * innocent PATH SECONDS: an ordinary client beside an attacked one, which measures how long its
 * calls take. Says "ready" when each kind of them has been made once. After SECONDS, or at the end
 * of its standard input, it prints
 *
 *     slow KIND BEGIN END   each call, and each sleep of 1 ms, of more than 25 ms (ns, monotonic)
 *     wrong KIND ERRNO      each call that failed
 *     KIND COUNT LONGEST    for each kind (us)
 *     end
 *
 * A call that is still unanswered then counts as long as it has lasted. Nothing of this waits for
 * the device.
 *
 * innocent PATH: opens it and makes one call; prints ok, or the errno's name.
 */
#include "../clients/client.h"

#include <poll.h>
#include <pthread.h>
#include <time.h>

#define SLOW_NS 25000000ULL
#define MOST_SLOW 4096
#define MOST_WRONG 8

enum kind { SLEEP, ALLOC, FRESH, FILE_MAP, QUEUE, OPEN, KINDS };

static const char *const names[KINDS] = { "sleep", "alloc", "fresh", "file", "queue", "open" };
/*
 * Two such clients and their daemons leave a machine of two processors idle for most of the time;
 * otherwise they would measure each other.
 */
static const unsigned int pauses[KINDS] = { 1000, 5000, 5000, 20000, 50000, 100000 }; /* us */

static struct {
	uint64_t count, longest, since; /* since: of the call that is being made, 0: none */
	pthread_mutex_t lock;
} figures[KINDS];

static struct {
	enum kind kind;
	uint64_t begin, end;
} slow[MOST_SLOW];

static unsigned int slow_count, wrong_count;
static const char *path;
static pthread_barrier_t made_once;

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

static void note_slow(enum kind kind, uint64_t begin, uint64_t end)
{
	unsigned int i = __atomic_fetch_add(&slow_count, 1, __ATOMIC_SEQ_CST);

	if (i >= MOST_SLOW)
		return;
	slow[i].kind = kind;
	slow[i].begin = begin;
	__atomic_store_n(&slow[i].end, end, __ATOMIC_SEQ_CST);
}

static void note(enum kind kind, uint64_t begin, uint64_t end)
{
	figures[kind].count++;
	if (end - begin > figures[kind].longest)
		figures[kind].longest = end - begin;
	if (end - begin > SLOW_NS)
		note_slow(kind, begin, end);
}

static void begin(enum kind kind)
{
	pthread_mutex_lock(&figures[kind].lock);
	figures[kind].since = now();
	pthread_mutex_unlock(&figures[kind].lock);
}

static void end(enum kind kind, long rc)
{
	pthread_mutex_lock(&figures[kind].lock);
	note(kind, figures[kind].since, now());
	figures[kind].since = 0;
	pthread_mutex_unlock(&figures[kind].lock);
	if (rc < 0 && __atomic_fetch_add(&wrong_count, 1, __ATOMIC_SEQ_CST) < MOST_WRONG)
		printf("wrong %s %s\n", names[kind], errno_name(rc));
}

static long alloc_and_destroy(int fd)
{
	uint32_t id;
	long rc = ioas_alloc(fd, &id);

	return rc ? rc : destroy(fd, id);
}

static long ranges_into_fresh_memory(int fd, uint32_t ioas)
{
	struct iommu_iova_range *fresh = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t count = 10;
	uint64_t alignment;
	long rc = iova_ranges(fd, ioas, fresh, &count, &alignment);

	munmap(fresh, PAGE);
	return rc;
}

static long map_and_unmap(int fd, uint32_t ioas, int file)
{
	uint64_t iova = 0, length;
	long rc = map_file_flags(fd, ioas, RW, file, 0, PAGE, &iova);

	length = PAGE;
	return rc ? rc : unmap(fd, ioas, iova, &length);
}

static long queue_and_close(int fd)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	long rc = call(fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd);

	if (rc)
		return rc;
	rc = close((int)cmd.out_fault_fd) ? -errno : 0;
	return rc ? rc : destroy(fd, cmd.out_fault_id);
}

static long open_and_close(void)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	uint32_t id;
	long rc;

	if (fd < 0)
		return -errno;
	rc = ioas_alloc(fd, &id);
	close(fd);
	return rc;
}

static long make(enum kind kind, int fd, uint32_t ioas, int file)
{
	switch (kind) {
	case ALLOC:
		return alloc_and_destroy(fd);
	case FRESH:
		return ranges_into_fresh_memory(fd, ioas);
	case FILE_MAP:
		return map_and_unmap(fd, ioas, file);
	case QUEUE:
		return queue_and_close(fd);
	case OPEN:
		return open_and_close();
	default:
		return 0;
	}
}

/* One kind of call, on an open file of its own. */
static void *calls(void *arg)
{
	enum kind kind = (enum kind)(uintptr_t)arg;
	struct timespec pause = { .tv_nsec = pauses[kind] * 1000L };
	int file = memfd_create("innocent", MFD_CLOEXEC), fd = -1;
	uint32_t ioas = 0;
	bool first = true;

	NEED(file >= 0 && ftruncate(file, PAGE) == 0);
	if (kind != OPEN && kind != SLEEP) {
		NEED((fd = open(path, O_RDWR | O_CLOEXEC)) >= 0);
		ioas = new_ioas(fd);
	}
	for (;;) {
		if (kind == SLEEP) {
			begin(kind);
			nanosleep(&pause, NULL);
			end(kind, 0);
		} else {
			begin(kind);
			end(kind, make(kind, fd, ioas, file));
			nanosleep(&pause, NULL);
		}
		if (first) {
			pthread_barrier_wait(&made_once);
			/* What was first may have had to be made. */
			pthread_mutex_lock(&figures[kind].lock);
			figures[kind].longest = 0;
			pthread_mutex_unlock(&figures[kind].lock);
		}
		first = false;
	}
	return NULL;
}

static void report(void)
{
	uint64_t at = now();
	unsigned int i;

	for (i = 0; i < KINDS; i++) {
		pthread_mutex_lock(&figures[i].lock);
		if (figures[i].since)
			note((enum kind)i, figures[i].since, at);
	}
	for (i = 0; i < slow_count && i < MOST_SLOW; i++)
		if (slow[i].end)
			printf("slow %s %llu %llu\n", names[slow[i].kind],
			       (unsigned long long)slow[i].begin, (unsigned long long)slow[i].end);
	for (i = 0; i < KINDS; i++)
		printf("%s %llu %llu\n", names[i], (unsigned long long)figures[i].count,
		       (unsigned long long)figures[i].longest / 1000);
	puts("end");
	fflush(stdout);
}

static int once(void)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	long rc = fd < 0 ? -errno : alloc_and_destroy(fd);

	printf("%s\n", rc ? errno_name(rc) : "ok");
	return rc != 0;
}

int main(int argc, char **argv)
{
	struct pollfd input = { .fd = 0, .events = POLLIN };
	pthread_t thread;
	uintptr_t i;

	NEED(argc > 1);
	path = argv[1];
	if (argc == 2)
		return once();
	NEED(pthread_barrier_init(&made_once, NULL, KINDS + 1) == 0);
	for (i = 0; i < KINDS; i++)
		NEED(pthread_mutex_init(&figures[i].lock, NULL) == 0);
	for (i = 0; i < KINDS; i++)
		NEED(pthread_create(&thread, NULL, calls, (void *)i) == 0);
	pthread_barrier_wait(&made_once);
	slow_count = 0;
	puts("ready");
	fflush(stdout);
	poll(&input, 1, (int)(atof(argv[2]) * 1000));
	report();
	_exit(0);
}
