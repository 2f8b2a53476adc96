// SPDX-License-Identifier: MIT
/*
 * Ioctls that give a descriptor, called by programs that live in a box: boxed DEVICE CASE. The kernel makes an
 * anonymous file and puts it into the caller's table; nobody opens anything, and no user stack is used. So
 * whatever a program has given up, it gets its descriptor, the lowest number that is free.
 */
#include "../clients/client.h"

#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>

#include "../../include/iommud/iommufd_test.h"

#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#define SYS_landlock_restrict_self 446
#endif

static const char *device_path;

static int open_device(void)
{
	int fd = open(device_path, O_RDWR | O_CLOEXEC);

	NEED(fd >= 0);
	return fd;
}

static int lowest_free(void)
{
	int fd = dup(0);

	if (fd >= 0)
		close(fd);
	return fd;
}

static long queue_alloc(int device, struct iommu_fault_alloc *cmd)
{
	*cmd = (struct iommu_fault_alloc){ .size = sizeof(*cmd), .out_fault_fd = -1U };
	return call(device, IOMMU_FAULT_QUEUE_ALLOC, cmd);
}

static long access_create(int device, uint32_t ioas, struct iommu_test_cmd *cmd)
{
	*cmd = (struct iommu_test_cmd){ .size = sizeof(*cmd), .op = IOMMU_TEST_OP_CREATE_ACCESS, .id = ioas };
	cmd->create_access.out_access_fd = -1U;
	return call(device, IOMMU_TEST_CMD, cmd);
}

static long dmabuf_get(int device, uint32_t flags)
{
	struct iommu_test_cmd cmd = { .size = sizeof(cmd), .op = IOMMU_TEST_OP_DMABUF_GET };

	cmd.dmabuf_get.length = 4096;
	cmd.dmabuf_get.open_flags = flags;
	return call(device, IOMMU_TEST_CMD, &cmd);
}

/* One of each kind, looked at and closed; without a system call that a box might forbid. */
static void given(int device, uint32_t ioas, int free_number, const char *where)
{
	struct iommu_fault_alloc queue;
	struct iommu_test_cmd access;
	struct pollfd one = { .events = POLLIN | POLLOUT };
	long dmabuf;

	CHECK_OK(queue_alloc(device, &queue), "a queue, %s", where);
	CHECK_EQ(queue.out_fault_fd, (uint32_t)free_number, "the lowest number");
	one.fd = (int)queue.out_fault_fd;
	CHECK_EQ(poll(&one, 1, 0), 1, "it answers");
	CHECK_EQ(one.revents, POLLOUT, "as an empty queue");
	CHECK_EQ(fcntl(one.fd, F_GETFD), FD_CLOEXEC, "closed on exec");
	CHECK_EQ(fcntl(one.fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR, "to read and write");
	CHECK_ERR(EBUSY, destroy(device, queue.out_fault_id), "busy while it is open");
	CHECK_OK(close(one.fd), "closed");
	CHECK_OK(destroy(device, queue.out_fault_id), "free at once");

	CHECK_OK(access_create(device, ioas, &access), "an access, %s", where);
	CHECK_EQ(access.create_access.out_access_fd, (uint32_t)free_number, "the lowest number");
	CHECK_ERR(EBUSY, destroy(device, ioas), "it keeps the IOAS");
	CHECK_OK(close((int)access.create_access.out_access_fd), "closed");

	dmabuf = dmabuf_get(device, O_RDONLY | O_CLOEXEC);
	CHECK_EQ((uint64_t)dmabuf, (uint64_t)free_number, "a dma-buf, %s", where);
	CHECK_EQ(fcntl((int)dmabuf, F_GETFL) & O_ACCMODE, O_RDONLY, "to read");
	CHECK_EQ(fcntl((int)dmabuf, F_GETFD), FD_CLOEXEC, "closed on exec");
	CHECK_OK(close((int)dmabuf), "closed");
	dmabuf = dmabuf_get(device, O_RDWR);
	CHECK_EQ(fcntl((int)dmabuf, F_GETFD), 0, "not closed on exec");
	CHECK_OK(close((int)dmabuf), "closed");
}

static void refused(int device, uint32_t ioas, int queue_error, int access_error, int dmabuf_error)
{
	struct iommu_fault_alloc queue;
	struct iommu_test_cmd access;

	CHECK_ERR(queue_error, queue_alloc(device, &queue), "no queue");
	CHECK_ERR(access_error, access_create(device, ioas, &access), "no access");
	CHECK_ERR(dmabuf_error, dmabuf_get(device, O_RDWR), "no dma-buf");
}

static void plain(int device, uint32_t ioas)
{
	given(device, ioas, lowest_free(), "anywhere");
}

static void give_up_rights(void)
{
	NEED(!setgroups(0, NULL) && !setgid(65534) && !setuid(65534));
}

static void dropped(int device, uint32_t ioas)
{
	give_up_rights();
	given(device, ioas, lowest_free(), "for another user");
}

static void group_only(int device, uint32_t ioas)
{
	NEED(!setgroups(0, NULL) && !setresgid(65534, 65534, 65534));
	NEED(!setresuid(0, 65534, 0));
	given(device, ioas, lowest_free(), "with another effective user");
}

static void chrooted(int device, uint32_t ioas)
{
	char directory[] = "/tmp/iommud-box-XXXXXX";
	int number = lowest_free();

	NEED(mkdtemp(directory) && !chroot(directory) && !chdir("/"));
	given(device, ioas, number, "in an empty directory");
}

static void chrooted_and_dropped(int device, uint32_t ioas)
{
	char directory[] = "/tmp/iommud-box-XXXXXX";
	int number = lowest_free();

	NEED(mkdtemp(directory) && !chroot(directory) && !chdir("/"));
	give_up_rights();
	given(device, ioas, number, "in an empty directory, for another user");
}

static void without_proc(int device, uint32_t ioas)
{
	NEED(!unshare(CLONE_NEWNS | (geteuid() ? CLONE_NEWUSER : 0)));
	NEED(!mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	NEED(!mount("none", "/proc", "tmpfs", 0, NULL));
	given(device, ioas, lowest_free(), "without /proc");
}

static void not_dumpable(int device, uint32_t ioas)
{
	NEED(!prctl(PR_SET_DUMPABLE, 0, 0, 0, 0));
	given(device, ioas, lowest_free(), "not to be looked into");
}

static void write_file(const char *path, const char *format, unsigned int id)
{
	char line[32];
	int fd = open(path, O_WRONLY), length = snprintf(line, sizeof(line), format, id, id);

	NEED(fd >= 0 && write(fd, line, (size_t)length) == length && !close(fd));
}

static void user_namespaces(int device, uint32_t ioas)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();

	NEED(!unshare(CLONE_NEWUSER));
	write_file("/proc/self/setgroups", "deny", 0);
	write_file("/proc/self/uid_map", "%u %u 1", uid);
	write_file("/proc/self/gid_map", "%u %u 1", gid);
	NEED(!unshare(CLONE_NEWUSER));
	given(device, ioas, lowest_free(), "in a namespace in a namespace");
}

static void pid_namespace(int device, uint32_t ioas)
{
	NEED(!unshare(CLONE_NEWUSER | CLONE_NEWPID));
	IN_CHILD(given(device, ioas, lowest_free(), "under another process id"));
}

static void landlock(int device, uint32_t ioas)
{
	uint64_t handled[] = { 0xffff, 3 };
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, 1), rules;

	if (version < 0) {
		printf("skip: no Landlock here: %s\n", strerror(errno));
		exit(77);
	}
	handled[0] = version < 2 ? 0x1fff : version < 3 ? 0x3fff : version < 5 ? 0x7fff : 0xffff;
	rules = syscall(SYS_landlock_create_ruleset, handled, version < 4 ? 8 : 16, 0);
	NEED(rules >= 0);
	NEED(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	NEED(!syscall(SYS_landlock_restrict_self, rules, 0));
	close((int)rules);
	NEED(open(device_path, O_RDWR) < 0 && errno == EACCES);
	given(device, ioas, lowest_free(), "under Landlock");
}

static void filter_out(int number, unsigned int action)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = 4, .filter = filter };

	NEED(!prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	NEED(!prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program));
}

static void filtered(int device, uint32_t ioas)
{
	filter_out(SYS_openat, SECCOMP_RET_KILL_PROCESS);
	filter_out(SYS_mmap, SECCOMP_RET_KILL_PROCESS);
	filter_out(SYS_read, SECCOMP_RET_ERRNO | EPERM);
	given(device, ioas, lowest_free(), "under filters of its own");
}

/* All numbers up to `limit` are taken, but for the last `left` of them. */
static void fill_up(int limit, int left)
{
	struct rlimit most = { (rlim_t)limit, (rlim_t)limit };
	int fd;

	do
		fd = dup(0);
	while (fd >= 0 && fd < limit - 1 - left);
	NEED(fd >= 0);
	NEED(!setrlimit(RLIMIT_NOFILE, &most));
}

static void full(int device, uint32_t ioas)
{
	fill_up(20, 0);
	refused(device, ioas, EMFILE, ENOMEM, EMFILE);
	NEED(!close(10));
	given(device, ioas, 10, "with one number free");
	NEED(dup(0) == 10);
	refused(device, ioas, EMFILE, ENOMEM, EMFILE);
	NEED(!close(5) && !close(12));
	given(device, ioas, 5, "with two");
}

static void dropped_and_full(int device, uint32_t ioas)
{
	give_up_rights();
	full(device, ioas);
}

static long with_stack_at(uintptr_t stack, int device, unsigned long number, void *argument)
{
	long rc;

	asm volatile("mov %%rsp, %%rbx\n\tmov %5, %%rsp\n\tsyscall\n\tmov %%rbx, %%rsp"
		     : "=a"(rc)
		     : "a"(SYS_ioctl), "D"((long)device), "S"(number), "d"(argument), "r"(stack)
		     : "rbx", "rcx", "r11", "memory");
	return rc;
}

static void any_stack(int device, uint32_t ioas)
{
	char *pages = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *read_only = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *none = mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uintptr_t stacks[] = {
		(uintptr_t)pages + PAGE, /* nothing below it */
		(uintptr_t)pages + PAGE + 140, /* room for a red zone, and not for more */
		0, 1, 127, 160, 4096,
		(uintptr_t)read_only + 2048, (uintptr_t)none + 2048,
		0x7fffffffffff, 0x800000000000, 0x8000000000000000, UINT64_MAX, UINT64_MAX - 100,
		0xffff800000000000, 0xffffffffff600400, 0x123457,
		(uintptr_t)pages + 3 * PAGE - 3, /* not aligned */
	};

	(void)ioas;
	NEED(pages != MAP_FAILED && read_only != MAP_FAILED && none != MAP_FAILED);
	NEED(!munmap(pages, PAGE));
	for (size_t i = 0; i < ARRAY_LEN(stacks); i++) {
		struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
		int number = lowest_free();

		CHECK_EQ((uint64_t)with_stack_at(stacks[i], device, IOMMU_FAULT_QUEUE_ALLOC, &cmd), 0,
			 "with its stack at %#lx", stacks[i]);
		CHECK_EQ(cmd.out_fault_fd, (uint32_t)number, "the lowest number");
		close((int)cmd.out_fault_fd);
		CHECK_OK(destroy(device, cmd.out_fault_id), "closed");
	}
}

static volatile bool done;

static void *count_up(void *counters)
{
	volatile uint64_t *each = counters;
	uint64_t rounds = 0;

	for (; !done; rounds++)
		for (int i = 0; i < 512; i++)
			each[i]++;
	return (void *)rounds;
}

/* The stack pointer points into data that another thread uses. */
static void stack_in_data(int device, uint32_t ioas)
{
	uint64_t *counters = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned int wrong = 0;
	pthread_t thread;
	void *rounds;

	(void)ioas;
	NEED(counters != MAP_FAILED && !pthread_create(&thread, NULL, count_up, counters));
	for (unsigned int i = 0; i < often(400); i++) {
		struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };

		NEED(!with_stack_at((uintptr_t)counters + PAGE, device, IOMMU_FAULT_QUEUE_ALLOC, &cmd));
		NEED(!close((int)cmd.out_fault_fd));
	}
	done = true;
	NEED(!pthread_join(thread, &rounds));
	for (int i = 0; i < 512; i++)
		wrong += counters[i] != (uint64_t)rounds;
	CHECK_EQ(wrong, 0, "nothing of it was changed");
}

/* The kernel writes this struct once, when it has a descriptor, and takes that back if it cannot. */
static void unwritable_access(int device, uint32_t ioas)
{
	struct iommu_test_cmd *cmd = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int number = lowest_free();
	uint32_t free_id = new_ioas(device);

	NEED(cmd != MAP_FAILED && !destroy(device, free_id));
	*cmd = (struct iommu_test_cmd){ .size = sizeof(*cmd), .op = IOMMU_TEST_OP_CREATE_ACCESS, .id = ioas };
	NEED(!mprotect(cmd, PAGE, PROT_READ));
	for (int i = 0; i < 20; i++) {
		CHECK_ERR(EFAULT, call(device, IOMMU_TEST_CMD, cmd), "an access");
		CHECK_EQ((uint64_t)lowest_free(), (uint64_t)number, "no descriptor stays");
		CHECK_EQ(new_ioas(device), free_id, "nor an object");
		CHECK_OK(destroy(device, free_id), "at once");
	}
}

static void unwritable(int device, uint32_t ioas)
{
	struct iommu_fault_alloc *cmd = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int number = lowest_free();

	NEED(cmd != MAP_FAILED);
	cmd->size = sizeof(*cmd);
	NEED(!mprotect(cmd, PAGE, PROT_READ));
	CHECK_ERR(EFAULT, call(device, IOMMU_FAULT_QUEUE_ALLOC, cmd), "a struct that cannot be written");
	CHECK_ERR(EFAULT, call(device, IOMMU_FAULT_QUEUE_ALLOC, NULL), "none");
	unwritable_access(device, ioas);
	NEED(!mprotect(cmd, PAGE, PROT_READ | PROT_WRITE));
	cmd = (void *)((char *)cmd + PAGE - 8);
	cmd->size = sizeof(*cmd);
	NEED(!munmap((char *)cmd + 8, PAGE));
	CHECK_ERR(EFAULT, call(device, IOMMU_FAULT_QUEUE_ALLOC, cmd), "half of one");
	CHECK_EQ((uint64_t)lowest_free(), (uint64_t)number, "no descriptor stays");
	given(device, ioas, number, "afterwards");
}

static void closed(int device, uint32_t ioas)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	int pipes[2], other = open(device_path, O_PATH);

	(void)ioas;
	(void)device;
	NEED(!pipe(pipes) && other >= 0);
	CHECK_ERR(ENOTTY, call(pipes[0], IOMMU_FAULT_QUEUE_ALLOC, &cmd), "of a pipe");
	CHECK_ERR(EBADF, call(other, IOMMU_FAULT_QUEUE_ALLOC, &cmd), "of what was not opened");
	CHECK_ERR(EBADF, call(1000, IOMMU_FAULT_QUEUE_ALLOC, &cmd), "of nothing");
	CHECK_ERR(EBADF, call(-1, IOMMU_FAULT_QUEUE_ALLOC, &cmd), "of less");
	NEED(!queue_alloc(device, &cmd));
	CHECK_ERR(ENOTTY, call((int)cmd.out_fault_fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd), "of a queue");
}

static void *allocate(void *argument)
{
	int device = *(int *)argument;
	uint64_t wrong = 0;

	for (unsigned int i = 0; i < often(100); i++) {
		struct iommu_fault_alloc cmd;
		struct pollfd one = { .events = POLLIN | POLLOUT };

		if (queue_alloc(device, &cmd)) {
			wrong++;
			continue;
		}
		one.fd = (int)cmd.out_fault_fd;
		wrong += poll(&one, 1, 0) != 1 || one.revents != POLLOUT;
		wrong += destroy(device, cmd.out_fault_id) != -EBUSY;
		wrong += close(one.fd) != 0;
		wrong += destroy(device, cmd.out_fault_id) != 0;
	}
	return (void *)wrong;
}

static void threads(int device, uint32_t ioas)
{
	pthread_t all[8];
	uint64_t wrong = 0;
	void *its;

	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		NEED(!pthread_create(&all[i], NULL, allocate, &device));
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		NEED(!pthread_join(all[i], &its));
		wrong += (uint64_t)its;
	}
	CHECK_EQ(wrong, 0, "many at once");
	given(device, ioas, lowest_free(), "afterwards");
}

static void dropped_threads(int device, uint32_t ioas)
{
	give_up_rights();
	threads(device, ioas);
}

static void on_signal(int number)
{
	(void)number;
}

/* Signals all the time; with `restart`, nothing of them is to be seen. Without, a call may end with EINTR that has done nothing. */
static void signals(int device, int restart)
{
	struct sigaction action = { .sa_handler = on_signal, .sa_flags = restart };
	struct itimerval often_ = { { 0, 1000 }, { 0, 1000 } }, never = { 0 };
	unsigned int interrupted = 0, wrong = 0, rounds = often(1000);
	uint32_t first = 0, last = 0;

	NEED(!sigaction(SIGALRM, &action, NULL) && !setitimer(ITIMER_REAL, &often_, NULL));
	for (unsigned int i = 0; i < rounds; i++) {
		struct iommu_fault_alloc cmd;
		long rc = queue_alloc(device, &cmd);

		if (rc == -EINTR) {
			interrupted++;
			continue;
		}
		if (rc) {
			wrong++;
			continue;
		}
		first = first ?: cmd.out_fault_id;
		last = cmd.out_fault_id;
		wrong += close((int)cmd.out_fault_fd) != 0;
	}
	NEED(!setitimer(ITIMER_REAL, &never, NULL));
	CHECK_EQ(wrong, 0, "nothing but EINTR");
	CHECK_EQ(last - first + 1, rounds - interrupted, "each was made once, or not at all");
	if (restart)
		CHECK_EQ(interrupted, 0, "and no EINTR");
}

static void restarted(int device, uint32_t ioas)
{
	(void)ioas;
	signals(device, SA_RESTART);
}

static void interrupted(int device, uint32_t ioas)
{
	(void)ioas;
	signals(device, 0);
}

/* For a debugger's and strace's eyes. */
static void traced(int device, uint32_t ioas)
{
	given(device, ioas, lowest_free(), "under a tracer");
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(int device, uint32_t ioas);
	} cases[] = {
		{ "plain", plain },
		{ "dropped", dropped },
		{ "group_only", group_only },
		{ "chrooted", chrooted },
		{ "chrooted_and_dropped", chrooted_and_dropped },
		{ "without_proc", without_proc },
		{ "not_dumpable", not_dumpable },
		{ "user_namespaces", user_namespaces },
		{ "pid_namespace", pid_namespace },
		{ "landlock", landlock },
		{ "filtered", filtered },
		{ "full", full },
		{ "dropped_and_full", dropped_and_full },
		{ "any_stack", any_stack },
		{ "stack_in_data", stack_in_data },
		{ "unwritable", unwritable },
		{ "closed", closed },
		{ "threads", threads },
		{ "dropped_threads", dropped_threads },
		{ "restarted", restarted },
		{ "interrupted", interrupted },
		{ "traced", traced },
	};
	int device;

	NEED(argc == 3);
	device_path = argv[1];
	device = open_device();
	checks_begin();
	for (size_t i = 0; i < ARRAY_LEN(cases); i++)
		if (!strcmp(argv[2], cases[i].name)) {
			cases[i].run(device, new_ioas(device));
			return checks_end();
		}
	NEED(!"a known case");
}
