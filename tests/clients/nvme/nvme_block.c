// SPDX-License-Identifier: MIT
/*
 * nvme_block DEVICE IOMMU BYTE: says what the first byte of block 3 was, and fills the block with
 * BYTE.
 */
#include "run.h"

int main(int argc, char **argv)
{
	uint8_t *data;

	NEED(argc == 4);
	begin(argc, argv);
	open_controller();
	NEED(begin_controller(0, 16, 16) >= 0);
	create_queues(1, 16, 1);
	data = memory + FREE_MEMORY;
	run_well(1, block_command(IO_READ, 1, 3, 1, data));
	printf("was %u\n", data[0]);
	memset(data, atoi(argv[3]), 512);
	run_well(1, block_command(IO_WRITE, 1, 3, 1, data));
	return 0;
}
