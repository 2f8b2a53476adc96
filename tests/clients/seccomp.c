// SPDX-License-Identifier: MIT
/*
 * A program that has shut itself off from the file system, as virtual machine monitors do: a
 * seccomp filter kills it should it open a file. An ioctl that returns a descriptor opens none.
 */
#include "client.h"

#include <poll.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

static void shut_off(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = ARRAY_LEN(filter), .filter = filter };

	NEED(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	NEED(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

int main(void)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	struct pollfd queue = { .events = POLLIN | POLLOUT };
	int fd;

	checks_begin();
	fd = open_iommu();
	CHECK_EQ(new_ioas(fd), 1, "an IOAS");
	CHECK_OK(call(fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd), "a fault queue");
	NEED(close((int)cmd.out_fault_fd) == 0);
	shut_off();
	CHECK_EQ(new_ioas(fd), 3, "another, behind the filter");
	CHECK_OK(call(fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd), "a fault queue there");
	queue.fd = (int)cmd.out_fault_fd;
	CHECK_EQ(poll(&queue, 1, 0), 1, "its descriptor is one");
	CHECK_EQ(queue.revents, POLLOUT, "of a queue without faults");
	CHECK_OK(close(queue.fd), "close");
	return checks_end();
}
