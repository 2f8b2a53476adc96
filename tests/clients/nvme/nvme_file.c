// SPDX-License-Identifier: MIT
/*
 * What was flushed stays, whoever is killed. A writer of numbered blocks, and a checker of the file
 * behind the controller.
 *
 *     nvme_file write DEVICE IOMMU ROUND [COUNT]
 *         writes numbers 1, 2, ... (COUNT of them, or until it is killed) to namespace 1, some at a
 *         time, and flushes now and then. Of each flush it says `flushed N`: every write up to N was
 *         complete when that flush was sent.
 *     nvme_file check FILE BLOCK STATE ROUND FLUSHED
 *         FILE holds the namespace, from its beginning on, in blocks of BLOCK bytes. STATE is what an
 *         earlier check left in it (there may be none), and is written anew. In each block there is
 *
 *         - the last write of the round up to FLUSHED that is about it, or a later one of the round,
 *         - or, if there is no such, what was there before, or any write of the round.
 *
 *         It prints how many blocks are of this round; status 1, and a line for each block that is wrong.
 */
#include "run.h"

#include "pattern.h"

/* ---- the writer ------------------------------------------------------------------------------------ */

#define DEPTH 8U
#define FLUSH_SLOT DEPTH

static struct request writes[DEPTH], flush;
static uint32_t numbers[DEPTH]; /* that are in flight; 0: none */
static uint32_t round_, next_number = 1, block_bytes;
static uint32_t flushing; /* up to which number */

/* Up to which number every write is complete. */
static uint32_t complete(void)
{
	uint32_t least = next_number, i;

	for (i = 0; i < DEPTH; i++)
		if (numbers[i] && numbers[i] < least)
			least = numbers[i];
	return least - 1;
}

static void check_status(const struct request *request, const char *what)
{
	if (!request->status)
		return;
	printf("%s: %s\n", what, status_text(request->status));
	exit(1);
}

/* Takes note of all that has been completed. */
static void look(void)
{
	uint32_t i;

	reap();
	for (i = 0; i < DEPTH; i++)
		if (numbers[i] && !writes[i].in_flight) {
			check_status(&writes[i], "write");
			numbers[i] = 0;
		}
	if (flushing && !flush.in_flight) {
		check_status(&flush, "flush");
		printf("flushed %u\n", flushing);
		flushing = 0;
	}
}

static bool is_touched(uint32_t block, uint32_t count)
{
	uint32_t i, other, others;

	for (i = 0; i < DEPTH; i++)
		if (numbers[i]) {
			other = first_block(round_, numbers[i], &others);
			if (other < block + count && block < other + others)
				return true;
		}
	return false;
}

static bool begin_write(void)
{
	uint32_t i, k, count, block = first_block(round_, next_number, &count);
	uint8_t *data;

	for (i = 0; i < DEPTH && numbers[i]; i++)
		;
	if (i == DEPTH || !has_room(1) || is_touched(block, count))
		return false;
	data = memory + FREE_MEMORY + i * PLACE * PAGE;
	for (k = 0; k < count; k++)
		make_block(data + k * block_bytes, block_bytes, round_, next_number, block + k);
	writes[i] = (struct request){ .command = block_command(IO_WRITE, 1, block, count, NULL) };
	writes[i].command.cid = (uint16_t)i;
	writes[i].command.prp1 = iova_of(data, i & 1);
	if (count * block_bytes > 2 * PAGE) { /* a list: the data is in pages that follow each other */
		uint64_t *list = (void *)(memory + FREE_MEMORY + (DEPTH * PLACE + i) * PAGE);

		for (k = 0; k < PLACE; k++)
			list[k] = iova_of(data + (k + 1) * PAGE, k & 1);
		writes[i].command.prp2 = iova_of(list, false);
	} else {
		writes[i].command.prp2 = iova_of(data + PAGE, true);
	}
	numbers[i] = next_number++;
	put_request(&writes[i], 1);
	return true;
}

static void begin_flush(void)
{
	if (flushing || !complete() || !has_room(1))
		return;
	flush = (struct request){ .command = { .opcode = IO_FLUSH, .nsid = 1, .cid = FLUSH_SLOT } };
	flushing = complete();
	put_request(&flush, 1);
}

static int write_all(uint32_t count)
{
	uint32_t at_work = 0, idle = 0;
	double last = now();

	open_controller();
	NEED(begin_controller(0, 16, 16) >= 0);
	set_feature(FEATURE_QUEUES, 3 << 16 | 3);
	create_queues(1, 16, 1);
	identify(CNS_NAMESPACE, 1, memory + FREE_MEMORY);
	block_bytes = block_size(memory + FREE_MEMORY);
	NEED(long_word(memory + FREE_MEMORY, 0) >= BLOCKS);
	while (complete() < count) {
		uint32_t before = complete();

		while (next_number <= count && begin_write())
			if (++at_work % (1 + dice_of(round_, next_number) % 16) == 0)
				ring_tail(1);
		if (dice_of(round_, next_number) % 4 == 0 || complete() == count)
			begin_flush();
		ring_tail(1);
		look();
		if (complete() != before) {
			last = now();
			idle = 0;
		} else if (++idle % 256 == 0) { /* is it still there? */
			NEED(load4(REG_CSTS) == CSTS_RDY);
			sched_yield();
		}
		NEED(now() < last + PATIENCE);
	}
	while (flushing)
		look();
	begin_flush();
	ring_tail(1);
	while (flushing)
		look();
	return 0;
}

/* ---- the checker ----------------------------------------------------------------------------------- */

static void read_state(const char *path, struct mark *marks)
{
	int fd = open(path, O_RDONLY);

	memset(marks, 0, BLOCKS * sizeof(*marks));
	if (fd < 0)
		return;
	NEED(read(fd, marks, BLOCKS * sizeof(*marks)) == (ssize_t)(BLOCKS * sizeof(*marks)));
	close(fd);
}

static void write_state(const char *path, const struct mark *marks)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0666);

	NEED(fd >= 0 && write(fd, marks, BLOCKS * sizeof(*marks)) == (ssize_t)(BLOCKS * sizeof(*marks)));
	close(fd);
}

static int check(const char *path, uint32_t size, const char *state, uint32_t round, uint32_t flushed)
{
	static struct mark before[BLOCKS], after[BLOCKS];
	static uint32_t least[BLOCKS]; /* the last number up to `flushed`, of each block */
	static uint8_t block[64 << 10], wanted_block[64 << 10];
	int fd = open(path, O_RDONLY);
	uint32_t i, number, count, wrong = 0, ours = 0;

	NEED(fd >= 0 && size >= 512 && size <= sizeof(block));
	read_state(state, before);
	for (number = 1; number <= flushed; number++)
		for (i = first_block(round, number, &count); count; count--)
			least[i++] = number;
	for (i = 0; i < BLOCKS; i++) {
		struct mark *mark = &after[i];
		bool is_right;

		NEED(pread(fd, block, size, (off_t)i * size) == (ssize_t)size);
		memcpy(mark, block, sizeof(*mark));
		if (mark->magic)
			make_block(wanted_block, size, mark->round, mark->number, i);
		else
			memset(wanted_block, 0, size);
		is_right = !memcmp(block, wanted_block, size);
		if (mark->magic && mark->round == round) {
			ours++;
			is_right = is_right && covers(round, mark->number, i) &&
				   (mark->number == least[i] || mark->number > flushed);
		} else {
			is_right = is_right && !least[i] && !memcmp(mark, &before[i], sizeof(*mark));
		}
		if (!is_right && wrong++ < 20)
			printf("block %u: write %u of round %u%s; it was %u of round %u, and then flushed: %u\n", i, mark->number,
			       mark->round, memcmp(block, wanted_block, size) ? ", damaged" : "", before[i].number,
			       before[i].round, least[i]);
	}
	write_state(state, after);
	printf("%u blocks of round %u, %u are wrong\n", ours, round, wrong);
	return wrong != 0;
}

static uint32_t number_of(const char *text)
{
	return (uint32_t)strtoul(text, NULL, 0);
}

int main(int argc, char **argv)
{
	if (argc > 4 && !strcmp(argv[1], "write")) {
		begin(argc - 1, argv + 1);
		round_ = number_of(argv[4]);
		return write_all(argc > 5 ? number_of(argv[5]) : UINT32_MAX);
	}
	if (argc == 7 && !strcmp(argv[1], "check"))
		return check(argv[2], number_of(argv[3]), argv[4], number_of(argv[5]), number_of(argv[6]));
	fprintf(stderr, "nvme_file write DEVICE IOMMU ROUND [COUNT], or nvme_file check FILE BLOCK STATE ROUND FLUSHED\n");
	return 2;
}
