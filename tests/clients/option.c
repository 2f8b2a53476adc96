// SPDX-License-Identifier: MIT
/*
 * IOMMU_OPTION: RLIMIT_MODE belongs to the open file, wants CAP_SYS_RESOURCE of who sets it and no
 * object there yet; HUGE_PAGES belongs to an IOAS, and without it IOVAs are page aligned.
 */
#include "client.h"

#include <sys/fsuid.h>

#define RLIMIT IOMMU_OPTION_RLIMIT_MODE
#define HUGE IOMMU_OPTION_HUGE_PAGES
#define SET IOMMU_OPTION_OP_SET
#define GET IOMMU_OPTION_OP_GET

/* Without CAP_SYS_RESOURCE the mode can be read only. */
static void unprivileged(int fd)
{
	uint64_t mode = option_get(fd, RLIMIT, 0);
	uint32_t ioas;

	CHECK_ERR(EPERM, option_set(fd, RLIMIT, 0, 1), "set without CAP_SYS_RESOURCE");
	CHECK_ERR(EPERM, option_set(fd, RLIMIT, 0, 2), "set 2 without it");
	CHECK_EQ(option_get(fd, RLIMIT, 0), mode, "get without it");
	CHECK_ERR(EOPNOTSUPP, option_set(fd, RLIMIT, 5, 1), "with an object: that first");
	ioas = new_ioas(fd);
	CHECK_ERR(EPERM, option_set(fd, RLIMIT, 0, 1), "before the object is found");
	CHECK_OK(option_set(fd, HUGE, ioas, 0), "HUGE_PAGES needs no capability");
	CHECK_OK(destroy(fd, ioas), "destroy it");
}

static void privileged(int fd)
{
	int other = open_iommu();
	uint32_t ioas;

	CHECK_EQ(option_get(fd, RLIMIT, 0), 0, "the mode is 0");
	CHECK_OK(option_set(fd, RLIMIT, 0, 1), "set 1");
	CHECK_EQ(option_get(fd, RLIMIT, 0), 1, "it is 1");
	CHECK_EQ(option_get(other, RLIMIT, 0), 0, "not in another open file");
	CHECK_OK(option_set(fd, RLIMIT, 0, 0), "set 0");
	CHECK_EQ(option_get(fd, RLIMIT, 0), 0, "it is 0");
	CHECK_ERR(EINVAL, option_set(fd, RLIMIT, 0, 2), "set 2");
	CHECK_ERR(EINVAL, option_set(fd, RLIMIT, 0, U64_MAX), "set U64_MAX");
	CHECK_ERR(EINVAL, option_set(fd, RLIMIT, 0, 1ULL << 32), "set 2^32");
	CHECK_EQ(option_get(fd, RLIMIT, 0), 0, "it is 0 still");

	CHECK_OK(option_set(fd, RLIMIT, 0, 1), "set 1");
	ioas = new_ioas(fd);
	CHECK_ERR(EBUSY, option_set(fd, RLIMIT, 0, 0), "set with an object there");
	CHECK_ERR(EBUSY, option_set(fd, RLIMIT, 0, 1), "set what it is");
	CHECK_ERR(EBUSY, option_set(fd, RLIMIT, 0, 2), "set 2: the object is found first");
	CHECK_EQ(option_get(fd, RLIMIT, 0), 1, "get with an object there");
	CHECK_OK(destroy(fd, ioas), "destroy it");
	CHECK_OK(option_set(fd, RLIMIT, 0, 0), "set again");
	CHECK_OK(close(other), "close");
	IN_CHILD({
		drop_capability(CAP_SYS_ADMIN);
		drop_capability(CAP_IPC_LOCK);
		CHECK_OK(option_set(fd, RLIMIT, 0, 1), "no other capability is asked for");
	});
	CHECK_EQ(option_get(fd, RLIMIT, 0), 1, "the child set it for the open file");
}

/* --privileged: it is an error not to have the capability; else what can be tested is. */
static void rlimit_mode(bool must)
{
	int fd = open_iommu();
	uint32_t ioas;

	if (must || have_capability(CAP_SYS_RESOURCE))
		privileged(fd);
	else
		printf("# without CAP_SYS_RESOURCE: the mode cannot be set\n");
	IN_CHILD({
		drop_capability(CAP_SYS_RESOURCE);
		unprivileged(fd);
	});
	/* In a user namespace with one user there is no other to be. */
	if (setfsuid(65534), setfsuid(-1) == 65534) {
		setfsuid(0);
		IN_CHILD({
			NEED(setresuid(65534, 65534, 65534) == 0);
			unprivileged(fd);
			CHECK_OK(ioas_alloc(fd, &ioas), "the open file is good for the rest");
			CHECK_OK(destroy(fd, ioas), "destroy it");
		});
	}
	CHECK_OK(close(fd), "close");
}

static void huge_pages(void)
{
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd), other = new_ioas(fd);

	CHECK_EQ(option_get(fd, HUGE, ioas), 1, "on at first");
	CHECK_EQ(iova_alignment(fd, ioas), 1, "any alignment");
	CHECK_OK(option_set(fd, HUGE, ioas, 1), "set what it is");
	CHECK_OK(option_set(fd, HUGE, ioas, 0), "off");
	CHECK_EQ(option_get(fd, HUGE, ioas), 0, "it is off");
	CHECK_EQ(option_get(fd, HUGE, other), 1, "not for another IOAS");
	CHECK_OK(option_set(fd, HUGE, ioas, 0), "off again");
	CHECK_ERR(EINVAL, option_set(fd, HUGE, ioas, 2), "set 2");
	CHECK_ERR(EINVAL, option_set(fd, HUGE, ioas, U64_MAX), "set U64_MAX");
	CHECK_EQ(option_get(fd, HUGE, ioas), 0, "it is off still");
	CHECK_EQ(iova_alignment(fd, ioas), PAGE, "alignment is a page");
	CHECK_EQ(iova_alignment(fd, other), 1, "not for another IOAS");
	CHECK_ERR(EINVAL, map_at(fd, ioas, PAGE, PAGE, 1), "MAP at an odd IOVA");
	CHECK_ERR(EINVAL, map_at(fd, ioas, PAGE, 1, 0), "MAP of an odd length");
	CHECK_ERR(EINVAL, map_at(fd, ioas, 1, PAGE, 0), "MAP of an odd address");
	CHECK_OK(map_at(fd, ioas, PAGE, PAGE, 0), "MAP of a page");
	CHECK_OK(map_at(fd, other, 1, 1, 1), "MAP of a byte in another IOAS");
	CHECK_ERR(EINVAL, copy_at(fd, ioas, PAGE, other, 1, 1), "COPY of that byte");
	CHECK_OK(copy_at(fd, other, PAGE + 1, ioas, 1, 5), "COPY of odd bytes out of a page");
	CHECK_OK(option_set(fd, HUGE, ioas, 1), "on with an area there");
	CHECK_EQ(iova_alignment(fd, ioas), 1, "any alignment again");
	CHECK_OK(option_set(fd, HUGE, ioas, 0), "off with an aligned area there");
	CHECK_OK(unmap_at(fd, ioas, 0, PAGE), "UNMAP it");
	CHECK_OK(destroy(fd, ioas), "destroy");
	CHECK_EQ(new_ioas(fd), ioas, "the ID again");
	CHECK_EQ(option_get(fd, HUGE, ioas), 1, "a new IOAS starts with it on");
	CHECK_OK(close(fd), "close");
}

/* Areas that a page alignment would forbid keep it from being set. */
static void in_the_way(void)
{
	static const struct {
		uint64_t va, length, iova;
		const char *text;
	} rows[] = {
		{ PAGE, PAGE, PAGE + 1, "an odd IOVA" },
		{ PAGE, PAGE + 1, PAGE, "an odd length" },
		{ PAGE + 1, PAGE, PAGE, "an odd address" },
		{ PAGE + 0x800, PAGE, PAGE + 0x800, "the same offset in address and IOVA" },
	};
	int fd = open_iommu();
	uint32_t ioas = new_ioas(fd);
	unsigned int i;

	for (i = 0; i < ARRAY_LEN(rows); i++) {
		NEED(map_at(fd, ioas, PAGE, PAGE, 16 * PAGE) == 0);
		NEED(map_at(fd, ioas, rows[i].va, rows[i].length, rows[i].iova) == 0);
		CHECK_ERR(EADDRINUSE, option_set(fd, HUGE, ioas, 0), "%s", rows[i].text);
		CHECK_EQ(option_get(fd, HUGE, ioas), 1, "it is on still");
		CHECK_EQ(iova_alignment(fd, ioas), 1, "any alignment still");
		CHECK_OK(unmap_at(fd, ioas, rows[i].iova, rows[i].length), "UNMAP it");
		CHECK_OK(option_set(fd, HUGE, ioas, 0), "nothing in the way");
		CHECK_OK(option_set(fd, HUGE, ioas, 1), "on");
		unmap_all(fd, ioas);
	}
	CHECK_OK(close(fd), "close");
}

/* Each row breaks its own rule and those below it. */
static void order(void)
{
	struct iommu_option cmd = { .size = sizeof(cmd), .option_id = 99, .op = 7, .__reserved = 1,
				    .object_id = NO_ID, .val64 = 55 }, *p;
	struct {
		struct iommu_option cmd;
		uint64_t tail;
	} longer = { .cmd.size = sizeof(longer), .cmd.option_id = RLIMIT, .cmd.op = GET };
	int fd = open_iommu();
	uint32_t ioas;

	cmd.option_id = RLIMIT;
	cmd.op = GET;
	cmd.object_id = 0;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_OPTION, &cmd), "reserved, all else right");
	cmd.__reserved = 1U << 15;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_OPTION, &cmd), "reserved, its last bit");
	cmd.__reserved = 0;
	cmd.option_id = 2;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_OPTION, &cmd), "option 2");
	cmd.option_id = UINT32_MAX;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_OPTION, &cmd), "the last option");
	cmd.option_id = RLIMIT;
	cmd.object_id = 1;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_OPTION, &cmd), "RLIMIT_MODE of an object");
	cmd.object_id = 0;
	cmd.op = 2;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_OPTION, &cmd), "RLIMIT_MODE, op 2");
	CHECK_EQ(cmd.val64, 55, "val64 is as it was");
	cmd.option_id = HUGE;
	cmd.object_id = NO_ID;
	CHECK_ERR(ENOENT, call(fd, IOMMU_OPTION, &cmd), "HUGE_PAGES, no such IOAS, op 2");
	cmd.object_id = 0;
	CHECK_ERR(ENOENT, call(fd, IOMMU_OPTION, &cmd), "HUGE_PAGES, IOAS 0");
	cmd.object_id = ioas = new_ioas(fd);
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_OPTION, &cmd), "HUGE_PAGES, op 2");
	cmd.op = UINT16_MAX;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_OPTION, &cmd), "HUGE_PAGES, the last op");
	cmd.op = GET;
	CHECK_OK(call(fd, IOMMU_OPTION, &cmd), "HUGE_PAGES, get");
	CHECK_EQ(cmd.val64, 1, "its value");
	cmd.op = SET;
	cmd.val64 = 0;
	CHECK_ERR(EFAULT, call(fd, IOMMU_OPTION, read_only(&cmd, sizeof(cmd))),
		  "set, val64 cannot be written back");
	CHECK_EQ(option_get(fd, HUGE, ioas), 0, "but it is set");
	cmd.op = GET;
	CHECK_ERR(EFAULT, call(fd, IOMMU_OPTION, read_only(&cmd, sizeof(cmd))), "get");
	CHECK_ERR(EFAULT, call(fd, IOMMU_OPTION, at_edge(&cmd, sizeof(cmd) - 1)),
		  "the last byte cannot be read");
	p = (void *)(new_pages(2) + PAGE - offsetof(struct iommu_option, val64));
	*p = cmd;
	p->val64 = 99;
	NEED(mprotect((char *)&p->val64 - PAGE, PAGE, PROT_READ) == 0);
	CHECK_OK(call(fd, IOMMU_OPTION, p), "only val64 needs to be writable");
	CHECK_EQ(p->val64, 0, "its value");
	CHECK_OK(call(fd, IOMMU_OPTION, &longer), "a longer struct, zero");
	longer.tail = 1;
	CHECK_ERR(E2BIG, call(fd, IOMMU_OPTION, &longer), "a longer struct, not zero");
	CHECK_OK(close(fd), "close");
}

int main(int argc, char **argv)
{
	checks_begin();
	rlimit_mode(argc > 1 && !strcmp(argv[1], "--privileged"));
	huge_pages();
	in_the_way();
	order();
	return checks_end();
}
