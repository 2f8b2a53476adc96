/* SPDX-License-Identifier: MIT */
/*
 * A program that uses /dev/iommu: allocates an IOAS, prints "ioas ID", has one ioctl refused, and
 * prints "refused ERRNO". With the argument "wait" it then prints a line for each line that it
 * reads: the result of one more IOAS_ALLOC on the descriptor that it has, and of a new open.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/iommufd.h>

static int alloc(int fd, unsigned int *id)
{
	struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

	if (ioctl(fd, IOMMU_IOAS_ALLOC, &cmd))
		return errno;
	*id = cmd.out_ioas_id;
	return 0;
}

int main(int argc, char **argv)
{
	const char *path = argc > 2 ? argv[2] : "/dev/iommu";
	struct iommu_destroy destroy = { .size = sizeof(destroy), .id = 77 };
	unsigned int id = 0;
	char line[16];
	int fd, rc;

	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0) {
		perror(path);
		return 1;
	}
	rc = alloc(fd, &id);
	if (rc) {
		fprintf(stderr, "IOAS_ALLOC: %s\n", strerror(rc));
		return 1;
	}
	printf("ioas %u\n", id);
	rc = ioctl(fd, IOMMU_DESTROY, &destroy) ? errno : 0;
	printf("refused %d\n", rc);
	fflush(stdout);
	if (argc < 2 || strcmp(argv[1], "wait"))
		return 0;
	while (fgets(line, sizeof(line), stdin)) {
		int again = open(path, O_RDWR | O_CLOEXEC);
		int opened = again < 0 ? errno : 0;

		if (again >= 0)
			close(again);
		printf("alloc %d open %d\n", alloc(fd, &id), opened);
		fflush(stdout);
	}
	return 0;
}
