// SPDX-License-Identifier: MIT
/*
 * Every order in which two or three parties can come to two devices of one group, and to one of another
 * group: by a group's file, and by the devices' own. Each party does its steps one after the other, whatever
 * it is answered. Of each step it is printed how often it was answered what, and of all answers a checksum.
 *
 *     group_orders FIRST SECOND ALONE [trace]       addresses, as of groups.c
 */
#include "groups.h"
#include "walk.h"

#define STEPS 5
#define PARTIES 3
#define ANSWERS 8

struct party {
	const char *name;
	unsigned int device;	/* which address */
	const char *steps;	/* a letter for each; see do_step() */
	unsigned int iommu;	/* which iommufd it binds its device to */
};

static const char *addresses[3];
static const char *paths[3][2]; /* of the group and of the device */
static int container, iommus[2];
static uint32_t ioases[2];
static struct {
	int group, device;
	unsigned int done; /* steps */
} now[PARTIES];
static struct {
	long answer;
	unsigned int times;
} seen[PARTIES][STEPS][ANSWERS];

static void shut(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* A descriptor that a party has from now on, if it was given one. */
static long keep(int *fd, long got)
{
	if (got < 0)
		return got;
	shut(fd);
	*fd = (int)got;
	return 0;
}

static const char *what(char letter)
{
	switch (letter) {
	case 'o':
		return "opens the group";
	case 's':
		return "sets the container";
	case 'O':
		return "opens the group and sets the container";
	case 'u':
		return "unsets it";
	case 't':
		return "takes the device";
	case 'g':
		return "closes the group";
	case 'f':
		return "opens the device's file";
	case 'b':
		return "binds it";
	case 'a':
		return "attaches it";
	case 'd':
		return "closes the device";
	default:
		return "closes both";
	}
}

static long do_step(const struct party *party, int *group, int *device, char letter)
{
	uint32_t id;
	long rc;

	switch (letter) {
	case 'O':
		rc = do_step(party, group, device, 'o');
		return rc ? rc : do_step(party, group, device, 's');
	case 'o':
		return keep(group, told(open(paths[party->device][0], O_RDWR | O_CLOEXEC)));
	case 's':
		return set_container(*group, container);
	case 'u':
		return unset_container(*group);
	case 't':
		return keep(device, device_fd(*group, addresses[party->device]));
	case 'g':
		shut(group);
		return 0;
	case 'f':
		return keep(device, told(open(paths[party->device][1], O_RDWR | O_CLOEXEC)));
	case 'b':
		return bind_device(*device, iommus[party->iommu], &id);
	case 'a':
		return attach(*device, ioases[party->iommu]);
	case 'd':
		shut(device);
		return 0;
	default:
		shut(device);
		shut(group);
		return 0;
	}
}

static void count(unsigned int party, unsigned int step, long rc)
{
	unsigned int i;

	for (i = 0; i < ANSWERS; i++) {
		if (seen[party][step][i].times == 0)
			seen[party][step][i].answer = rc;
		if (seen[party][step][i].answer == rc) {
			seen[party][step][i].times++;
			return;
		}
	}
	NEED(!"more kinds of answers than that");
}

/* `order` has the number of a party for each step. */
static void play(const struct party *parties, const uint8_t *order, unsigned int length)
{
	unsigned int i;

	for (i = 0; i < PARTIES; i++) {
		now[i].group = now[i].device = -1;
		now[i].done = 0;
	}
	container = open_container();
	for (i = 0; i < length; i++) {
		unsigned int who = order[i], step = now[who].done++;
		char letter = parties[who].steps[step];

		TELL("%s %s", parties[who].name, what(letter));
		count(who, step, answer(do_step(&parties[who], &now[who].group, &now[who].device, letter)));
		TELL("; ");
	}
	TELL("\n");
	close(container);
	for (i = 0; i < PARTIES; i++) {
		shut(&now[i].device);
		shut(&now[i].group);
	}
}

/* The next order of those numbers, as of letters in a dictionary. */
static bool next(uint8_t *order, unsigned int length)
{
	unsigned int i = length - 1, j = length - 1;
	uint8_t other;

	while (i > 0 && order[i - 1] >= order[i])
		i--;
	if (i == 0)
		return false;
	while (order[j] <= order[i - 1])
		j--;
	other = order[i - 1], order[i - 1] = order[j], order[j] = other;
	for (j = length - 1; i < j; i++, j--)
		other = order[i], order[i] = order[j], order[j] = other;
	return true;
}

static void orders(const char *text, const struct party *parties, unsigned int number)
{
	uint8_t order[STEPS * PARTIES];
	unsigned int length = 0, times = 0, i, j, k;

	heading(text);
	memset(seen, 0, sizeof(seen));
	for (i = 0; i < number; i++)
		for (j = 0; parties[i].steps[j]; j++)
			order[length++] = (uint8_t)i;
	do {
		play(parties, order, length);
		times++;
	} while (next(order, length));
	for (i = 0; i < number; i++)
		for (j = 0; parties[i].steps[j]; j++) {
			printf("%s %s:", parties[i].name, what(parties[i].steps[j]));
			for (k = 0; k < ANSWERS && seen[i][j][k].times; k++)
				printf(" %s %u times", seen[i][j][k].answer ? errno_name(seen[i][j][k].answer) : "0",
				       seen[i][j][k].times);
			printf("\n");
		}
	printf("%u orders: %016llx\n", times, (unsigned long long)sum);
}

#define ORDERS(text, ...)                                                                          \
	do {                                                                                       \
		static const struct party parties_[] = { __VA_ARGS__ };                            \
		orders(text, parties_, ARRAY_LEN(parties_));                                       \
	} while (0)

int main(int argc, char **argv)
{
	unsigned int i;

	checks_begin();
	NEED(argc > 3);
	trace = argc > 4;
	for (i = 0; i < 3; i++) {
		addresses[i] = argv[1 + i];
		paths[i][0] = strdup(group_of(addresses[i]));
		paths[i][1] = strdup(file_of(addresses[i]));
	}
	for (i = 0; i < 2; i++) {
		iommus[i] = open_its_iommu();
		ioases[i] = new_ioas(iommus[i]);
	}
	ORDERS("a device by its group and by its own file",
	       { "the group", 0, "ostgd", 0 }, { "the file", 0, "fbad", 0 });
	ORDERS("a device by its group, its neighbour by its own file",
	       { "the group", 0, "ostgd", 0 }, { "the neighbour", 1, "fbad", 0 });
	ORDERS("two devices of one group by their own files, with one iommufd",
	       { "first", 0, "fbad", 0 }, { "second", 1, "fbad", 0 });
	ORDERS("and with one each",
	       { "first", 0, "fbad", 0 }, { "second", 1, "fbad", 1 });
	ORDERS("two devices of one group, by a group opened twice",
	       { "first", 0, "ostgd", 0 }, { "second", 1, "ostgd", 0 });
	ORDERS("two groups with one container",
	       { "a group", 0, "ostud", 0 }, { "another", 2, "ostud", 0 });
	ORDERS("a group and both its devices' own files",
	       { "the group", 0, "Otc", 0 }, { "first", 0, "fbd", 0 }, { "second", 1, "fbd", 1 });
	ORDERS("a group, its other device's own file, and another group with that container",
	       { "the group", 0, "Otc", 0 }, { "the neighbour", 1, "fbd", 0 }, { "another", 2, "Oc", 0 });
	ORDERS("two own files of one device, and its neighbour's",
	       { "a file", 0, "fbd", 0 }, { "a second file", 0, "fbd", 1 }, { "the neighbour", 1, "fbd", 1 });
	return 0;
}
