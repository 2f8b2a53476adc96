// SPDX-License-Identifier: MIT
/*
 * Clients in special places: inject_places CASE PATH. Each says what it got; some are refused, and
 * then nothing is left behind.
 */
#include "inject_client.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static void nothing_left(int device)
{
	int fd = dup(device);

	CHECK_EQ(wait_live(device, 0), 0, "no object stays");
	close(fd);
	CHECK_EQ(open(device_path, O_RDWR | O_CLOEXEC), fd, "no descriptor stays");
	close(fd);
}

static void refused(int device, int error)
{
	CHECK_ERR(error, create(device), "is refused");
	nothing_left(device);
}

static void given(int device)
{
	uint32_t id = 0;
	int fd = create_flags(device, O_RDWR | O_CLOEXEC, &id);

	CHECK_TRUE(fd >= 0, "is given");
	CHECK_EQ(ioctl(fd, IDENTITY, 0), id, "the right one");
	close(fd);
	nothing_left(device);
}

/* Like strace: another process traces this one, which goes on. */
static void traced(int device)
{
	int status;
	pid_t child;

	fflush(stdout);
	child = fork();
	NEED(child >= 0);
	if (child == 0) {
		NEED(!ptrace(PTRACE_TRACEME, 0, 0, 0) && !raise(SIGSTOP));
		refused(device, EPERM);
		_exit(0);
	}
	NEED(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
	NEED(!ptrace(PTRACE_CONT, child, 0, 0));
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQ(status, 0, "its tracer saw nothing but its end");
	given(device);
}

static int filter_out(int number, unsigned int action)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = 4, .filter = filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ?:
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

/* It would be killed if it opened a file. The filter is to be there afterwards. */
static void seccomp_given(int device)
{
	uint32_t id = 0;
	int status, fd;
	pid_t child;

	NEED(!filter_out(SYS_openat, SECCOMP_RET_KILL_PROCESS));
	fd = create_flags(device, O_RDWR | O_CLOEXEC, &id);
	CHECK_TRUE(fd >= 0, "is given");
	CHECK_EQ(ioctl(fd, IDENTITY, 0), id, "the right one");
	close(fd);
	CHECK_EQ(wait_live(device, 0), 0, "closed");
	fflush(stdout);
	child = fork();
	if (child == 0) {
		create(device);
		open(device_path, O_RDWR);
		_exit(0);
	}
	NEED(waitpid(child, &status, 0) == child);
	CHECK_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS,
		   "its own openat kills it as before");
}

static void seccomp_refused(int device)
{
	int fd = dup(device);

	close(fd);
	NEED(!filter_out(SYS_openat, SECCOMP_RET_KILL_PROCESS));
	CHECK_ERR(EPERM, create(device), "is refused, and not killed");
	CHECK_EQ(wait_live(device, 0), 0, "no object stays");
	CHECK_EQ(dup(device), fd, "no descriptor stays");
}

/* Its own mounts, with no /proc among them. */
static void without_proc(int device)
{
	NEED(!unshare(CLONE_NEWNS));
	NEED(!mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	NEED(!mount("none", "/proc", "tmpfs", 0, NULL));
	given(device);
}

static void other_root(int device)
{
	int fd;

	NEED(!chroot("/sys"));
	fd = create(device);
	CHECK_TRUE(fd >= 0, "is given");
	close(fd);
	CHECK_EQ(wait_live(device, 0), 0, "no object stays");
}

static void mount_namespace(int device)
{
	NEED(!unshare(CLONE_NEWNS));
	NEED(!mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	given(device);
	NEED(!umount2(device_path, MNT_DETACH));
	CHECK_TRUE(create(device) >= 0, "where the device is not to be seen, too");
}

/* A process that has another id for itself than for the device. */
static void pid_namespace(int device)
{
	NEED(!unshare(CLONE_NEWPID | CLONE_NEWNS));
	NEED(!mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	IN_CHILD({
		given(device); /* /proc is that of its parent, and knows it */
		NEED(!mount("none", "/proc", "proc", 0, NULL));
		given(device);
	});
}

/* The way of 32-bit programs into the kernel, in a 64-bit one. */
static void int80(int device)
{
	struct create *cmd = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				  MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	long rc;

	NEED(cmd != MAP_FAILED);
	cmd->size = sizeof(*cmd);
	asm volatile("int $0x80"
		     : "=a"(rc)
		     : "a"(54), "b"(device), "c"(CREATE), "d"(cmd)
		     : "memory", "r8", "r9", "r10", "r11");
	CHECK_ERR(EOPNOTSUPP, (int)rc, "is refused");
	nothing_left(device);
	given(device);
}

static void user_namespace(int device)
{
	NEED(!unshare(CLONE_NEWUSER));
	given(device);
}

static void fill_up(void)
{
	struct rlimit most = { 20, 20 };

	while (dup(0) < 19)
		;
	NEED(!setrlimit(RLIMIT_NOFILE, &most));
}

/* It has the device from somebody who may open it, and may not itself. */
static void passed_on(int device)
{
	NEED(!setresgid(65534, 65534, 65534) && !setresuid(65534, 65534, 65534));
	close(create(device));
	CHECK_EQ(wait_live(device, 0), 0, "no object stays");
	fill_up();
	CHECK_ERR(ENOMEM, create(device), "without a number there is none");
	CHECK_EQ(wait_live(device, 0), 0, "no object stays");
	NEED(!close(17));
	CHECK_EQ(create(device), 17, "one is enough");
	NEED(!close(17) && !close(9));
	CHECK_EQ(create(device), 9, "of two the lower");
	NEED(!close(9) && !close(11) && !close(13));
	CHECK_EQ(create_flags(device, O_RDWR, NULL), 9, "of many the lowest");
	CHECK_EQ(fcntl(9, F_GETFD), 0, "not closed on exec");
	CHECK_EQ(create_flags(device, O_RDONLY | O_CLOEXEC, NULL), 11, "the next");
	CHECK_EQ(fcntl(11, F_GETFD), FD_CLOEXEC, "closed on exec");
	CHECK_EQ(fcntl(11, F_GETFL) & O_ACCMODE, O_RDONLY, "to read");
	NEED(!close(9) && !close(11));
	CHECK_EQ(wait_live(device, 0), 0, "no object stays");
}

static void *exec_self(void *argument)
{
	char *const *argv = argument;
	struct timespec now, end;

	/* At a moment that differs each time. */
	clock_gettime(CLOCK_MONOTONIC, &end);
	end.tv_nsec += end.tv_nsec % 977 * 1000;
	do
		clock_gettime(CLOCK_MONOTONIC, &now);
	while ((now.tv_sec - end.tv_sec) * 1000000000L + now.tv_nsec < end.tv_nsec);
	execv("/proc/self/exe", argv);
	return NULL;
}

/*
 * While one thread is given descriptors, another makes the whole process another program; the last
 * of them ends well.
 */
static int exec_meanwhile(int device, char **argv)
{
	int rounds = atoi(argv[2]);
	char next[16];
	char *again[] = { argv[0], argv[1], next, argv[3], NULL };
	pthread_t thread;

	close(create(device));
	if (!rounds)
		return 0;
	snprintf(next, sizeof(next), "%d", rounds - 1);
	NEED(!pthread_create(&thread, NULL, exec_self, again));
	for (;;)
		close(create(device));
}

static volatile bool done;

static void *swap_device(void *argument)
{
	int number = *(int *)argument, null = open("/dev/null", O_RDWR), kept = dup(number);

	while (!done) {
		dup2(null, number);
		dup2(kept, number);
	}
	close(null);
	close(kept);
	return NULL;
}

/* Another thread changes what the descriptor names that we call ioctl on. */
static void swapped(int device)
{
	unsigned int made = 0, other_file = 0, no_ioctl = 0, wrong = 0;
	int number = dup(device), fd;
	pthread_t thread;

	NEED(!pthread_create(&thread, NULL, swap_device, &number));
	while (made < 20 || other_file < 20) {
		uint32_t id = 0;

		fd = create_flags(number, O_RDWR, &id);
		made += fd >= 0;
		other_file += fd == -EBADF;
		no_ioctl += fd == -ENOTTY;
		if (fd >= 0)
			wrong += ioctl(fd, IDENTITY, 0) != (int)id;
		else
			wrong += fd != -EBADF && fd != -ENOTTY;
		if (fd >= 0)
			close(fd);
	}
	done = true;
	NEED(!pthread_join(thread, NULL));
	close(number);
	CHECK_EQ(wrong, 0, "%u given, %u refused, %u called another file", made, other_file,
		 no_ioctl);
	nothing_left(device);
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		void (*run)(int device);
	} cases[] = {
		{ "traced", traced },
		{ "seccomp_given", seccomp_given },
		{ "seccomp_refused", seccomp_refused },
		{ "given", given },
		{ "int80", int80 },
		{ "without_proc", without_proc },
		{ "other_root", other_root },
		{ "mount_namespace", mount_namespace },
		{ "pid_namespace", pid_namespace },
		{ "user_namespace", user_namespace },
		{ "passed_on", passed_on },
		{ "swapped", swapped },
	};
	int device;

	NEED(argc >= 3);
	device_path = argv[argc - 1];
	device = open_device();
	if (!strcmp(argv[1], "exec_meanwhile") && argc == 4)
		return exec_meanwhile(device, argv);
	checks_begin();
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
		if (!strcmp(argv[1], cases[i].name)) {
			cases[i].run(device);
			return checks_end();
		}
	NEED(!"a known case");
}
