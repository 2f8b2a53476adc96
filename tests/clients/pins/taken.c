// SPDX-License-Identifier: MIT
/*
 * What is done for --pin=uring in processes that are not easily stopped, or see other numbers than
 * we: in vfork, in PID namespaces, stopped, sharing their memory. Pins count by process here, so
 * VmLck changes with each. Nobody notices anything but VmPin and VmLck, and nobody waits.
 *
 * taken DEVICE: a VFIO container.
 */
#include "../mock/pinned.h"

#include <sched.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>

#define PAGES 4UL
#define LENGTH (PAGES * PAGE)
#define TOO_LONG 500000000L /* ns, on a machine that is busy; what it should take is some ms */

static const char *device;
static int fd;
static uint32_t ioas;
static struct mock mock;
static char *memory;
static volatile sig_atomic_t children_told;

static void child_told(int number)
{
	(void)number;
	children_told++;
}

static void fresh(void)
{
	fd = open(device, O_RDWR | O_CLOEXEC);
	NEED(fd >= 0);
	ioas = new_ioas(fd);
	mock = new_mock(fd, ioas);
	memory = new_pages(PAGES);
}

static void gone(void)
{
	NEED(close(fd) == 0 && munmap(memory, LENGTH) == 0);
}

static long since(struct timespec *then)
{
	struct timespec now;

	NEED(clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	return (now.tv_sec - then->tv_sec) * 1000000000L + now.tv_nsec - then->tv_nsec;
}

static bool shown(pid_t pid, uint64_t pages)
{
	return status_pages(pid, "VmPin:") == pages && status_pages(pid, "VmLck:") == pages;
}

static void shows(pid_t pid, uint64_t pages, const char *what, const char *when)
{
	int tries = pid == getpid() ? 0 : 2000;

	while (tries-- && !shown(pid, pages))
		usleep(1000);
	CHECK_EQ(status_pages(pid, "VmPin:"), pages, "%s: VmPin %s", what, when);
	CHECK_EQ(status_pages(pid, "VmLck:"), pages, "%s: VmLck %s", what, when);
}

/* --- a process that waits, while another unmaps what it pays for --- */

enum how { VFORKS, VFORKS_TWICE, VFORKS_IN_A_THREAD, SHARES, STOPS, HOPELESS, HOWS };

static const char *const hows[] = {
	"in vfork", "in vfork of vfork", "a thread in vfork", "memory shared", "stopped", "nobody to be stopped",
};

static int ready[2], go[2];

static bool says_and_waits(void)
{
	char byte;

	return write(ready[1], "r", 1) == 1 && read(go[0], &byte, 1) == 1;
}

static int shares(void *arg)
{
	(void)arg;
	_exit(!says_and_waits());
}

static void *vforks(void *arg)
{
	int status = 1;
	pid_t pid = vfork();

	(void)arg;
	if (pid == 0)
		_exit(!says_and_waits());
	NEED(waitpid(pid, &status, 0) == pid);
	return status ? arg : NULL;
}

/* Whether what it waited in ended as it does when nobody meddles. */
static bool waits(enum how how)
{
	static char stack[65536] __attribute__((aligned(16)));
	volatile int status = 1;
	pthread_t thread;
	pid_t pid;

	switch (how) {
	case VFORKS:
		return !vforks(&thread);
	case VFORKS_TWICE:
		pid = vfork();
		if (pid == 0)
			_exit(vforks(&thread) != NULL);
		break;
	case VFORKS_IN_A_THREAD:
		NEED(pthread_create(&thread, NULL, vforks, NULL) == 0);
		return pthread_join(thread, NULL) == 0;
	case SHARES:
		pid = clone(shares, stack + sizeof(stack), CLONE_VM | SIGCHLD, NULL);
		break;
	case STOPS:
		NEED(write(ready[1], "r", 1) == 1);
		return raise(SIGSTOP) == 0;
	default: /* HOPELESS: the one that could be stopped is traced by its grandparent */
		pid = vfork();
		if (pid == 0) {
			prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
			_exit(!says_and_waits());
		}
		/* What was to change has, before we could look. */
		if (!shown(getpid(), 0))
			return false;
	}
	NEED(pid > 0);
	waitpid(pid, (int *)&status, 0);
	return status == 0;
}

static pid_t child_of(pid_t pid)
{
	char path[64];
	int child = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int)pid, (int)pid);
	file = fopen(path, "r");
	NEED(file && fscanf(file, "%d", &child) == 1);
	fclose(file);
	return child;
}

static void while_it_waits(enum how how)
{
	struct timespec then;
	uint32_t other;
	char byte;
	pid_t pid, traced = 0;
	int status;

	fresh();
	NEED(pipe(ready) == 0 && pipe(go) == 0);
	fflush(stdout);
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0) {
		struct sigaction action = { .sa_handler = child_told, .sa_flags = SA_RESTART };
		struct traces before;
		bool well;
		long left;

		before = traces_of_us();
		NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE) == 0);
		NEED(sigaction(SIGCHLD, &action, NULL) == 0);
		well = waits(how);
		left = waitpid(-1, NULL, __WALL | WNOHANG);
		well = well && left == -1 && errno == ECHILD && same_traces(before, traces_of_us());
		_exit(!well + 2 * (children_told > (how == STOPS ? 0 : how == VFORKS_TWICE ? 2 : 1)));
	}
	NEED(read(ready[0], &byte, 1) == 1);
	shows(pid, PAGES, hows[how], "mapped");
	if (how == STOPS)
		NEED(waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status));
	if (how == HOPELESS) {
		traced = child_of(pid);
		NEED(ptrace(PTRACE_SEIZE, traced, NULL, NULL) == 0);
	}
	NEED(clock_gettime(CLOCK_MONOTONIC, &then) == 0);
	CHECK_OK(unmap_at(fd, ioas, BASE, LENGTH), "%s: unmapped by another", hows[how]);
	printf("# %s: unmap took %ld us\n", hows[how], since(&then) / 1000);
	CHECK_EQ(since(&then) > TOO_LONG, 0, "%s: at once", hows[how]);
	NEED(clock_gettime(CLOCK_MONOTONIC, &then) == 0);
	other = new_ioas(fd);
	printf("# %s: the next call took %ld us\n", hows[how], since(&then) / 1000);
	CHECK_EQ(since(&then) > TOO_LONG / 10, 0, "%s: the next call is not delayed", hows[how]);
	NEED(destroy(fd, other) == 0);
	CHECK_EQ(status_pages(pid, "VmPin:"), 0, "%s: nothing is pinned", hows[how]);
	if (how != HOPELESS)
		shows(pid, 0, hows[how], "unmapped");
	if (how == STOPS)
		NEED(kill(pid, SIGCONT) == 0);
	else
		NEED(write(go[1], "g", 1) == 1);
	if (traced)
		NEED(waitpid(traced, &status, __WALL) == traced);
	CHECK_EQ(end_of(pid), 0, "%s: it noticed nothing", hows[how]);
	close_pipes(ready, go);
	gone();
}

/* --- who maps itself --- */

/* The status tells what was wrong. */
static int maps(void *arg)
{
	int wrong = map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE) != 0;

	wrong |= 2 * (status_pages(getpid(), "VmPin:") != PAGES);
	wrong |= 4 * (status_pages(getpid(), "VmLck:") != PAGES);
	wrong |= 8 * (arg && unmap_at(fd, ioas, BASE, LENGTH) != 0);
	_exit(wrong);
}

static void maps_for_others(bool by_vfork)
{
	static char stack[65536] __attribute__((aligned(16)));
	const char *what = by_vfork ? "by a child in vfork" : "by a process that shares the memory";
	int flags = CLONE_VM | SIGCHLD | (by_vfork ? CLONE_VFORK : 0);
	pid_t pid;
	int i;

	fresh();
	for (i = 0; i < 2; i++) {
		pid = clone(maps, stack + sizeof(stack), flags, i ? stack : NULL);
		NEED(pid > 0);
		CHECK_EQ(end_of(pid), 0, "%s: mapped, and shown there", what);
		if (i == 0) {
			shows(getpid(), PAGES, what, "here as well");
			NEED(unmap_at(fd, ioas, BASE, LENGTH) == 0);
		}
		shows(getpid(), 0, what, "unmapped");
	}
	CHECK_EQ(waitpid(-1, NULL, __WALL | WNOHANG), -1, "%s: no child is left", what);
	gone();
}

static void in_namespaces(int depth)
{
	struct timespec then;
	int status;
	pid_t pid;

	fresh();
	fflush(stdout);
	pid = fork();
	NEED(pid >= 0);
	if (pid)
		goto out;
	while (depth) {
		NEED(unshare(CLONE_NEWPID) == 0);
		NEED(clock_gettime(CLOCK_MONOTONIC, &then) == 0);
		CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE), "%d deep: before it is entered", depth);
		CHECK_OK(unmap_at(fd, ioas, BASE, LENGTH), "unmapped");
		CHECK_EQ(since(&then) > TOO_LONG, 0, "at once");
		fflush(stdout);
		pid = fork();
		NEED(pid >= 0);
		if (pid) {
			NEED(waitpid(pid, &status, 0) == pid);
			_exit(status != 0);
		}
		CHECK_EQ(getpid(), 1, "the first process there");
		depth--;
	}
	NEED(clock_gettime(CLOCK_MONOTONIC, &then) == 0);
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE), "in there");
	CHECK_EQ(since(&then) > TOO_LONG, 0, "at once");
	CHECK_OK(unmap_at(fd, ioas, BASE, LENGTH), "unmapped");
	CHECK_EQ(waitpid(-1, NULL, __WALL | WNOHANG), -1, "no child is left");
	pid = fork();
	if (pid == 0)
		_exit(0);
	NEED(pid > 0 && waitpid(pid, &status, 0) == pid);
	CHECK_EQ(status, 0, "the namespace goes on");
	_exit(0);
out:
	CHECK_EQ(end_of(pid), 0, "namespaces: ended well");
	gone();
}

/* --- limits: a child that is born while we are at it --- */

static volatile bool over;

static void *forks(void *arg)
{
	struct rlimit *first = arg, now;
	uintptr_t raised = 0;

	while (!over) {
		NEED(getrlimit(RLIMIT_MEMLOCK, &now) == 0);
		raised += now.rlim_cur != first->rlim_cur || now.rlim_max != first->rlim_max;
	}
	return (void *)raised;
}

static void limits(void)
{
	struct rlimit first;
	pthread_t thread;
	void *raised;
	unsigned int i;

	fresh();
	NEED(getrlimit(RLIMIT_MEMLOCK, &first) == 0);
	first.rlim_cur = 64 * PAGE;
	NEED(setrlimit(RLIMIT_MEMLOCK, &first) == 0);
	NEED(pthread_create(&thread, NULL, forks, &first) == 0);
	for (i = 0; i < often(200); i++) {
		NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE) == 0);
		NEED(unmap_at(fd, ioas, BASE, LENGTH) == 0);
	}
	over = true;
	NEED(pthread_join(thread, &raised) == 0);
	CHECK_EQ((uintptr_t)raised, 0, "times that another limit was seen, which a child would have kept");
	gone();
}

int main(int argc, char **argv)
{
	enum how how;

	checks_begin();
	NEED(argc > 1);
	device = argv[1];
	if (have_capability(CAP_IPC_LOCK))
		drop_capability(CAP_IPC_LOCK);
	limits();
	for (how = VFORKS; how < HOWS; how++)
		while_it_waits(how);
	maps_for_others(true);
	maps_for_others(false);
	in_namespaces(1);
	in_namespaces(2);
	return checks_end();
}
