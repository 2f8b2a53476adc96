// SPDX-License-Identifier: MIT
/*
 * The yardstick for a device's registers: the cheapest server that takes them the same way, and
 * does nothing else. One regular file of FUSE; a pread is a READ that is answered with a number. A
 * load or store of a mapping is a page fault, so a READ, too: its thread is seized and interrupted,
 * the READ refused, and in the stop that follows the instruction is carried out and stepped over.
 * It knows two instructions, those of registers.c: a load and a store of 4 bytes, between %eax and
 * where %rdi points. A store to RAISE signals the eventfd of the last SET_IRQS.
 *
 * libfuse mounts and unmounts. It does not tell a fault from a pread, so the requests are read here.
 *
 * Usage: registers_peer PATH    (serves the regular file PATH until SIGTERM or SIGINT)
 */
#define _GNU_SOURCE
#define FUSE_USE_VERSION 35

#include "registers.h"

#include <errno.h>
#include <fuse_lowlevel.h>
#include <linux/fuse.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef FUSE_DIRECT_IO_ALLOW_MMAP
#define FUSE_DIRECT_IO_ALLOW_MMAP (1ULL << 36)
#endif
#define LOOKS 200 /* in a row for a stop, before others have the processor: as iommud's */
#define SIZE 0x7fffffffffff0000ULL

static int device, event = -1;
static pid_t held; /* the thread whose access is being carried out */
static uint32_t scratch;
static volatile sig_atomic_t ended;

static void end(int number)
{
	(void)number;
	ended = 1;
}

static void reply(uint64_t unique, int error, const void *data, size_t size)
{
	struct fuse_out_header head = { sizeof(head) + size, error, unique };
	struct iovec parts[] = { { &head, sizeof(head) }, { (void *)data, size } };

	if (writev(device, parts, 2) < 0 && errno != ENOENT)
		perror("registers_peer: reply");
}

static void store(unsigned int offset, uint32_t value)
{
	scratch = value;
	if (offset == RAISE && event >= 0)
		eventfd_write(event, 1);
}

static void serve_one(void);

/* The thread stands before its instruction. */
static bool carry_out(pid_t tid)
{
	struct user_regs_struct registers;
	uint8_t code[2];
	struct iovec here = { code, sizeof(code) }, there;

	if (ptrace(PTRACE_GETREGS, tid, NULL, &registers))
		return false;
	there = (struct iovec){ (void *)registers.rip, sizeof(code) };
	if (process_vm_readv(tid, &here, 1, &there, 1, 0) != sizeof(code) || code[1] != 0x07)
		return false;
	if (code[0] == 0x8b)
		registers.rax = IDENTIFICATION;
	else if (code[0] == 0x89)
		store(registers.rdi & 0xfff, registers.rax);
	else
		return false;
	registers.rip += sizeof(code);
	return !ptrace(PTRACE_SETREGS, tid, NULL, &registers);
}

static void trap(uint64_t unique, pid_t tid)
{
	struct pollfd more = { .fd = device, .events = POLLIN };
	int status, looks = 0;

	if (held) { /* the kernel tries once more */
		reply(unique, -EIO, NULL, 0);
		return;
	}
	held = tid;
	if (ptrace(PTRACE_SEIZE, tid, NULL, NULL) || ptrace(PTRACE_INTERRUPT, tid, NULL, NULL))
		perror("registers_peer: ptrace");
	reply(unique, -EIO, NULL, 0);
	while (waitpid(tid, &status, __WALL | WNOHANG) == 0) {
		if (++looks > LOOKS) {
			sched_yield();
			if (poll(&more, 1, 0) == 1)
				serve_one();
		}
	}
	if (WIFSTOPPED(status)) {
		if (!carry_out(tid))
			fprintf(stderr, "registers_peer: not an access of registers.c\n");
		ptrace(PTRACE_DETACH, tid, NULL, NULL);
	}
	held = 0;
}

static void take_eventfd(pid_t pid, uint64_t address)
{
	struct {
		struct vfio_irq_set set;
		int fd;
	} cmd;
	struct iovec here = { &cmd, sizeof(cmd) }, there = { (void *)address, sizeof(cmd) };
	int process = syscall(SYS_pidfd_open, pid, 0);

	if (process < 0 || process_vm_readv(pid, &here, 1, &there, 1, 0) != sizeof(cmd))
		perror("registers_peer: SET_IRQS");
	event = syscall(SYS_pidfd_getfd, process, cmd.fd, 0);
	close(process);
}

static void start(const struct fuse_in_header *in, const struct fuse_init_in *asked)
{
	uint64_t flags = FUSE_INIT_EXT | FUSE_DIRECT_IO_ALLOW_MMAP;
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = asked->minor < FUSE_KERNEL_MINOR_VERSION ? asked->minor : FUSE_KERNEL_MINOR_VERSION,
		.flags = (uint32_t)flags,
		.flags2 = flags >> 32,
		.max_write = 1 << 16,
	};

	reply(in->unique, 0, &out, sizeof(out));
}

static void serve_one(void)
{
	static union {
		struct fuse_in_header in;
		char room[1 << 17];
	} request;
	const struct fuse_in_header *in = &request.in;
	const void *body = in + 1;
	struct fuse_attr_out attr = {
		.attr_valid = 3600,
		.attr = { .ino = 1, .size = SIZE, .mode = S_IFREG | 0600, .nlink = 1, .uid = getuid(), .gid = getgid() },
	};
	struct fuse_open_out opened = { .open_flags = FOPEN_DIRECT_IO };
	struct fuse_write_out written = { .size = 4 };
	struct fuse_ioctl_out done = { .result = 0 };
	const uint32_t identification = IDENTIFICATION;

	if (read(device, &request, sizeof(request)) < 0) {
		if (errno != EINTR && errno != ENOENT && errno != EAGAIN)
			ended = 1;
		return;
	}
	switch (in->opcode) {
	case FUSE_INIT:
		start(in, body);
		return;
	case FUSE_GETATTR:
		reply(in->unique, 0, &attr, sizeof(attr));
		return;
	case FUSE_OPEN:
		reply(in->unique, 0, &opened, sizeof(opened));
		return;
	case FUSE_READ:
		if (((const struct fuse_read_in *)body)->read_flags & FUSE_READ_LOCKOWNER)
			reply(in->unique, 0, &identification, sizeof(identification));
		else
			trap(in->unique, in->pid);
		return;
	case FUSE_WRITE:
		written.size = ((const struct fuse_write_in *)body)->size;
		reply(in->unique, 0, &written, sizeof(written));
		return;
	case FUSE_IOCTL:
		if (((const struct fuse_ioctl_in *)body)->cmd == VFIO_DEVICE_SET_IRQS)
			take_eventfd(in->pid, ((const struct fuse_ioctl_in *)body)->arg);
		reply(in->unique, 0, &done, sizeof(done));
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		return;
	case FUSE_FLUSH:
	case FUSE_RELEASE:
		reply(in->unique, 0, NULL, 0);
		return;
	default:
		reply(in->unique, -ENOSYS, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	static const struct fuse_lowlevel_ops none;
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	struct sigaction action = { .sa_handler = end }; /* without SA_RESTART: it ends a read */
	struct fuse_session *session;

	if (argc != 2) {
		fprintf(stderr, "usage: registers_peer PATH\n");
		return 2;
	}
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	session = fuse_session_new(&args, &none, sizeof(none), NULL);
	if (!session || fuse_session_mount(session, argv[1]))
		return 1;
	device = fuse_session_fd(session);
	while (!ended)
		serve_one();
	fuse_session_unmount(session);
	fuse_session_destroy(session);
	return 0;
}
