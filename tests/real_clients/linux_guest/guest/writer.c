/*
 * writer DEVICE ROUND NAME: writes numbered records to the device, each followed by fsync, and says
 * "NAME NUMBER" after each. blocks.py says what is in a record. There are four processes, each with
 * every fourth record; the odd ones are written by O_DIRECT.
 */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SLOT = 1 << 16, SECTOR = 512, WORDS = SECTOR / sizeof(uint32_t), MAGIC = 0x6d6d6f69, PROCESSES = 4 };

static uint32_t record[SLOT / sizeof(uint32_t)] __attribute__((aligned(4096)));

static size_t fill(uint32_t round, uint32_t number)
{
	uint32_t sectors = 1 + number * 37 % (SLOT / SECTOR);

	for (uint32_t i = 0; i < sectors * WORDS; i += 4) {
		record[i] = MAGIC;
		record[i + 1] = round;
		record[i + 2] = number;
		record[i + 3] = i / WORDS;
	}
	return sectors * SECTOR;
}

static int work(char **argv, uint32_t first)
{
	uint64_t size;
	int fd = open(argv[1], O_RDWR | (first % 2 ? O_DIRECT : 0));

	if (fd < 0 || ioctl(fd, BLKGETSIZE64, &size))
		err(1, "%s", argv[1]);
	for (uint32_t number = first; number < size / SLOT; number += PROCESSES) {
		size_t length = fill(atoi(argv[2]), number);

		if (pwrite(fd, record, length, (off_t)number * SLOT) != (ssize_t)length)
			err(1, "write %u", number);
		if (fsync(fd))
			err(1, "fsync %u", number);
		dprintf(1, "%s %u\n", argv[3], number); /* by one write: the line is not ours alone */
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 4)
		errx(2, "writer DEVICE ROUND NAME");
	for (uint32_t first = 0; first < PROCESSES; first++)
		if (!fork())
			return work(argv, first);
	while (wait(NULL) > 0)
		;
	return 0;
}
