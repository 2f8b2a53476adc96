// SPDX-License-Identifier: MIT
/*
 * The yardstick of the benchmark: the cheapest faithful server one would ordinarily write in C. It
 * serves one regular file with libfuse's low-level API in its single-threaded loop; an ioctl copies
 * the caller's struct in, copies it out again, succeeds, and does nothing else. What iommud takes
 * beyond this is the price of Python and of meaning; what this takes is the price of FUSE and of
 * two system calls.
 *
 * iommufd's command numbers carry no size, so FUSE brings only the pointer and the caller; the
 * bytes are fetched with process_vm_readv. A server that knows nothing of the caller's struct would
 * read its size first; this one copies the size it knows in one go, which is the harder yardstick.
 *
 * Usage: peer PATH    (serves the regular file PATH until SIGTERM or SIGINT)
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35

#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/iommufd.h>
#include <linux/vfio.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

union any {
	struct iommu_destroy destroy;
	struct iommu_ioas_alloc alloc;
	struct iommu_ioas_iova_ranges ranges;
	struct iommu_ioas_map map;
	struct iommu_ioas_unmap unmap;
	struct iommu_vfio_ioas vfio_ioas;
	struct vfio_iommu_type1_dma_map vfio_map;
	struct vfio_iommu_type1_dma_unmap vfio_unmap;
};

/* Bytes of the command's struct, 0 when the benchmark does not use it. */
static size_t size_of(unsigned int cmd)
{
	switch (cmd) {
	case IOMMU_DESTROY:
		return sizeof(struct iommu_destroy);
	case IOMMU_IOAS_ALLOC:
		return sizeof(struct iommu_ioas_alloc);
	case IOMMU_IOAS_IOVA_RANGES:
		return sizeof(struct iommu_ioas_iova_ranges);
	case IOMMU_IOAS_MAP:
		return sizeof(struct iommu_ioas_map);
	case IOMMU_IOAS_UNMAP:
		return sizeof(struct iommu_ioas_unmap);
	case IOMMU_VFIO_IOAS:
		return sizeof(struct iommu_vfio_ioas);
	case VFIO_IOMMU_MAP_DMA:
		return sizeof(struct vfio_iommu_type1_dma_map);
	case VFIO_IOMMU_UNMAP_DMA:
		return sizeof(struct vfio_iommu_type1_dma_unmap);
	default:
		return 0;
	}
}

static void peer_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st = {
		.st_ino = ino,
		.st_mode = S_IFREG | 0600,
		.st_nlink = 1,
		.st_uid = getuid(),
		.st_gid = getgid(),
	};

	(void)fi;
	fuse_reply_attr(req, &st, 3600);
}

static void peer_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fuse_reply_open(req, fi);
}

static void peer_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg,
		       struct fuse_file_info *fi, unsigned int flags, const void *in_buf,
		       size_t in_size, size_t out_size)
{
	pid_t pid = fuse_req_ctx(req)->pid;
	size_t size = size_of(cmd);
	union any any;
	struct iovec here = { &any, size }, there = { arg, size };

	(void)ino, (void)fi, (void)flags, (void)in_buf, (void)in_size, (void)out_size;
	if (!size) {
		fuse_reply_err(req, ENOTTY);
		return;
	}
	if (process_vm_readv(pid, &here, 1, &there, 1, 0) != (ssize_t)size) {
		fuse_reply_err(req, EFAULT);
		return;
	}
	if (cmd == IOMMU_IOAS_ALLOC)
		any.alloc.out_ioas_id = 1;
	if (process_vm_writev(pid, &here, 1, &there, 1, 0) != (ssize_t)size) {
		fuse_reply_err(req, EFAULT);
		return;
	}
	fuse_reply_ioctl(req, 0, NULL, 0);
}

static const struct fuse_lowlevel_ops ops = {
	.getattr = peer_getattr,
	.open = peer_open,
	.ioctl = peer_ioctl,
};

int main(int argc, char **argv)
{
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct fuse_session *session;
	int rc = 1;

	if (argc != 2) {
		fprintf(stderr, "usage: peer PATH\n");
		return 2;
	}
	session = fuse_session_new(&args, &ops, sizeof(ops), NULL);
	if (!session)
		return 1;
	if (!fuse_set_signal_handlers(session)) {
		if (!fuse_session_mount(session, argv[1])) {
			rc = fuse_session_loop(session) < 0;
			fuse_session_unmount(session);
		}
		fuse_remove_signal_handlers(session);
	}
	fuse_session_destroy(session);
	return rc;
}
