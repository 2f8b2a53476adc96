/* SPDX-License-Identifier: MIT */
/* The device of inject_server.py, as its clients see it. */
#ifndef INJECT_CLIENT_H
#define INJECT_CLIENT_H

#include "../clients/checks.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define CREATE 0xAAAAUL
#define LIVE 0xAAABUL
#define IDENTITY 0xAAACUL

struct create {
	uint32_t size;
	uint32_t flags; /* as for open(2) */
	int32_t out_fd;
	uint32_t out_id;
};

static const char *device_path;

static inline int open_device(void)
{
	int fd = open(device_path, O_RDWR | O_CLOEXEC);

	NEED(fd >= 0);
	return fd;
}

/* A new descriptor, or -errno; and the object's id. */
static inline int create_flags(int device, uint32_t flags, uint32_t *id)
{
	struct create cmd = { .size = sizeof(cmd), .flags = flags, .out_fd = -1 };

	if (ioctl(device, CREATE, &cmd) < 0)
		return cmd.out_fd == -1 ? -errno : -EPROTO;
	if (id)
		*id = cmd.out_id;
	return cmd.out_fd;
}

static inline int create(int device)
{
	return create_flags(device, O_RDWR | O_CLOEXEC, NULL);
}

/* RELEASE is not waited for by close(2), so the count may take a moment to fall: it must. */
static inline long wait_live(int device, long wanted)
{
	long live = -1;

	for (int i = 0; i < 100000 && live != wanted; i++)
		live = ioctl(device, LIVE, 0);
	return live;
}

#endif
