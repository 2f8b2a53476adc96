// SPDX-License-Identifier: MIT
/*
 * inject_exec PATH FIFO: the leader asks for a descriptor, into a struct at a fixed address. As soon as somebody reads
 * the FIFO another thread executes this program again, with one more argument: it makes memory at that address, ends
 * the FIFO, and tells whether its memory is as it was when it is told to.
 */
#include "inject_client.h"

#include <pthread.h>

#define PLACE ((void *)0x20000000UL)

#define WRITER 100 /* of the FIFO, in both */

static char **arguments;

static void *execute(void *unused)
{
	(void)unused;
	NEED(dup2(open(arguments[2], O_WRONLY), WRITER) == WRITER);
	execl("/proc/self/exe", arguments[0], arguments[1], arguments[2], "again", (char *)NULL);
	_exit(3);
}

int main(int argc, char **argv)
{
	struct create *cmd = mmap(PLACE, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE,
				  -1, 0);
	pthread_t thread;
	int device;

	NEED(argc >= 3 && cmd == PLACE);
	if (argc == 4) {
		closefrom(3);
		puts("another program");
		fflush(stdout);
		getchar();
		for (int i = 0; i < 4096; i++)
			NEED(!((char *)cmd)[i]);
		puts("nothing was written");
		return 0;
	}
	device_path = argv[1];
	arguments = argv;
	device = open_device();
	*cmd = (struct create){ .size = sizeof(*cmd), .flags = O_RDWR | O_CLOEXEC };
	NEED(!pthread_create(&thread, NULL, execute, NULL));
	ioctl(device, CREATE, cmd);
	for (;;)
		pause();
}
