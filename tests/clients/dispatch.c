// SPDX-License-Identifier: MIT
/*
 * What is the same for all commands: which numbers there are, and the rules of the struct's size.
 * The order is the kernel's: the number's range (ENOTTY), `size` readable (EFAULT), the number
 * whole (ENOTTY), `size` large enough (EINVAL), what is beyond the known struct zero (E2BIG), the
 * struct readable (EFAULT). Only then the command itself speaks, and this test does not listen.
 */
#include "commands.h"

static int fd;

/* A struct that a command refuses, or does no harm with, whatever its size. */
static void *harmless(uint32_t size)
{
	static uint64_t buffer[(1 << 16) / sizeof(uint64_t)];

	memset(buffer, 0, sizeof(buffer));
	buffer[0] = size;
	return buffer;
}

/* The rules of size are kept: the answer is the command's own. */
static bool own_answer(long rc)
{
	return rc != -E2BIG && rc != -EFAULT && rc != -ENOTTY;
}

static void sizes(const struct command *c)
{
	long answer = call(fd, c->number, harmless(c->size));
	uint32_t size, wrong = 0, at;
	char *p;

	CHECK_TRUE(own_answer(answer), "%s: its own size is taken", c->name);
	for (size = 0; size < c->min_size; size++)
		wrong += call(fd, c->number, harmless(size)) != -EINVAL;
	CHECK_EQ(wrong, 0, "%s: EINVAL for all sizes below %u", c->name, c->min_size);
	size = c->min_size - 1;
	CHECK_ERR(EINVAL, call(fd, c->number, at_edge(&size, 4)),
		  "%s: EINVAL comes before the rest is read", c->name);
	for (size = c->min_size; size <= c->size; size++)
		wrong += call(fd, c->number, harmless(size)) != answer;
	CHECK_EQ(wrong, 0, "%s: all sizes from %u to %u are as good", c->name, c->min_size,
		 c->size);
	for (size = c->size + 1; size <= c->size + often(40); size++)
		wrong += call(fd, c->number, harmless(size)) != answer;
	CHECK_EQ(wrong, 0, "%s: longer structs, zero", c->name);
	for (size = c->size + 1; size <= c->size + often(20); size++) {
		for (at = c->size; at < size; at++) {
			p = harmless(size);
			p[at] = 1;
			wrong += call(fd, c->number, p) != -E2BIG;
		}
		p = harmless(size);
		p[size] = 1;
		wrong += call(fd, c->number, p) != answer;
	}
	CHECK_EQ(wrong, 0, "%s: longer structs, one byte not zero", c->name);
	p = harmless(c->size);
	p[c->size] = 1;
	CHECK_TRUE(call(fd, c->number, p) == answer, "%s: beyond size nothing is read", c->name);
	p = harmless(60000);
	CHECK_TRUE(call(fd, c->number, p) == answer, "%s: 60000 bytes, zero", c->name);
	p[59999] = (char)0x80;
	CHECK_ERR(E2BIG, call(fd, c->number, p), "%s: 60000 bytes, the last not zero", c->name);
}

static void memory(const struct command *c)
{
	char zero[LARGEST + PAGE] = { 0 };
	uint32_t size;
	char *p;

	CHECK_ERR(EFAULT, call(fd, c->number, NULL), "%s: NULL", c->name);
	CHECK_ERR(EFAULT, call(fd, c->number, (void *)1), "%s: address 1", c->name);
	CHECK_ERR(EFAULT, call(fd, c->number, unmapped()), "%s: nothing there", c->name);
	CHECK_ERR(EFAULT, call(fd, c->number, (void *)0xffff888000000000), "%s: kernel's", c->name);
	CHECK_ERR(EFAULT, call(fd, c->number, (void *)UINTPTR_MAX), "%s: last address", c->name);
	CHECK_ERR(EFAULT, call(fd, c->number, (void *)0x8000000000000000), "%s: no address",
		  c->name);
	CHECK_ERR(EFAULT, call(fd, c->number, at_edge(zero, 3)), "%s: 3 bytes of size", c->name);
	size = c->size;
	memcpy(zero, &size, 4);
	CHECK_ERR(EFAULT, call(fd, c->number, at_edge(zero, c->size - 1)), "%s: a byte short",
		  c->name);
	CHECK_ERR(EFAULT, call(fd, c->number, at_edge(zero, 4)), "%s: only size", c->name);
	size = c->size + 16;
	memcpy(zero, &size, 4);
	CHECK_ERR(EFAULT, call(fd, c->number, at_edge(zero, c->size + 8)), "%s: half a zero tail",
		  c->name);
	CHECK_ERR(EFAULT, call(fd, c->number, at_edge(zero, c->size)), "%s: no tail", c->name);
	zero[c->size] = 1;
	CHECK_ERR(E2BIG, call(fd, c->number, at_edge(zero, c->size + 8)),
		  "%s: a tail that is not zero before it ends", c->name);
	zero[c->size] = 0;

	/* In low memory, so that 4 GiB more is still below the end of what a program can have. */
	p = mmap((void *)0x20000000, 2 * PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	NEED(p == (void *)0x20000000);
	NEED(munmap(p + PAGE, PAGE) == 0);
	memset(p, 0xff, 4);
	CHECK_ERR(EFAULT, call(fd, c->number, p), "%s: 4 GiB, zero as far as it goes", c->name);
	p[PAGE - 1] = 1;
	CHECK_ERR(E2BIG, call(fd, c->number, p), "%s: 4 GiB, a byte not zero", c->name);
	NEED(munmap(p, PAGE) == 0);
	p = mmap(NULL, 4 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	NEED(p != MAP_FAILED);
	size = 4 * MIB;
	memcpy(p, &size, 4);
	CHECK_TRUE(own_answer(call(fd, c->number, p)), "%s: 4 MiB of zero", c->name);
	p[size - 1] = 1;
	CHECK_ERR(E2BIG, call(fd, c->number, p), "%s: 4 MiB, the last byte not zero", c->name);
	NEED(munmap(p, 4 * MIB) == 0);
}

/* The whole number must be right, but first there must be a size to read. */
static void numbers(const struct command *c)
{
	static const unsigned int directions[] = { _IOC_READ, _IOC_WRITE, _IOC_READ | _IOC_WRITE };
	static const unsigned char types[] = { 0, 'a', ':', '<', 0x80 | ';', 0xff };
	unsigned int i, nr = _IOC_NR(c->number), number;

	for (i = 0; i < ARRAY_LEN(directions); i++) {
		number = _IOC(directions[i], ';', nr, c->size);
		CHECK_ERR(ENOTTY, call(fd, number, harmless(c->size)), "%s: direction %u", c->name,
			  directions[i]);
		number = _IOC(directions[i], ';', nr, 0);
		CHECK_ERR(ENOTTY, call(fd, number, harmless(c->size)), "%s: direction %u, size 0",
			  c->name, directions[i]);
		CHECK_ERR(ENOTTY, call(fd, number, harmless(0)), "%s: before EINVAL", c->name);
		CHECK_ERR(EFAULT, call(fd, number, NULL), "%s: after EFAULT", c->name);
	}
	CHECK_ERR(ENOTTY, call(fd, _IOC(0, ';', nr, c->size), harmless(c->size)), "%s: with a size",
		  c->name);
	for (i = 0; i < ARRAY_LEN(types); i++) {
		number = _IOC(0, types[i], nr, 0);
		CHECK_ERR(ENOTTY, call(fd, number, harmless(c->size)), "%s: type %#x", c->name,
			  types[i]);
		CHECK_ERR(EFAULT, call(fd, number, NULL), "%s: type %#x, NULL", c->name, types[i]);
	}
}

/* Numbers outside the table look at nothing. Left out: VFIO's 100 to 122, the selftest's 0xa0. */
static void unknown(void)
{
	unsigned int nr, wrong = 0;

	for (nr = 0; nr < 100; nr++)
		wrong += call(fd, _IO(';', nr), NULL) != -ENOTTY;
	CHECK_EQ(wrong, 0, "numbers 0 to 99");
	for (nr = 123; nr < 0x80; nr++)
		wrong += call(fd, _IO(';', nr), NULL) != -ENOTTY;
	CHECK_EQ(wrong, 0, "numbers 123 to 127");
	for (nr = 0xa1; nr < 0x100; nr++)
		wrong += call(fd, _IO(';', nr), NULL) != -ENOTTY;
	CHECK_EQ(wrong, 0, "numbers 0xa1 to 0xff");
	for (nr = 0x80 + ARRAY_LEN(commands); nr < 0xa0; nr++)
		wrong += call(fd, _IO(';', nr), harmless(8)) != -ENOTTY;
	CHECK_EQ(wrong, 0, "numbers after the last command");
	CHECK_ERR(ENOTTY, call(fd, 0, NULL), "number 0 of type 0");
	CHECK_ERR(ENOTTY, call(fd, _IOWR('d', 1, uint64_t), harmless(8)), "another device's");
	CHECK_TRUE(!isatty(fd) && errno == ENOTTY, "no terminal");
	CHECK_ERR(EBADF, call(-1, IOMMU_IOAS_ALLOC, NULL), "no descriptor");
}

int main(void)
{
	unsigned int i;

	checks_begin();
	fd = open_iommu();
	for (i = 0; i < ARRAY_LEN(commands); i++) {
		CHECK_EQ(commands[i].number, (unsigned int)_IO(';', 0x80 + i), "%s: its number",
			 commands[i].name);
		NEED(commands[i].size <= LARGEST);
		sizes(&commands[i]);
		memory(&commands[i]);
		numbers(&commands[i]);
	}
	unknown();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
