// SPDX-License-Identifier: MIT
/*
 * Clients that ask for a descriptor (FAULT_QUEUE_ALLOC) and then make it impossible to hand it over:
 * stopped, traced, in vfork, in exec, with a stack that cannot be written, with a /proc of their
 * own, with a seccomp listener that never answers.
 */
#include "attack.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mount.h>
#include <sys/ptrace.h>

#define THREADS 16
#define CHILDREN 8

static void ask(int fd)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };

	if (attack(fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd))
		return;
	close((int)cmd.out_fault_fd);
	destroy(fd, cmd.out_fault_id);
}

static void ask_for_ever(void)
{
	int fd = open_device();

	for (;;)
		ask(fd);
}

static void *ask_thread(void *arg)
{
	(void)arg;
	ask_for_ever();
	return NULL;
}

/* --- a stack pointer in a page that can be read and not written --- */

static char *bad_stack;
static int shared_fd;

static void *ask_on_bad_stack(void *arg)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	int fd = (uintptr_t)arg % 2 ? open_device() : shared_fd;

	for (;;) {
#if defined(__x86_64__)
		long rc;

		__asm__ volatile("mov %%rsp, %%r12; mov %5, %%rsp; syscall; mov %%r12, %%rsp"
				 : "=a"(rc)
				 : "0"(SYS_ioctl), "D"((long)fd), "S"((long)IOMMU_FAULT_QUEUE_ALLOC),
				   "d"(&cmd), "r"(bad_stack + PAGE / 2)
				 : "rcx", "r11", "r12", "memory");
		__atomic_add_fetch(&counters->tries, 1, __ATOMIC_SEQ_CST);
#else
		ask(fd);
#endif
	}
	return NULL;
}

static void stack(void)
{
	uintptr_t i;

	bad_stack = page_under_writeback("x", 1);
	shared_fd = open_device();
	ready();
	for (i = 0; i < THREADS; i++)
		begin_thread(ask_on_bad_stack, (void *)i);
}

/* --- stopped --- */

static void stops(void)
{
	pid_t children[CHILDREN];
	unsigned int i;

	for (i = 0; i < CHILDREN; i++)
		children[i] = begin_process(ask_for_ever);
	ready();
	for (;;) {
		i = chance(CHILDREN);
		kill(children[i], SIGSTOP);
		nap(chance(3000));
		/* A quarter of them stay stopped. */
		if (i >= CHILDREN / 4)
			kill(children[i], SIGCONT);
		nap(chance(500));
	}
}

/* --- traced by their own --- */

static void traced(void)
{
	pid_t child = begin_process(ask_for_ever);
	int status;

	/* At each system call it stops, and stays so for a while; the second one for ever. */
	while (ptrace(PTRACE_SEIZE, child, NULL, NULL))
		nap(100);
	for (;;) {
		ptrace(PTRACE_INTERRUPT, child, NULL, NULL);
		NEED(waitpid(child, &status, __WALL) == child);
		ready();
		nap(chance(5000));
		ptrace(PTRACE_CONT, child, NULL, NULL);
		nap(chance(2000));
	}
}

/* A tracer that holds a thread which has just been answered, and one that gives it free in between. */
static void traced_at_calls(void)
{
	pid_t child = begin_process(ask_for_ever);
	int status;

	for (;;) {
		/* Somebody else may be tracing it just now, to hand it something over. */
		if (ptrace(PTRACE_SEIZE, child, NULL, NULL))
			continue;
		ptrace(PTRACE_INTERRUPT, child, NULL, NULL);
		NEED(waitpid(child, &status, __WALL) == child);
		ready();
		ptrace(PTRACE_SYSCALL, child, NULL, NULL);
		NEED(waitpid(child, &status, __WALL) == child);
		nap(chance(20000));
		ptrace(PTRACE_DETACH, child, NULL, NULL);
		nap(chance(5000));
	}
}

/* --- vfork --- */

/* The parent waits in vfork, its child asks with the memory of both. */
static void *vfork_and_ask(void *arg)
{
	int fd = open_device();
	pid_t pid;

	(void)arg;
	for (;;) {
		pid = vfork();
		if (pid == 0) {
			ask(fd);
			nap(20000);
			_exit(0);
		}
		NEED(pid > 0);
		waitpid(pid, NULL, __WALL);
	}
	return NULL;
}

/* The child waits for ever, while other threads ask. */
static void *vfork_for_ever(void *arg)
{
	pid_t parent = getpid();

	(void)arg;
	if (vfork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (getppid() == parent)
			pause();
		_exit(0);
	}
	return NULL;
}

static void vforks(void)
{
	unsigned int i;

	begin_thread(vfork_for_ever, NULL);
	for (i = 0; i < CHILDREN; i++)
		begin_thread(i % 2 ? vfork_and_ask : ask_thread, NULL);
	ready();
}

/* --- exec --- */

static void *exec_own_file(void *arg)
{
	char *const none[] = { NULL };

	(void)arg;
	/* The kernel reads its first page, and holds what a tracer needs meanwhile. */
	execve(getenv("HOSTILE_FILE"), none, none);
	return NULL;
}

static void *alloc_thread(void *arg)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };
	int fd = open_device();

	(void)arg;
	for (;;)
		attack(fd, IOMMU_IOAS_ALLOC, &cmd);
	return NULL;
}

static void slow_exec(void)
{
	unsigned int i;

	/* What is open for writing is not executed. */
	close(own_file());
	*unanswered |= READS;
	/* While one is in exec, no other thread can be begun. */
	for (i = 0; i < CHILDREN; i++)
		begin_thread(i % 4 ? ask_thread : alloc_thread, NULL);
	begin_thread(exec_own_file, NULL);
	wait_asked(READS);
	ready();
}

/* --- a /proc of the client's own, where nothing is found, ever --- */

static void own_proc(void)
{
	char options[128], node[256];
	int connection;

	own_namespaces();
	snprintf(node, sizeof(node), "%s/fuse", getenv("HOSTILE_NODES"));
	NEED((connection = open(node, O_RDWR | O_CLOEXEC)) >= 0);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40777,user_id=0,group_id=0,allow_other", connection);
	NEED(mount("own", "/proc", "fuse", 0, options) == 0);
	own_begin(connection, true);
	*unanswered |= LOOKUPS;
	ready();
	begin_thread(ask_thread, NULL);
	begin_thread(ask_thread, NULL);
}

/* --- a seccomp listener that does not answer for openat, recvmsg and close --- */

static void own_listener(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 2, 0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_recvmsg, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
	};
	struct sock_fprog program = { .len = ARRAY_LEN(filter), .filter = filter };
	int fds[CHILDREN];
	unsigned int i;

	for (i = 0; i < CHILDREN; i++)
		fds[i] = open_device();
	NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	NEED(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program) >= 0);
	ready();
	for (i = 0;; i++)
		ask(fds[i % CHILDREN]);
}

static const struct attack_entry entries[] = {
	{ "stack", stack },
	{ "stops", stops },
	{ "traced", traced },
	{ "traced_at_calls", traced_at_calls },
	{ "vforks", vforks },
	{ "slow_exec", slow_exec },
	{ "own_proc", own_proc },
	{ "own_listener", own_listener },
};

ATTACK_MAIN(entries)
