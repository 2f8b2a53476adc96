/* SPDX-License-Identifier: MIT */
/*
 * leaves HOW [FIRST SECOND]: opens /dev/iommu and /dev/vfio/vfio, or one of them (HOW: "pivot-iommu", "pivot-vfio", "pivot-both": it
 * then leaves for a root of its own; "umount-...": the two files are unmounted, FIRST first), and prints after each step whether what it has goes on.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <linux/iommufd.h>

static int files[2] = { -1, -1 };

/* A connection that ends says so by POLLERR in no descriptor that is closed, so: ask what is open, twice, with time for the other to end. */
static void say(const char *when)
{
	for (int again = 0; again < 2; again++) {
		for (int i = 0; i < 2; i++) {
			struct iommu_ioas_alloc cmd = { .size = sizeof(cmd) };

			if (files[i] >= 0 && ioctl(files[i], IOMMU_IOAS_ALLOC, &cmd)) {
				printf("%s: %s\n", when, strerror(errno));
				return;
			}
		}
		poll(NULL, 0, again ? 0 : 300);
	}
	printf("%s: ok\n", when);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	const char *how = argv[1];

	if (!strstr(how, "-vfio"))
		files[0] = open("/dev/iommu", O_RDWR);
	if (!strstr(how, "-iommu"))
		files[1] = open("/dev/vfio/vfio", O_RDWR);
	say("before");
	if (!strncmp(how, "umount", 6)) {
		for (int i = 2; i < argc; i++) {
			if (umount2(argv[i], MNT_DETACH))
				perror(argv[i]);
			say(argv[i]);
		}
		return 0;
	}
	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("new", "/tmp", "tmpfs", 0, NULL) || mkdir("/tmp/old", 0755) || syscall(SYS_pivot_root, "/tmp", "/tmp/old") || chdir("/"))
		perror("pivot_root");
	say("pivot_root");
	if (umount2("/old", MNT_DETACH))
		perror("/old");
	say("detached");
	return 0;
}
