// SPDX-License-Identifier: MIT
/*
 * Two processes that share one address space, until one of them executes another program, as between
 * a vfork and its exec. Each program has a megabyte at one fixed address, filled with its letter.
 *
 * It prints the child's pid. At each line of input: first, the child executes `second`, which prints
 * "second"; then both print the first byte of their memory ("a" and "b"); then both end.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PLACE ((char *)0x500000000000)
#define LENGTH (1UL << 20)

static char stack[1 << 16] __attribute__((aligned(16)));
static int to_child[2], from_child[2];

static int fill(char letter)
{
	void *got = mmap(PLACE, LENGTH, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	if (got != PLACE)
		return -1;
	memset(PLACE, letter, LENGTH);
	return 0;
}

static int child(void *self)
{
	char byte;

	dup2(to_child[0], 0);
	dup2(from_child[1], 3);
	if (read(0, &byte, 1) != 1)
		_exit(1);
	execl(self, self, "second", (char *)NULL);
	_exit(1);
}

static int second(void)
{
	char byte;

	if (fill('b') || write(3, "s", 1) != 1 || read(0, &byte, 1) != 1)
		return 1;
	return write(3, PLACE, 1) != 1;
}

int main(int argc, char **argv)
{
	char line[16], answer;
	pid_t pid;

	if (argc > 1 && !strcmp(argv[1], "second"))
		return second();
	if (fill('a') || pipe(to_child) || pipe(from_child))
		return 1;
	pid = clone(child, stack + sizeof(stack), CLONE_VM | SIGCHLD, "/proc/self/exe");
	if (pid < 0)
		return 1;
	printf("%d\n", (int)pid);
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin) || write(to_child[1], "x", 1) != 1 ||
	    read(from_child[0], &answer, 1) != 1)
		return 1;
	printf("second\n");
	fflush(stdout);
	if (!fgets(line, sizeof(line), stdin) || write(to_child[1], "x", 1) != 1 ||
	    read(from_child[0], &answer, 1) != 1)
		return 1;
	printf("%c%c\n", PLACE[0], answer);
	return waitpid(pid, NULL, 0) != pid;
}
