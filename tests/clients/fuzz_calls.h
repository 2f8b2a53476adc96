/* SPDX-License-Identifier: MIT */
/*
 * Random ioctls. A call is a number, a struct half valid, and a place for it: mostly good memory,
 * sometimes none. How much is drawn does not depend on any answer; of the answers only what was
 * mapped is remembered, so one thread alone always makes the same calls.
 */
#ifndef FUZZ_CALLS_H
#define FUZZ_CALLS_H

#include "fuzz_answers.h"

#define FILES 5
#define REMEMBERED 8

/* Good pages, one that cannot be touched, and the same good pages again, to be read only. */
struct arena {
	char *pages;
	char *readable;
};

struct player {
	uint64_t random;
	struct arena arena;
	struct arena arrays;
	int files[FILES];
	/* Only the commands that need no device: what is right does not depend on where. */
	bool areas_only;
	/* Areas once mapped, which may be gone or another file's. */
	struct area {
		uint32_t ioas;
		uint64_t iova, length;
	} areas[REMEMBERED];
};

struct random_call {
	unsigned int row;
	unsigned int number;
	const void *arg;
	/* The struct as the caller can see it, or NULL; what to remember of it afterwards. */
	void *body;
};

/* splitmix64 */
static inline uint64_t draw(struct player *p)
{
	uint64_t z = p->random += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

static inline uint64_t below(struct player *p, uint64_t limit)
{
	return draw(p) % limit;
}

static inline bool one_in(struct player *p, uint64_t n)
{
	return below(p, n) == 0;
}

#define ARENA_PAGES 2

/*
 * Behind either sight of the pages nothing can be read, whatever else the loader and libc have
 * mapped where: a struct may say that it is larger than it is, and what is behind it decides
 * between E2BIG and EFAULT.
 */
static inline void arena_init(struct arena *arena)
{
	const size_t size = ARENA_PAGES * PAGE, slot = size + PAGE;
	int memfd = memfd_create("arena", MFD_CLOEXEC);
	char *room = mmap(NULL, 2 * slot, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	NEED(memfd >= 0 && ftruncate(memfd, size) == 0 && room != MAP_FAILED);
	arena->pages = mmap(room, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, memfd, 0);
	arena->readable = mmap(room + slot, size, PROT_READ, MAP_SHARED | MAP_FIXED, memfd, 0);
	NEED(arena->pages != MAP_FAILED && arena->readable != MAP_FAILED);
	NEED(close(memfd) == 0);
}

/* Puts data into the arena, and says where the call shall look for it. *body: where it is. */
static inline const void *place(struct player *p, struct arena *arena, const void *data,
				size_t size, void **body)
{
	uint64_t kind = below(p, 40), offset = draw(p);
	char *at = arena->pages;

	memset(arena->pages, 0, ARENA_PAGES * PAGE);
	if (kind < 4)
		at += ARENA_PAGES * PAGE - size;
	else if (kind < 6)
		at += PAGE - size + offset % size;
	else if (kind < 8)
		at += offset % (PAGE - size);
	memcpy(at, data, size);
	*body = at;
	switch (kind) {
	case 34:
		return NULL;
	case 35:
		return arena->pages + ARENA_PAGES * PAGE + offset % PAGE;
	case 36:
		return (void *)(0xffff888000000000 + offset % (1UL << 40));
	case 37:
		return arena->readable + (at - arena->pages);
	case 38:
		return (void *)offset;
	case 39:
		at = arena->pages + ARENA_PAGES * PAGE - 1 - offset % (size - 1);
		memcpy(at, data, arena->pages + ARENA_PAGES * PAGE - at);
		*body = NULL;
		return at;
	default:
		return at;
	}
}

static inline uint64_t length(struct player *p)
{
	uint64_t kind = below(p, 16), random = draw(p);

	if (kind < 10)
		return (1 + random % 8) * PAGE;
	if (kind < 12)
		return random % (3 * PAGE);
	if (kind < 13)
		return U64_MAX - random % (2 * PAGE);
	if (kind < 14)
		return U64_MAX >> random % 64;
	return kind < 15 ? random : MIB << random % 24;
}

static inline uint64_t iova(struct player *p)
{
	uint64_t kind = below(p, 16), random = draw(p);

	if (kind < 6)
		return p->areas[random % REMEMBERED].iova;
	if (kind < 12)
		return random % 64 * PAGE;
	if (kind < 13)
		return random % (64 * PAGE);
	if (kind < 14)
		return U64_MAX - random % (4 * PAGE);
	return kind < 15 ? random : 0;
}

static inline uint32_t id(struct player *p)
{
	uint64_t kind = below(p, 32), random = draw(p);

	if (kind < 8)
		return p->areas[random % REMEMBERED].ioas;
	if (kind < 29)
		return 1 + random % 3;
	return kind < 31 ? random % 16 : (uint32_t)random;
}

static inline uint32_t map_flag_bits(struct player *p)
{
	uint32_t random = (uint32_t)draw(p);

	/* Bit 16 has a meaning of its own on a kernel built for its selftest. */
	if (one_in(p, 20))
		return random & ~(1U << 16);
	return (random & FIXED) | (one_in(p, 20) ? random & RW : random & W ? RW : R);
}

static inline uint32_t reserved(struct player *p)
{
	uint32_t random = (uint32_t)draw(p);

	return one_in(p, 40) ? random : 0;
}

/* A list of ranges in the second arena, some good, some not. */
static inline uint64_t ranges(struct player *p)
{
	struct iommu_iova_range list[8];
	uint64_t start = PAGE;
	unsigned int i;
	void *body;

	for (i = 0; i < ARRAY_LEN(list); i++) {
		start += below(p, 64) * PAGE;
		list[i].start = start;
		start += below(p, 64 * PAGE);
		list[i].last = start++;
		if (one_in(p, 40))
			list[i].last = draw(p);
	}
	return (uintptr_t)place(p, &p->arrays, list, sizeof(list), &body);
}

union body {
	uint32_t size;
	char bytes[LARGEST + 64];
	struct iommu_destroy destroy;
	struct iommu_ioas_alloc alloc;
	struct iommu_ioas_allow_iovas allow;
	struct iommu_ioas_copy copy;
	struct iommu_ioas_iova_ranges ranges;
	struct iommu_ioas_map map;
	struct iommu_ioas_map_file file;
	struct iommu_ioas_unmap unmap;
	struct iommu_option option;
};

/* An area for COPY and UNMAP: one remembered, or anything. */
static inline struct area some_area(struct player *p)
{
	struct area random = { id(p), iova(p), length(p) }, known = p->areas[below(p, REMEMBERED)];

	return one_in(p, 3) ? random : known;
}

static inline void fill(struct player *p, unsigned int number, union body *b)
{
	struct area area = some_area(p);
	unsigned int i;

	switch (number) {
	case IOMMU_DESTROY:
		b->destroy.id = id(p);
		break;
	case IOMMU_IOAS_ALLOC:
		b->alloc.flags = reserved(p);
		break;
	case IOMMU_IOAS_ALLOW_IOVAS:
		b->allow = (struct iommu_ioas_allow_iovas){ 0, id(p), below(p, 10), reserved(p),
							    ranges(p) };
		break;
	case IOMMU_IOAS_COPY:
		b->copy = (struct iommu_ioas_copy){ 0, map_flag_bits(p), id(p), area.ioas,
						    area.length, iova(p), area.iova };
		break;
	case IOMMU_IOAS_IOVA_RANGES:
		b->ranges = (struct iommu_ioas_iova_ranges){ 0, id(p), below(p, 4), reserved(p),
							     ranges(p), draw(p) };
		break;
	case IOMMU_IOAS_MAP:
		b->map = (struct iommu_ioas_map){ 0, map_flag_bits(p), id(p), reserved(p),
						  iova(p) + (one_in(p, 8) ? draw(p) : PAGE),
						  length(p), iova(p) };
		break;
	case IOMMU_IOAS_MAP_FILE:
		b->file = (struct iommu_ioas_map_file){ 0, map_flag_bits(p), id(p),
							p->files[below(p, FILES)],
							iova(p), length(p), iova(p) };
		break;
	case IOMMU_IOAS_UNMAP:
		b->unmap = (struct iommu_ioas_unmap){ 0, area.ioas, area.iova, area.length };
		break;
	case IOMMU_OPTION:
		b->option = (struct iommu_option){ 0, below(p, 3), below(p, 3), reserved(p),
						   id(p) * below(p, 2), below(p, 3) };
		break;
	default:
		for (i = 0; i < sizeof(b->bytes); i++)
			b->bytes[i] = one_in(p, 4) ? (char)draw(p) : 0;
	}
}

/* A number that is not in the table: beyond it, or of another type, direction or size. */
static inline unsigned int wrong_number(struct player *p)
{
	unsigned int nr = (unsigned int)below(p, 256), bits = (unsigned int)draw(p);
	unsigned int command = 0x80 + nr % COMMANDS;

	switch (p->areas_only ? 0 : below(p, 4)) {
	case 0:
		/* VFIO's numbers and the selftest's mean something on some kernels. */
		if ((nr >= 100 && nr < 123) || (nr >= 0x80 && nr <= 0xa0))
			nr = 0xff;
		return _IO(';', nr);
	case 1:
		return _IOC(1 + bits % 3, ';', command, bits >> 16 & 0x3f);
	case 2:
		return _IOC(0, ';', command, 1 + (bits & 0xff));
	default:
		return _IOC(bits % 4, ';' + 1 + bits % 200, command, bits >> 16 & 0x3f);
	}
}

static inline struct random_call random_call(struct player *p)
{
	/* MAP, UNMAP and COPY more often: they make what the others stumble over. */
	static const unsigned char often[] = { 5, 5, 5, 5, 6, 6, 3, 3, 3, 15, 1 };
	struct random_call c = { .row = ROW_OTHER };
	uint64_t kind = below(p, 100), random = draw(p);
	union body b;
	size_t size;

	memset(&b, 0, sizeof(b));
	if (kind < 50)
		c.row = often[random % sizeof(often)];
	else if (kind < 90)
		c.row = random % 8;
	else if (kind < 95)
		c.row = p->areas_only ? 15 : random % COMMANDS;
	if (c.row == ROW_OTHER) {
		c.number = wrong_number(p);
		size = 16;
	} else {
		c.number = commands[c.row].number;
		size = commands[c.row].size;
	}
	fill(p, c.number, &b);
	b.size = (uint32_t)size;
	random = draw(p);
	switch (below(p, 30)) {
	case 0:
		b.size = (uint32_t)(random % (size + 24));
		break;
	case 1:
		b.size = (uint32_t)random;
		break;
	case 2:
		size += 8 * (1 + random % 3);
		b.size = (uint32_t)size;
		memset(b.bytes + size - 8, random >> 32 & 1, 8);
	}
	c.arg = place(p, &p->arena, &b, size, &c.body);
	return c;
}

/* What the command puts into its struct, or what was there before; 0 where nothing can be seen. */
static inline struct area outcome(const struct random_call *c)
{
	struct area none = { 0 };
	union body b;

	if (!c->body || c->row >= COMMANDS)
		return none;
	memcpy(&b, c->body, commands[c->row].size);
	switch (c->number) {
	case IOMMU_IOAS_ALLOC:
		return (struct area){ b.alloc.out_ioas_id, 0, 0 };
	case IOMMU_IOAS_IOVA_RANGES:
		return (struct area){ b.ranges.num_iovas, b.ranges.out_iova_alignment, 0 };
	case IOMMU_IOAS_MAP:
		return (struct area){ b.map.ioas_id, b.map.iova, b.map.length };
	case IOMMU_IOAS_MAP_FILE:
		return (struct area){ b.file.ioas_id, b.file.iova, b.file.length };
	case IOMMU_IOAS_COPY:
		return (struct area){ b.copy.dst_ioas_id, b.copy.dst_iova, b.copy.length };
	case IOMMU_IOAS_UNMAP:
		return (struct area){ b.unmap.ioas_id, b.unmap.iova, b.unmap.length };
	case IOMMU_OPTION:
		return (struct area){ b.option.object_id, b.option.val64, 0 };
	default:
		return none;
	}
}

static inline void remember(struct player *p, const struct random_call *c, struct area area)
{
	struct area *slot = &p->areas[draw(p) % REMEMBERED];

	if (c->body && (c->number == IOMMU_IOAS_MAP || c->number == IOMMU_IOAS_MAP_FILE ||
			c->number == IOMMU_IOAS_COPY))
		*slot = area;
}

#endif
