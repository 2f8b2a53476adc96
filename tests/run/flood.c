/* SPDX-License-Identifier: MIT */
/* flood DEVICE N: N refused ioctls; flood DEVICE: one under each of the names that a client would choose to have the log say something else. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <linux/iommufd.h>

static const char *const names[] = { "x\n<0>iommud: ok", "\033]0;pwn\007\033[2J", "\n<2>bug: no\r", "a\tb\\n\xff\xfe\xc3", "\xe2\x80\xae\xe2\x80\xa8z" };

int main(int argc, char **argv)
{
	struct iommu_destroy destroy = { .size = sizeof(destroy), .id = 77 };
	int fd = open(argv[1], O_RDWR);

	if (fd < 0)
		return 1;
	if (argc > 2) {
		for (long n = atol(argv[2]); n--;)
			ioctl(fd, IOMMU_DESTROY, &destroy);
		return 0;
	}
	for (unsigned int i = 0; i < sizeof(names) / sizeof(*names); i++) {
		prctl(PR_SET_NAME, names[i]);
		ioctl(fd, IOMMU_DESTROY, &destroy);
	}
	return 0;
}
