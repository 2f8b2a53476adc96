// SPDX-License-Identifier: MIT
/* FAULT_QUEUE_ALLOC, and the queue's read, write and poll. */
#include "table.h"

#include <poll.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/uio.h>

#define FAULT IOMMU_HWPT_FAULT_ID_VALID
#define RECORD sizeof(struct iommu_hwpt_pgfault)
#define ANSWER sizeof(struct iommu_hwpt_page_response)

static long result(long rc)
{
	return rc < 0 ? -errno : rc;
}

static long fault_alloc(int fd, uint32_t flags, uint32_t *id, int *queue)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd), .flags = flags, .out_fault_fd = -1U };
	long rc = call(fd, IOMMU_FAULT_QUEUE_ALLOC, &cmd);

	*id = cmd.out_fault_id;
	*queue = (int)cmd.out_fault_fd;
	return rc;
}

static long page_fault_at(int fd, uint32_t device, uint32_t pasid, uint32_t group, uint64_t address)
{
	struct iommu_test_cmd cmd = { .trigger_iopf = { .dev_id = device, .pasid = pasid,
							.grpid = group, .addr = address,
							.perm = IOMMU_PGFAULT_PERM_WRITE } };

	return test_cmd(fd, IOMMU_TEST_OP_TRIGGER_IOPF, &cmd);
}

static long page_fault(int fd, uint32_t device)
{
	return page_fault_at(fd, device, 0, 7, 0x123000);
}

static long respond(int queue, uint32_t cookie, uint32_t code)
{
	struct iommu_hwpt_page_response answer = { .cookie = cookie, .code = code };

	return result(write(queue, &answer, sizeof(answer)));
}

static int ready(int queue)
{
	struct pollfd one = { .fd = queue, .events = POLLIN | POLLOUT };

	return poll(&one, 1, 0) < 0 ? -1 : one.revents;
}

static void allocation(int fd)
{
	struct iommu_fault_alloc cmd = { .size = sizeof(cmd) };
	char buffer[RECORD];
	uint32_t id, other;
	int queue, second, lowest = dup(fd);
	struct rlimit limit, none;

	NEED(lowest >= 0 && close(lowest) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
	none = limit;
	none.rlim_cur = (rlim_t)lowest;
	CHECK_ERR(EOPNOTSUPP, fault_alloc(fd, 1, &id, &queue), "flags");
	CHECK_ERR(EFAULT, call(fd, IOMMU_FAULT_QUEUE_ALLOC, read_only(&cmd, sizeof(cmd))),
		  "a struct that cannot be written");
	NEED(setrlimit(RLIMIT_NOFILE, &none) == 0);
	CHECK_ERR(EMFILE, fault_alloc(fd, 0, &id, &queue), "no descriptor is free");
	NEED(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	CHECK_OK(fault_alloc(fd, 0, &id, &queue), "a queue");
	CHECK_EQ(id, 1, "its ID: the failures have left none behind");
	CHECK_EQ((unsigned int)queue, (unsigned int)lowest, "the lowest descriptor");
	CHECK_EQ(fcntl(queue, F_GETFD), FD_CLOEXEC, "close-on-exec");
	CHECK_EQ(fcntl(queue, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR, "to read and to write");
	CHECK_ERR(EBUSY, destroy(fd, id), "DESTROY while it is open");
	CHECK_ERR(ESPIPE, result(lseek(queue, 0, SEEK_SET)), "lseek");
	CHECK_ERR(ESPIPE, result(pread(queue, buffer, RECORD, 0)), "pread");
	CHECK_ERR(ENOTTY, call(queue, IOMMU_DESTROY, buffer), "ioctl");
	CHECK_OK(fault_alloc(fd, 0, &other, &second), "a second one");
	CHECK_EQ(other, id + 1, "the next ID");
	NEED(close(second) == 0);
	CHECK_OK(destroy(fd, other), "DESTROY when it is closed");
	NEED(close(queue) == 0);
	CHECK_OK(destroy(fd, id), "and the first");
}

static void empty(int fd)
{
	static const int nothing[] = { 0, 0, ESPIPE, ESPIPE, 0, 0 };
	char buffer[2 * RECORD];
	uint32_t id;
	int queue;

	NEED(fault_alloc(fd, 0, &id, &queue) == 0);
	check_empty(queue, nothing, "a queue without faults");
	CHECK_ERR(EFAULT, result(syscall(SYS_read, queue, -1UL, 0)), "read: no user's address");
	CHECK_ERR(ENODEV, try_mmap(queue, PAGE, PROT_READ, MAP_SHARED, 0), "mmap");
	CHECK_ERR(EPERM, try_mmap(queue, PAGE, PROT_EXEC, MAP_SHARED, 0), "mmap to run");
	CHECK_EQ(result(read(queue, buffer, RECORD)), 0, "read: nothing");
	CHECK_EQ(result(read(queue, buffer, sizeof(buffer))), 0, "read: room for two");
	CHECK_EQ(result(read(queue, buffer, 0)), 0, "read: no room");
	CHECK_ERR(ESPIPE, result(read(queue, buffer, RECORD - 1)), "read: no whole record");
	CHECK_ERR(ESPIPE, result(read(queue, buffer, RECORD + 1)), "read: not only whole ones");
	CHECK_ERR(ESPIPE, result(write(queue, buffer, ANSWER - 1)), "write: no whole answer");
	CHECK_ERR(ESPIPE, result(write(queue, buffer, ANSWER + 1)), "write: not only whole ones");
	CHECK_EQ(result(write(queue, buffer, 0)), 0, "write: nothing");
	CHECK_ERR(EINVAL, respond(queue, 0, IOMMUFD_PAGE_RESP_SUCCESS), "write: cookie 0");
	CHECK_ERR(EINVAL, respond(queue, 1, IOMMUFD_PAGE_RESP_SUCCESS), "write: cookie 1");
	CHECK_ERR(EFAULT, result(write(queue, unmapped(), ANSWER)), "write: from nowhere");
	CHECK_EQ(ready(queue), POLLOUT, "poll: to write only");
	NEED(close(queue) == 0 && destroy(fd, id) == 0);
}

static void one_fault(int fd, uint32_t device, int queue)
{
	static const int full[] = { EINVAL, 0, ESPIPE, ESPIPE, 0, 0 };
	struct iommu_hwpt_pgfault fault[2];
	struct epoll_event event = { .events = EPOLLIN };
	int epoll = epoll_create1(0);

	NEED(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, queue, &event) == 0);
	CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 0, "epoll: nothing yet");
	CHECK_OK(page_fault_at(fd, device, 0, 7, 0x123000), "a fault");
	CHECK_EQ(ready(queue), POLLIN | POLLOUT, "poll: to read");
	CHECK_EQ(epoll_wait(epoll, &event, 1, -1), 1, "epoll: to read");
	CHECK_ERR(EFAULT, result(read(queue, unmapped(), RECORD)), "read: to nowhere");
	CHECK_EQ(ready(queue), POLLIN | POLLOUT, "poll: it is still there");
	check_empty(queue, full, "a queue with a fault");
	CHECK_ERR(EFAULT, result(syscall(SYS_read, queue, -1UL, 0)), "read: no user's address");
	memset(fault, 0xff, sizeof(fault));
	CHECK_EQ(result(read(queue, fault, sizeof(fault))), RECORD, "read: one record");
	CHECK_EQ(fault[0].flags, IOMMU_PGFAULT_FLAGS_LAST_PAGE, "flags");
	CHECK_EQ(fault[0].dev_id, device, "dev_id");
	CHECK_EQ(fault[0].pasid, 0, "pasid");
	CHECK_EQ(fault[0].grpid, 7, "grpid");
	CHECK_EQ(fault[0].perm, IOMMU_PGFAULT_PERM_WRITE, "perm");
	CHECK_EQ(fault[0].__reserved, 0, "__reserved");
	CHECK_EQ(fault[0].addr, 0x123000, "addr");
	CHECK_EQ(fault[0].length, 0, "length");
	CHECK_EQ(fault[0].cookie, 1, "cookie: the lowest");
	CHECK_EQ(ready(queue), POLLOUT, "poll: read already");
	CHECK_EQ(result(read(queue, fault, RECORD)), 0, "read: once only");
	CHECK_ERR(EINVAL, respond(queue, 2, IOMMUFD_PAGE_RESP_SUCCESS), "write: another cookie");
	CHECK_ERR(EINVAL, respond(queue, 1, 2), "write: no such code");
	CHECK_EQ(respond(queue, 1, IOMMUFD_PAGE_RESP_SUCCESS), ANSWER, "write: the answer");
	CHECK_ERR(EINVAL, respond(queue, 1, IOMMUFD_PAGE_RESP_SUCCESS), "write: once only");
	NEED(close(epoll) == 0);
}

static void many_faults(int fd, uint32_t device, int queue)
{
	struct iommu_hwpt_page_response answers[3] = { { .cookie = 2 }, { .cookie = 9 },
						       { .cookie = 1 } };
	struct iommu_hwpt_pgfault fault[4];
	struct iovec parts[2] = { { fault, RECORD }, { fault + 1, RECORD } };
	unsigned int i;

	for (i = 0; i < 4; i++)
		NEED(page_fault_at(fd, device, 0, i, i * PAGE) == 0);
	CHECK_EQ(result(read(queue, fault, 3 * RECORD)), 3 * RECORD, "read: as many as fit");
	CHECK_TRUE(fault[0].grpid == 0 && fault[1].grpid == 1 && fault[2].grpid == 2, "in order");
	CHECK_TRUE(fault[0].cookie == 1 && fault[1].cookie == 2 && fault[2].cookie == 3, "cookies");
	CHECK_EQ(respond(queue, 2, IOMMUFD_PAGE_RESP_INVALID), ANSWER, "write: in any order");
	CHECK_EQ(result(read(queue, fault, RECORD)), RECORD, "read: the last");
	CHECK_EQ(fault[0].grpid, 3, "the fourth");
	CHECK_EQ(fault[0].cookie, 2, "with the lowest free cookie");
	CHECK_EQ(result(write(queue, answers, sizeof(answers))), ANSWER, "write: up to a wrong one");
	CHECK_ERR(EINVAL, result(write(queue, answers + 1, 2 * ANSWER)), "write: the first is wrong");
	answers[0].cookie = 3;
	answers[1].cookie = 1;
	CHECK_EQ(result(write(queue, answers, 2 * ANSWER)), 2 * ANSWER, "write: two");
	NEED(page_fault(fd, device) == 0 && page_fault(fd, device) == 0);
	CHECK_EQ(result(readv(queue, parts, 2)), 2 * RECORD, "readv");
	answers[0].cookie = fault[0].cookie;
	answers[1].cookie = fault[1].cookie;
	CHECK_EQ(result(write(queue, at_edge(answers, ANSWER), 2 * ANSWER)), ANSWER,
		 "write: up to where it cannot be read");
	CHECK_EQ(respond(queue, answers[1].cookie, IOMMUFD_PAGE_RESP_SUCCESS), ANSWER,
		 "write: the other answer");
	NEED(page_fault(fd, device) == 0 && page_fault(fd, device) == 0);
	CHECK_EQ(result(read(queue, at_edge(fault, RECORD), 2 * RECORD)), RECORD,
		 "read: up to where it cannot be written");
	CHECK_EQ(result(read(queue, fault + 1, RECORD)), RECORD, "read: the other is there");
	CHECK_EQ(fault[1].cookie, 2, "its cookie");
	CHECK_EQ(respond(queue, 1, IOMMUFD_PAGE_RESP_INVALID), ANSWER, "write: answer the one");
	CHECK_EQ(respond(queue, 2, IOMMUFD_PAGE_RESP_INVALID), ANSWER, "write: and the other");
}

#define DEVICES 3
#define MOST 10000U
#define AT_ONCE 97U

/* Faults of several devices, more and more of them waiting, are answered in any order. */
static void ten_thousand(int fd, uint32_t hwpt, int queue)
{
	static uint32_t cookies[MOST], seen[MOST];
	struct iommu_hwpt_pgfault faults[AT_ONCE];
	struct mock mocks[DEVICES];
	const uint32_t count = often(MOST);
	uint32_t reported = 0, known = 0, answered = 0, wrong = 0, at, i;
	uint64_t random = 1;
	ssize_t got;

	for (i = 0; i < DEVICES; i++)
		NEED(mock_flags(fd, hwpt, 0, &mocks[i]) == 0);
	while (answered < count) {
		random = random * 6364136223846793005 + 1442695040888963407;
		for (i = 0; i < random >> 60 && reported < count; i++, reported++)
			NEED(page_fault_at(fd, mocks[reported % DEVICES].device, 0, reported,
					   reported * PAGE) == 0);
		if (random >> 56 & 1) {
			got = read(queue, faults, sizeof(faults));
			NEED(got >= 0 && got % RECORD == 0);
			for (i = 0; i < got / RECORD; i++) {
				at = faults[i].grpid;
				wrong += at >= count || seen[at]++ ||
					 faults[i].dev_id != mocks[at % DEVICES].device ||
					 faults[i].addr != at * PAGE;
				cookies[known++] = faults[i].cookie;
			}
		}
		for (i = 0; i < random >> 58 && known && (reported == count || known > 500); i++) {
			at = (random >> 8) % known;
			wrong += respond(queue, cookies[at], at & 1) != ANSWER;
			wrong += respond(queue, cookies[at], at & 1) != -EINVAL;
			cookies[at] = cookies[--known];
			answered++;
		}
		if (reported == count && !known && ready(queue) == POLLOUT)
			break; /* If some are lost there are fewer to answer. */
	}
	for (i = 0; i < count; i++)
		wrong += seen[i] != 1;
	CHECK_EQ(wrong, 0, "%u faults: each read once, and answered once", count);
	CHECK_EQ(ready(queue), POLLOUT, "none is left");
	for (i = 0; i < DEVICES; i++)
		CHECK_OK(destroy(fd, mocks[i].stdev), "device %u", i);
}

/* A client that dies while its devices wait for answers: nobody else notices. */
static void dying(void)
{
	struct iommu_hwpt_pgfault fault;
	uint32_t id, hwpt, ioas, i;
	int fd, queue, status;
	struct mock mock;
	pid_t child;

	fflush(stdout);
	child = fork();
	NEED(child >= 0);
	if (child == 0) {
		fd = open_iommu();
		ioas = new_ioas(fd);
		mock = new_mock(fd, ioas);
		NEED(fault_alloc(fd, 0, &id, &queue) == 0);
		NEED(hwpt_alloc_fault(fd, mock.device, ioas, FAULT, id, NULL, &hwpt) == 0);
		NEED(mock_replace(fd, mock.stdev, hwpt) == 0);
		for (i = 0; i < 100; i++)
			NEED(page_fault(fd, mock.device) == 0);
		NEED(read(queue, &fault, sizeof(fault)) == RECORD);
		kill(getpid(), SIGKILL);
	}
	NEED(waitpid(child, &status, 0) == child);
	CHECK_TRUE(WIFSIGNALED(status), "a client died with 100 faults in its queue");
	fd = open_iommu();
	CHECK_EQ(new_ioas(fd), 1, "the next one is served");
	CHECK_OK(close(fd), "close");
}

/* What waits for an answer when the page table goes. */
static void endings(int fd, uint32_t stdev, uint32_t device, uint32_t ioas, uint32_t hwpt, int queue)
{
	struct iommu_hwpt_pgfault fault;

	NEED(page_fault(fd, device) == 0);
	CHECK_OK(mock_replace(fd, stdev, ioas), "the device moves on");
	CHECK_EQ(ready(queue), POLLOUT, "nothing to read any more");
	CHECK_EQ(result(read(queue, &fault, RECORD)), 0, "indeed");
	CHECK_OK(page_fault(fd, device), "a fault elsewhere");
	CHECK_EQ(ready(queue), POLLOUT, "does not come here");
	NEED(mock_replace(fd, stdev, hwpt) == 0);
	NEED(page_fault(fd, device) == 0 && read(queue, &fault, RECORD) == RECORD);
	CHECK_OK(mock_replace(fd, stdev, ioas), "the device moves on");
	CHECK_ERR(EINVAL, respond(queue, fault.cookie, IOMMUFD_PAGE_RESP_SUCCESS),
		  "what was read is answered already");
	NEED(mock_replace(fd, stdev, hwpt) == 0);
}

/* A wake-up: a thread that sleeps in poll while the fault comes. */
static void waking(int fd, uint32_t device, int queue)
{
	struct pollfd one = { .fd = queue, .events = POLLIN };
	struct iommu_hwpt_pgfault fault;

	pid_t child;
	int status, on[2];
	char byte;

	NEED(pipe(on) == 0);
	fflush(stdout);
	child = fork();
	NEED(child >= 0);
	if (child == 0) {
		CHECK_EQ(ready(queue), POLLOUT, "poll: nothing yet");
		NEED(write(on[1], "x", 1) == 1);
		CHECK_EQ(poll(&one, 1, 60000), 1, "poll wakes up");
		CHECK_EQ(one.revents, POLLIN, "to read");
		CHECK_EQ(result(read(queue, &fault, RECORD)), RECORD, "another process reads");
		CHECK_EQ(respond(queue, fault.cookie, IOMMUFD_PAGE_RESP_SUCCESS), ANSWER,
			 "and answers");
		fflush(stdout);
		_exit(0);
	}
	/* It may sleep by now, or not yet; the fault must be seen in either case. */
	NEED(read(on[0], &byte, 1) == 1 && usleep(20000) == 0);
	NEED(page_fault(fd, device) == 0);
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQ((unsigned int)status, 0, "the child ended well");
	NEED(close(on[0]) == 0 && close(on[1]) == 0);
}

static void lifetime(int fd, uint32_t stdev, uint32_t hwpt, uint32_t id, int queue)
{
	NEED(close(queue) == 0);
	CHECK_ERR(EBUSY, destroy(fd, id), "DESTROY while a page table uses it");
	CHECK_ERR(EBUSY, destroy(fd, hwpt), "and that, while a device does");
	CHECK_OK(destroy(fd, stdev), "the device goes");
	CHECK_OK(destroy(fd, hwpt), "the page table goes");
	CHECK_OK(destroy(fd, id), "the queue goes");
}

int main(void)
{
	uint32_t ioas, hwpt, id, device, none;
	struct mock mock;
	int fd, queue;

	checks_begin();
	fd = open_iommu();
	allocation(fd);
	empty(fd);
	ioas = new_ioas(fd);
	mock = new_mock(fd, ioas);
	device = mock.device;
	NEED(fault_alloc(fd, 0, &id, &queue) == 0);
	CHECK_ERR(ENOENT, hwpt_alloc_fault(fd, device, ioas, FAULT, NO_ID, NULL, &none),
		  "HWPT_ALLOC: no such queue");
	CHECK_ERR(ENOENT, hwpt_alloc_fault(fd, device, ioas, FAULT, ioas, NULL, &none),
		  "HWPT_ALLOC: an IOAS for a queue");
	CHECK_OK(hwpt_alloc_fault(fd, device, ioas, FAULT, id, NULL, &hwpt), "HWPT_ALLOC");
	CHECK_ERR(ENOENT, page_fault(fd, NO_ID), "TRIGGER_IOPF: no device");
	CHECK_ERR(ENOENT, page_fault(fd, ioas), "TRIGGER_IOPF: an IOAS");
	CHECK_OK(page_fault(fd, device), "TRIGGER_IOPF: nobody handles it");
	CHECK_EQ(ready(queue), POLLOUT, "it is nowhere to be read");
	CHECK_OK(mock_replace(fd, mock.stdev, hwpt), "the device gets the page table");
	one_fault(fd, device, queue);
	many_faults(fd, device, queue);
	ten_thousand(fd, hwpt, queue);
	dying();
	waking(fd, device, queue);
	endings(fd, mock.stdev, device, ioas, hwpt, queue);
	lifetime(fd, mock.stdev, hwpt, id, queue);

	/* A queue outlives the device's file. */
	NEED(fault_alloc(fd, 0, &id, &queue) == 0);
	mock = new_mock(fd, ioas);
	NEED(hwpt_alloc_fault(fd, mock.device, ioas, FAULT, id, NULL, &hwpt) == 0);
	NEED(mock_replace(fd, mock.stdev, hwpt) == 0 && page_fault(fd, mock.device) == 0);
	CHECK_OK(close(fd), "close the device");
	CHECK_EQ(ready(queue), POLLIN | POLLOUT, "the queue goes on");
	CHECK_OK(close(queue), "close the queue, a fault in it");
	return checks_end();
}
