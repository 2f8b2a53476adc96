// SPDX-License-Identifier: MIT
/*
 * The device as a file: it can be opened in any mode and asked with ioctl; the other calls on it
 * fail as they do on Linux's. Left out is what a file served from outside the kernel cannot hide:
 * that it is no character device (its type, epoll, FIONREAD) and that it has no offset (pread,
 * splice from it).
 */
#include "client.h"

#include <dirent.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/select.h>
#include <sys/sendfile.h>
#include <sys/stat.h>

#define R_ PROT_READ
#define RW_ (PROT_READ | PROT_WRITE)

/* A system call's result, or -errno. */
static long result(long rc)
{
	return rc < 0 ? -errno : rc;
}

static void opening(void)
{
	static const struct {
		int flags;
		const char *text;
	} modes[] = {
		{ O_RDWR, "O_RDWR" },
		{ O_RDONLY, "O_RDONLY" },
		{ O_WRONLY, "O_WRONLY" },
		{ O_RDWR | O_NONBLOCK, "O_NONBLOCK" },
		{ O_RDWR | O_APPEND, "O_APPEND" },
		{ O_RDWR | O_TRUNC, "O_TRUNC" },
		{ O_RDWR | O_CREAT, "O_CREAT" },
		{ O_RDWR | O_NOCTTY | O_NOFOLLOW | O_SYNC, "O_NOCTTY, O_NOFOLLOW, O_SYNC" },
	};
	unsigned int i;
	uint32_t id;
	int fd;

	for (i = 0; i < ARRAY_LEN(modes); i++) {
		fd = open(DEVICE, modes[i].flags, 0600);
		CHECK_TRUE(fd >= 0, "open with %s", modes[i].text);
		CHECK_OK(ioas_alloc(fd, &id), "IOAS_ALLOC there");
		CHECK_OK(map_at(fd, id, PAGE, PAGE, 0), "MAP there");
		CHECK_OK(close(fd), "close");
	}
	CHECK_ERR(EEXIST, result(open(DEVICE, O_RDWR | O_CREAT | O_EXCL, 0600)), "O_EXCL");
	CHECK_ERR(ENOTDIR, result(open(DEVICE, O_RDONLY | O_DIRECTORY)), "O_DIRECTORY");
	CHECK_ERR(ENOTDIR, result(open(DEVICE "/x", O_RDONLY)), "a name below it");
	fd = open(DEVICE, O_PATH);
	CHECK_TRUE(fd >= 0, "open with O_PATH");
	CHECK_ERR(EBADF, ioas_alloc(fd, &id), "no ioctl there");
	CHECK_OK(close(fd), "close");
	CHECK_OK(result(access(DEVICE, R_OK | W_OK)), "access: read and write");
}

static void reading(int fd)
{
	char buffer[64] = { 0 };
	struct iovec iov[2] = { { buffer, 16 }, { buffer + 16, 16 } };
	int other = open(DEVICE, O_RDONLY);
	int file = memfd_create("file", 0), pipes[2];

	NEED(other >= 0 && file >= 0 && ftruncate(file, PAGE) == 0 && pipe(pipes) == 0);
	CHECK_ERR(EINVAL, result(read(fd, buffer, 1)), "read a byte");
	CHECK_ERR(EINVAL, result(read(fd, buffer, sizeof(buffer))), "read more");
	CHECK_ERR(EINVAL, result(readv(fd, iov, 2)), "readv");
	CHECK_ERR(EINVAL, result(write(fd, buffer, 1)), "write a byte");
	CHECK_ERR(EINVAL, result(write(fd, buffer, sizeof(buffer))), "write more");
	CHECK_ERR(EINVAL, result(writev(fd, iov, 2)), "writev");
	CHECK_ERR(EBADF, result(write(other, buffer, 1)), "write, opened to read");
	CHECK_ERR(EINVAL, result(read(other, buffer, 1)), "read, opened to read");
	CHECK_ERR(ESPIPE, result(lseek(fd, 0, SEEK_SET)), "seek to the start");
	CHECK_ERR(ESPIPE, result(lseek(fd, 0, SEEK_CUR)), "where is it");
	CHECK_ERR(ESPIPE, result(lseek(fd, 0, SEEK_END)), "seek to the end");
	CHECK_ERR(ESPIPE, result(lseek(fd, PAGE, SEEK_DATA)), "seek to data");
	CHECK_ERR(EINVAL, result(fsync(fd)), "fsync");
	CHECK_ERR(EINVAL, result(fdatasync(fd)), "fdatasync");
	CHECK_ERR(EINVAL, result(ftruncate(fd, 0)), "ftruncate");
	CHECK_ERR(EINVAL, result(ftruncate(fd, PAGE)), "ftruncate to more");
	CHECK_ERR(ENODEV, result(fallocate(fd, 0, 0, PAGE)), "fallocate");
	NEED(write(pipes[1], buffer, 16) == 16);
	CHECK_ERR(EINVAL, result(splice(pipes[0], NULL, fd, NULL, 16, 0)), "splice to it");
	CHECK_ERR(EINVAL, result(sendfile(file, fd, NULL, 16)), "sendfile from it");
	CHECK_ERR(EINVAL, result(sendfile(fd, file, NULL, 16)), "sendfile to it");
	CHECK_TRUE(fdopendir(fd) == NULL && errno == ENOTDIR, "no directory");
	NEED(close(other) == 0 && close(file) == 0 && close(pipes[0]) == 0 && close(pipes[1]) == 0);
}

#define SHARED(length, prot, offset) try_mmap(fd, length, prot, MAP_SHARED, offset)
#define NO_TYPE 0
#define LARGEST (UINT64_MAX - PAGE + 1)

static void mapping(int fd)
{
	static const uint64_t offsets[] = { 0, PAGE, 1UL << 32, 1UL << 60, 1UL << 63 };
	int reader = open(DEVICE, O_RDONLY), writer = open(DEVICE, O_WRONLY);
	int path = open(DEVICE, O_PATH);
	char *page = new_pages(1);
	unsigned int i;

	NEED(reader >= 0 && writer >= 0 && path >= 0);
	for (i = 0; i < ARRAY_LEN(offsets); i++) {
		uint64_t offset = offsets[i];

		CHECK_ERR(ENXIO, SHARED(PAGE, R_, offset), "mmap at %#lx, to read", offset);
		CHECK_ERR(ENXIO, SHARED(MIB, RW_, offset), "to write");
		CHECK_ERR(ENXIO, SHARED(1, PROT_NONE, offset), "less than a page, for nothing");
		CHECK_ERR(EPERM, SHARED(PAGE, R_ | PROT_EXEC, offset), "to run");
		CHECK_ERR(EINVAL, try_mmap(fd, PAGE, RW_, MAP_PRIVATE, offset), "a copy");
	}
	CHECK_ERR(ENXIO, SHARED(PAGE, R_, LARGEST - PAGE), "the last but one");
	CHECK_ERR(EOVERFLOW, SHARED(PAGE, R_, LARGEST), "the last");
	CHECK_ERR(EINVAL, SHARED(0, R_, 0), "nothing");
	CHECK_ERR(ENOMEM, SHARED(U64_MAX, R_, 0), "more than there is");
	CHECK_ERR(ENOMEM, SHARED(1UL << 48, R_, 0), "more than a process has");
	CHECK_ERR(EINVAL, SHARED(PAGE, R_, 1), "between two pages");
	CHECK_ERR(ENXIO, try_mmap(fd, PAGE, R_, MAP_SHARED_VALIDATE, 0), "validated");
	CHECK_ERR(EOPNOTSUPP, try_mmap(fd, PAGE, R_, MAP_SHARED_VALIDATE | MAP_SYNC, 0), "a flag");
	CHECK_ERR(ENXIO, try_mmap(fd, PAGE, R_, MAP_SHARED | MAP_SYNC, 0), "that is ignored else");
	CHECK_ERR(EINVAL, try_mmap(fd, PAGE, R_, NO_TYPE, 0), "neither shared nor private");
	CHECK_ERR(EINVAL, try_mmap(fd, PAGE, R_, MAP_SHARED | MAP_GROWSDOWN, 0), "one that grows");
	CHECK_ERR(EINVAL, try_mmap(fd, PAGE, R_, MAP_SHARED | MAP_HUGETLB, 0), "of huge pages");
	CHECK_TRUE(mmap(page + 1, PAGE, R_, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED &&
		   errno == EINVAL, "at no page of the process");
	CHECK_TRUE(mmap(page, PAGE, R_, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED &&
		   errno == ENXIO, "at a page of the process");
	CHECK_ERR(EINVAL, try_mmap(reader, PAGE, R_, MAP_SHARED, 0), "opened to read");
	CHECK_ERR(EACCES, try_mmap(reader, PAGE, RW_, MAP_SHARED, 0), "and to write there");
	CHECK_ERR(EACCES, try_mmap(writer, PAGE, R_, MAP_SHARED, 0), "opened to write");
	CHECK_ERR(EBADF, try_mmap(path, PAGE, R_, MAP_SHARED, 0), "opened with O_PATH");
	IN_CHILD(CHECK_ERR(ENXIO, SHARED(PAGE, R_, 0), "in a child"));
	NEED(close(reader) == 0 && close(writer) == 0 && close(path) == 0);
}

static void empty(int fd)
{
	static const int both[] = { EINVAL, EINVAL, EINVAL, EINVAL, EINVAL, EINVAL };
	static const int to_read[] = { EINVAL, EBADF, EINVAL, EBADF, EINVAL, EBADF };
	static const int to_write[] = { EBADF, EINVAL, EBADF, EINVAL, EBADF, EINVAL };
	int reader = open(DEVICE, O_RDONLY), writer = open(DEVICE, O_WRONLY), high = 500;
	char byte;

	NEED(reader >= 0 && writer >= 0 && dup2(fd, high) == high);
	check_empty(fd, both, "opened for both");
	check_empty(high, both, "a duplicate");
	check_empty(reader, to_read, "to read");
	check_empty(writer, to_write, "to write");
	CHECK_ERR(EINVAL, result(pread(fd, &byte, 0, -1)), "at no place");
	CHECK_ERR(EINVAL, result(syscall(SYS_read, fd, -1UL, 0)), "to no address");
	NEED(close(reader) == 0 && close(writer) == 0 && close(high) == 0);
}

static void waiting(int fd)
{
	struct pollfd one = { .fd = fd, .events = POLLIN | POLLOUT | POLLPRI };
	struct timeval now = { 0 };
	fd_set readable, writable;

	CHECK_EQ(poll(&one, 1, 0), 1, "poll is ready");
	CHECK_EQ(one.revents, POLLIN | POLLOUT, "to read and to write");
	FD_ZERO(&readable);
	FD_ZERO(&writable);
	FD_SET(fd, &readable);
	FD_SET(fd, &writable);
	CHECK_EQ(select(fd + 1, &readable, &writable, NULL, &now), 2, "select says the same");
}

static void attributes(int fd)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	struct stat st, path;
	int on = 1;

	CHECK_OK(result(fstat(fd, &st)), "fstat");
	CHECK_OK(result(stat(DEVICE, &path)), "stat");
	CHECK_TRUE(st.st_ino == path.st_ino && st.st_dev == path.st_dev, "they are one file");
	CHECK_EQ(st.st_size, S_ISREG(st.st_mode) ? 4096 : 0, "of the size that lets a FUSE file be read asynchronously");
	CHECK_EQ(st.st_nlink, 1, "of one name");
	CHECK_EQ(st.st_uid, 0, "root's");
	CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR, "F_GETFL");
	CHECK_OK(result(ioctl(fd, FIONBIO, &on)), "FIONBIO");
	CHECK_TRUE(fcntl(fd, F_GETFL) & O_NONBLOCK, "is seen by F_GETFL");
	CHECK_OK(result(ioctl(fd, FIOCLEX)), "FIOCLEX");
	CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC, "is seen by F_GETFD");
	CHECK_OK(result(flock(fd, LOCK_EX | LOCK_NB)), "flock");
	CHECK_OK(result(flock(fd, LOCK_UN)), "and back");
	CHECK_OK(result(fcntl(fd, F_SETLK, &lock)), "F_SETLK");
}

int main(void)
{
	uint32_t id;
	int fd;

	checks_begin();
	opening();
	fd = open_iommu();
	reading(fd);
	mapping(fd);
	empty(fd);
	waiting(fd);
	attributes(fd);
	CHECK_OK(ioas_alloc(fd, &id), "ioctl works after all this");
	CHECK_EQ(id, 1, "its ID");
	CHECK_OK(close(fd), "close");
	return checks_end();
}
