// SPDX-License-Identifier: MIT
/*
 * dma-bufs in IOAS_MAP_FILE. The mock's own are made and revoked by test operations. Linux 7.3's
 * mock answers 0 in place of the descriptor; there it is the lowest one that was free.
 */
#include "mock.h"

#include <sys/resource.h>

#define PAGES 4UL
#define CAP_SYS_RAWIO_ 17

static int fd;
static uint32_t ioas;

static long dma_buf_get(uint32_t length, uint32_t flags)
{
	struct iommu_test_cmd cmd = { .dmabuf_get = { .length = length, .open_flags = flags } };

	return test_cmd(fd, IOMMU_TEST_OP_DMABUF_GET, 0, &cmd);
}

static int new_dma_buf(void)
{
	int lowest = dup(fd);
	long rc;

	NEED(lowest >= 0 && close(lowest) == 0);
	rc = dma_buf_get(PAGES * PAGE, O_CLOEXEC);
	NEED(rc == 0 || rc == lowest);
	return lowest;
}

static long revoke_buffer(int buffer, uint32_t revoked)
{
	struct iommu_test_cmd cmd = { .dmabuf_revoke = { .dmabuf_fd = buffer,
							 .revoked = revoked } };

	return test_cmd(fd, IOMMU_TEST_OP_DMABUF_REVOKE, 0, &cmd);
}

static long get_pa(uint64_t iova)
{
	struct iommu_ioas_noiommu_get_pa cmd = { .size = sizeof(cmd), .ioas_id = ioas,
						 .iova = iova, .length = PAGE };

	return call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd);
}

static long change(void)
{
	struct iommu_ioas_change_process cmd = { .size = sizeof(cmd) };

	return call(fd, IOMMU_IOAS_CHANGE_PROCESS, &cmd);
}

static void fresh(void)
{
	fd = open_iommu();
	ioas = new_ioas(fd);
}

static void descriptors(void)
{
	static const int empty[] = { EINVAL, EINVAL, ESPIPE, ESPIPE, EINVAL, EINVAL };
	static const int to_read[] = { EINVAL, EBADF, ESPIPE, ESPIPE, EINVAL, EBADF };
	int buffer, memfd = memfd_create("file", MFD_CLOEXEC);
	struct rlimit limit, none;

	fresh();
	CHECK_ERR(EINVAL, dma_buf_get(0, O_CLOEXEC), "no length");
	CHECK_ERR(EINVAL, dma_buf_get(512 * PAGE + 1, O_CLOEXEC), "more than 512 pages");
	CHECK_ERR(EINVAL, dma_buf_get(UINT32_MAX, O_CLOEXEC), "much more");
	CHECK_TRUE(dma_buf_get(512 * PAGE, O_CLOEXEC) >= 0, "512 pages");
	buffer = new_dma_buf();
	CHECK_EQ(fcntl(buffer, F_GETFD), FD_CLOEXEC, "closed on exec");
	CHECK_EQ(fcntl(buffer, F_GETFL) & O_ACCMODE, O_RDONLY, "as it was asked for");
	check_empty(buffer, to_read, "one to read");
	CHECK_ERR(EINVAL, try_mmap(buffer, PAGE, PROT_READ, MAP_SHARED, 0), "mmap of it");
	NEED(close(buffer) == 0);
	CHECK_TRUE(dma_buf_get(1, O_RDWR) >= 0, "a byte");
	check_empty(buffer, empty, "one to read and write");
	CHECK_ERR(EINVAL, try_mmap(buffer, PAGE, PROT_WRITE, MAP_SHARED, 0), "mmap of it");
	CHECK_ERR(EINVAL, try_mmap(buffer, PAGE, PROT_WRITE, MAP_PRIVATE, 0), "a copy");
	CHECK_ERR(EPERM, try_mmap(buffer, PAGE, PROT_EXEC, MAP_SHARED, 0), "to run");
	CHECK_ERR(EINVAL, try_mmap(buffer, PAGE, PROT_READ, MAP_SHARED, 1UL << 63), "far away");
	CHECK_EQ(fcntl(buffer, F_GETFD), 0, "not closed on exec");
	CHECK_EQ(fcntl(buffer, F_GETFL) & O_ACCMODE, O_RDWR, "read and write");
	CHECK_OK(map_file_at(fd, ioas, buffer, 0, PAGE, BASE), "it has a page");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, buffer, 0, PAGE + 1, BASE + PAGE), "one");
	CHECK_ERR(EBADF, revoke_buffer(-1, 1), "revoke nothing");
	CHECK_ERR(EINVAL, revoke_buffer(memfd, 1), "revoke a file");
	CHECK_ERR(EINVAL, revoke_buffer(fd, 1), "revoke the device");
	NEED(getrlimit(RLIMIT_NOFILE, &limit) == 0);
	none = limit;
	none.rlim_cur = (rlim_t)buffer;
	NEED(setrlimit(RLIMIT_NOFILE, &none) == 0);
	CHECK_ERR(EMFILE, dma_buf_get(PAGE, O_CLOEXEC), "no descriptor is free");
	NEED(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	NEED(close(buffer) == 0 && close(memfd) == 0 && close(fd) == 0);
}

static void mapping(void)
{
	int buffer, copy, access;
	uint64_t iova = 0;
	struct mock mock;
	char data[16];

	fresh();
	mock = new_mock(fd, ioas);
	buffer = new_dma_buf();
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, buffer, 0, 0, BASE), "no length");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, buffer, PAGES * PAGE, PAGE, BASE), "beyond its end");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, buffer, PAGE, PAGES * PAGE, BASE), "over its end");
	CHECK_ERR(EOVERFLOW, map_file_at(fd, ioas, buffer, U64_MAX - PAGE + 1, 2 * PAGE, BASE),
		  "over 2^64");
	CHECK_ERR(ENOENT, map_file_at(fd, NO_ID, buffer, 0, 2 * PAGES * PAGE, BASE), "no such IOAS");
	CHECK_OK(map_file_at(fd, ioas, buffer, 0, PAGES * PAGE, BASE), "all of it");
	CHECK_ERR(EEXIST, map_file_at(fd, ioas, buffer, 0, PAGE, BASE), "an area is there");
	CHECK_OK(map_file_at(fd, ioas, buffer, HALF, PAGE, BASE + MIB), "from within a page");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, buffer, 1, PAGE, BASE + 2 * MIB),
		  "off the alignment");
	CHECK_OK(map_file_flags(fd, ioas, R, buffer, PAGE, PAGE, &iova), "where there is room");
	CHECK_OK(copy_at(fd, ioas, BASE + 3 * MIB, ioas, BASE, PAGES * PAGE), "a copy");
	CHECK_ERR(EPERM, copy_at(fd, ioas, BASE + 4 * MIB, ioas, iova, PAGE), "no more is allowed");
	CHECK_ERR(EINVAL, change(), "it cannot change hands");
	CHECK_ERR(EINVAL, check_map(fd, mock.hwpt, BASE, PAGE, &fd - (uintptr_t)&fd % PAGE),
		  "not memory of the client");
	CHECK_ERR(EOPNOTSUPP, get_pa(BASE), "it has no physical address");

	CHECK_OK(unmap_at(fd, ioas, BASE + MIB, PAGE), "unmap what accesses are not aligned to");
	access = new_access(fd, ioas, PINS);
	CHECK_ERR(EINVAL, access_rw(fd, access, BASE, 16, data, 0), "an access cannot read it");
	CHECK_ERR(EINVAL, access_rw(fd, access, BASE, 16, data, WRITE), "nor write");
	CHECK_ERR(EPERM, access_rw(fd, access, iova, 16, data, WRITE), "what it must not");
	CHECK_ERR(EINVAL, pin(fd, access, BASE, PAGE), "nor pin");
	NEED(close(access) == 0);

	copy = dup(buffer);
	NEED(close(buffer) == 0);
	CHECK_OK(map_file_at(fd, ioas, copy, 0, PAGE, BASE + 5 * MIB), "by another descriptor");
	NEED(close(copy) == 0);
	CHECK_OK(copy_at(fd, ioas, BASE + 6 * MIB, ioas, BASE, PAGE), "it outlives them");
	CHECK_OK(unmap_at(fd, ioas, BASE, PAGES * PAGE), "unmap");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	CHECK_EQ(unmap_all(fd, ioas), (1 + PAGES + 1 + 1) * PAGE, "unmap all");
	NEED(close(fd) == 0);
}

static void revoking(void)
{
	struct mock mock;
	uint32_t other;
	int buffer;

	fresh();
	mock = new_mock(fd, ioas);
	buffer = new_dma_buf();
	CHECK_OK(map_file_at(fd, ioas, buffer, 0, PAGES * PAGE, BASE), "all of it");
	CHECK_OK(revoke_buffer(buffer, 1), "revoke");
	CHECK_OK(revoke_buffer(buffer, 1), "again");
	CHECK_ERR(ENODEV, map_file_at(fd, ioas, buffer, 0, PAGE, BASE + MIB), "it is revoked");
	CHECK_ERR(EINVAL, map_file_at(fd, ioas, buffer, 0, 8 * PAGE, BASE + MIB), "its size first");
	CHECK_ERR(ENODEV, map_file_at(fd, ioas, buffer, 0, PAGE, BASE), "its being revoked first");
	CHECK_ERR(EINVAL, get_pa(BASE), "nothing is shown");
	CHECK_OK(copy_at(fd, ioas, BASE + MIB, ioas, BASE, PAGES * PAGE), "what is lost is copied");
	CHECK_ERR(EINVAL, get_pa(BASE + MIB), "and is lost");
	other = new_ioas(fd);
	CHECK_OK(copy_at(fd, other, BASE, ioas, BASE, PAGES * PAGE), "to another IOAS");
	CHECK_OK(try_mock(fd, other), "a device comes");
	CHECK_OK(revoke_buffer(buffer, 0), "give it free");
	CHECK_ERR(EINVAL, get_pa(BASE), "what was lost stays lost");
	CHECK_OK(map_file_at(fd, ioas, buffer, 0, PAGE, BASE + 2 * MIB), "it can be mapped anew");
	CHECK_ERR(EOPNOTSUPP, get_pa(BASE + 2 * MIB), "and is shown");
	CHECK_OK(revoke_buffer(buffer, 0), "give it free again");
	CHECK_ERR(EINVAL, get_pa(BASE + 2 * MIB), "takes it from all who have it");
	CHECK_OK(map_file_at(fd, ioas, buffer, 0, PAGE, BASE + 3 * MIB), "not from who maps it then");
	CHECK_OK(unmap_at(fd, ioas, BASE, PAGES * PAGE), "unmap what is lost");
	CHECK_OK(map_file_at(fd, ioas, buffer, 0, PAGES * PAGE, BASE), "and map it there again");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	CHECK_OK(try_mock(fd, ioas), "and plug in");
	CHECK_EQ(unmap_all(fd, ioas), (PAGES + PAGES + 1 + 1) * PAGE, "unmap all");
	NEED(close(buffer) == 0 && close(fd) == 0);
}

/* In the order of the checks. */
static void physical(void)
{
	struct iommu_ioas_noiommu_get_pa cmd = { .size = sizeof(cmd), .flags = 1, .ioas_id = NO_ID,
						 .iova = U64_MAX };
	char *memory = new_pages(1);

	fresh();
	IN_CHILD({
		if (have_capability(CAP_SYS_RAWIO_))
			drop_capability(CAP_SYS_RAWIO_);
		CHECK_ERR(EPERM, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "1. no capability");
	});
	if (!have_capability(CAP_SYS_RAWIO_)) {
		printf("# CAP_SYS_RAWIO is not to be had here\n");
		NEED(close(fd) == 0);
		return;
	}
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "2. a flag");
	cmd.flags = 0;
	cmd.__reserved = 1;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "2. a reserved field");
	cmd.__reserved = 0;
	CHECK_ERR(EINVAL, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "3. no length");
	cmd.length = U64_MAX;
	CHECK_ERR(EOVERFLOW, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "4. the last IOVA");
	cmd.iova = U64_MAX - 1;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "5. no such IOAS");
	cmd.ioas_id = ioas;
	CHECK_ERR(ENOENT, call(fd, IOMMU_IOAS_NOIOMMU_GET_PA, &cmd), "6. nothing is mapped");
	NEED(map_at(fd, ioas, (uintptr_t)memory, PAGE, BASE) == 0);
	CHECK_ERR(EOPNOTSUPP, get_pa(BASE), "7. no device");
	new_mock(fd, ioas);
	CHECK_ERR(EOPNOTSUPP, get_pa(BASE + PAGE - 1), "7. a device with an IOMMU");
	CHECK_ERR(ENOENT, get_pa(BASE + PAGE), "6. nothing is mapped");
	NEED(close(fd) == 0);
}

int main(void)
{
	checks_begin();
	physical();
	descriptors();
	if (have_capability(CAP_SYS_RAWIO_)) {
		mapping();
		revoking();
	}
	return checks_end();
}
