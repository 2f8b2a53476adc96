// SPDX-License-Identifier: MIT
/*
 * fuzz [--seed S] [--calls N] [--threads T] [--seconds MAX] [--areas] [--trace] PATH
 *
 * Random ioctls on PATH (fuzz_calls.h, fuzz_game.h). Children that are killed have files of their
 * own. Prints what each command answered and how often, and a checksum of each thread's calls and
 * answers: with one thread it depends on the seed alone. --areas: no children, no
 * CAP_SYS_RESOURCE, and only the commands that need no device, so that the checksum of one thread
 * is the same wherever the answers are. --trace: print them, to find out where they are not. Exit
 * status: 1 an answer Linux never gives, 2 the test itself failed, 3 a call took too long.
 */
#include "fuzz_answers.h"

#define GAME "fuzz"
#define GAME_ROWS ROWS
#define REOPEN_EVERY 1000
#define CHILD_EVERY 2000
#include "fuzz_game.h"

#include <getopt.h>

static bool areas_only, trace;

static const char *row_name(unsigned int row)
{
	static const char *const others[] = { "other numbers", "read()" };

	return row < COMMANDS ? commands[row].name : others[row - COMMANDS];
}

static bool right(unsigned int row, int error)
{
	return allowed(row, error);
}

static uint64_t mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value ^ value >> 32) * 0x100000001b3;
}

/* The children that are killed do not count. */
static bool uncounted;

static void sum(unsigned int thread, const struct random_call *c, int error, struct area out)
{
	uint64_t checksum = shared->checksums[thread];

	if (uncounted)
		return;
	checksum = mix(mix(checksum, c->number), (uint64_t)error);
	checksum = mix(mix(mix(checksum, out.ioas), out.iova), out.length);
	shared->checksums[thread] = checksum;
	if (trace)
		printf("%s %#x %s %u %#llx %#llx\n", row_name(c->row), c->number,
		       error ? errno_name(-error) : "ok", out.ioas, (unsigned long long)out.iova,
		       (unsigned long long)out.length);
}

/* The descriptor a queue's allocation gave, when it is one at all, is closed again. */
static void close_given(const struct random_call *c)
{
	uint32_t fd;

	if (c->number != IOMMU_FAULT_QUEUE_ALLOC || !c->body)
		return;
	memcpy(&fd, (char *)c->body + offsetof(struct iommu_fault_alloc, out_fault_fd), sizeof(fd));
	close((int)fd);
}

static void one_call(struct player *p, unsigned int thread)
{
	int fd = slots[below(p, SLOTS)], error;
	struct random_call c = { .row = ROW_READ };
	struct area out = { 0 };

	if (one_in(p, 200)) {
		begin(thread, c.row);
		error = read(fd, p->arena.pages, PAGE) < 0 ? errno : 0;
	} else {
		c = random_call(p);
		begin(thread, c.row);
		error = ioctl(fd, c.number, c.arg) < 0 ? errno : 0;
		out = outcome(&c);
	}
	count(thread, c.row, error);
	sum(thread, &c, error, out);
	if (error == 0) {
		close_given(&c);
		remember(p, &c, out);
	}
}

static struct player *new_player(void)
{
	struct player *p = calloc(1, sizeof(*p));

	NEED(p);
	p->areas_only = areas_only;
	return p;
}

static void end_player(struct player *p)
{
	free(p);
}

static void before_reopen(struct player *p, uint32_t slot)
{
	(void)p;
	(void)slot;
}

static void begin_child(bool killed)
{
	unsigned int i;

	uncounted = killed;
	for (i = 0; i < SLOTS && killed; i++)
		NEED((slots[i] = open(path, O_RDWR | O_CLOEXEC)) >= 0);
}

static void usage(void)
{
	fprintf(stderr, "usage: fuzz [--seed S] [--calls N] [--threads T] [--seconds MAX] "
			"[--areas] [--trace] PATH\n");
	exit(2);
}

int main(int argc, char **argv)
{
	static const struct option names[] = {
		COMMON_OPTIONS,
		{ "areas", no_argument, NULL, 'a' },
		{ "trace", no_argument, NULL, 'v' },
		{ 0 },
	};
	unsigned int i;
	uint64_t bad;
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1) {
		if (c == 'a')
			areas_only = true;
		else if (c == 'v')
			trace = true;
		else if (!common_option(c, optarg))
			usage();
	}
	if (optind != argc - 1)
		usage();
	path = argv[optind];
	with_children = !areas_only;
	if (areas_only)
		drop_capability(CAP_SYS_RESOURCE);
	bad = play_all();
	for (i = 0; i < threads; i++)
		printf("thread %u: checksum %016llx\n", i,
		       (unsigned long long)shared->checksums[i]);
	return bad != 0;
}
