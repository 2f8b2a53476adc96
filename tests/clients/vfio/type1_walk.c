// SPDX-License-Identifier: MIT
/*
 * A random walk over what VFIO's own container does: mappings of both versions, made, cut, overlapped,
 * unmapped by halves and as a whole, told new addresses, with and without dirty bitmaps, while groups
 * and devices come and go. All answers, all bitmaps, and what devices reach go into one checksum.
 *
 *     type1_walk FIRST SECOND ALONE SEED STEPS [trace]       addresses, as of groups.c
 */
#include "type1.h"
#include "walk.h"

#define PAGES 48 /* of memory; the process may pin fewer at a time */
#define PINNED 40
#define WORDS 8

static const char *addresses[3];
static int groups[2] = { -1, -1 }, container = -1, device = -1;
static char *memory, *source;
static uint64_t *words;

/* Where mappings go: mostly close together, sometimes where they cannot be. */
static uint64_t some_iova(void)
{
	switch (below(16)) {
	case 0:
		return 0xfee00000UL - PAGE * below(4);
	case 1:
		return 0xfef00000UL - PAGE * below(4);
	case 2:
		return -PAGE * (1 + below(4));
	case 3:
		return MIB + PAGE * below(64) + below(PAGE);
	default:
		return MIB + PAGE * below(64);
	}
}

static uint64_t some_size(void)
{
	switch (below(16)) {
	case 0:
		return below(2 * PAGE);
	case 1:
		return PAGE * (1 + below(64));
	case 2:
		return -PAGE * below(3);
	default:
		return PAGE * (1 + below(6));
	}
}

static char *some_memory(void)
{
	return below(24) ? memory + PAGE * below(PAGES) + (below(32) ? 0 : below(PAGE)) : NULL;
}

static void step_map(void)
{
	static const uint32_t flags[] = { VFIO_DMA_MAP_FLAG_READ, VFIO_DMA_MAP_FLAG_WRITE, 0, 8 };
	uint64_t iova = some_iova(), size = some_size();
	uint32_t with = below(5) ? BOTH : flags[below(ARRAY_LEN(flags))];
	char *from = some_memory();

	TELL("map %#lx+%#lx %u", iova, size, with);
	answer(map_as(container, from, iova, size, with));
}

static void step_unmap(void)
{
	uint64_t iova = some_iova(), size = some_size(), left;
	uint32_t with = below(12) ? 0 : VFIO_DMA_UNMAP_FLAG_ALL;

	if (with && below(4))
		iova = size = 0;
	TELL("unmap %#lx+%#lx %u", iova, size, with);
	answer(unmap_as(container, iova, size, with, &left));
	note(left);
}

static void step_address(void)
{
	uint64_t iova = some_iova(), size = some_size(), left;
	uint32_t with = VFIO_DMA_UNMAP_FLAG_VADDR;

	if (below(2)) {
		TELL("address of %#lx+%#lx", iova, size);
		answer(map_as(container, memory, iova, size, VFIO_DMA_MAP_FLAG_VADDR | (below(16) ? 0 : BOTH)));
		return;
	}
	if (!below(3)) {
		with |= VFIO_DMA_UNMAP_FLAG_ALL;
		iova = size = 0;
	}
	TELL("%#lx+%#lx waits", iova, size);
	answer(unmap_as(container, iova, size, with, &left));
	note(left);
}

/* Every mapping that waits gets its address, so that groups can come again. */
static void revive_all(void)
{
	uint64_t page, pages;

	for (page = 0; page < 64; page++)
		for (pages = 1; pages <= 64; pages++)
			if (map_as(container, memory, MIB + PAGE * page, PAGE * pages, VFIO_DMA_MAP_FLAG_VADDR) == -ENOENT)
				break;
}

static void note_words(void)
{
	unsigned int i;

	for (i = 0; i < WORDS; i++) {
		TELL(" %016llx", (unsigned long long)words[i]);
		note(words[i]);
	}
}

static void step_dirty(void)
{
	uint64_t iova = some_iova(), size = some_size(), room = below(8) ? 8 * WORDS : below(8 * WORDS), i;
	uint64_t page = below(16) ? PAGE : PAGE << below(3);

	if (below(2)) {
		iova = MIB - PAGE * below(70);
		size = PAGE * (128 + below(128));
	}
	for (i = 0; i < WORDS; i++)
		words[i] = below(2) ? draw() : 0;
	switch (below(8)) {
	case 0:
		TELL("start");
		answer(start_tracking(container));
		break;
	case 1:
		TELL("stop");
		if (below(3) == 0)
			answer(stop_tracking(container));
		break;
	case 2:
		TELL("flags");
		answer(dirty(container, 4 + below(8), below(9)));
		break;
	case 3:
		TELL("unmap dirty %#lx+%#lx", iova, size);
		answer(unmap_dirty(container, iova, size, page, room, words));
		note_words();
		break;
	default:
		TELL("dirty %#lx+%#lx", iova, size);
		answer(get_dirty(container, iova, size, page, room, words));
		note_words();
	}
}

static void open_group(int which)
{
	groups[which] = open(group_of(addresses[2 * which]), O_RDWR | O_CLOEXEC);
	answer(groups[which] < 0 ? -errno : 0);
}

static void step_group(int which)
{
	TELL("group %d", which);
	if (groups[which] < 0) {
		open_group(which);
		return;
	}
	switch (below(8)) {
	case 0:
		TELL(" unset");
		answer(unset_container(groups[which]));
		break;
	case 1:
		TELL(" close");
		close(groups[which]);
		groups[which] = -1;
		break;
	case 2:
		TELL(" status");
		answer(group_status(groups[which]));
		break;
	default:
		TELL(" set");
		answer(set_container(groups[which], container));
	}
}

static void step_container(void)
{
	switch (below(8)) {
	case 0:
		if (below(4))
			break;
		TELL("new container");
		close(container);
		container = open_container();
		break;
	case 1:
		TELL("type1");
		answer(set_iommu(container, V1));
		break;
	case 2:
	case 3:
		TELL("type1v2");
		answer(set_iommu(container, V2));
		break;
	case 4: {
		unsigned long extension = below(12);
		long rc = call(container, VFIO_CHECK_EXTENSION, (void *)extension);

		TELL("extension %lu", extension);
		answer(extension == VFIO_DMA_CC_IOMMU ? 0 : rc); /* that is the IOMMU's own affair */
		break;
	}
	default:
		TELL("available");
		answer(available(container));
	}
}

static void step_device(void)
{
	int which = (int)below(2);

	if (device >= 0 && below(3) == 0) {
		TELL("close device");
		close(device);
		device = -1;
		return;
	}
	if (device < 0 && groups[which] >= 0) {
		TELL("take device of group %d", which);
		answer(take_device(groups[which], addresses[2 * which], &device));
	}
}

/* Groups that are there, and a driver. */
static void set_up(void)
{
	unsigned int which, first = below(2);

	if (available(container) >= 0 || below(8) == 0)
		return;
	TELL("set up");
	for (which = 0; which < 2; which++) {
		if (groups[which] < 0)
			open_group((int)which);
		if (groups[which] >= 0 && (which == first || below(2)))
			answer(set_container(groups[which], container));
	}
	answer(set_iommu(container, below(3) ? V2 : V1));
}

/* Which memory is behind an IOVA. */
static void step_dma(void)
{
	uint64_t iova = MIB + PAGE * below(64), page;

	if (device < 0)
		return;
	TELL("write to %#lx", iova);
	map_dma(container, source, 128 * MIB, PAGE);
	memcpy(source, "walk", 4);
	for (page = 0; page < PAGES; page++)
		memset(memory + PAGE * page, 0, 4);
	enable(device, true);
	edu_dma(device, 128 * MIB, EDU_BUFFER, 4, 0);
	edu_dma(device, EDU_BUFFER, iova, 4, EDU_TO_MEMORY);
	enable(device, false);
	for (page = 0; page < PAGES; page++)
		if (memory[PAGE * page]) {
			TELL(" is %lu", page);
			note(page);
		}
	answer(taken_out(container, 128 * MIB, PAGE));
}

int main(int argc, char **argv)
{
	struct rlimit limit = { PINNED * PAGE, PINNED * PAGE };
	uint64_t seed, count, i;
	int which;

	setvbuf(stdout, NULL, _IOLBF, 0);
	NEED(argc > 5);
	for (which = 0; which < 3; which++)
		addresses[which] = argv[1 + which];
	seed = strtoull(argv[4], NULL, 0);
	count = strtoull(argv[5], NULL, 0);
	trace = argc > 6;
	state = seed;
	memory = shared_pages(PAGES);
	source = shared_pages(1);
	words = (uint64_t *)shared_pages(1);
	container = open_container();
	NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
	if (have_capability(CAP_IPC_LOCK))
		drop_capability(CAP_IPC_LOCK);
	for (i = 0; i < count; i++) {
		TELL("%llu ", (unsigned long long)i);
		if (i % 16 == 0)
			set_up();
		switch (below(32)) {
		case 0:
			step_group((int)below(2));
			break;
		case 1:
			step_container();
			break;
		case 2:
		case 3:
			step_device();
			break;
		case 4:
			if (below(4) == 0)
				step_dma(); /* takes 200 ms */
			break;
		case 6:
			if (below(4) == 0)
				revive_all();
			break;
		case 7:
			step_address();
			break;
		case 8:
		case 9:
		case 10:
		case 11:
		case 12:
		case 13:
			step_dirty();
			break;
		case 14:
		case 15:
		case 16:
		case 17:
		case 18:
			step_unmap();
			break;
		default:
			step_map();
		}
		TELL(" [%016llx]\n", (unsigned long long)sum);
	}
	printf("seed %llu, %llu steps: %016llx\n", (unsigned long long)seed, (unsigned long long)count,
	       (unsigned long long)sum);
	return 0;
}
