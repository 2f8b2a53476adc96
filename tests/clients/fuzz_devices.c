// SPDX-License-Identifier: MIT
/*
 * fuzz_devices [--seed S] [--calls N] [--threads T] [--seconds MAX] [--alone] [--trace]
 *              PATH
 *
 * As fuzz, on a device that has mock devices: every command of Linux 7.3 and every operation of
 * the mock's, with IDs and descriptors that were handed out (fuzz_devices.h, fuzz_game.h). Children
 * inherit everything. --alone: one thread, no children, nothing that Linux's own mock is known to
 * do otherwise; prints a checksum of all answers and of what they brought, which depends on the
 * seed alone. --trace: print them, to find out where they are not what they should be. Exit
 * status: 1 an answer Linux never gives, 2 the test itself failed, 3 a call took too long.
 */
#include "fuzz_devices.h"

#define GAME "fuzz_devices"
#define TEST_ROW ((unsigned int)COMMANDS)
#define GAME_ROWS (COMMANDS + 1 + LAST_OP)
#define REOPEN_EVERY 1500
#define CHILD_EVERY 3000
#include "fuzz_game.h"

#include <getopt.h>
#include <poll.h>

static const int possible[] = { 0, EFAULT, EINVAL, E2BIG, EOPNOTSUPP, ENOENT, EBUSY, EPERM,
				EOVERFLOW, EEXIST, ENOSPC, EADDRINUSE, ENOMEM, ENODEV, EBADF,
				EBADFD, EBADE, EMSGSIZE, EDEADLK, EMFILE, ENXIO, EMEDIUMTYPE };

static const char *row_name(unsigned int row)
{
	static __thread char name[32];

	if (row < COMMANDS)
		return commands[row].name;
	snprintf(name, sizeof(name), "test operation %u", row - TEST_ROW);
	return name;
}

static bool right(unsigned int row, int error)
{
	unsigned int i;

	if (error == EIO)
		return row == TEST_ROW + IOMMU_TEST_OP_MD_CHECK_REFS ||
		       (row < COMMANDS && commands[row].number == IOMMU_HW_QUEUE_ALLOC);
	if (error == ERANGE) /* Ref: v7.3 viommu.c iommufd_hw_queue_alloc_phys */
		return row < COMMANDS && commands[row].number == IOMMU_HW_QUEUE_ALLOC;
	for (i = 0; i < ARRAY_LEN(possible); i++)
		if (error == possible[i])
			return true;
	return false;
}

static bool alone, trace;

static void keep(struct guesser *g, enum given kind, int fd)
{
	int *place = &g->given[kind][below(&g->p, GIVEN)];

	if (*place >= 0)
		close(*place);
	*place = fd;
}

/* Linux's mock forgets the PASIDs of a device that goes, and what they are attached to never goes. */
static void detach_pasids(struct guesser *g, uint32_t slot, uint32_t stdev)
{
	struct iommu_test_cmd cmd = { .size = sizeof(cmd), .op = IOMMU_TEST_OP_PASID_DETACH };
	uint32_t i, kept = 0;

	for (i = 0; i < g->attachments; i++) {
		cmd.id = g->attached[i].stdev;
		cmd.pasid_detach.pasid = g->attached[i].pasid;
		if (g->attached[i].slot == slot && (!stdev || stdev == cmd.id))
			ioctl(slots[slot], IOMMU_TEST_CMD, &cmd);
		else
			g->attached[kept++] = g->attached[i];
	}
	g->attachments = kept;
}

static void note_pasid(struct guesser *g, uint32_t slot, const struct iommu_test_cmd *cmd)
{
	if (!g->tame)
		return;
	NEED(g->attachments < ATTACHED);
	g->attached[g->attachments].slot = slot;
	g->attached[g->attachments].stdev = cmd->id;
	g->attached[g->attachments++].pasid = cmd->pasid_attach.pasid;
}

/* What a call that succeeded handed out. */
static void learn(struct guesser *g, uint32_t slot, unsigned int number, const union call *c,
		  int result)
{
	switch (number) {
	case IOMMU_DESTROY:
		g->destroyed = c->destroy.id;
		break;
	case IOMMU_IOAS_ALLOC:
		know(g, slot, IOAS, c->alloc.out_ioas_id);
		break;
	case IOMMU_HWPT_ALLOC:
		know(g, slot,
		     c->hwpt.flags & IOMMU_HWPT_ALLOC_NEST_PARENT ? PARENT :
		     c->hwpt.data_type				 ? NESTED :
								   HWPT,
		     c->hwpt.out_hwpt_id);
		break;
	case IOMMU_FAULT_QUEUE_ALLOC:
		know(g, slot, FAULTQ, c->fault.out_fault_id);
		keep(g, QUEUE, (int)c->fault.out_fault_fd);
		break;
	case IOMMU_VIOMMU_ALLOC:
		know(g, slot, VIOMMU, c->viommu.out_viommu_id);
		break;
	case IOMMU_VDEVICE_ALLOC:
		know(g, slot, VDEVICE, c->vdevice.out_vdevice_id);
		break;
	case IOMMU_VEVENTQ_ALLOC:
		know(g, slot, VEVENTQ, c->veventq.out_veventq_id);
		keep(g, QUEUE, (int)c->veventq.out_veventq_fd);
		break;
	case IOMMU_HW_QUEUE_ALLOC:
		know(g, slot, HW_QUEUE, c->queue.out_hw_queue_id);
		break;
	case IOMMU_TEST_CMD:
		if (c->test.op == IOMMU_TEST_OP_MOCK_DOMAIN ||
		    c->test.op == IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS) {
			know(g, slot, STDEV, c->test.mock_domain.out_stdev_id);
			know(g, slot, HWPT, c->test.mock_domain.out_hwpt_id);
			know(g, slot, IDEV, c->test.mock_domain.out_idev_id);
		} else if (c->test.op == IOMMU_TEST_OP_PASID_ATTACH && c->test.pasid_attach.pasid) {
			note_pasid(g, slot, &c->test);
		} else if (c->test.op == IOMMU_TEST_OP_CREATE_ACCESS) {
			keep(g, ACCESS, (int)c->test.create_access.out_access_fd);
		} else if (c->test.op == IOMMU_TEST_OP_DMABUF_GET && result > 0) {
			keep(g, DMABUF, result);
		}
	}
}

/* Reads, writes and polls what was given, as a queue's owner does. */
static void use_given(struct guesser *g)
{
	int fd = g->given[QUEUE][below(&g->p, GIVEN)];
	struct pollfd ask = { .fd = fd, .events = POLLIN };
	char buffer[256] = { 0 };
	ssize_t done;

	if (fd < 0 || poll(&ask, 1, 0) < 0)
		return;
	fcntl(fd, F_SETFL, O_NONBLOCK);
	done = read(fd, buffer, 40 << below(&g->p, 3));
	if (one_in(&g->p, 2) || done < 40)
		done = write(fd, buffer, 8);
	else
		done = write(fd, buffer + 36, 4); /* Half an answer. */
	(void)done;
}

/* All of the struct but for addresses, which differ from run to run. */
static void show(uint32_t slot, unsigned int row, const union call *c, size_t size, int result,
		 int error)
{
	const uint32_t *words = (const uint32_t *)c->bytes;
	size_t i;

	printf("%u %s %s %d", slot, row_name(row), error ? errno_name(-error) : "ok", result);
	for (i = 1; i < size / 4; i++)
		if (i + 1 < size / 4 && words[i + 1] >> 9 == 0x3f)
			i++;
		else
			printf(" %x", words[i]);
	printf("\n");
}

static uint64_t mix(uint64_t sum, uint64_t value)
{
	return (sum ^ value ^ value >> 32) * 0x100000001b3;
}

/* What the call answered, and what it wrote into its struct. */
static void sum(unsigned int row, const union call *before, const union call *after, size_t size,
		int error)
{
	const uint32_t *old = (const uint32_t *)before->bytes;
	const uint32_t *new = (const uint32_t *)after->bytes;
	uint64_t checksum = mix(shared->checksums[0], row);
	size_t i;

	/* Where the pages of a queue lie in physical memory is not for us to say. */
	if (row < COMMANDS && commands[row].number == IOMMU_HW_QUEUE_ALLOC && error == EIO)
		error = EFAULT;
	checksum = mix(checksum, (uint64_t)error);
	for (i = 0; !error && i < size / 4; i++)
		if (new[i] != old[i])
			checksum = mix(mix(checksum, i), new[i]);
	shared->checksums[0] = checksum;
}

/* One bit; alone none of an address of ours, as what lies near it is not the same everywhere. */
static void flip(struct player *p, union call *c, size_t size)
{
	size_t at = 4 + below(p, size - 4), bit = below(p, 8);
	uint64_t word;

	memcpy(&word, &c->bytes[at & ~7UL], sizeof(word));
	if (!alone || word >> 41 != 0x3f)
		c->bytes[at] ^= (char)(1 << bit);
}

static void one_call(struct player *p, unsigned int thread)
{
	struct guesser *g = (struct guesser *)p;
	uint32_t slot = (uint32_t)below(p, SLOTS);
	/* The first, DESTROY, more often: what is made must go. */
	unsigned int row = (unsigned int)below(p, COMMANDS * 2 + 4), number = IOMMU_TEST_CMD;
	size_t size = sizeof(((union call *)0)->test);
	union call c = { 0 }, after;
	/* What the next call draws does not depend on what becomes of this one. */
	uint64_t next = draw(p);
	const void *arg;
	int result, error;
	void *body;

	if (one_in(p, 30))
		use_given(g);
	if (row >= COMMANDS * 2)
		row = 0;
	if (row < COMMANDS) {
		number = commands[row].number;
		size = commands[row].size;
	}
	fill_call(g, slot, number, &c);
	c.size = (uint32_t)size;
	if (one_in(p, 100))
		c.size = (uint32_t)below(p, size + 24);
	if (one_in(p, 200))
		flip(p, &c, size);
	if (row >= COMMANDS && g->tame && c.test.op >= IOMMU_TEST_OP_DMABUF_GET)
		c.test.op = 0; /* Linux's mock gives no descriptor. */
	if (row >= COMMANDS)
		row = TEST_ROW + (c.test.op <= LAST_OP ? c.test.op : 0);
	arg = place(p, &p->arena, &c, size, &body);
	if (!body || (one_in(p, 2) && arg != body))
		arg = body = memcpy(p->arena.pages, &c, size);
	if (number == IOMMU_DESTROY && c.destroy.id)
		detach_pasids(g, slot, c.destroy.id);
	begin(thread, row);
	result = ioctl(slots[slot], number, arg);
	error = result < 0 ? errno : 0;
	count(thread, row, error);
	after = c;
	if (result >= 0)
		memcpy(&after, body, size);
	if (alone)
		sum(row, &c, &after, size, error);
	if (trace)
		show(slot, row, &c, size, result, error);
	c = after;
	if (result >= 0) {
		if (trace)
			show(slot, row, &c, size, result, error);
		learn(g, slot, number, &c, result);
	}
	p->random = next;
}

static struct player *new_player(void)
{
	struct guesser *g = calloc(1, sizeof(*g));

	NEED(g);
	/*
	 * Its place decides which IOVAs are chosen for it. Calls reach beyond its end, where none of
	 * the fuzzer's own memory may be: accesses write.
	 */
	g->memory = mmap(alone ? (void *)0x10000000 : NULL, MEMORY_PAGES * PAGE + BEYOND, PROT_NONE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	NEED(g->memory != MAP_FAILED);
	NEED(mprotect(g->memory, MEMORY_PAGES * PAGE, PROT_READ | PROT_WRITE) == 0);
	memset(g->memory, 1, MEMORY_PAGES * PAGE);
	memset(g->given, -1, sizeof(g->given));
	g->tame = alone;
	return &g->p;
}

static void end_player(struct player *p)
{
	struct guesser *g = (struct guesser *)p;
	unsigned int kind, i;

	for (i = 0; i < SLOTS; i++)
		detach_pasids(g, i, 0);
	for (kind = 0; kind < GIVEN_KINDS; kind++)
		for (i = 0; i < GIVEN; i++)
			if (g->given[kind][i] >= 0)
				close(g->given[kind][i]);
	NEED(munmap(g->memory, MEMORY_PAGES * PAGE + BEYOND) == 0);
	free(g);
}

static void before_reopen(struct player *p, uint32_t slot)
{
	detach_pasids((struct guesser *)p, slot, 0);
}

static void begin_child(bool killed)
{
	(void)killed;
}

int main(int argc, char **argv)
{
	static const struct option names[] = {
		COMMON_OPTIONS,
		{ "alone", no_argument, NULL, 'a' },
		{ "trace", no_argument, NULL, 'v' },
		{ 0 },
	};
	uint64_t bad;
	int c;

	while ((c = getopt_long(argc, argv, "", names, NULL)) != -1)
		if (c == 'a')
			alone = true;
		else if (c == 'v')
			trace = true;
		else if (!common_option(c, optarg))
			return 2;
	if (optind != argc - 1)
		return 2;
	path = argv[optind];
	if (alone) {
		threads = 1;
		with_children = false;
		close_range(3, ~0U, 0); /* The numbers of new descriptors are answers, too. */
		drop_capability(CAP_SYS_RESOURCE);
	}
	bad = play_all();
	if (alone)
		printf("checksum %016llx\n", (unsigned long long)shared->checksums[0]);
	return bad != 0;
}
