// SPDX-License-Identifier: MIT
/*
 * MAP_FILE: what a device sees of a file whose descriptor was closed, that was written, cut off or
 * made longer, whose process is gone; and of memory that is mapped in many ways at once.
 *
 * The kernel keeps the pages that it holds when they are cut off the file. iommud cannot: with
 * --iommud its answers are expected there.
 */
#include "mock.h"

#include <linux/falloc.h>

static int fd, access_fd;
static uint32_t ioas;
static bool iommud;

#define PAGES 4UL
#define LENGTH (PAGES * PAGE)

static int new_file(unsigned int round)
{
	static unsigned char bytes[LENGTH];
	int file = memfd_create("file", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	fill(bytes, LENGTH, round);
	NEED(file >= 0 && pwrite(file, bytes, LENGTH, 0) == LENGTH);
	return file;
}

/* Whether the device sees what fill() puts there. */
static bool shows(uint64_t length, unsigned int round)
{
	static unsigned char got[LENGTH];

	return access_rw(fd, access_fd, BASE, length, got, 0) == 0 &&
	       !differing(got, length, round);
}

static long writes(unsigned int round)
{
	static unsigned char bytes[LENGTH];

	fill(bytes, LENGTH, round);
	return access_rw(fd, access_fd, BASE, LENGTH, bytes, WRITE);
}

static bool has(int file, unsigned int round)
{
	static unsigned char bytes[LENGTH];

	NEED(pread(file, bytes, LENGTH, 0) == LENGTH);
	return !differing(bytes, LENGTH, round);
}

static void hold(bool held, struct mock *mock)
{
	printf("# %s\n", held ? "held" : "remembered");
	if (held)
		*mock = new_mock(fd, ioas);
}

static void let_go(bool held, struct mock *mock)
{
	if (held)
		NEED(destroy(fd, mock->stdev) == 0);
	unmap_all(fd, ioas);
}

static void closed(bool held)
{
	int file = new_file(1), sockets[2], other;
	struct mock mock;

	NEED(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
	NEED(map_file_at(fd, ioas, file, 0, LENGTH, BASE) == 0);
	hold(held, &mock);
	CHECK_TRUE(shows(LENGTH, 1), "what is in the file");
	CHECK_OK(writes(2), "write");
	CHECK_TRUE(has(file, 2), "it is in the file");
	NEED(pwrite(file, "by write(2)", 11, 0) == 11);
	CHECK_OK(access_rw(fd, access_fd, BASE, 11, (char[11]){ 0 }, 0), "read");
	CHECK_OK(writes(2), "write again");
	other = dup(file);
	NEED(close(file) == 0);
	CHECK_TRUE(shows(LENGTH, 2), "the descriptor is closed");
	CHECK_OK(writes(3), "write");
	CHECK_TRUE(has(other, 3), "it is in the file");
	NEED(close(other) == 0);
	CHECK_TRUE(shows(LENGTH, 3), "no descriptor is left");
	CHECK_OK(writes(4), "write");
	CHECK_TRUE(shows(LENGTH, 4), "and read");
	CHECK_TRUE(shows(PAGE, 4), "a page");
	unmap_all(fd, ioas);
	if (held)
		NEED(destroy(fd, mock.stdev) == 0);

	IN_CHILD({
		file = new_file(5);
		NEED(map_file_at(fd, ioas, file, 0, LENGTH, BASE) == 0);
		pass(sockets[0], &file, true);
	});
	hold(held, &mock);
	CHECK_TRUE(shows(LENGTH, 5), "the process is gone");
	CHECK_TRUE(shows(7, 5), "a few bytes");
	CHECK_OK(writes(6), "write");
	pass(sockets[1], &file, false);
	CHECK_TRUE(has(file, 6), "it is in the file");
	NEED(close(file) == 0 && close(sockets[0]) == 0 && close(sockets[1]) == 0);
	let_go(held, &mock);
}

static void cut_off(bool held)
{
	int file = new_file(1);
	char *memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0), got[LENGTH];
	static const char zeros[LENGTH];
	struct mock mock;
	long want;

	NEED(map_file_at(fd, ioas, file, 0, LENGTH, BASE) == 0);
	hold(held, &mock);
	CHECK_TRUE(shows(LENGTH, 1), "all of it");
	NEED(ftruncate(file, PAGE) == 0);
	CHECK_TRUE(shows(PAGE, 1), "what is left of it");
	want = !held ? -EINVAL : iommud ? -EFAULT : 0;
	CHECK_ERR(-want, access_rw(fd, access_fd, BASE, LENGTH, got, 0), "what was cut off");
	if (!want)
		CHECK_EQ(differing(got, LENGTH, 1), 0, "is kept");
	CHECK_ERR(-want, access_rw(fd, access_fd, BASE + 3 * PAGE, 4, got, 0), "a page of it");
	CHECK_ERR(-want, writes(2), "write it");
	NEED(ftruncate(file, LENGTH) == 0);
	CHECK_OK(access_rw(fd, access_fd, BASE, LENGTH, got, 0), "the file is as long again");
	if (held && !iommud)
		CHECK_EQ(differing(got, LENGTH, 2), 0, "the pages were kept");
	else
		CHECK_TRUE(!memcmp(got + PAGE, zeros, LENGTH - PAGE), "with zeros");
	CHECK_TRUE(!memcmp(memory + PAGE, zeros, LENGTH - PAGE), "as the file has");
	let_go(held, &mock);

	NEED(map_file_at(fd, ioas, file, 0, LENGTH, BASE) == 0);
	hold(held, &mock);
	CHECK_OK(writes(3), "write");
	CHECK_EQ(differing(memory, LENGTH, 3), 0, "it is in the file");
	NEED(fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LENGTH) == 0);
	CHECK_OK(access_rw(fd, access_fd, BASE, LENGTH, got, 0), "a hole was punched");
	if (held && !iommud)
		CHECK_EQ(differing(got, LENGTH, 3), 0, "the pages were kept");
	else
		CHECK_TRUE(!memcmp(got, zeros, LENGTH), "it reads as zeros");
	let_go(held, &mock);
	NEED(munmap(memory, LENGTH) == 0 && close(file) == 0);
}

static void grown(void)
{
	int file = memfd_create("file", MFD_CLOEXEC);
	static const char zeros[LENGTH];
	char got[LENGTH];

	NEED(map_file_at(fd, ioas, file, 0, LENGTH, BASE) == 0);
	CHECK_ERR(EINVAL, access_rw(fd, access_fd, BASE, 4, got, 0), "an empty file");
	CHECK_ERR(EINVAL, pin(fd, access_fd, BASE, PAGE), "to pin");
	CHECK_ERR(EINVAL, try_mock(fd, ioas), "for a device");
	NEED(ftruncate(file, PAGE) == 0);
	CHECK_OK(access_rw(fd, access_fd, BASE, 4, got, 0), "its first page");
	CHECK_ERR(EINVAL, access_rw(fd, access_fd, BASE + PAGE, 4, got, 0), "not its second");
	CHECK_ERR(EINVAL, access_rw(fd, access_fd, BASE, PAGE + 1, got, 0), "nor both");
	CHECK_ERR(EINVAL, try_mock(fd, ioas), "nor for a device");
	NEED(ftruncate(file, LENGTH - 1) == 0);
	CHECK_ERR(EINVAL, try_mock(fd, ioas), "a byte too short");
	NEED(ftruncate(file, LENGTH) == 0);
	CHECK_OK(access_rw(fd, access_fd, BASE, LENGTH, got, 0), "long enough");
	CHECK_TRUE(!memcmp(got, zeros, LENGTH), "it is a hole");
	CHECK_OK(writes(1), "write to it");
	CHECK_TRUE(has(file, 1), "it is in the file");
	unmap_all(fd, ioas);
	NEED(close(file) == 0);
}

/* One file, mapped in IOASes by address and by descriptor, at several addresses: the same pages. */
static void many_ways(void)
{
	int file = new_file(1), again = new_file(1);
	char *one = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	char *two = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	char *middle = mmap(NULL, 2 * PAGE, PROT_READ, MAP_SHARED, file, PAGE);
	char *own = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	struct mock mock = new_mock(fd, ioas);
	uint32_t item;

	NEED(one != MAP_FAILED && two != MAP_FAILED && middle != MAP_FAILED && own != MAP_FAILED);
	CHECK_OK(map_file_at(fd, ioas, file, 0, LENGTH, BASE), "by descriptor");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)one, LENGTH, BASE + MIB), "by address");
	CHECK_OK(map_file_at(fd, ioas, file, PAGE, 2 * PAGE, BASE + 2 * MIB), "from within");
	CHECK_OK(check_map(fd, mock.hwpt, BASE, LENGTH, two), "at another address");
	CHECK_OK(check_map(fd, mock.hwpt, BASE + MIB, LENGTH, two), "that too");
	CHECK_OK(check_map(fd, mock.hwpt, BASE + PAGE, 2 * PAGE, middle), "from its middle");
	CHECK_OK(check_map(fd, mock.hwpt, BASE + 2 * MIB + HALF, PAGE, one + PAGE + HALF),
		 "within");
	/* Until it is written to, a private mapping has the file's own pages; iommud says no. */
	CHECK_ERR(iommud ? EINVAL : 0, check_map(fd, mock.hwpt, BASE, PAGE, own), "privately");
	CHECK_ERR(iommud ? EIO : 0, check_refs(fd, own + 3 * PAGE, PAGE, 2), "nor counts it");
	CHECK_ERR(EINVAL, check_map(fd, mock.hwpt, BASE, PAGE, one + PAGE), "another page");
	CHECK_OK(check_refs(fd, one, PAGE, 2), "page 0 has two pins");
	CHECK_OK(check_refs(fd, two + PAGE, 2 * PAGE, 3), "pages 1 and 2 three");
	CHECK_OK(check_refs(fd, middle, 2 * PAGE, 3), "from the middle, too");
	memset(own, 2, LENGTH);
	CHECK_ERR(EINVAL, check_map(fd, mock.hwpt, BASE, PAGE, own), "privately, written to");
	CHECK_OK(check_refs(fd, own, LENGTH, 0), "its pages are its own");
	CHECK_OK(access_pages(fd, access_fd, BASE + PAGE, PAGE, two + PAGE, WRITE, &item), "pin");
	CHECK_OK(check_refs(fd, one + PAGE, PAGE, 3), "no more than before");
	CHECK_ERR(EBADE, access_pages(fd, access_fd, BASE, PAGE, own, 0, &item), "a private one");
	CHECK_OK(writes(4), "write");
	CHECK_EQ(differing(one, LENGTH, 4), 0, "seen at one");
	CHECK_EQ(differing(two, LENGTH, 4), 0, "and the other address");
	CHECK_TRUE(!memcmp(middle, one + PAGE, 2 * PAGE), "and in the middle");
	CHECK_TRUE(has(again, 1), "not in another file");
	IN_CHILD({
		CHECK_OK(check_map(fd, mock.hwpt, BASE, LENGTH, two), "in a child");
		CHECK_OK(check_refs(fd, two, PAGE, 2), "they are the same");
	});
	CHECK_OK(unmap_at(fd, ioas, BASE, LENGTH), "unmap one");
	CHECK_OK(check_refs(fd, one, PAGE, 1), "one pin less");
	unmap_all(fd, ioas);
	CHECK_OK(check_refs(fd, one, LENGTH, 0), "none");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	NEED(munmap(one, LENGTH) == 0 && munmap(two, LENGTH) == 0 && munmap(own, LENGTH) == 0);
	NEED(munmap(middle, 2 * PAGE) == 0 && close(file) == 0 && close(again) == 0);
}

/* One MAP over mappings of all kinds, which then change one by one. */
static void patchwork(void)
{
	int file = new_file(1);
	char *p = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static unsigned char want[8 * PAGE], got[8 * PAGE];
	struct mock mock = new_mock(fd, ioas);

	NEED(p != MAP_FAILED);
	NEED(mmap(p + PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file,
		  PAGE) == p + PAGE);
	NEED(mmap(p + 4 * PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file,
		  0) == p + 4 * PAGE);
	NEED(mmap(p + 5 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE,
		  MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == p + 5 * PAGE);
	fill(p, 8 * PAGE, 3);
	CHECK_OK(map_at(fd, ioas, (uintptr_t)p, 8 * PAGE, BASE), "map it in one piece");
	CHECK_OK(check_map(fd, mock.hwpt, BASE, 8 * PAGE, p), "it shows");
	CHECK_OK(check_refs(fd, p, 8 * PAGE, 1), "all its pages are held");
	CHECK_OK(access_rw(fd, access_fd, BASE, 8 * PAGE, got, SLOW), "read it");
	CHECK_EQ(differing(got, 8 * PAGE, 3), 0, "all its bytes");
	fill(want, 8 * PAGE, 4);
	CHECK_OK(access_rw(fd, access_fd, BASE, 8 * PAGE, want, SLOW | WRITE), "write it");
	CHECK_EQ(differing(p, 8 * PAGE, 4), 0, "all its bytes");
	NEED(munmap(p + PAGE, 2 * PAGE) == 0 && munmap(p + 5 * PAGE, 2 * PAGE) == 0);
	NEED(mprotect(p, PAGE, PROT_NONE) == 0 && mprotect(p + 7 * PAGE, PAGE, PROT_READ) == 0);
	CHECK_OK(access_rw(fd, access_fd, BASE, 8 * PAGE, got, SLOW),
		 "without its shared parts and permissions");
	CHECK_EQ(differing(got, 8 * PAGE, 4), 0, "all its bytes");
	fill(want, 8 * PAGE, 5);
	CHECK_OK(access_rw(fd, access_fd, BASE, 8 * PAGE, want, SLOW | WRITE), "write it");
	NEED(mprotect(p, PAGE, PROT_READ) == 0);
	CHECK_EQ(differing(p, PAGE, 5), 0, "its first page");
	CHECK_TRUE(!memcmp(p + 3 * PAGE, want + 3 * PAGE, 2 * PAGE), "its middle");
	CHECK_TRUE(!memcmp(p + 7 * PAGE, want + 7 * PAGE, PAGE), "its last page");
	NEED(pread(file, got, 2 * PAGE, PAGE) == 2 * PAGE);
	CHECK_TRUE(!memcmp(got, want + PAGE, 2 * PAGE), "the file that was unmapped");
	CHECK_ERR(EFAULT, access_rw(fd, access_fd, BASE + PAGE, 4, got, 0),
		  "as the process sees it there is nothing");
	CHECK_OK(copy_at(fd, ioas, BASE + MIB, ioas, BASE, 8 * PAGE), "copy it all the same");
	CHECK_OK(destroy(fd, mock.stdev), "unplug");
	CHECK_ERR(EFAULT, try_mock(fd, ioas), "nobody holds it now: no device can have it");
	unmap_all(fd, ioas);
	NEED(munmap(p, 8 * PAGE) == 0 && close(file) == 0);
}

int main(int argc, char **argv)
{
	checks_begin();
	iommud = argc > 1 && !strcmp(argv[1], "--iommud");
	fd = open_iommu();
	ioas = new_ioas(fd);
	access_fd = new_access(fd, ioas, PINS);
	closed(false);
	closed(true);
	cut_off(false);
	cut_off(true);
	grown();
	NEED(close(access_fd) == 0);
	access_fd = new_access(fd, ioas, 0);
	CHECK_OK(close(access_fd), "close the access");
	access_fd = new_access(fd, ioas, PINS);
	many_ways();
	NEED(close(access_fd) == 0);
	access_fd = new_access(fd, ioas, 0);
	patchwork();
	CHECK_OK(close(access_fd), "close the access");
	CHECK_OK(close(fd), "close");
	return checks_end();
}
