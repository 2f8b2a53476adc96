// SPDX-License-Identifier: MIT
/*
 * Pinned pages count against RLIMIT_MEMLOCK of the process that mapped them: together with all that
 * its user has pinned or, with RLIMIT_MODE 1, with all that is pinned and locked of its memory. Who
 * had CAP_IPC_LOCK when he mapped is not counted.
 *
 * --mm: RLIMIT_MODE 1, which takes CAP_SYS_RESOURCE to set.
 */
#include "mock.h"

#include <sched.h>
#include <sys/resource.h>

#define LIMIT 8UL
#define OTHER_USER 65534

static int fd;
static uint32_t ioas;
static char *memory;
static bool mm_mode;

static void limit_to(uint64_t pages)
{
	struct rlimit limit;

	NEED(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	limit.rlim_cur = pages == U64_MAX ? RLIM_INFINITY : pages * PAGE;
	if (limit.rlim_cur > limit.rlim_max)
		limit.rlim_cur = limit.rlim_max;
	NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
}

static int new_device_file(void)
{
	int file = open_iommu();

	if (mm_mode)
		NEED(option_set(file, IOMMU_OPTION_RLIMIT_MODE, 0, 1) == 0);
	return file;
}

static void fresh(void)
{
	fd = new_device_file();
	ioas = new_ioas(fd);
}

static void done(void)
{
	NEED(close(fd) == 0);
	fd = open_iommu();
	CHECK_OK(check_refs(fd, memory, 32 * PAGE, 0), "nothing is pinned");
	NEED(close(fd) == 0);
}

static long map_pages(uint64_t first, uint64_t count, uint64_t at)
{
	return map_at(fd, ioas, (uintptr_t)memory + first * PAGE, count * PAGE, BASE + at * PAGE);
}

static long unmap_pages(uint64_t count, uint64_t at)
{
	return unmap_at(fd, ioas, BASE + at * PAGE, count * PAGE);
}

/* How many pages can still be pinned, up to 16; leaves nothing pinned. */
static uint64_t room(void)
{
	uint64_t count = 0;
	int file = new_device_file();
	uint32_t own = new_ioas(file);

	NEED(try_mock(file, own) == 0);
	while (count < 16 &&
	       map_at(file, own, (uintptr_t)memory + count * PAGE, PAGE, BASE + count * PAGE) == 0)
		count++;
	unmap_all(file, own);
	NEED(close(file) == 0);
	return count;
}

static void mapping(void)
{
	struct mock mock;

	fresh();
	mock = new_mock(fd, ioas);
	CHECK_ERR(ENOMEM, map_pages(0, LIMIT + 1, 0), "a page more than allowed");
	CHECK_OK(check_refs(fd, memory, (LIMIT + 1) * PAGE, 0), "none is pinned");
	CHECK_OK(map_pages(0, LIMIT, 0), "as many as allowed, at the same IOVA");
	CHECK_ERR(ENOMEM, map_pages(LIMIT, 1, LIMIT), "one more");
	CHECK_ERR(ENOMEM, map_pages(0, 1, LIMIT), "one of the same again");
	CHECK_OK(check_refs(fd, memory, LIMIT * PAGE, 1), "pinned once");
	CHECK_OK(copy_at(fd, ioas, BASE + MIB, ioas, BASE, LIMIT * PAGE), "a copy costs nothing");
	CHECK_OK(unmap_pages(LIMIT, 0), "unmap the original");
	CHECK_ERR(ENOMEM, map_pages(LIMIT, 1, LIMIT), "that gives nothing back");
	CHECK_OK(unmap_at(fd, ioas, BASE + MIB, LIMIT * PAGE), "unmap the copy");
	CHECK_EQ(room(), LIMIT, "that gives all back");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory, HALF, BASE), "half a page");
	CHECK_EQ(room(), LIMIT - 1, "costs a page");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory + HALF, HALF, BASE + HALF), "the other half");
	CHECK_EQ(room(), LIMIT - 2, "another");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)memory + HALF, PAGE, BASE + PAGE), "two halves");
	CHECK_EQ(room(), LIMIT - 4, "two");
	CHECK_ERR(EFAULT, map_at(fd, ioas, (uintptr_t)unmapped(), PAGE, BASE + MIB), "no memory");
	CHECK_ERR(EFAULT, map_at(fd, ioas, (uintptr_t)memory + 32 * PAGE - PAGE, 2 * PAGE,
				 BASE + MIB), "some memory");
	CHECK_EQ(room(), LIMIT - 4, "cost nothing");
	CHECK_OK(destroy(fd, mock.stdev), "unplug the device");
	CHECK_EQ(room(), LIMIT, "that gives all back");
	unmap_all(fd, ioas);
	CHECK_OK(map_pages(0, 16, 0), "without a device nothing is counted");
	CHECK_ERR(ENOMEM, try_mock(fd, ioas), "but when one comes");
	CHECK_OK(check_refs(fd, memory, 16 * PAGE, 0), "none is pinned");
	CHECK_EQ(room(), LIMIT, "nor counted");
	CHECK_EQ(new_ioas(fd), 2, "no ID was taken");
	CHECK_EQ(iova_alignment(fd, ioas), 1, "nor is the alignment another");
	done();
	CHECK_EQ(room(), LIMIT, "closing gave all back");
}

static void files(void)
{
	int file = memfd_create("pages", MFD_CLOEXEC);

	NEED(file >= 0 && ftruncate(file, 16 * PAGE) == 0);
	fresh();
	new_mock(fd, ioas);
	CHECK_ERR(ENOMEM, map_file_at(fd, ioas, file, 0, (LIMIT + 1) * PAGE, BASE), "of a file");
	CHECK_OK(map_file_at(fd, ioas, file, 0, 6 * PAGE, BASE), "some pages of it");
	CHECK_EQ(room(), LIMIT - 6, "count");
	CHECK_OK(unmap_at(fd, ioas, BASE, 6 * PAGE), "unmap");
	CHECK_EQ(room(), LIMIT, "all is back");
	NEED(close(file) == 0);
	done();
}

static void accesses(void)
{
	struct mock mock;
	uint32_t a, b;
	char *buffer = new_pages(16);
	int access;

	fresh();
	CHECK_OK(map_pages(0, 16, 0), "sixteen pages, which nobody holds");
	access = new_access(fd, ioas, PINS);
	CHECK_OK(access_rw(fd, access, BASE, 16 * PAGE, buffer, SLOW), "a copy is not counted");
	CHECK_ERR(ENOMEM, pin(fd, access, BASE, (LIMIT + 1) * PAGE), "pin a page too many");
	CHECK_OK(check_refs(fd, memory, 16 * PAGE, 0), "none is pinned");
	CHECK_OK(access_pages(fd, access, BASE, 4 * PAGE, memory, 0, &a), "pin four");
	CHECK_EQ(room(), LIMIT - 4, "which count");
	CHECK_OK(access_pages(fd, access, BASE + 2 * PAGE, 4 * PAGE, memory + 2 * PAGE, 0, &b),
		 "and four, of which two are");
	CHECK_EQ(room(), LIMIT - 6, "six");
	CHECK_ERR(ENOMEM, try_mock(fd, ioas), "a device needs sixteen");
	CHECK_OK(unpin(fd, access, a), "unpin the first");
	CHECK_EQ(room(), LIMIT - 4, "four");
	limit_to(16);
	CHECK_OK(mock_domain(fd, ioas, &mock), "sixteen are allowed, four are pinned");
	CHECK_EQ(room(), 0, "sixteen are");
	CHECK_OK(unpin(fd, access, b), "unpin the second");
	CHECK_EQ(room(), 0, "the device has them");
	CHECK_OK(access_pages(fd, access, BASE, 4 * PAGE, memory, 0, &a), "pin what it has");
	CHECK_OK(destroy(fd, mock.stdev), "unplug it");
	CHECK_EQ(room(), 12, "four are left");
	CHECK_OK(close(access), "close the access");
	CHECK_EQ(room(), 16, "none");
	limit_to(LIMIT);
	NEED(munmap(buffer, 16 * PAGE) == 0);
	done();
}

/* The limit is what the mapper's is when it is asked for. */
static void limits(void)
{
	struct rlimit limit;

	fresh();
	new_mock(fd, ioas);
	CHECK_OK(map_pages(0, 4, 0), "four pages");
	limit_to(2);
	CHECK_ERR(ENOMEM, map_pages(4, 1, 4), "the limit is two now");
	limit_to(5);
	CHECK_OK(map_pages(4, 1, 4), "five");
	CHECK_ERR(ENOMEM, map_pages(5, 1, 5), "not six");
	NEED(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	limit.rlim_cur = 6 * PAGE + PAGE - 1;
	NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	CHECK_OK(map_pages(5, 1, 5), "six, and not quite a page");
	CHECK_ERR(ENOMEM, map_pages(6, 1, 6), "is not seven");
	limit_to(0);
	CHECK_ERR(ENOMEM, map_pages(6, 1, 6), "none");
	CHECK_OK(unmap_pages(4, 0), "what is there can go");
	unmap_all(fd, ioas);
	CHECK_ERR(ENOMEM, map_pages(6, 1, 6), "none, with nothing pinned");
	limit_to(LIMIT);
	/* A child maps under its own limit; the parent brings the device. */
	done();
	fresh();
	IN_CHILD({
		limit_to(2);
		NEED(map_pages(0, 3, 0) == 0);
		CHECK_ERR(ENOMEM, try_mock(fd, ioas), "three of two");
		limit_to(3);
		CHECK_OK(try_mock(fd, ioas), "of three");
		CHECK_OK(destroy(fd, 2), "unplug");
		NEED(unmap_all(fd, ioas) == 3 * PAGE);
	});
	done();
}

/* It counts who had the capability at MAP, not who has it now. */
static void capability(void)
{
	struct mock mock;

	fresh();
	mock = new_mock(fd, ioas);
	CHECK_OK(map_pages(0, 16, 0), "with CAP_IPC_LOCK there is no limit");
	CHECK_EQ(room(), 16, "nor is it counted");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	IN_CHILD({
		drop_capability(CAP_IPC_LOCK);
		CHECK_EQ(room(), LIMIT, "without it there is");
		CHECK_OK(try_mock(fd, ioas), "what was mapped with it is not counted");
		CHECK_EQ(room(), LIMIT, "not here either");
		CHECK_OK(destroy(fd, 2), "unplug");
		NEED(unmap_all(fd, ioas) == 16 * PAGE && map_pages(0, 16, 0) == 0);
	});
	NEED(unmap_all(fd, ioas) == 16 * PAGE);
	done();
}

/* What was mapped without it is counted although it is there now. */
static void capability_later(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	fresh();
	drop_capability(CAP_IPC_LOCK);
	NEED(map_pages(0, 16, 0) == 0);
	capabilities(data)[0].effective |= 1U << CAP_IPC_LOCK;
	NEED(syscall(SYS_capset, &header, data) == 0);
	CHECK_ERR(ENOMEM, try_mock(fd, ioas), "mapped without, attached with it");
	unmap_all(fd, ioas);
	NEED(map_pages(0, 16, 0) == 0);
	drop_capability(CAP_IPC_LOCK);
	CHECK_OK(try_mock(fd, ioas), "mapped with, attached without it");
	done();
}

/* A capability of a user namespace of one's own does not count. */
static void own_namespace(void)
{
	fresh();
	new_mock(fd, ioas);
	if (unshare(CLONE_NEWUSER) != 0) {
		printf("# no user namespaces here\n");
		return;
	}
	CHECK_TRUE(have_capability(CAP_IPC_LOCK), "it has the capability in its namespace");
	CHECK_ERR(ENOMEM, map_pages(0, LIMIT + 1, 0), "which does not count");
	CHECK_OK(map_pages(0, LIMIT, 0), "as many as allowed");
	done();
}

/* One user's processes count together; another's do not. */
static void per_user(void)
{
	int device;

	fresh();
	new_mock(fd, ioas);
	CHECK_OK(map_pages(0, 5, 0), "five pages");
	IN_CHILD({
		CHECK_EQ(room(), LIMIT - 5, "a child has three left");
		CHECK_OK(map_pages(0, 3, 5), "which it takes");
		CHECK_EQ(room(), 0, "none");
	});
	CHECK_EQ(room(), 0, "nor has the parent, after it ended");
	CHECK_OK(unmap_pages(3, 5), "until the area goes");
	CHECK_EQ(room(), 3, "three again");
	/* Somebody else's files; he has no permission to open the device. */
	device = open_iommu();
	IN_CHILD({
		if (setresuid(OTHER_USER, OTHER_USER, OTHER_USER) != 0) {
			printf("# one user is all there is here\n");
			_exit(0);
		}
		fd = device;
		ioas = new_ioas(fd);
		NEED(try_mock(fd, ioas) == 0);
		CHECK_ERR(ENOMEM, map_pages(0, LIMIT + 1, 0), "another user: a page too many");
		CHECK_OK(map_pages(0, LIMIT, 0), "as many as allowed");
		CHECK_ERR(ENOMEM, map_pages(0, 1, LIMIT), "one more");
	});
	CHECK_EQ(room(), 3, "that does not count here");
	CHECK_OK(close(device), "close the other's");
	CHECK_OK(unmap_pages(5, 0), "unmap");
	CHECK_EQ(room(), LIMIT, "all is back");
	done();
}

static void per_process(void)
{
	char *locked = new_pages(3);
	int file = memfd_create("pages", MFD_CLOEXEC);

	fresh();
	new_mock(fd, ioas);
	CHECK_OK(map_pages(0, 5, 0), "five pages");
	IN_CHILD({
		CHECK_EQ(room(), LIMIT, "a child has all its own");
		CHECK_OK(map_pages(0, LIMIT, 5), "which it takes");
		CHECK_EQ(room(), 0, "none");
	});
	CHECK_EQ(room(), LIMIT - 5, "the parent has what it had");
	NEED(mlock(locked, 2 * PAGE) == 0);
	CHECK_EQ(room(), LIMIT - 7, "what it locks itself counts");
	NEED(munlock(locked, 2 * PAGE) == 0);
	CHECK_EQ(room(), LIMIT - 5, "as long as it is");
	unmap_all(fd, ioas);
	done();

	/* Whom to count against is gone. */
	NEED(file >= 0 && ftruncate(file, PAGE) == 0);
	fresh();
	IN_CHILD(NEED(map_file_at(fd, ioas, file, 0, PAGE, BASE) == 0));
	CHECK_ERR(EINVAL, try_mock(fd, ioas), "a file that a process mapped that is gone");
	unmap_all(fd, ioas);
	CHECK_OK(map_file_at(fd, ioas, file, 0, PAGE, BASE), "mapped by one that is there");
	CHECK_OK(try_mock(fd, ioas), "it can be pinned");
	CHECK_EQ(room(), LIMIT - 1, "and counts");
	CHECK_EQ(new_ioas(fd), 5, "no ID was taken before");
	done();
	NEED(close(file) == 0 && munmap(locked, 3 * PAGE) == 0);
}

int main(int argc, char **argv)
{
	checks_begin();
	mm_mode = argc > 1 && !strcmp(argv[1], "--mm");
	memory = new_pages(32);
	memset(memory, 1, 32 * PAGE);
	limit_to(LIMIT);
	if (have_capability(CAP_IPC_LOCK)) {
		/* In a user namespace it does not count. */
		if (room() == 16) {
			capability();
			IN_CHILD(capability_later());
		}
		IN_CHILD(own_namespace());
		drop_capability(CAP_IPC_LOCK);
	}
	mapping();
	files();
	accesses();
	limits();
	if (mm_mode)
		per_process();
	else
		per_user();
	return checks_end();
}
