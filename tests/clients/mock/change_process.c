// SPDX-License-Identifier: MIT
/*
 * IOAS_CHANGE_PROCESS: what is pinned of files is charged to the caller from then on. Who has the
 * device's descriptor may take everything over; nobody asks the one that mapped.
 *
 * --mm: RLIMIT_MODE 1, which takes CAP_SYS_RESOURCE to set.
 */
#include "mock.h"

#include <sys/resource.h>

#define LIMIT 8UL
#define OTHER_USER 65534

static int fd, file;
static uint32_t ioas;
static char *memory;
static bool mm_mode;

static void limit_to(uint64_t pages)
{
	struct rlimit limit;

	NEED(getrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	limit.rlim_cur = pages * PAGE;
	NEED(limit.rlim_cur <= limit.rlim_max && setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
}

static int new_device_file(void)
{
	int opened = open_iommu();

	if (mm_mode)
		NEED(option_set(opened, IOMMU_OPTION_RLIMIT_MODE, 0, 1) == 0);
	return opened;
}

static long change(int device)
{
	struct iommu_ioas_change_process cmd = { .size = sizeof(cmd) };

	return call(device, IOMMU_IOAS_CHANGE_PROCESS, &cmd);
}

/* How many pages of the file can still be pinned, up to 16. */
static uint64_t room(void)
{
	uint64_t count = 0;
	int device = new_device_file();
	uint32_t own = new_ioas(device);

	NEED(try_mock(device, own) == 0);
	while (count < 16 && map_file_at(device, own, file, count * PAGE, PAGE,
					 BASE + count * PAGE) == 0)
		count++;
	unmap_all(device, own);
	NEED(close(device) == 0);
	return count;
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
	NEED(close(fd) == 0);
	CHECK_EQ(room(), LIMIT, "all is given back");
}

static void wire(void)
{
	struct iommu_ioas_change_process cmd = { .size = sizeof(cmd), .__reserved = 1 };

	fresh();
	CHECK_OK(change(fd), "nothing is there to change");
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_CHANGE_PROCESS, &cmd), "a reserved field");
	NEED(map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE) == 0);
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_CHANGE_PROCESS, &cmd), "comes first");
	CHECK_ERR(EINVAL, change(fd), "memory cannot change hands");
	NEED(map_file_at(fd, ioas, file, 0, PAGE, BASE + PAGE) == 0);
	CHECK_ERR(EINVAL, change(fd), "nor with a file beside it");
	NEED(unmap_at(fd, ioas, BASE, PAGE) == 0);
	CHECK_OK(change(fd), "a file alone can");
	new_ioas(fd);
	NEED(map_at(fd, ioas + 1, (uintptr_t)memory, PAGE, BASE) == 0);
	CHECK_ERR(EINVAL, change(fd), "all IOASes count");
	done();
}

static void own(void)
{
	fresh();
	new_mock(fd, ioas);
	CHECK_OK(map_file_at(fd, ioas, file, 0, LIMIT * PAGE, BASE), "as many as allowed");
	CHECK_OK(change(fd), "to oneself");
	CHECK_EQ(room(), 0, "changes nothing");
	CHECK_ERR(ENOMEM, map_file_at(fd, ioas, file, 0, PAGE, BASE + MIB), "one more");
	done();
}

/* The same user: in the moment of the change it has both. */
static void child(void)
{
	fresh();
	new_mock(fd, ioas);
	CHECK_OK(map_file_at(fd, ioas, file, 0, 5 * PAGE, BASE), "five pages");
	CHECK_OK(copy_at(fd, ioas, BASE + MIB, ioas, BASE, 5 * PAGE), "which are counted once");
	IN_CHILD({
		if (mm_mode) {
			CHECK_EQ(room(), LIMIT, "a child has all its own");
			limit_to(4);
			CHECK_ERR(ENOMEM, change(fd), "four are not enough");
			CHECK_EQ(room(), 4, "none is charged");
			limit_to(LIMIT);
			CHECK_OK(change(fd), "eight are");
			CHECK_EQ(room(), LIMIT - 5, "the child has them");
			CHECK_OK(change(fd), "again");
			CHECK_EQ(room(), LIMIT - 5, "still");
		} else {
			CHECK_ERR(ENOMEM, change(fd), "twice five is more than eight");
			CHECK_EQ(room(), LIMIT - 5, "nothing has changed");
			limit_to(10);
			CHECK_OK(change(fd), "ten are allowed");
			CHECK_EQ(room(), 5, "and are five again");
			limit_to(6);
			CHECK_OK(map_file_at(fd, ioas, file, 0, PAGE, BASE + 2 * MIB),
				 "a sixth");
			CHECK_ERR(ENOMEM, map_file_at(fd, ioas, file, 0, PAGE, BASE + 3 * MIB),
				  "by its own limit");
		}
		CHECK_EQ(unmap_all(fd, ioas), (mm_mode ? 10 : 11) * PAGE, "unmap");
		limit_to(LIMIT);
		CHECK_EQ(room(), LIMIT, "all is back");
		CHECK_OK(map_file_at(fd, ioas, file, 0, 3 * PAGE, BASE), "three pages");
		CHECK_OK(copy_at(fd, ioas, BASE + MIB, ioas, BASE, 3 * PAGE), "and a copy");
	});
	if (!mm_mode) {
		CHECK_OK(change(fd), "the parent takes them");
		CHECK_EQ(room(), LIMIT - 3, "the parent has them");
	}
	done();
}

/* What is not pinned yet is charged to the new one when it is. */
static void later(void)
{
	struct mock mock;

	fresh();
	CHECK_OK(map_file_at(fd, ioas, file, 0, 12 * PAGE, BASE), "twelve pages");
	CHECK_ERR(ENOMEM, try_mock(fd, ioas), "a device needs them all");
	IN_CHILD({
		limit_to(16);
		CHECK_OK(change(fd), "a child takes them over");
		CHECK_OK(mock_domain(fd, ioas, &mock), "under its limit they can be pinned");
		CHECK_EQ(room(), 4, "and count");
		CHECK_OK(destroy(fd, mock.stdev), "unplug");
		CHECK_EQ(room(), 16, "all is back");
	});
	done();
}

static void another_user(void)
{
	fresh();
	new_mock(fd, ioas);
	CHECK_OK(map_file_at(fd, ioas, file, 0, 5 * PAGE, BASE), "five pages");
	IN_CHILD({
		if (setresuid(OTHER_USER, OTHER_USER, OTHER_USER) != 0) {
			printf("# one user is all there is here\n");
			_exit(0);
		}
		limit_to(4);
		CHECK_ERR(ENOMEM, change(fd), "another user: four are not enough");
		limit_to(5);
		CHECK_OK(change(fd), "five are");
		CHECK_ERR(ENOMEM, map_file_at(fd, ioas, file, 0, PAGE, BASE + MIB), "no more");
	});
	CHECK_EQ(room(), geteuid() == 0 ? LIMIT : LIMIT - 5, "the first has nothing left of them");
	CHECK_OK(map_file_at(fd, ioas, file, 0, 2 * PAGE, BASE + MIB), "which maps two");
	CHECK_OK(change(fd), "and takes them back");
	CHECK_EQ(room(), LIMIT - 7, "it has them all");
	done();
}

/* Nobody is charged who had the capability when it mapped. */
static void exempt(void)
{
	fresh();
	new_mock(fd, ioas);
	CHECK_OK(map_file_at(fd, ioas, file, 0, 16 * PAGE, BASE), "with CAP_IPC_LOCK");
	IN_CHILD({
		drop_capability(CAP_IPC_LOCK);
		CHECK_OK(change(fd), "a child without it takes them over");
		CHECK_EQ(room(), LIMIT, "and is not charged");
	});
	NEED(close(fd) == 0);
}

int main(int argc, char **argv)
{
	checks_begin();
	mm_mode = argc > 1 && !strcmp(argv[1], "--mm");
	memory = new_pages(4);
	file = memfd_create("pages", MFD_CLOEXEC);
	NEED(file >= 0 && ftruncate(file, 32 * PAGE) == 0);
	limit_to(LIMIT);
	if (have_capability(CAP_IPC_LOCK)) {
		if (room() == 16)
			exempt();
		drop_capability(CAP_IPC_LOCK);
	}
	wire();
	own();
	child();
	later();
	if (!mm_mode)
		another_user();
	return checks_end();
}
