// SPDX-License-Identifier: MIT
/*
 * A 32-bit program, without a C library: inject_compat PATH exits with the errno that CREATE gives
 * it (255: none).
 */
#include <stdint.h>

#define CREATE 0xAAAA
#define O_RDWR 2
#define NR_exit 1
#define NR_open 5
#define NR_ioctl 54

static long call(long number, long a, long b, long c)
{
	long rc;

	asm volatile("int $0x80" : "=a"(rc) : "a"(number), "b"(a), "c"(b), "d"(c) : "memory");
	return rc;
}

__attribute__((used)) void start(char **arguments)
{
	uint32_t cmd[4] = { sizeof(cmd), O_RDWR };
	long device = call(NR_open, (long)arguments[2], O_RDWR, 0);
	long rc = device < 0 ? device : call(NR_ioctl, device, CREATE, (long)cmd);

	call(NR_exit, rc < 0 ? -rc : 255, 0, 0);
	__builtin_unreachable();
}

asm(".globl _start\n_start: mov %esp, %eax; push %eax; call start\n");
