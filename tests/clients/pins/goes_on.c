// SPDX-License-Identifier: MIT
/*
 * Maps memory whose pages do not come (userfaultfd), until the device is gone; then all that is the
 * thread's own is as it was.  goes_on DEVICE
 */
#include "../mock/pinned.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#define PAGES 4UL

int main(int argc, char **argv)
{
	struct uffdio_api api = { .api = UFFD_API };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	struct traces before, after;
	struct pollfd fault;
	uint32_t ioas;
	char *memory;
	pid_t said;
	long rc;
	int fd;

	checks_begin();
	NEED(argc > 1);
	if (have_capability(CAP_IPC_LOCK))
		drop_capability(CAP_IPC_LOCK);
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	NEED(fd >= 0);
	ioas = new_ioas(fd);
	new_mock(fd, ioas);
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	fault.fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	fault.events = POLLIN;
	range.range.start = (uintptr_t)memory;
	range.range.len = PAGES * PAGE;
	NEED(fault.fd >= 0 && ioctl(fault.fd, UFFDIO_API, &api) == 0);
	NEED(ioctl(fault.fd, UFFDIO_REGISTER, &range) == 0);
	said = fork();
	NEED(said >= 0);
	if (said == 0) {
		NEED(poll(&fault, 1, -1) == 1); /* the page is waited for */
		puts("begun");
		_exit(0);
	}
	before = traces_of_us();
	rc = map_at(fd, ioas, (uintptr_t)memory, PAGES * PAGE, BASE);
	after = traces_of_us();
	if (rc != 0)
		printf("MAP gave %ld\n", rc);
	else if (memcmp(&before.blocked, &after.blocked, sizeof(before.blocked)))
		puts("its signals are blocked");
	else if (before.limit.rlim_cur != after.limit.rlim_cur)
		puts("its limit is another");
	else if (end_of(said) != 0)
		puts("its child did not end well");
	else
		puts("all is well");
	return 0;
}
