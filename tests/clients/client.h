/* SPDX-License-Identifier: MIT */
/*
 * The device as a client sees it: C programs that open /dev/iommu like any other program and know
 * nothing of who serves it. Each helper is one ioctl and returns 0 or -errno, so that a check reads
 * CHECK_ERR(EINVAL, map_at(...), "why").
 */
#ifndef CLIENT_H
#define CLIENT_H

#include "checks.h"

#include <fcntl.h>
#include <limits.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include <linux/capability.h>
#include <linux/iommufd.h>

#define DEVICE "/dev/iommu"
#define PAGE 4096UL
#define MIB (1UL << 20)
#define U64_MAX UINT64_MAX
#define NO_ID 0xfedcU

#define FIXED IOMMU_IOAS_MAP_FIXED_IOVA
#define W IOMMU_IOAS_MAP_WRITEABLE
#define R IOMMU_IOAS_MAP_READABLE
#define RW (R | W)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

/* One ioctl: its result, or -errno. */
static inline long call(int fd, unsigned long number, const void *arg)
{
	int rc = ioctl(fd, number, arg);

	return rc < 0 ? -errno : rc;
}

static inline int open_iommu(void)
{
	int fd = open(DEVICE, O_RDWR | O_CLOEXEC);

	NEED(fd >= 0);
	return fd;
}

static inline long ioas_alloc(int fd, uint32_t *id)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };
	long rc = call(fd, IOMMU_IOAS_ALLOC, &cmd);

	*id = cmd.out_ioas_id;
	return rc;
}

/* An IOAS the test cannot do without. */
static inline uint32_t new_ioas(int fd)
{
	uint32_t id;

	NEED(ioas_alloc(fd, &id) == 0);
	return id;
}

static inline long destroy(int fd, uint32_t id)
{
	struct iommu_destroy cmd = { .size = sizeof(cmd), .id = id };

	return call(fd, IOMMU_DESTROY, &cmd);
}

/* MAP with exactly these flags; *iova goes in, and on success comes out. */
static inline long map_flags(int fd, uint32_t ioas, uint32_t flags, uint64_t va, uint64_t length,
			     uint64_t *iova)
{
	struct iommu_ioas_map cmd = { .size = sizeof(cmd), .flags = flags, .ioas_id = ioas,
				      .user_va = va, .length = length, .iova = *iova };
	long rc = call(fd, IOMMU_IOAS_MAP, &cmd);

	*iova = cmd.iova;
	return rc;
}

static inline long map_at(int fd, uint32_t ioas, uint64_t va, uint64_t length, uint64_t iova)
{
	return map_flags(fd, ioas, FIXED | RW, va, length, &iova);
}

/* The IOVA chosen by the device for this address and length. */
static inline long map_any(int fd, uint32_t ioas, uint64_t va, uint64_t length, uint64_t *iova)
{
	*iova = 0;
	return map_flags(fd, ioas, RW, va, length, iova);
}

static inline long map_file_flags(int fd, uint32_t ioas, uint32_t flags, int file, uint64_t start,
				  uint64_t length, uint64_t *iova)
{
	struct iommu_ioas_map_file cmd = { .size = sizeof(cmd), .flags = flags, .ioas_id = ioas,
					   .fd = file, .start = start, .length = length,
					   .iova = *iova };
	long rc = call(fd, IOMMU_IOAS_MAP_FILE, &cmd);

	*iova = cmd.iova;
	return rc;
}

static inline long map_file_at(int fd, uint32_t ioas, int file, uint64_t start, uint64_t length,
			       uint64_t iova)
{
	return map_file_flags(fd, ioas, FIXED | RW, file, start, length, &iova);
}

/* *length goes in; what the device left in it comes out, on failure too. */
static inline long unmap(int fd, uint32_t ioas, uint64_t iova, uint64_t *length)
{
	struct iommu_ioas_unmap cmd = { .size = sizeof(cmd), .ioas_id = ioas, .iova = iova,
					.length = *length };
	long rc = call(fd, IOMMU_IOAS_UNMAP, &cmd);

	*length = cmd.length;
	return rc;
}

static inline long unmap_at(int fd, uint32_t ioas, uint64_t iova, uint64_t length)
{
	return unmap(fd, ioas, iova, &length);
}

/* Empties the IOAS; returns the bytes that were mapped. */
static inline uint64_t unmap_all(int fd, uint32_t ioas)
{
	uint64_t length = U64_MAX;

	NEED(unmap(fd, ioas, 0, &length) == 0);
	return length;
}

static inline long copy_flags(int fd, uint32_t flags, uint32_t dst, uint64_t *dst_iova,
			      uint32_t src, uint64_t src_iova, uint64_t length)
{
	struct iommu_ioas_copy cmd = { .size = sizeof(cmd), .flags = flags, .dst_ioas_id = dst,
				       .src_ioas_id = src, .length = length, .dst_iova = *dst_iova,
				       .src_iova = src_iova };
	long rc = call(fd, IOMMU_IOAS_COPY, &cmd);

	*dst_iova = cmd.dst_iova;
	return rc;
}

static inline long copy_at(int fd, uint32_t dst, uint64_t dst_iova, uint32_t src, uint64_t src_iova,
			   uint64_t length)
{
	return copy_flags(fd, FIXED | RW, dst, &dst_iova, src, src_iova, length);
}

/* *count: room in, ranges there are out. */
static inline long iova_ranges(int fd, uint32_t ioas, struct iommu_iova_range *ranges,
			       uint32_t *count, uint64_t *alignment)
{
	struct iommu_ioas_iova_ranges cmd = { .size = sizeof(cmd), .ioas_id = ioas,
					      .num_iovas = *count,
					      .allowed_iovas = (uintptr_t)ranges };
	long rc = call(fd, IOMMU_IOAS_IOVA_RANGES, &cmd);

	*count = cmd.num_iovas;
	*alignment = cmd.out_iova_alignment;
	return rc;
}

static inline uint64_t iova_alignment(int fd, uint32_t ioas)
{
	struct iommu_iova_range range;
	uint32_t count = 1;
	uint64_t alignment;

	NEED(iova_ranges(fd, ioas, &range, &count, &alignment) == 0);
	return alignment;
}

static inline long allow_iovas(int fd, uint32_t ioas, const struct iommu_iova_range *ranges,
			       uint32_t count)
{
	struct iommu_ioas_allow_iovas cmd = { .size = sizeof(cmd), .ioas_id = ioas,
					      .num_iovas = count,
					      .allowed_iovas = (uintptr_t)ranges };

	return call(fd, IOMMU_IOAS_ALLOW_IOVAS, &cmd);
}

static inline long option(int fd, uint32_t id, uint32_t object, uint16_t op, uint64_t *value)
{
	struct iommu_option cmd = { .size = sizeof(cmd), .option_id = id, .op = op,
				    .object_id = object, .val64 = *value };
	long rc = call(fd, IOMMU_OPTION, &cmd);

	*value = cmd.val64;
	return rc;
}

static inline long option_set(int fd, uint32_t id, uint32_t object, uint64_t value)
{
	return option(fd, id, object, IOMMU_OPTION_OP_SET, &value);
}

static inline uint64_t option_get(int fd, uint32_t id, uint32_t object)
{
	uint64_t value = 0xdead;

	NEED(option(fd, id, object, IOMMU_OPTION_OP_GET, &value) == 0);
	return value;
}

static inline struct __user_cap_data_struct *capabilities(struct __user_cap_data_struct data[2])
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

	NEED(syscall(SYS_capget, &header, data) == 0);
	return data;
}

static inline bool have_capability(unsigned int capability)
{
	struct __user_cap_data_struct data[2];

	return capabilities(data)[capability / 32].effective & 1U << capability % 32;
}

/* Gives up one capability, of this process only. */
static inline void drop_capability(unsigned int capability)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	capabilities(data)[capability / 32].effective &= ~(1U << capability % 32);
	NEED(syscall(SYS_capset, &header, data) == 0);
}

/* Anonymous pages, followed by one page that is not mapped. */
static inline char *new_pages(size_t count)
{
	char *p = mmap(NULL, (count + 1) * PAGE, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	NEED(p != MAP_FAILED);
	NEED(munmap(p + count * PAGE, PAGE) == 0);
	return p;
}

/* mmap(2) anywhere, undone at once: 0, or -errno. The offset may be any. */
static inline long try_mmap(int fd, size_t length, int prot, int flags, uint64_t offset)
{
#ifdef SYS_mmap2 /* a 32-bit program's offsets are pages */
	long p = syscall(SYS_mmap2, NULL, length, prot, flags, fd, (unsigned long)(offset >> 12));
#else
	long p = syscall(SYS_mmap, NULL, length, prot, flags, fd, offset);
#endif

	if (p == -1)
		return -errno;
	NEED(munmap((void *)p, length) == 0);
	return 0;
}

/* What reading and writing nothing at all gives: 0, or -errno. */
enum empty { READ, WRITE, PREAD, PWRITE, READV, WRITEV, EMPTY_CALLS };

static inline long try_empty(int fd, enum empty how)
{
	char byte;
	struct iovec none = { &byte, 0 };
	long rc = 0;

	switch (how) {
	case READ:
		rc = read(fd, &byte, 0);
		break;
	case WRITE:
		rc = write(fd, &byte, 0);
		break;
	case PREAD:
		rc = pread(fd, &byte, 0, 0);
		break;
	case PWRITE:
		rc = pwrite(fd, &byte, 0, 0);
		break;
	case READV:
		rc = readv(fd, &none, 0);
		break;
	case WRITEV:
		rc = writev(fd, &none, 0);
		break;
	case EMPTY_CALLS:
		break;
	}
	return rc < 0 ? -errno : rc;
}

/* Each of them gives what is wanted; `text` is whose. */
static inline void check_empty(int fd, const int wanted[EMPTY_CALLS], const char *text)
{
	static const char *const names[] = { "read", "write", "pread", "pwrite", "readv", "writev" };
	unsigned int i;

	for (i = 0; i < EMPTY_CALLS; i++)
		CHECK_ERR(wanted[i], try_empty(fd, (enum empty)i), "%s: an empty %s", text, names[i]);
}

/* A copy of a struct that can be read and not written. */
static inline void *read_only(const void *data, size_t size)
{
	char *page = new_pages(1);

	memcpy(page, data, size);
	NEED(mprotect(page, PAGE, PROT_READ) == 0);
	return page;
}

/* A copy of a struct's first `size` bytes, which end where mapped memory ends. */
static inline void *at_edge(const void *data, size_t size)
{
	char *page = new_pages(1);

	memcpy(page + PAGE - size, data, size);
	return page + PAGE - size;
}

/* An address where nothing is mapped. */
static inline void *unmapped(void)
{
	return new_pages(1) + PAGE;
}

/* Sends or receives one descriptor. */
static inline void pass(int socket, int *fd, bool send)
{
	union {
		struct cmsghdr header;
		char space[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	char byte = 0;
	struct iovec iov = { &byte, 1 };
	struct msghdr message = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control,
				  .msg_controllen = sizeof(control) };

	if (!send) {
		NEED(recvmsg(socket, &message, 0) == 1 && CMSG_FIRSTHDR(&message));
		memcpy(fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(*fd));
		return;
	}
	control.header = (struct cmsghdr){ .cmsg_len = CMSG_LEN(sizeof(int)),
					   .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS };
	memcpy(CMSG_DATA(&control.header), fd, sizeof(*fd));
	NEED(sendmsg(socket, &message, 0) == 1);
}

#endif
