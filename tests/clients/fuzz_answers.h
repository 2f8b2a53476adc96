/* SPDX-License-Identifier: MIT */
/* Which answers Linux can give to each command: all others are wrong, whatever was asked. */
#ifndef FUZZ_ANSWERS_H
#define FUZZ_ANSWERS_H

#include "commands.h"

/* The rows of the histogram: the commands, all other numbers, and read(). */
#define COMMANDS ARRAY_LEN(commands)
#define ROW_OTHER COMMANDS
#define ROW_READ (COMMANDS + 1)
#define ROWS (COMMANDS + 2)

/* By row, without those every command can give (allowed()). */
static const int answers[ROWS][12] = {
	[0] = { 0, ENOENT, EBUSY },
	[1] = { 0, EOPNOTSUPP },
	[2] = { 0, EOPNOTSUPP, ENOENT, EADDRINUSE },
	[3] = { 0, EOPNOTSUPP, EOVERFLOW, ENOENT, EEXIST, ENOSPC, EPERM },
	[4] = { 0, EOPNOTSUPP, ENOENT, EMSGSIZE },
	[5] = { 0, EOPNOTSUPP, EOVERFLOW, ENOENT, EEXIST, ENOSPC },
	[6] = { 0, ENOENT, EOVERFLOW, EBUSY },
	[7] = { 0, EOPNOTSUPP, EPERM, EBUSY, ENOENT, EADDRINUSE },
	[15] = { 0, EOPNOTSUPP, EOVERFLOW, ENOENT, EEXIST, ENOSPC, EBADF },
};

/* The commands that need a device; none is there, so none succeeds but those allowed() names. */
static const int device_answers[] = { EOPNOTSUPP, ENOENT, EPERM, EOVERFLOW, ENODEV };

static inline bool allowed(unsigned int row, int error)
{
	unsigned int i;

	if (row == ROW_OTHER)
		return error == ENOTTY || error == EFAULT;
	if (row == ROW_READ)
		return error == EINVAL;
	if (error == EFAULT || error == EINVAL || error == E2BIG)
		return true;
	if (row < 8 || row == 15) {
		for (i = 0; i < ARRAY_LEN(answers[row]); i++)
			if (error == answers[row][i])
				return true;
		return false;
	}
	for (i = 0; i < ARRAY_LEN(device_answers); i++)
		if (error == device_answers[i])
			return true;
	/* Not Linux's, which holds the file: another thread closed the descriptor, by which iommud would have had to open it once more. */
	if (error == EBADF)
		return commands[row].number == IOMMU_FAULT_QUEUE_ALLOC;
	return error == 0 && (commands[row].number == IOMMU_FAULT_QUEUE_ALLOC ||
			      commands[row].number == IOMMU_IOAS_CHANGE_PROCESS ||
			      commands[row].number == IOMMU_VFIO_IOAS);
}

#endif
