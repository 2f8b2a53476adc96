// SPDX-License-Identifier: MIT
/*
 * A program does not notice how its descriptor came about: registers, signals, dispositions, masks,
 * memory below its stack pointer. x86-64 only.
 */
#include "inject_client.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <sys/time.h>

#define GENERAL 14 /* all but rax, which is the result, and rsp; rcx and r11 are the kernel's */
#define VECTORS 16
#define RED_ZONE 128
#define IOCTL_NR "16"

struct machine_state {
	/* rbx rbp r12 r13 r14 r15 r8 r9 r10 rdi rsi rdx, then rsp; the last is not used */
	uint64_t general[GENERAL];
	uint64_t vectors[VECTORS][2];
	uint8_t red_zone[RED_ZONE];
	uint64_t mxcsr;
};

/*
 * One ioctl with every register set from before and stored to after, which are static: no register
 * is left to point at them.
 */
static struct machine_state before __attribute__((used));
static struct machine_state after __attribute__((used));
static uint64_t saved_stack __attribute__((used));
static uint64_t stack_for_call __attribute__((used));
static volatile long result __attribute__((used));

__attribute__((naked, noinline, noclone)) static void call_with_state(void)
{
	asm volatile(
		"push %%rbx; push %%rbp; push %%r12; push %%r13; push %%r14; push %%r15\n"
		"mov %%rsp, saved_stack(%%rip)\n"
		"mov stack_for_call(%%rip), %%rsp\n"
		/* the red zone */
		"lea before+368(%%rip), %%rsi; lea -128(%%rsp), %%rdi\n"
		"mov $128, %%ecx; cld; rep movsb\n"
		".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
		"movdqu before+112+\\n*16(%%rip), %%xmm\\n\n"
		".endr\n"
		"mov before+0(%%rip), %%rbx; mov before+8(%%rip), %%rbp\n"
		"mov before+16(%%rip), %%r12; mov before+24(%%rip), %%r13\n"
		"mov before+32(%%rip), %%r14; mov before+40(%%rip), %%r15\n"
		"mov before+48(%%rip), %%r8; mov before+56(%%rip), %%r9\n"
		"mov before+64(%%rip), %%r10; mov before+72(%%rip), %%rdi\n"
		"mov before+80(%%rip), %%rsi; mov before+88(%%rip), %%rdx\n"
		"mov $" IOCTL_NR ", %%eax\n"
		"syscall\n"
		"mov %%rax, result(%%rip)\n"
		"mov %%rbx, after+0(%%rip); mov %%rbp, after+8(%%rip)\n"
		"mov %%r12, after+16(%%rip); mov %%r13, after+24(%%rip)\n"
		"mov %%r14, after+32(%%rip); mov %%r15, after+40(%%rip)\n"
		"mov %%r8, after+48(%%rip); mov %%r9, after+56(%%rip)\n"
		"mov %%r10, after+64(%%rip); mov %%rdi, after+72(%%rip)\n"
		"mov %%rsi, after+80(%%rip); mov %%rdx, after+88(%%rip)\n"
		"mov %%rsp, after+96(%%rip)\n"
		".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n"
		"movdqu %%xmm\\n, after+112+\\n*16(%%rip)\n"
		".endr\n"
		"lea -128(%%rsp), %%rsi; lea after+368(%%rip), %%rdi\n"
		"mov $128, %%ecx; cld; rep movsb\n"
		"stmxcsr after+496(%%rip)\n"
		"mov saved_stack(%%rip), %%rsp\n"
		"pop %%r15; pop %%r14; pop %%r13; pop %%r12; pop %%rbp; pop %%rbx; ret\n"
		::: "memory");
}

_Static_assert(offsetof(struct machine_state, vectors) == 112, "as the code above has it");
_Static_assert(offsetof(struct machine_state, red_zone) == 368, "as the code above has it");
_Static_assert(offsetof(struct machine_state, mxcsr) == 496, "as the code above has it");

static volatile unsigned int ticks;

static void tick(int number)
{
	(void)number;
	ticks++;
}

static void fill(void *where, size_t size, unsigned int *seed)
{
	for (size_t i = 0; i < size; i++)
		((uint8_t *)where)[i] = rand_r(seed) >> 3;
}

static uint8_t *map(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	NEED(memory != MAP_FAILED);
	return memory;
}

static void registers(int device, unsigned int rounds)
{
	struct itimerval often = { .it_interval.tv_usec = 300, .it_value.tv_usec = 300 };
	struct itimerval never = { 0 };
	struct sigaction action = { .sa_handler = tick, .sa_flags = SA_RESTART };
	uint8_t *stack = map(65536);
	static struct create cmd;
	unsigned int seed = 1, wrong = 0, failed = 0;

	stack_for_call = (uint64_t)stack + 49152;
	NEED(!sigaction(SIGALRM, &action, NULL) && !setitimer(ITIMER_REAL, &often, NULL));
	for (unsigned int i = 0; i < rounds; i++) {
		fill(&before, sizeof(before), &seed);
		before.general[9] = device;
		before.general[10] = CREATE;
		before.general[11] = (uint64_t)&cmd;
		before.general[12] = stack_for_call;
		before.general[13] = after.general[13] = 0;
		asm("stmxcsr %0" : "=m"(before.mxcsr));
		after.mxcsr = before.mxcsr;
		cmd = (struct create){ .size = sizeof(cmd), .flags = O_RDWR };
		call_with_state();
		failed += result != 0;
		wrong += !!memcmp(&before, &after, sizeof(before));
		close(cmd.out_fd);
	}
	NEED(!setitimer(ITIMER_REAL, &never, NULL));
	CHECK_EQ(failed, 0, "%u calls, all succeeded", rounds);
	CHECK_EQ(wrong, 0, "every register and the red zone are as before each call");
	CHECK_TRUE(ticks > rounds / 100, "signals came meanwhile (%u)", ticks);
}

/* The stack's next page is not there yet: the kernel grows it under its own thread only. */
static void stack_edge(int device)
{
	static struct create cmd = { .size = sizeof(cmd), .flags = O_RDWR };
	unsigned long first, last;
	char line[256];
	FILE *maps = fopen("/proc/self/maps", "r");

	NEED(maps);
	first = 0;
	while (fgets(line, sizeof(line), maps))
		if (strstr(line, "[stack]"))
			NEED(sscanf(line, "%lx-%lx", &first, &last) == 2);
	fclose(maps);
	NEED(first);
	memset(&before, 0, sizeof(before));
	before.general[9] = device;
	before.general[10] = CREATE;
	before.general[11] = (uint64_t)&cmd;
	before.general[12] = stack_for_call = first + RED_ZONE; /* no room for the path */
	call_with_state();
	CHECK_OK(result, "at the edge of the stack");
	CHECK_OK(memcmp(before.red_zone, after.red_zone, RED_ZONE), "with an unharmed red zone");
	CHECK_OK(close(cmd.out_fd), "and the descriptor there");
}

/*
 * What lies below the red zone belongs to nobody, in theory. Programs that lay out stacks of their
 * own know better.
 */
static void below_stack(int device)
{
	static struct create cmd = { .size = sizeof(cmd), .flags = O_RDWR };
	static uint8_t pattern[4096];
	uint8_t *stack = map(8192);
	unsigned int seed = 2;

	fill(pattern, sizeof(pattern), &seed);
	memcpy(stack, pattern, sizeof(pattern));
	before.general[9] = device;
	before.general[10] = CREATE;
	before.general[11] = (uint64_t)&cmd;
	before.general[12] = stack_for_call = (uint64_t)stack + sizeof(pattern) + RED_ZONE;
	call_with_state();
	CHECK_OK(result, "with other data below the red zone");
	CHECK_OK(memcmp(stack, pattern, sizeof(pattern)), "which is unharmed");
	close(cmd.out_fd);
}

static void no_stack(int device)
{
	static struct create cmd = { .size = sizeof(cmd), .flags = O_RDWR };
	uint8_t *pages = map(8192);

	NEED(!mprotect(pages, 4096, PROT_NONE));
	before.general[9] = device;
	before.general[11] = (uint64_t)&cmd;
	before.general[12] = stack_for_call = (uint64_t)pages + 4096 + RED_ZONE;
	call_with_state();
	CHECK_OK(result, "a stack that ends, with no room below");
	CHECK_OK(memcmp(before.general, after.general, sizeof(before.general)),
		 "the registers are unharmed");
	close(cmd.out_fd);
	CHECK_EQ(wait_live(device, 0), 0, "no object stays");
}

#define QUEUED 3000
#define AHEAD 3 /* as many signals wait at a time: so there are descriptors in between */

static volatile int expected_value, out_of_order;

static void count_queued(int number, siginfo_t *info, void *context)
{
	(void)number;
	(void)context;
	out_of_order += info->si_value.sival_int != expected_value;
	expected_value++;
}

static void *send_queued(void *argument)
{
	pthread_t target = *(pthread_t *)argument;

	for (int i = 0; i < QUEUED;) {
		if (i - expected_value >= AHEAD)
			continue;
		if (!pthread_sigqueue(target, SIGRTMIN, (union sigval){ .sival_int = i }))
			i++;
		else if (errno != EAGAIN)
			break;
	}
	return NULL;
}

/* Signals for the thread that is being given a descriptor: each arrives, once, in order. */
static void signals(int device)
{
	struct sigaction action = { .sa_sigaction = count_queued,
				    .sa_flags = SA_SIGINFO | SA_RESTART };
	pthread_t self = pthread_self(), sender;
	sigset_t mask_before, mask_after;
	unsigned int failed = 0, rounds = 0;
	struct sigaction trap = { .sa_handler = SIG_IGN }, now;

	NEED(!sigaction(SIGRTMIN, &action, NULL) && !sigaction(SIGTRAP, &trap, NULL));
	sigemptyset(&mask_before);
	sigaddset(&mask_before, SIGUSR2);
	sigaddset(&mask_before, SIGTRAP);
	NEED(!pthread_sigmask(SIG_SETMASK, &mask_before, NULL));
	NEED(!pthread_create(&sender, NULL, send_queued, &self));
	while (expected_value < QUEUED) {
		int fd = create(device);

		failed += fd < 0;
		rounds++;
		close(fd);
	}
	NEED(!pthread_join(sender, NULL));
	CHECK_EQ(failed, 0, "no failure");
	CHECK_EQ(out_of_order, 0, "%d signals, in order, during %u descriptors", QUEUED, rounds);
	NEED(!pthread_sigmask(SIG_SETMASK, NULL, &mask_after));
	CHECK_OK(memcmp(&mask_before, &mask_after, 8), "the mask is the program's own");
	NEED(!sigaction(SIGTRAP, NULL, &now));
	CHECK_TRUE(now.sa_handler == SIG_IGN, "so is what it does with SIGTRAP");
	CHECK_EQ(wait_live(device, 0), 0, "all closed");
}

#define STOPS 200

/* Stopped and continued by its parent while it is at it: neither is lost, neither does harm. */
static void stopped(int device)
{
	int status, stops = 0, continues = 0;
	pid_t child = fork();

	NEED(child >= 0);
	if (child == 0) {
		for (;;) {
			int fd = create(device);

			if (fd < 0)
				_exit(1);
			close(fd);
		}
	}
	for (int i = 0; i < STOPS; i++) {
		NEED(!kill(child, SIGSTOP) && waitpid(child, &status, WUNTRACED) == child);
		stops += WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP;
		NEED(!kill(child, SIGCONT) && waitpid(child, &status, WCONTINUED) == child);
		continues += WIFCONTINUED(status);
		for (int n = rand() % 20; n; n--) /* a moment that differs each time */
			ioctl(device, LIVE, 0);
	}
	CHECK_EQ(stops, STOPS, "the process stops each time");
	CHECK_EQ(continues, STOPS, "and goes on");
	NEED(!kill(child, SIGTERM) && waitpid(child, &status, 0) == child);
	CHECK_EQ(status, SIGTERM, "until SIGTERM ends it");
	CHECK_EQ(wait_live(device, 0), 0, "all closed");
}

int main(int argc, char **argv)
{
	int device;

	NEED(argc == 3);
	device_path = argv[2];
	checks_begin();
	device = open_device();
	registers(device, atoi(argv[1]));
	stack_edge(device);
	below_stack(device);
	no_stack(device);
	signals(device);
	stopped(device);
	return checks_end();
}
