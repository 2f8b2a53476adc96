// SPDX-License-Identifier: MIT
/* VEVENTQ_ALLOC, and the queue's read and poll. */
#include "viommu.h"

#include <poll.h>
#include <sys/resource.h>

#define HEADER sizeof(struct iommufd_vevent_header)
#define EVENT (HEADER + sizeof(struct iommu_viommu_event_selftest))
#define KIND IOMMU_VEVENTQ_TYPE_SELFTEST
#define DEEPEST (1U << 19)
#define LOST IOMMU_VEVENTQ_FLAG_LOST_EVENTS

/* One as the mock's come. */
struct event {
	struct iommufd_vevent_header header;
	uint32_t virt_id;
};

static long alloc(int fd, struct iommu_veventq_alloc cmd, uint32_t *id, int *queue)
{
	long rc;

	cmd.size = sizeof(cmd);
	rc = call(fd, IOMMU_VEVENTQ_ALLOC, &cmd);
	*id = cmd.out_veventq_id;
	*queue = (int)cmd.out_veventq_fd;
	return rc;
}

static long try(int fd, struct iommu_veventq_alloc cmd)
{
	uint32_t id;
	int queue;

	return alloc(fd, cmd, &id, &queue);
}

static int ready(int queue)
{
	struct pollfd one = { .fd = queue, .events = POLLIN | POLLOUT };

	return poll(&one, 1, 0) < 0 ? -1 : one.revents;
}

static void allocation(void)
{
	static const int empty[] = { EINVAL, EINVAL, ESPIPE, ESPIPE, 0, EINVAL };
	struct guest g = new_guest();
	struct iommu_veventq_alloc good = { .size = sizeof(good), .viommu_id = g.viommu,
					    .type = KIND, .veventq_depth = 2 }, cmd = good;
	uint32_t first = next_id(g.fd), id, other;
	int queue, second, lowest = dup(g.fd);
	struct rlimit limit, none;
	char buffer[EVENT];

	NEED(lowest >= 0 && close(lowest) == 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0);
	none = limit;
	none.rlim_cur = (rlim_t)lowest;
	cmd.flags = 1;
	cmd.veventq_depth = 0;
	CHECK_ERR(EOPNOTSUPP, try(g.fd, cmd), "flags, before the depth");
	cmd.flags = 0;
	cmd.__reserved = 1;
	CHECK_ERR(EOPNOTSUPP, try(g.fd, cmd), "__reserved");
	cmd.__reserved = 0;
	cmd.type = IOMMU_VEVENTQ_TYPE_DEFAULT;
	CHECK_ERR(EOPNOTSUPP, try(g.fd, cmd), "no type");
	cmd.type = 1;
	cmd.viommu_id = NO_ID;
	CHECK_ERR(EINVAL, try(g.fd, cmd), "depth 0, before the vIOMMU");
	cmd.veventq_depth = DEEPEST + 1;
	CHECK_ERR(EINVAL, try(g.fd, cmd), "too deep");
	cmd.veventq_depth = DEEPEST;
	CHECK_ERR(ENOENT, try(g.fd, cmd), "no such vIOMMU");
	cmd = good;
	CHECK_ERR(EFAULT, call(g.fd, IOMMU_VEVENTQ_ALLOC, read_only(&cmd, sizeof(cmd))),
		  "a struct that cannot be written");
	NEED(setrlimit(RLIMIT_NOFILE, &none) == 0);
	CHECK_ERR(EMFILE, try(g.fd, good), "no descriptor is free");
	NEED(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	CHECK_EQ(next_id(g.fd), first, "none of them took an ID");

	CHECK_OK(alloc(g.fd, good, &id, &queue), "a queue");
	CHECK_EQ(id, first, "its ID");
	CHECK_EQ((unsigned int)queue, (unsigned int)lowest, "the lowest descriptor");
	CHECK_EQ(fcntl(queue, F_GETFD), FD_CLOEXEC, "close-on-exec");
	CHECK_EQ(fcntl(queue, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR, "to read and to write");
	CHECK_ERR(EEXIST, try(g.fd, good), "a second for these events");
	CHECK_ERR(EEXIST, call(g.fd, IOMMU_VEVENTQ_ALLOC, read_only(&good, sizeof(good))),
		  "which is found out before anything is written");
	cmd.type = 1;
	CHECK_OK(alloc(g.fd, cmd, &other, &second), "one for events that the mock never has");
	CHECK_ERR(EBUSY, destroy(g.fd, g.viommu), "they hold the vIOMMU");
	CHECK_ERR(EBUSY, destroy(g.fd, id), "DESTROY while it is open");
	CHECK_ERR(ESPIPE, result(lseek(queue, 0, SEEK_SET)), "lseek");
	CHECK_ERR(ESPIPE, result(pread(queue, buffer, EVENT, 0)), "pread");
	CHECK_ERR(EINVAL, result(write(queue, buffer, EVENT)), "write");
	check_empty(queue, empty, "a queue");
	CHECK_ERR(EFAULT, result(syscall(SYS_read, queue, -1UL, 0)), "read to no user's address");
	CHECK_ERR(ENODEV, try_mmap(queue, PAGE, PROT_WRITE, MAP_SHARED, 0), "mmap");
	CHECK_ERR(ENOTTY, call(queue, IOMMU_DESTROY, buffer), "ioctl");
	NEED(close(queue) == 0);
	CHECK_ERR(EEXIST, try(g.fd, good), "closed, it is still there");
	CHECK_OK(destroy(g.fd, id), "until DESTROY");
	CHECK_OK(alloc(g.fd, good, &id, &queue), "then there can be another");
	NEED(close(g.fd) == 0);
	CHECK_EQ(result(read(second, buffer, EVENT)), 0, "they outlive the device's file");
	NEED(close(second) == 0 && close(queue) == 0);
}

/* Reads once, with room for `room` bytes; what came must be `count` of `wanted`. */
static void reads(int queue, size_t room, const struct event *wanted, size_t count,
		  const char *what)
{
	char found[8 * EVENT];
	size_t i, at = 0, size;

	memset(found, 0x5a, sizeof(found));
	for (i = 0, size = 0; i < count; i++)
		size += wanted[i].header.flags & LOST ? HEADER : EVENT;
	CHECK_EQ(result(read(queue, found, room)), size, "%s: size", what);
	for (i = 0; i < count; i++) {
		size = wanted[i].header.flags & LOST ? HEADER : EVENT;
		CHECK_OK(memcmp(found + at, &wanted[i], size), "%s: entry %zu", what, i);
		at += size;
	}
}

static void events(void)
{
	struct guest g = new_guest();
	struct iommu_veventq_alloc cmd = { .viommu_id = g.viommu, .type = KIND,
					   .veventq_depth = 2 };
	uint32_t nested = new_nested(g.fd, g.mock.device, g.viommu, 0, 3), vdevice, id;
	struct event e[8] = { 0 };
	char buffer[8 * EVENT];
	int queue, i;

	for (i = 0; i < 8; i++)
		e[i] = (struct event){ { 0, (uint32_t)i }, 0x99 };
	NEED(vdevice_alloc(g.fd, g.viommu, g.mock.device, 0x100000099, &vdevice) == 0);
	NEED(mock_replace(g.fd, g.mock.stdev, nested) == 0);
	NEED(alloc(g.fd, cmd, &id, &queue) == 0);
	CHECK_EQ(ready(queue), 0, "poll: nothing, and never to write");
	CHECK_EQ(result(read(queue, buffer, sizeof(buffer))), 0, "read: nothing");
	CHECK_EQ(result(read(queue, buffer, HEADER)), 0, "read: nothing, room for a header");
	CHECK_ERR(EINVAL, result(read(queue, buffer, HEADER - 1)), "read: no room for one");
	CHECK_ERR(ENOENT, trigger_vevent(g.fd, NO_ID), "an event of no device");
	CHECK_OK(trigger_vevent(g.fd, g.mock.device), "an event");
	CHECK_EQ(ready(queue), POLLIN, "poll: to read");
	CHECK_ERR(EINVAL, result(read(queue, buffer, HEADER - 1)), "read: no room for a header");
	CHECK_ERR(EINVAL, result(read(queue, buffer, EVENT - 1)), "read: no room for the event");
	reads(queue, EVENT, e, 1, "one event; the mock has 32 bits of the number");
	CHECK_EQ(ready(queue), 0, "poll: nothing more");
	NEED(trigger_vevent(g.fd, g.mock.device) == 0 && trigger_vevent(g.fd, g.mock.device) == 0);
	reads(queue, 2 * EVENT - 1, e + 1, 1, "room for one and a half");
	reads(queue, sizeof(buffer), e + 2, 1, "the rest");

	/* Two more than there is room for; nothing after them: a header at the end tells. */
	for (i = 3; i < 7; i++)
		CHECK_OK(trigger_vevent(g.fd, g.mock.device), "event %d", i);
	e[5] = (struct event){ { LOST, 6 }, 0 };
	reads(queue, 2 * EVENT, e + 3, 2, "those that had room");
	CHECK_EQ(ready(queue), POLLIN, "poll: the header is to be read");
	CHECK_ERR(EINVAL, result(read(queue, buffer, HEADER - 1)), "read: no room for it");
	reads(queue, HEADER, e + 5, 1, "it says which was lost last");
	CHECK_EQ(ready(queue), 0, "poll: it is gone");

	/* Lost ones, then room again: the next event takes the header's place. */
	for (i = 0; i < 3; i++)
		NEED(trigger_vevent(g.fd, g.mock.device) == 0);
	e[0].header.sequence = 7;
	reads(queue, EVENT, e, 1, "room for one again");
	NEED(trigger_vevent(g.fd, g.mock.device) == 0);
	e[0].header.sequence = 8;
	e[1].header.sequence = 10;
	reads(queue, sizeof(buffer), e, 2, "a gap in the numbers, no header");
	CHECK_EQ(result(read(queue, buffer, sizeof(buffer))), 0, "that was all");

	for (i = 0; i < 3; i++)
		NEED(trigger_vevent(g.fd, g.mock.device) == 0);
	e[0].header.sequence = 11;
	e[1].header.sequence = 12;
	e[2] = (struct event){ { LOST, 13 }, 0 };
	reads(queue, sizeof(buffer), e, 3, "events and the header in one read");
	NEED(trigger_vevent(g.fd, g.mock.device) == 0);
	NEED(close(queue) == 0);
	CHECK_OK(destroy(g.fd, id), "DESTROY with an event in it");
	CHECK_ERR(EOPNOTSUPP, trigger_vevent(g.fd, g.mock.device), "nobody reads events");
	NEED(alloc(g.fd, cmd, &id, &queue) == 0 && trigger_vevent(g.fd, g.mock.device) == 0);
	e[0].header.sequence = 0;
	reads(queue, sizeof(buffer), e, 1, "another queue counts anew");
	NEED(close(queue) == 0 && close(g.fd) == 0);
}

/* poll() in another process sleeps until the event. */
static void waiting(void)
{
	struct guest g = new_guest();
	struct iommu_veventq_alloc cmd = { .viommu_id = g.viommu, .type = KIND,
					   .veventq_depth = 2 };
	uint32_t nested = new_nested(g.fd, g.mock.device, g.viommu, 0, 3), vdevice, id;
	struct pollfd one;
	int queue, status;
	pid_t child;

	NEED(vdevice_alloc(g.fd, g.viommu, g.mock.device, 0x99, &vdevice) == 0);
	NEED(mock_replace(g.fd, g.mock.stdev, nested) == 0 && alloc(g.fd, cmd, &id, &queue) == 0);
	child = fork();
	NEED(child >= 0);
	if (child == 0) {
		one = (struct pollfd){ .fd = queue, .events = POLLIN };
		_exit(poll(&one, 1, 10000) == 1 && one.revents == POLLIN ? 0 : 1);
	}
	CHECK_OK(trigger_vevent(g.fd, g.mock.device), "an event");
	NEED(waitpid(child, &status, 0) == child);
	CHECK_EQ(status, 0, "wakes who polls");
	NEED(close(queue) == 0 && close(g.fd) == 0);
}

int main(void)
{
	checks_begin();
	allocation();
	events();
	waiting();
	return checks_end();
}
