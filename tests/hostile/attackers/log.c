// SPDX-License-Identifier: MIT
/* Refused calls under names that are no names: for a daemon that says why. */
#include "attack.h"

static const char *const names[] = {
	"x\n<0>iommud: ok", "\033]0;own\007\033[2J", "\n<2>bug: no\r", "a\tb\\n\xff\xfe\xc3", "\n\n\n\n\n\n\n\n\n",
	"\xe2\x80\xae" "desrever", "\xc2\x85\xe2\x80\xa8", "iommud: bug", "\x7f\x01\x02", "{}%s%n",
};

static void *refused(void *arg)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = 77 };
	int fd = open_device();
	unsigned int i = 0;

	for (;;) {
		if (arg)
			prctl(PR_SET_NAME, names[i++ % ARRAY_LEN(names)]);
		attack(fd, IOMMU_DESTROY, &cmd);
		if (arg)
			nap(10000);
	}
	return NULL;
}

static void forged(void)
{
	ready();
	refused("");
}

static void flood(void)
{
	unsigned int i;

	for (i = 0; i < 4; i++)
		begin_thread(refused, NULL);
	ready();
}

/* As many clients, of whom each says little. */
static void flood_once(void)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = 77 };
	int fd = open_device();

	attack(fd, IOMMU_DESTROY, &cmd);
}

static void flood_of_many(void)
{
	ready();
	for (;;)
		waitpid(begin_process(flood_once), NULL, 0);
}

static const struct attack_entry entries[] = {
	{ "forged", forged },
	{ "flood", flood },
	{ "flood_of_many", flood_of_many },
};

ATTACK_MAIN(entries)
