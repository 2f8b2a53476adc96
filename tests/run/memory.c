// SPDX-License-Identifier: MIT
/*
 * A client of the mock device with memory of all kinds. It says what each call was answered, one line each; the test knows what is right.
 *
 * Usage: memory few         MAP_FILE, MAP and CREATE_ACCESS
 *        memory undumpable  the same, after it forbade everybody to look into it
 *        memory closed      the same, but first it was looked into (MAP), and then forbade it
 *        memory large N     IOAS_ALLOC whose struct says that it is N GiB, never touched; N threads
 *        memory ranges N    ALLOW_IOVAS of N ranges, upwards and downwards
 *        memory pieces N    MAP of /dev/zero and of memory without a file, in N pieces each
 *        memory calls MS    IOAS_ALLOC and DESTROY for so long: the longest call, in microseconds
 */
#include "../clients/mock/mock.h"

#include <pthread.h>
#include <sys/prctl.h>
#include <time.h>

static int fd;

static void say(const char *what, long rc)
{
	printf("%s %s\n", what, rc ? errno_name(rc) : "0");
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void *area(size_t length, int how, int file)
{
	void *at = mmap(NULL, length, PROT_READ | PROT_WRITE, how, file, 0);

	NEED(at != MAP_FAILED);
	return at;
}

static void maps(void)
{
	uint32_t ioas = new_ioas(fd);
	int file = memfd_create("file", MFD_CLOEXEC), access = -1;
	char *private = area(PAGE, MAP_PRIVATE | MAP_ANONYMOUS, -1), *buffer = area(MIB, MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct mock mock;

	NEED(ftruncate(file, PAGE) == 0);
	say("device", mock_domain(fd, ioas, &mock));
	say("MAP_FILE", map_file_at(fd, ioas, file, 0, PAGE, BASE));
	say("MAP shared", map_at(fd, ioas, (uintptr_t)area(PAGE, MAP_SHARED | MAP_ANONYMOUS, -1), PAGE, BASE + PAGE));
	say("MAP private", map_at(fd, ioas, (uintptr_t)private, PAGE, BASE + 2 * PAGE));
	say("MAP large", map_at(fd, ioas, (uintptr_t)buffer, MIB, BASE + MIB));
	say("CREATE_ACCESS", create_access(fd, ioas, 0, &access));
	if (access >= 0) {
		memset(buffer, 7, MIB);
		say("read", access_rw(fd, access, BASE + MIB, PAGE, private, 0));
		printf("%d bytes\n", private[PAGE - 1] == 7 ? 7 : 0);
		say("write", access_rw(fd, access, BASE + 2 * PAGE, PAGE, buffer, WRITE));
		say("check", check_map(fd, mock.hwpt, BASE + 2 * PAGE, PAGE, private));
	}
}

static void *large(void *struct_)
{
	double begin = now();

	say("IOAS_ALLOC", call(fd, IOMMU_IOAS_ALLOC, struct_));
	fprintf(stderr, "%.0f ms\n", (now() - begin) * 1e3);
	return NULL;
}

static void larges(unsigned int count)
{
	uint64_t size = (uint64_t)count << 30;
	uint32_t *at = area(size, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	pthread_t threads[16];
	unsigned int i;

	*at = size > UINT32_MAX ? UINT32_MAX : size;
	for (i = 0; i < count; i++)
		NEED(pthread_create(threads + i, NULL, large, at) == 0);
	for (i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

static void ranges(uint32_t count)
{
	struct iommu_iova_range *at = area(count * sizeof(*at), MAP_PRIVATE | MAP_ANONYMOUS, -1);
	struct iommu_ioas_allow_iovas cmd = { .size = sizeof(cmd), .num_iovas = count, .allowed_iovas = (uintptr_t)at };
	uint32_t i, down;
	uint64_t iova;

	for (down = 0; down < 2; down++) {
		for (i = 0; i < count; i++) {
			at[down ? count - 1 - i : i].start = (i + 1) * 8 * PAGE;
			at[down ? count - 1 - i : i].last = (i + 1) * 8 * PAGE + PAGE - 1;
		}
		cmd.ioas_id = new_ioas(fd);
		say("ALLOW_IOVAS", call(fd, IOMMU_IOAS_ALLOW_IOVAS, &cmd));
		say("MAP", map_any(fd, cmd.ioas_id, (uintptr_t)at, PAGE, &iova));
		say("MAP of more", map_any(fd, cmd.ioas_id, (uintptr_t)at, 2 * PAGE, &iova));
	}
}

static void pieces(uint64_t count)
{
	int zero = open("/dev/zero", O_RDWR | O_CLOEXEC);
	uint32_t ioas = new_ioas(fd);
	uint64_t i, length = count * PAGE, iova;
	double begin;
	char *at;
	int anonymous;

	new_mock(fd, ioas);
	for (anonymous = 0; anonymous < 2; anonymous++) {
		at = area(length, anonymous ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_PRIVATE, anonymous ? -1 : zero);
		for (i = 0; i < count; i += 2)
			NEED(mprotect(at + i * PAGE, PAGE, PROT_READ) == 0);
		begin = now();
		iova = BASE;
		say("MAP", map_flags(fd, ioas, FIXED | R, (uintptr_t)at, length, &iova));
		fprintf(stderr, "%.0f ms\n", (now() - begin) * 1e3);
		say("UNMAP", unmap_at(fd, ioas, BASE, length));
		NEED(munmap(at, length) == 0);
	}
}

static void calls(int milliseconds)
{
	double end = now() + milliseconds / 1e3, begin, longest = 0;
	uint32_t ioas;

	while ((begin = now()) < end) {
		NEED(ioas_alloc(fd, &ioas) == 0 && destroy(fd, ioas) == 0);
		if (now() - begin > longest)
			longest = now() - begin;
		usleep(500);
	}
	printf("%.0f\n", longest * 1e6);
}

int main(int count, char **arguments)
{
	const char *what = count > 1 ? arguments[1] : "";
	long number = count > 2 ? atol(arguments[2]) : 0;

	fd = open_iommu();
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!strcmp(what, "large")) {
		larges(number);
	} else if (!strcmp(what, "ranges")) {
		ranges(number);
	} else if (!strcmp(what, "pieces")) {
		pieces(number);
	} else if (!strcmp(what, "calls")) {
		calls(number);
	} else {
		if (!strcmp(what, "closed"))
			maps();
		if (strcmp(what, "few"))
			NEED(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) == 0);
		maps();
	}
	return 0;
}
