/* SPDX-License-Identifier: MIT */
/*
 * System calls that `iommud run` has watched, by a program that knows nothing of that.
 *
 * files     What they give on files of all kinds: a line each.
 * threads   Many at once, by threads and processes: "wrong 0".
 * listener  The errno of a seccomp filter with a listener of its own.
 * device [PATH]  For each line that is read, a line: the errnos of mmap of a memfd, mmap of the
 *           device (/dev/iommu), a read of nothing from it, and of an ioctl that only iommud's own may
 *           make. SIGUSR1 is counted.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096
#define SHARED_RW(fd) map(fd, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, 0)

static int map(int fd, size_t length, int prot, int flags, off_t offset)
{
	void *p = mmap(NULL, length, prot, flags, fd, offset);

	if (p == MAP_FAILED)
		return errno;
	munmap(p, length);
	return 0;
}

static int error(long rc)
{
	return rc < 0 ? errno : 0;
}

static void show(const char *name, int fd)
{
	struct iovec none = { NULL, 0 };
	char byte = 'x';

	printf("%s: read %d", name, error(read(fd, &byte, 0)));
	printf(" write %d", error(write(fd, &byte, 0)));
	printf(" pread %d", error(pread(fd, &byte, 0, 0)));
	printf(" pwrite %d", error(pwrite(fd, &byte, 0, 0)));
	printf(" readv %d", error(readv(fd, &none, 0)));
	printf(" writev %d", error(writev(fd, &none, 0)));
	printf(" shared %d", SHARED_RW(fd));
	printf(" to read %d", map(fd, PAGE, PROT_READ, MAP_SHARED, 0));
	printf(" validated %d", map(fd, PAGE, PROT_READ, MAP_SHARED_VALIDATE | MAP_SYNC, 0));
	printf(" private %d", map(fd, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, 0));
	printf(" far %d", map(fd, PAGE, PROT_READ, MAP_PRIVATE, 1L << 40));
	printf(" none %d\n", map(fd, 0, PROT_READ, MAP_SHARED, 0));
}

static int files(void)
{
	int pipes[2], sockets[2], memory = memfd_create("calls", 0);
	char *one, *two;

	if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) || memory < 0 ||
	    ftruncate(memory, PAGE))
		return 2;
	show("pipe, read end", pipes[0]);
	show("pipe, write end", pipes[1]);
	show("socket", sockets[0]);
	show("memfd", memory);
	show("directory", open("/", O_RDONLY | O_DIRECTORY));
	show("O_PATH", open("/dev/null", O_PATH));
	show("/dev/null", open("/dev/null", O_RDWR));
	show("/dev/zero", open("/dev/zero", O_RDWR));
	show("/proc/self/maps", open("/proc/self/maps", O_RDONLY));
	show("the program", open("/proc/self/exe", O_RDONLY));
	show("epoll", epoll_create1(0));
	show("eventfd", eventfd(0, 0));
	show("closed", 999);
	show("none", -1);
	one = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	two = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, memory, 0);
	if (one == MAP_FAILED || two == MAP_FAILED)
		return 2;
	strcpy(one, "the same memory");
	puts(two);
	return 0;
}

#define THREADS 8
#define ROUNDS 200

static void *many(void *unused)
{
	long wrong = 0, i;
	int fd, status, *p;
	pid_t child;

	for (i = 0; i < ROUNDS; i++) {
		fd = memfd_create("many", 0);
		wrong += fd < 0 || ftruncate(fd, PAGE);
		p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (p == MAP_FAILED)
			return (void *)(wrong + 1);
		wrong += read(fd, NULL, 0) != 0;
		if (i % 50 == 0) {
			child = fork();
			if (child == 0)
				_exit((*p = SHARED_RW(fd) + 77) != 77);
			wrong += waitpid(child, &status, 0) != child || status || *p != 77;
		}
		munmap(p, PAGE);
		close(fd);
	}
	return unused ? NULL : (void *)wrong;
}

static int threads(void)
{
	pthread_t thread[THREADS];
	long wrong = 0, i;
	void *result;

	for (i = 0; i < THREADS; i++)
		if (pthread_create(&thread[i], NULL, many, NULL))
			return 2;
	for (i = 0; i < THREADS; i++) {
		pthread_join(thread[i], &result);
		wrong += (long)result;
	}
	printf("wrong %ld\n", wrong);
	return 0;
}

static int listener(void)
{
	struct sock_filter filter[] = { BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW) };
	struct sock_fprog program = { .len = 1, .filter = filter };

	printf("listener %d\n", error(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
					      SECCOMP_FILTER_FLAG_NEW_LISTENER, &program)));
	return 0;
}

static volatile sig_atomic_t signals;

static void on_signal(int number)
{
	signals += number == SIGUSR1;
}

static int device(const char *path)
{
	struct sigaction action = { .sa_handler = on_signal };
	char line[16], byte[128] = { 0 };
	int memory = memfd_create("calls", 0), fd = open(path, O_RDWR);

	if (fd < 0 || memory < 0 || ftruncate(memory, PAGE) || sigaction(SIGUSR1, &action, NULL))
		return 2;
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin)) {
		printf("memfd %d", SHARED_RW(memory));
		printf(" mmap %d", SHARED_RW(fd));
		printf(" read %d", error(read(fd, byte, 0)));
		printf(" ioctl %d", error(ioctl(fd, 0x5700, byte)));
		printf(" signals %d\n", (int)signals);
		fflush(stdout);
	}
	return 0;
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "files"))
		return files();
	if (!strcmp(what, "threads"))
		return threads();
	if (!strcmp(what, "listener"))
		return listener();
	if (!strcmp(what, "device"))
		return device(argc == 3 ? argv[2] : "/dev/iommu");
	return 2;
}
