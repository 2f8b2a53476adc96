// SPDX-License-Identifier: MIT
/*
 * As soon as a call of its first thread is answered, another one executes a set-user-ID program, which takes over the
 * thread's number: what is then still written "by number" comes into that program's memory. All that could be written
 * (the struct, the array, what lies below the stack pointer) is at addresses where that program (setuid_target.c) has
 * nothing but zeros, and it says whether they are still that.
 *
 * HOSTILE_TARGET is that program. In a row with several processes, for ever.
 */
#include "attack.h"
#include "setuid.h"

#include "../../clients/mock/mock.h"

#define PROCESSES 3
#define LONGEST_DELAY 30000 /* us */

static int next_descriptor;
static volatile bool begun;

static void *exec_target(void *arg)
{
	/* Mostly at once, and at times late enough for a daemon that is busy. */
	unsigned int delay = chance(3) ? chance(2000) : chance(LONGEST_DELAY);
	char *target = getenv("HOSTILE_TARGET"), *argv[] = { target, NULL };

	if (arg) {
		while (!begun)
			sched_yield();
		delay /= 20;
	} else {
		while (fcntl(next_descriptor, F_GETFD) < 0)
			;
	}
	nap(delay);
	execv(target, argv);
	_exit(2);
}

/* An ioctl whose stack pointer lies where the target has zeros. */
static void call_on_guarded_stack(int fd, unsigned long number, void *arg)
{
#if defined(__x86_64__)
	long rc;

	begun = true;
	__asm__ volatile("mov %%rsp, %%r12; mov %5, %%rsp; syscall; mov %%r12, %%rsp"
			 : "=a"(rc)
			 : "0"(SYS_ioctl), "D"((long)fd), "S"((long)number), "d"(arg),
			   "r"((char *)GUARD + GUARD_SIZE / 2)
			 : "rcx", "r11", "r12", "memory");
#else
	begun = true;
	ioctl(fd, number, arg);
#endif
}

static void one_try(void)
{
	char *guard = mmap((void *)GUARD, GUARD_SIZE, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	unsigned int kind = chance(4), i;
	int fd = open_device();
	uint32_t ioas = new_ioas(fd);
	union {
		struct iommu_fault_alloc fault;
		struct iommu_test_cmd test;
		struct iommu_ioas_iova_ranges ranges;
	} *cmd = (void *)(guard + GUARD_SIZE - 2 * PAGE);

	NEED(guard == (char *)GUARD);
	next_descriptor = dup(fd);
	close(next_descriptor);
	if (kind < 3)
		/* What is put back below the stack afterwards. */
		for (i = 0; i < PAGE; i += 16)
			memcpy(guard + GUARD_SIZE / 2 - PAGE + i, "WAS-WRITTEN-HERE", 16);
	begin_thread(exec_target, kind == 3 ? "" : NULL);
	switch (kind) {
	case 0:
	case 1:
		cmd->fault.size = sizeof(cmd->fault);
		call_on_guarded_stack(fd, IOMMU_FAULT_QUEUE_ALLOC, cmd);
		break;
	case 2:
		cmd->test.size = sizeof(cmd->test);
		cmd->test.op = IOMMU_TEST_OP_CREATE_ACCESS;
		cmd->test.id = ioas;
		call_on_guarded_stack(fd, IOMMU_TEST_CMD, cmd);
		break;
	default:
		/* The array is in memory that has to be made yet, and the call is interrupted by the exec. */
		cmd->ranges.size = sizeof(cmd->ranges);
		cmd->ranges.ioas_id = ioas;
		cmd->ranges.num_iovas = 10;
		cmd->ranges.allowed_iovas = (uintptr_t)guard;
		for (;;)
			call_on_guarded_stack(fd, IOMMU_IOAS_IOVA_RANGES, cmd);
	}
	rest();
}

static void try_for_ever(void)
{
	int status;
	pid_t pid;

	for (;;) {
		pid = begin_process(one_try);
		NEED(waitpid(pid, &status, 0) == pid);
		__atomic_add_fetch(&counters->tries, 1, __ATOMIC_SEQ_CST);
		if (WIFEXITED(status) && WEXITSTATUS(status) == GUARD_BROKEN)
			__atomic_add_fetch(&counters->astray, 1, __ATOMIC_SEQ_CST);
		else
			__atomic_add_fetch(&counters->answers[WIFEXITED(status) ? WEXITSTATUS(status) : EINTR], 1,
					   __ATOMIC_SEQ_CST);
	}
}

static void setuid_program(void)
{
	unsigned int i;

	for (i = 0; i < PROCESSES; i++)
		begin_process(try_for_ever);
	ready();
}

static const struct attack_entry entries[] = {
	{ "setuid", setuid_program },
};

ATTACK_MAIN(entries)
