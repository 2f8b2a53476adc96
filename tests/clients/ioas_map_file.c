// SPDX-License-Identifier: MIT
/*
 * IOMMU_IOAS_MAP_FILE: the descriptor is the caller's, and only remembered: without a device no
 * page is looked for, so any open file can be mapped, also beyond its end or against its mode.
 */
#include "client.h"

#include <sys/socket.h>

static int fd;
static uint32_t ioas;

static void kinds(void)
{
	int memfd = memfd_create("client", 0), pipes[2], sockets[2], file, null, dir, path;
	int sealed = memfd_create("sealed", MFD_ALLOW_SEALING), readonly;
	char name[] = "/tmp/client-XXXXXX", again[64];
	uint64_t iova = 0;

	NEED(memfd >= 0 && ftruncate(memfd, MIB) == 0);
	NEED(pipe(pipes) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	file = mkstemp(name);
	NEED(file >= 0 && unlink(name) == 0);
	null = open("/dev/null", O_RDWR);
	dir = open("/", O_RDONLY | O_DIRECTORY);
	path = open("/", O_PATH);
	NEED(null >= 0 && dir >= 0 && path >= 0);
	snprintf(again, sizeof(again), "/proc/self/fd/%d", memfd);
	readonly = open(again, O_RDONLY);
	NEED(readonly >= 0);
	NEED(fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK) == 0);

	CHECK_OK(map_file_at(fd, ioas, memfd, 0, MIB, MIB), "a memfd");
	CHECK_OK(map_file_at(fd, ioas, memfd, MIB, MIB, 2 * MIB), "beyond its end");
	CHECK_OK(map_file_at(fd, ioas, readonly, 0, MIB, 3 * MIB), "read-only, writeable");
	CHECK_OK(map_file_at(fd, ioas, sealed, 0, MIB, 4 * MIB), "sealed, writeable");
	CHECK_OK(map_file_flags(fd, ioas, R, readonly, 0, PAGE, &iova), "read-only, readable");
	CHECK_OK(map_file_flags(fd, ioas, W, memfd, 0, PAGE, &iova), "writeable");
	CHECK_EQ(unmap_all(fd, ioas), 4 * MIB + 2 * PAGE, "bytes mapped");
	CHECK_OK(map_file_at(fd, ioas, file, 0, PAGE, 0), "a regular file, empty");
	CHECK_OK(map_file_at(fd, ioas, pipes[0], 0, PAGE, PAGE), "a pipe");
	CHECK_OK(map_file_at(fd, ioas, sockets[0], 0, PAGE, 2 * PAGE), "a socket");
	CHECK_OK(map_file_at(fd, ioas, null, 0, PAGE, 3 * PAGE), "/dev/null");
	CHECK_OK(map_file_at(fd, ioas, dir, 0, PAGE, 4 * PAGE), "a directory");
	CHECK_ERR(EBADF, map_file_at(fd, ioas, path, 0, PAGE, 5 * PAGE), "an O_PATH descriptor");
	CHECK_EQ(unmap_all(fd, ioas), 5 * PAGE, "bytes mapped");

	CHECK_OK(map_file_at(fd, ioas, memfd, 0, MIB, MIB), "the memfd again");
	NEED(close(memfd) == 0 && close(readonly) == 0);
	CHECK_ERR(EBADF, map_file_at(fd, ioas, memfd, 0, MIB, 2 * MIB), "a closed descriptor");
	CHECK_OK(copy_at(fd, ioas, 2 * MIB, ioas, MIB, MIB), "the area outlives the descriptor");
	CHECK_EQ(unmap_all(fd, ioas), 2 * MIB, "bytes mapped");
	CHECK_ERR(EBADF, map_file_at(fd, ioas, -1, 0, PAGE, 0), "descriptor -1");
	CHECK_ERR(EBADF, map_file_at(fd, ioas, -100, 0, PAGE, 0), "descriptor -100");
	CHECK_ERR(EBADF, map_file_at(fd, ioas, INT_MAX, 0, PAGE, 0), "descriptor INT_MAX");
	CHECK_ERR(EBADF, map_file_at(fd, ioas, INT_MIN, 0, PAGE, 0), "descriptor INT_MIN");
}

/* The offset in the file decides the alignment, as the address does for MAP. */
static void chosen(int memfd, uint64_t start, uint64_t length, uint64_t want)
{
	uint64_t iova = 0x5000;

	CHECK_OK(map_file_flags(fd, ioas, RW, memfd, start, length, &iova),
		 "map %#lx bytes from %#lx on", length, start);
	CHECK_EQ(iova, want, "its IOVA");
	CHECK_EQ(unmap_all(fd, ioas), length, "unmap it");
}

static void offsets(int memfd)
{
	chosen(memfd, 0, PAGE, PAGE);
	chosen(memfd, 0, 3 * PAGE, 4 * PAGE);
	chosen(memfd, 0, MIB, MIB);
	chosen(memfd, 0, 4 * MIB, 2 * MIB);
	chosen(memfd, MIB, 4 * MIB, MIB);
	chosen(memfd, PAGE, MIB, PAGE);
	chosen(memfd, 2 * MIB, 4 * MIB, 2 * MIB);
	chosen(memfd, 0x800, PAGE, 0x1800);
	chosen(memfd, 0x1801, 1, 0x1801);
	chosen(memfd, 1ULL << 62, MIB, MIB);
	CHECK_OK(map_file_at(fd, ioas, memfd, 3, 5, 7), "odd bytes at an odd IOVA");
	CHECK_OK(unmap_at(fd, ioas, 7, 5), "unmap them");
	CHECK_OK(map_file_at(fd, ioas, memfd, 0, PAGE, PAGE), "an area");
	CHECK_ERR(EEXIST, map_file_at(fd, ioas, memfd, 0, PAGE, PAGE), "the same");
	CHECK_OK(map_file_at(fd, ioas, memfd, 0, PAGE, 2 * PAGE), "the same bytes elsewhere");
	CHECK_EQ(unmap_all(fd, ioas), 2 * PAGE, "bytes mapped");

	CHECK_OK(map_file_at(fd, ioas, memfd, U64_MAX - PAGE + 1, PAGE, 0), "the last offset");
	CHECK_ERR(EOVERFLOW, map_file_at(fd, ioas, memfd, U64_MAX - PAGE + 2, PAGE, PAGE),
		  "one byte beyond");
	CHECK_ERR(EOVERFLOW, map_file_at(fd, ioas, memfd, 3, U64_MAX - 1, PAGE),
		  "beyond, and too large");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, memfd, 0, U64_MAX - 1, PAGE), "too large");
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "bytes mapped");
	CHECK_OK(map_file_at(fd, ioas, memfd, 0, U64_MAX - PAGE, PAGE), "the largest length");
	CHECK_EQ(unmap_all(fd, ioas), U64_MAX - PAGE, "bytes mapped");
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 0) == 0);
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, memfd, 0x800, PAGE, 0), "offset not aligned");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, memfd, 0, 0x800, 0), "length not aligned");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, memfd, 0, PAGE, 0x800), "IOVA not aligned");
	NEED(option_set(fd, IOMMU_OPTION_HUGE_PAGES, ioas, 1) == 0);
}

static void order(int memfd)
{
	struct iommu_ioas_map_file cmd = { .size = sizeof(cmd), .flags = 1U << 3, .fd = -1,
					   .ioas_id = NO_ID, .start = U64_MAX, .length = U64_MAX,
					   .iova = U64_MAX };
	unsigned int bit;

	for (bit = 3; bit < 32; bit++) {
		cmd.flags = FIXED | RW | 1U << bit;
		CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "1. flag bit %u", bit);
	}
	cmd.flags = 0;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "2. iova U64_MAX");
	cmd.iova = 0;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "2. length U64_MAX");
	cmd.length = 0;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "3. neither R nor W");
	cmd.flags = FIXED | RW;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "4. no such IOAS");
	cmd.ioas_id = ioas;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "5. length 0");
	cmd.length = U64_MAX - 1;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "6. the range in the file wraps");
	cmd.start = 0;
	CHECK_ERR(EBADF, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "7. no such descriptor");
	cmd.fd = memfd;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "8. the length is too large");
	cmd.iova = 2 * PAGE;
	cmd.length = U64_MAX - PAGE;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "9. the IOVA range wraps");
	cmd.length = PAGE;
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_MAP_FILE, read_only(&cmd, sizeof(cmd))),
		  "10. the struct cannot be written");
	CHECK_ERR(EEXIST, call(fd, IOMMU_IOAS_MAP_FILE, &cmd), "11. but the area is mapped");
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "bytes mapped");
	CHECK_ERR(EFAULT, call(fd, IOMMU_IOAS_MAP_FILE, at_edge(&cmd, sizeof(cmd) - 1)),
		  "its last byte cannot be read");
	CHECK_OK(call(fd, IOMMU_IOAS_MAP_FILE, at_edge(&cmd, sizeof(cmd))), "at the page's end");
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "bytes mapped");
}

/* The descriptor is looked up in the process that calls, not in the one that opened the device. */
static void other_process(int memfd)
{
	int number = fcntl(memfd, F_DUPFD, 500);

	NEED(number >= 500);
	IN_CHILD({
		NEED(close(memfd) == 0);
		CHECK_ERR(EBADF, map_file_at(fd, ioas, memfd, 0, PAGE, 0), "closed in the child");
		memfd = memfd_create("child", 0);
		NEED(memfd >= 0 && dup2(memfd, 600) == 600);
		CHECK_OK(map_file_at(fd, ioas, 600, 0, PAGE, PAGE), "the child's own");
	});
	CHECK_OK(map_file_at(fd, ioas, memfd, 0, PAGE, 0), "open in the parent");
	CHECK_ERR(EBADF, map_file_at(fd, ioas, 600, 0, PAGE, 5 * PAGE), "not the parent's");
	CHECK_EQ(unmap_all(fd, ioas), 2 * PAGE, "the child's area stayed");
}

/* More files than a process may have open: the areas keep them, not the descriptors. */
static void many(void)
{
	unsigned int i, wrong = 0, memfds = often(3000);
	int memfd;

	for (i = 0; i < memfds; i++) {
		memfd = memfd_create("many", 0);
		NEED(memfd >= 0);
		wrong += map_file_at(fd, ioas, memfd, 0, PAGE, i * PAGE) != 0;
		NEED(close(memfd) == 0);
	}
	CHECK_EQ(wrong, 0, "%u memfds, each closed once it is mapped", memfds);
	CHECK_EQ(unmap_all(fd, ioas), memfds * PAGE, "bytes mapped");
}

int main(void)
{
	int memfd = memfd_create("main", 0);

	checks_begin();
	NEED(memfd >= 0 && ftruncate(memfd, 8 * MIB) == 0);
	fd = open_iommu();
	ioas = new_ioas(fd);
	kinds();
	offsets(memfd);
	order(memfd);
	other_process(memfd);
	many();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
