/* SPDX-License-Identifier: MIT */
/*
 * ring ROOM [nonblock]: a record waits in a fault queue, and is read by io_uring into room for ROOM of them, then once more; an answer
 * is written by io_uring; a poll by io_uring waits for a second record. ring aio: the first by libaio's system calls. Prints what came of each.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>

#include <linux/iommufd.h>
#include <iommud/iommufd_test.h>

static int device;
static char *sq, *cq;
static struct io_uring_sqe *sqe;
static struct io_uring_params params;
static int ring;

static void make(unsigned long request, void *cmd)
{
	if (ioctl(device, request, cmd)) {
		perror("ioctl");
		exit(1);
	}
}

static void test(struct iommu_test_cmd *cmd, unsigned int op, unsigned int id)
{
	cmd->size = sizeof(*cmd);
	cmd->op = op;
	cmd->id = id;
	make(IOMMU_TEST_CMD, cmd);
}

static void submit(unsigned char opcode, int fd, void *buffer, unsigned int length, unsigned int events)
{
	unsigned int *tail = (unsigned int *)(sq + params.sq_off.tail), *array = (unsigned int *)(sq + params.sq_off.array);
	unsigned int at = *tail & *(unsigned int *)(sq + params.sq_off.ring_mask);

	memset(&sqe[at], 0, sizeof(*sqe));
	sqe[at].opcode = opcode;
	sqe[at].fd = fd;
	sqe[at].addr = (uintptr_t)buffer;
	sqe[at].len = length;
	sqe[at].poll32_events = events;
	sqe[at].off = opcode == IORING_OP_POLL_ADD ? 0 : (__u64)-1;
	array[at] = at;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 0, 0, 0, 0) != 1)
		perror("submit");
}

static int result(void)
{
	unsigned int *head = (unsigned int *)(cq + params.cq_off.head);
	int res;

	if (syscall(SYS_io_uring_enter, ring, 0, 1, IORING_ENTER_GETEVENTS, 0, 0) < 0)
		perror("wait");
	res = ((struct io_uring_cqe *)(cq + params.cq_off.cqes))[*head & *(unsigned int *)(cq + params.cq_off.ring_mask)].res;
	__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	return res;
}

int main(int argc, char **argv)
{
	struct iommu_ioas_alloc ioas = { .size = sizeof(ioas) };
	struct iommu_fault_alloc queue = { .size = sizeof(queue) };
	struct iommu_test_cmd mock = { 0 }, to = { 0 }, fault = { 0 };
	struct iommu_hwpt_pgfault records[4] = { 0 };
	unsigned int room = atoi(argv[1]) * sizeof(records[0]);

	device = open("/dev/iommu", O_RDWR);
	make(IOMMU_IOAS_ALLOC, &ioas);
	test(&mock, IOMMU_TEST_OP_MOCK_DOMAIN, ioas.out_ioas_id);
	make(IOMMU_FAULT_QUEUE_ALLOC, &queue);
	struct iommu_hwpt_alloc hwpt = { .size = sizeof(hwpt), .flags = IOMMU_HWPT_FAULT_ID_VALID, .dev_id = mock.mock_domain.out_idev_id,
					 .pt_id = ioas.out_ioas_id, .fault_id = queue.out_fault_id };
	make(IOMMU_HWPT_ALLOC, &hwpt);
	to.mock_domain_replace.pt_id = hwpt.out_hwpt_id;
	test(&to, IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE, mock.mock_domain.out_stdev_id);
	fault.trigger_iopf.dev_id = mock.mock_domain.out_idev_id;
	fault.trigger_iopf.grpid = 7;
	fault.trigger_iopf.perm = 1;
	fault.trigger_iopf.addr = 0xdead0000;
	close(open("/dev/iommu", O_RDWR | O_TRUNC)); /* does nothing, and to others neither */
	test(&fault, IOMMU_TEST_OP_TRIGGER_IOPF, 0);
	if (argc > 2)
		fcntl(queue.out_fault_fd, F_SETFL, O_NONBLOCK);
	if (!room) {
		struct iocb block = { .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = queue.out_fault_fd, .aio_buf = (uintptr_t)records,
				      .aio_nbytes = sizeof(records) }, *blocks = &block;
		struct io_event event = { 0 };
		aio_context_t context = 0;

		if (syscall(SYS_io_setup, 1, &context) || syscall(SYS_io_submit, context, 1, &blocks) != 1 ||
		    syscall(SYS_io_getevents, context, 1, 1, &event, NULL) != 1)
			perror("aio");
		printf("aio %lld\n", (long long)event.res);
		return 0;
	}
	ring = syscall(SYS_io_uring_setup, 4, &params);
	sq = mmap(NULL, params.sq_off.array + 64, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	cq = mmap(NULL, params.cq_off.cqes + 256, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_CQ_RING);
	sqe = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	submit(IORING_OP_READ, queue.out_fault_fd, records, room, 0);
	printf("read %d\n", result());
	struct iommu_hwpt_page_response answer = { .cookie = records[0].cookie };
	submit(IORING_OP_WRITE, queue.out_fault_fd, &answer, sizeof(answer), 0);
	printf("write %d\n", result());
	submit(IORING_OP_POLL_ADD, queue.out_fault_fd, NULL, 0, POLLIN);
	test(&fault, IOMMU_TEST_OP_TRIGGER_IOPF, 0);
	printf("poll %d\n", result());
	submit(IORING_OP_READ, queue.out_fault_fd, records, sizeof(records[0]), 0);
	printf("read %d\n", result());
	return 0;
}
