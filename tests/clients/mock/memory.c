// SPDX-License-Identifier: MIT
/*
 * What a device sees of a client's memory when the client forks, unmaps, maps something else, takes
 * the permission away, executes another program or ends. A process maps its memory and does one of
 * these; another copies through the IOAS, byte by byte compared. All kinds of memory, each in three
 * states: remembered only, held by a device, held by an access.
 *
 * The kernel keeps every page that it holds. iommud cannot keep private memory, nor what is cut off
 * a file. With --iommud its answers are expected instead (memory_events.h): it says so (EFAULT),
 * or, in the places that say why, sees what is there now.
 *
 * --huge: memory of huge pages, of which there must be 8.
 */
#include "memory_events.h"

#include <signal.h>
#include <sys/prctl.h>

static int fd, access_fd;
static uint32_t ioas;

/* --- the client --- */

static int commands[2], answers[2], file;
static char *memory, *moved;
static pid_t grandchild;
static int to_grandchild[2];

static char *new_memory(const struct kind *kind, int flags)
{
	flags |= kind->shared ? MAP_SHARED : MAP_PRIVATE;
	flags |= kind->huge ? MAP_HUGETLB : 0;
	flags |= kind->file ? 0 : MAP_ANONYMOUS;
	if (kind->file) {
		file = memfd_create("kind", kind->huge ? MFD_HUGETLB : 0);
		NEED(file >= 0 && ftruncate(file, (off_t)kind->size) == 0);
		/* hugetlbfs cannot be written by write(2). */
		char *p = mmap(NULL, kind->size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);

		NEED(p != MAP_FAILED);
		fill(p, LENGTH, FILE_ROUND);
		NEED(munmap(p, kind->size) == 0);
	}
	return mmap(memory, kind->size, PROT_READ | PROT_WRITE, flags, kind->file ? file : -1, 0);
}

/* Where the kind's size of memory could be mapped, aligned for huge pages. */
static char *room(void)
{
	char *p = mmap(NULL, 4 * HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	NEED(p != MAP_FAILED);
	return (char *)(((uintptr_t)p + HUGE - 1) & ~(HUGE - 1));
}

static void in_grandchild(const struct kind *kind, bool writes)
{
	char byte = 'k';

	if (writes)
		fill(memory, LENGTH, NEW_ROUND);
	NEED(write(answers[1], &byte, 1) == 1);
	NEED(read(to_grandchild[0], &byte, 1) == 1);
	/* Private memory is each one's own; what the device wrote went to the mapper's. */
	byte = differing(memory, LENGTH, kind->shared ? LAST_ROUND : writes ? NEW_ROUND : OLD_ROUND)
		       ? 'x' : 'k';
	NEED(write(answers[1], &byte, 1) == 1);
	_exit(0);
}

static void have_child(const struct kind *kind, bool child_writes)
{
	NEED(pipe(to_grandchild) == 0);
	grandchild = fork();
	NEED(grandchild >= 0);
	if (grandchild == 0) {
		NEED(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
		in_grandchild(kind, child_writes);
	}
}

/* What the client does; returns whether it is the one to say so. */
static bool happen(const struct kind *kind, enum event event)
{
	size_t size = kind->size;
	char numbers[2][16], byte, *p;
	int other;

	switch (event) {
	case NOTHING:
		break;
	case CHILD_WRITES:
		have_child(kind, true);
		return false;
	case PARENT_WRITES:
		have_child(kind, false);
		NEED(read(commands[0], &byte, 1) == 1); /* The child is there. */
		fill(memory, LENGTH, NEW_ROUND);
		break;
	case UNMAP:
		NEED(munmap(memory, size) == 0);
		break;
	case REMAP:
	case REMAP_ONLY:
		p = mmap(memory, size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
		NEED(p == memory);
		if (event == REMAP)
			fill(memory, LENGTH, NEW_ROUND);
		break;
	case REMAP_FILE:
		other = memfd_create("other", 0);
		NEED(other >= 0 && ftruncate(other, (off_t)size) == 0);
		p = mmap(memory, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, other, 0);
		NEED(p == memory);
		fill(memory, LENGTH, NEW_ROUND);
		break;
	case NO_ACCESS:
		NEED(mprotect(memory, size, PROT_NONE) == 0);
		break;
	case MOVE:
		moved = room();
		NEED(mremap(memory, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, moved) == moved);
		break;
	case GIVE_BACK:
		NEED(madvise(memory, size, MADV_DONTNEED) == 0);
		break;
	case TRUNCATE:
		NEED(ftruncate(file, 0) == 0);
		break;
	case EXEC:
		snprintf(numbers[0], sizeof(numbers[0]), "%d", commands[0]);
		snprintf(numbers[1], sizeof(numbers[1]), "%d", answers[1]);
		execl("/proc/self/exe", "memory", "--wait", numbers[0], numbers[1], NULL);
		NEED(false);
		break;
	case EXIT:
		_exit(0);
	default:
		NEED(false);
	}
	return true;
}

static void client(const struct kind *kind, enum event event)
{
	char byte, *p;

	NEED(close(commands[1]) == 0);
	memory = room();
	p = memory;
	NEED(munmap(p, kind->size) == 0);
	NEED(new_memory(kind, MAP_FIXED) == p);
	fill(memory, LENGTH, OLD_ROUND);
	NEED(map_at(fd, ioas, (uintptr_t)memory, LENGTH, BASE) == 0);
	byte = 'm';
	NEED(write(answers[1], &byte, 1) == 1);
	while (read(commands[0], &byte, 1) == 1) {
		switch (byte) {
		case 'o': /* What did the device write? */
			byte = differing(memory, LENGTH, OLD_ROUND) ? 'x' : 'k';
			break;
		case 'e':
			if (!happen(kind, event))
				continue;
			byte = 'k';
			break;
		case 'l':
			p = moved ? moved : memory;
			NEED(mprotect(p, kind->size, PROT_READ | PROT_WRITE) == 0);
			byte = differing(p, LENGTH, LAST_ROUND) ? 'x' : 'k';
			break;
		case 'g':
			NEED(write(to_grandchild[1], &byte, 1) == 1);
			continue;
		}
		NEED(write(answers[1], &byte, 1) == 1);
	}
	_exit(0);
}

/* --- who copies --- */

static char answer(void)
{
	char byte = '?';

	NEED(read(answers[0], &byte, 1) == 1);
	return byte;
}

static char tell(char command)
{
	NEED(write(commands[1], &command, 1) == 1);
	return answer();
}

static enum sight seen(uint64_t length)
{
	static const unsigned char none[LENGTH];
	char got[LENGTH];
	long rc = access_rw(fd, access_fd, BASE, length, got, 0);

	if (rc == -EFAULT)
		return FAULT;
	if (rc != 0)
		return 100 - (unsigned int)rc;
	if (!differing(got, length, OLD_ROUND))
		return OLD;
	if (!differing(got, length, NEW_ROUND))
		return NEW;
	if (!differing(got, length, FILE_ROUND))
		return FILED;
	return memcmp(got, none, length) ? 100 : ZERO;
}

static void happens(const struct kind *kind, enum state state, enum event event)
{
	enum sight want = expected(kind, state, event, false);
	char buffer[LENGTH], text[128];
	struct mock mock;
	uint32_t item;
	int status;
	pid_t pid;

	snprintf(text, sizeof(text), "%s, %s: %s", kind->name, states[state], events[event]);
	NEED(pipe(commands) == 0 && pipe(answers) == 0);
	fflush(stdout);
	pid = fork();
	NEED(pid >= 0);
	if (pid == 0)
		client(kind, event);
	NEED(close(commands[0]) == 0 && close(answers[1]) == 0);
	NEED(answer() == 'm');
	access_fd = new_access(fd, ioas, PINS);
	if (state == BY_DEVICE)
		mock = new_mock(fd, ioas);
	if (state == BY_ACCESS)
		NEED(access_pages(fd, access_fd, BASE, LENGTH, NULL, WRITE, &item) == 0);
	NEED(seen(LENGTH) == OLD && seen(PAGE) == OLD);
	/* Turned over and back, so that the device has written all of it. */
	fill(buffer, LENGTH, NEW_ROUND);
	NEED(access_rw(fd, access_fd, BASE, LENGTH, buffer, WRITE) == 0);
	CHECK_EQ(tell('o'), 'x', "%s: the device writes", text);
	fill(buffer, LENGTH, OLD_ROUND);
	NEED(access_rw(fd, access_fd, BASE, LENGTH, buffer, WRITE) == 0);
	CHECK_EQ(tell('o'), 'k', "%s: and writes", text);

	if (event == EXIT) {
		NEED(write(commands[1], "e", 1) == 1);
		NEED(waitpid(pid, &status, 0) == pid && status == 0);
	} else {
		NEED(tell('e') == 'k');
		if (event == PARENT_WRITES)
			NEED(tell('p') == 'k');
	}
	CHECK_EQ(seen(LENGTH), want, "%s: %s", text, sights[want]);
	want = expected(kind, state, event, true);
	CHECK_EQ(seen(PAGE), want, "%s: in one page %s", text, sights[want]);
	fill(buffer, LENGTH, LAST_ROUND);
	want = expected(kind, state, event, false);
	CHECK_EQ(access_rw(fd, access_fd, BASE, LENGTH, buffer, WRITE) == -EFAULT, want == FAULT,
		 "%s: write", text);
	if (want != FAULT) {
		memset(buffer, 0, LENGTH);
		CHECK_OK(access_rw(fd, access_fd, BASE, LENGTH, buffer, 0), "%s: and read", text);
		CHECK_EQ(differing(buffer, LENGTH, LAST_ROUND), 0, "%s: the same", text);
		if (has_memory(event))
			CHECK_EQ(tell('l'), 'k', "%s: the client sees it", text);
		if (event == CHILD_WRITES || event == PARENT_WRITES)
			CHECK_EQ(tell('g'), 'k', "%s: its child %s", text,
				 kind->shared ? "sees it" : "does not");
	}
	if (event != EXIT) {
		NEED(kill(pid, SIGKILL) == 0);
		NEED(waitpid(pid, &status, 0) == pid);
	}
	NEED(close(commands[1]) == 0 && close(answers[0]) == 0 && close(access_fd) == 0);
	if (state == BY_DEVICE)
		NEED(destroy(fd, mock.stdev) == 0);
	NEED(unmap_at(fd, ioas, BASE, LENGTH) == 0);
}

/* The program that a client executes: lives until it is killed. */
static int wait_for_end(int from, int to)
{
	char byte;

	NEED(write(to, "k", 1) == 1);
	return read(from, &byte, 1) != 0;
}

int main(int argc, char **argv)
{
	bool huge = false;
	unsigned int kind;
	int i;

	for (i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--wait"))
			return wait_for_end(atoi(argv[i + 1]), atoi(argv[i + 2]));
		huge |= !strcmp(argv[i], "--huge");
		iommud |= !strcmp(argv[i], "--iommud");
	}
	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	for (kind = 0; kind < ARRAY_LEN(kinds); kind++) {
		enum state state;
		enum event event;

		if (kinds[kind].huge != huge)
			continue;
		for (state = REMEMBERED; state < STATES; state++) {
			for (event = NOTHING; event < EVENTS; event++) {
				if (event != TRUNCATE || kinds[kind].file)
					happens(&kinds[kind], state, event);
			}
		}
	}
	CHECK_OK(close(fd), "close");
	return checks_end();
}
