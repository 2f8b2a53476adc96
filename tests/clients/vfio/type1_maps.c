// SPDX-License-Identifier: MIT
/*
 * What VFIO's own container maps: GET_INFO, MAP_DMA, UNMAP_DMA and DIRTY_PAGES, of both versions.
 *
 *     type1_maps FIRST SECOND ALONE       addresses of edus: two in one group, and one in another
 */
#include "type1.h"

#define SIZES (sizeof(struct vfio_iommu_type1_info) + 32 + 16 + 16 + 2 * 16)
#define MSI 0xfee00000UL

static const char *first, *alone;
static int group, container;
static char *memory;

static void fresh(unsigned long kind)
{
	if (group >= 0) {
		close(container);
		close(group);
	}
	group = open_to(group_of(first));
	container = new_type1(group, kind);
}

static void info_of(uint32_t argsz)
{
	union info info;
	struct vfio_info_cap_header *header;
	uint32_t at;

	SAY(get_info(container, argsz, &info), "GET_INFO, argsz %u", argsz);
	SAY(info.head.argsz, "argsz");
	SAY(info.head.flags, "flags");
	if (info.head.flags != 0x5a5a5a5a)
		SAY(info.head.iova_pgsizes & -info.head.iova_pgsizes, "smallest page");
	SAY(info.head.cap_offset, "cap_offset");
	SAY(info.head.pad, "pad");
	if (info.head.cap_offset != sizeof(info.head))
		return;
	for (at = info.head.cap_offset; at; at = header->next) {
		header = (void *)(info.room + at);
		printf("at %u: capability %u, version %u, next %u\n", at, header->id, header->version, header->next);
		if (header->id == VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION) {
			struct vfio_iommu_type1_info_cap_migration *found = (void *)header;

			printf("flags %u, page %#llx, bitmap %#llx\n", found->flags,
			       (unsigned long long)found->pgsize_bitmap, (unsigned long long)found->max_dirty_bitmap_size);
		} else if (header->id == VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL) {
			printf("available %u, then %#x\n", ((struct vfio_iommu_type1_info_dma_avail *)header)->avail,
			       ((uint32_t *)header)[3]);
		} else {
			struct vfio_iommu_type1_info_cap_iova_range *found = (void *)header;

			printf("ranges %u, %u: %#llx to %#llx, %#llx to beyond 4 GiB: %d\n", found->nr_iovas, found->reserved,
			       (unsigned long long)found->iova_ranges[0].start,
			       (unsigned long long)found->iova_ranges[0].end,
			       (unsigned long long)found->iova_ranges[1].start,
			       found->iova_ranges[1].end >= 1ULL << 32);
		}
	}
	SAY(info.room[SIZES], "what is behind all that");
}

static void what_there_is(void)
{
	char *page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static const uint32_t sizes[] = { 0, 15, 16, 20, 24, 56, SIZES - 1, SIZES, SIZES + 1, 1000 };
	unsigned int i;

	heading("GET_INFO");
	NEED(page != MAP_FAILED);
	fresh(V2);
	for (i = 0; i < ARRAY_LEN(sizes); i++)
		info_of(sizes[i]);
	NEED(map_dma(container, memory, 0, PAGE) == 0);
	info_of(1000);
	((struct vfio_iommu_type1_info *)page)->argsz = 1000;
	NEED(mprotect(page, PAGE, PROT_READ) == 0);
	SAY(call(container, VFIO_IOMMU_GET_INFO, page), "that cannot be written");
	NEED(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0 && munmap(page + PAGE, PAGE) == 0);
	memset(page, 0, PAGE);
	((struct vfio_iommu_type1_info *)(page + PAGE - 24))->argsz = 1000;
	SAY(call(container, VFIO_IOMMU_GET_INFO, page + PAGE - 24), "without room for the capabilities");
	SAY(((struct vfio_iommu_type1_info *)(page + PAGE - 24))->flags, "flags");
	((struct vfio_iommu_type1_info *)(page + PAGE - 16))->argsz = 16;
	SAY(call(container, VFIO_IOMMU_GET_INFO, page + PAGE - 16), "16 bytes at the end of memory");
	SAY(call(container, VFIO_IOMMU_GET_INFO, page + PAGE - 8), "8 bytes at the end of memory");
	munmap(page, PAGE);
}

static void maps_refused(void)
{
	struct vfio_iommu_type1_dma_map cmd = { .argsz = 31, .vaddr = (uintptr_t)memory, .size = PAGE, .flags = BOTH };
	char *read_only_page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *hole;
	uint64_t end = 0;
	union info info;
	struct vfio_iommu_type1_info_cap_iova_range *ranges;

	heading("MAP_DMA: what is refused");
	fresh(V2);
	NEED(get_info(container, 1000, &info) == 0);
	ranges = (void *)capability_of(&info, VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE);
	NEED(ranges);
	end = ranges->iova_ranges[ranges->nr_iovas - 1].end + 1;
	SAY(call(container, VFIO_IOMMU_MAP_DMA, &cmd), "argsz 31");
	cmd.argsz = 1000;
	SAY(call(container, VFIO_IOMMU_MAP_DMA, &cmd), "argsz 1000");
	SAY(map_as(container, memory, PAGE, PAGE, 0), "neither readable nor writeable");
	SAY(map_as(container, memory, PAGE, PAGE, 8 | BOTH), "unknown flags");
	SAY(map_as(container, memory, PAGE, 0, 8), "unknown flags and size 0");
	SAY(map_as(container, memory, PAGE, 0, BOTH), "size 0");
	SAY(map_as(container, memory, PAGE, 0, 0), "size 0 and no flags");
	SAY(map_as(container, memory, PAGE, PAGE, VFIO_DMA_MAP_FLAG_VADDR), "a new address, of nothing");
	SAY(map_as(container, memory, 0, PAGE, VFIO_DMA_MAP_FLAG_VADDR), "a new address, of what waits for none");
	SAY(map_as(container, memory, PAGE, PAGE, VFIO_DMA_MAP_FLAG_VADDR | BOTH), "a new address, with flags");
	SAY(map_as(container, memory, -PAGE, 2 * PAGE, BOTH), "IOVA beyond the end");
	SAY(map_as(container, memory, -PAGE, 2 * PAGE, 0), "IOVA beyond the end, no flags");
	SAY(map_as(container, (void *)-PAGE, PAGE, 2 * PAGE, BOTH), "address beyond the end");
	SAY(map_as(container, (void *)-PAGE, PAGE, PAGE, BOTH), "the last address");
	SAY(map_as(container, memory, -PAGE, PAGE, BOTH), "the last IOVA");
	SAY(map_as(container, memory + 1, PAGE, PAGE, BOTH), "address off the page");
	SAY(map_as(container, memory, PAGE + 1, PAGE, BOTH), "IOVA off the page");
	SAY(map_as(container, memory, PAGE, PAGE + 1, BOTH), "size off the page");
	SAY(map_as(container, memory, PAGE, 512, BOTH), "half a page");
	SAY(map_as(container, memory, 0, PAGE, BOTH), "what is there");
	SAY(map_as(container, NULL, 0, PAGE, BOTH), "what is there, of no memory");
	SAY(map_as(container, memory, MSI, PAGE, BOTH), "where interrupts are");
	SAY(map_as(container, memory, MSI - PAGE, 2 * PAGE, BOTH), "into where interrupts are");
	SAY(map_as(container, memory, MSI + MIB - PAGE, 2 * PAGE, BOTH), "from where interrupts are");
	SAY(map_as(container, memory, MSI - PAGE, PAGE, BOTH), "before it");
	SAY(map_as(container, memory, MSI + MIB, PAGE, BOTH), "after it");
	SAY(map_as(container, memory, end, PAGE, BOTH), "beyond what the IOMMU reaches");
	SAY(map_as(container, memory, end - PAGE, 2 * PAGE, BOTH), "into it");
	SAY(map_as(container, memory, end - PAGE, PAGE, BOTH), "before it");
	hole = shared_pages(4);
	NEED(munmap(hole + 2 * PAGE, PAGE) == 0);
	SAY(map_as(container, NULL, PAGE, PAGE, BOTH), "no memory");
	SAY(map_as(container, hole, PAGE, 4 * PAGE, BOTH), "memory with a hole");
	SAY(map_as(container, hole, PAGE, 2 * PAGE, BOTH), "memory up to the hole");
	SAY(map_as(container, read_only_page, 4 * PAGE, PAGE, BOTH), "memory that cannot be written");
	SAY(map_as(container, read_only_page, 4 * PAGE, PAGE, VFIO_DMA_MAP_FLAG_READ), "memory to be read");
	SAY(map_as(container, memory, 5 * PAGE, PAGE, VFIO_DMA_MAP_FLAG_WRITE), "memory to be written only");
	SAY(available(container), "mappings left");
	SAY(unmap_everything(container), "unmap all");
	SAY(available(container), "mappings left");
	munmap(hole, 4 * PAGE);
}

static void unmaps(unsigned long kind)
{
	struct vfio_iommu_type1_dma_unmap cmd = { .argsz = 23, .size = PAGE };
	uint64_t left;
	unsigned int i;

	heading(kind == V1 ? "UNMAP_DMA, type1" : "UNMAP_DMA, type1v2");
	fresh(kind);
	SAY(call(container, VFIO_IOMMU_UNMAP_DMA, &cmd), "argsz 23");
	SAY(unmap_as(container, 0, PAGE, 8, &left), "unknown flags");
	SAY(left, "size");
	SAY(unmap_as(container, 1, PAGE, 0, &left), "IOVA off the page");
	SAY(unmap_as(container, 0, PAGE + 1, 0, &left), "size off the page");
	SAY(unmap_as(container, 0, 0, 0, &left), "size 0");
	SAY(unmap_as(container, -PAGE, 2 * PAGE, 0, &left), "beyond the end");
	SAY(unmap_as(container, -PAGE, PAGE, 0, &left), "the last page");
	SAY(unmap_as(container, 0, -PAGE, 0, &left), "all but the last page");
	SAY(unmap_as(container, 0, 0, VFIO_DMA_UNMAP_FLAG_ALL, &left), "all of nothing");
	SAY(unmap_as(container, PAGE, 0, VFIO_DMA_UNMAP_FLAG_ALL, &left), "all from somewhere");
	SAY(unmap_as(container, 0, PAGE, VFIO_DMA_UNMAP_FLAG_ALL, &left), "all of a page");
	SAY(left, "size");
	SAY(taken_out(container, MIB, PAGE), "nothing");
	for (i = 0; i < 4; i++)
		NEED(map_dma(container, memory, MIB + i * 8 * PAGE, 4 * PAGE) == 0);
	SAY(available(container), "mappings left");
	SAY(taken_out(container, MIB + PAGE, PAGE), "the middle of one");
	SAY(taken_out(container, MIB + 3 * PAGE, 5 * PAGE), "the end of one, and a hole");
	SAY(taken_out(container, MIB + 3 * PAGE, 9 * PAGE), "the end of one, and the next");
	SAY(taken_out(container, MIB - PAGE, 2 * PAGE), "a hole, and the start of one");
	SAY(taken_out(container, MIB + 4 * PAGE, 4 * PAGE), "a hole");
	SAY(available(container), "mappings left");
	unmap_everything(container);
	for (i = 0; i < 4; i++)
		NEED(map_dma(container, memory, MIB + i * 8 * PAGE, 4 * PAGE) == 0);
	SAY(taken_out(container, MIB, 2 * PAGE), "the first half of one");
	SAY(taken_out(container, MIB, 8 * PAGE + PAGE), "one, and the start of the next");
	SAY(available(container), "mappings left");
	SAY(taken_out(container, MIB, 64 * PAGE), "all in a range");
	SAY(available(container), "mappings left");
	NEED(map_dma(container, memory, 0, 2 * PAGE) == 0);
	SAY(taken_out(container, PAGE, -2 * PAGE), "from the middle of one to the end");
	SAY(unmap_everything(container), "all");
	memset(&cmd, 0, sizeof(cmd));
	cmd.argsz = sizeof(cmd);
	cmd.size = PAGE;
	NEED(map_dma(container, memory, 0, PAGE) == 0);
	SAY(call(container, VFIO_IOMMU_UNMAP_DMA, read_only(&cmd, sizeof(cmd))), "where size cannot be told");
	SAY(available(container), "mappings left");
}

static void addresses_anew(unsigned long kind)
{
	char *other = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t left;
	int late = open_to(group_of(alone)), device;

	heading(kind == V1 ? "new addresses, type1" : "new addresses, type1v2");
	fresh(kind);
	NEED(map_dma(container, memory, MIB, 2 * PAGE) == 0);
	NEED(map_dma(container, memory, 2 * MIB, 2 * PAGE) == 0);
	SAY(unmap_as(container, MIB, 2 * PAGE, VFIO_DMA_UNMAP_FLAG_VADDR, &left), "one waits");
	SAY(available(container), "mappings left");
	SAY(unmap_as(container, MIB, 2 * PAGE, VFIO_DMA_UNMAP_FLAG_VADDR, &left), "again");
	SAY(left, "size");
	SAY(unmap_as(container, MIB, 2 * MIB, VFIO_DMA_UNMAP_FLAG_VADDR, &left), "both, of which one waits");
	SAY(set_container(late, container), "another group");
	SAY(map_as(container, other, 2 * MIB, 2 * PAGE, VFIO_DMA_MAP_FLAG_VADDR), "an address of the one that waits for none");
	SAY(map_as(container, other, MIB, PAGE, VFIO_DMA_MAP_FLAG_VADDR), "an address of a part");
	SAY(map_as(container, other, MIB + PAGE, PAGE, VFIO_DMA_MAP_FLAG_VADDR), "an address of the other part");
	SAY(map_as(container, other, MIB, 4 * PAGE, VFIO_DMA_MAP_FLAG_VADDR), "an address of more");
	SAY(map_as(container, other, MIB, 2 * PAGE, BOTH), "another mapping");
	SAY(map_as(container, other, 4 * MIB, PAGE, BOTH), "a mapping beside it");
	SAY(map_as(container, other, MIB, 2 * PAGE, VFIO_DMA_MAP_FLAG_VADDR), "an address");
	SAY(map_as(container, other, MIB, 2 * PAGE, VFIO_DMA_MAP_FLAG_VADDR), "again");
	SAY(unmap_as(container, 0, 0, VFIO_DMA_UNMAP_FLAG_VADDR | VFIO_DMA_UNMAP_FLAG_ALL, &left), "all wait");
	SAY(taken_out(container, 4 * MIB, PAGE), "unmap one of them");
	SAY(unmap_as(container, 0, 0, VFIO_DMA_UNMAP_FLAG_VADDR | VFIO_DMA_UNMAP_FLAG_ALL, &left), "all wait, again");
	SAY(set_container(late, container), "another group");
	IN_CHILD({
		SAY(map_as(container, other, MIB, 2 * PAGE, VFIO_DMA_MAP_FLAG_VADDR), "an address of a child's");
		SAY(map_as(container, NULL, 2 * MIB, 2 * PAGE, VFIO_DMA_MAP_FLAG_VADDR), "no memory of a child's");
	});
	SAY(unmap_as(container, 0, 0, VFIO_DMA_UNMAP_FLAG_VADDR | VFIO_DMA_UNMAP_FLAG_ALL, &left), "all wait");
	SAY(map_as(container, other, MIB, 2 * PAGE, VFIO_DMA_MAP_FLAG_VADDR), "an address of ours");
	SAY(map_as(container, other, 2 * MIB, 2 * PAGE, VFIO_DMA_MAP_FLAG_VADDR), "and of the other");
	SAY(set_container(late, container), "another group");
	NEED(take_device(group, first, &device) == 0);
	enable(device, true);
	memset(memory, 0, 8);
	memset(other, 0, 8);
	put(device, BAR0, EDU_LIVENESS, 4, 0x11111111);
	memcpy(memory, "abcd", 4);
	edu_dma(device, MIB, EDU_BUFFER, 4, 0);
	edu_dma(device, EDU_BUFFER, MIB + 4, 4, EDU_TO_MEMORY);
	SAY(memcmp(memory + 4, "abcd", 4), "devices reach the memory from before");
	SAY(other[4], "and not that of the new address");
	close(device);
	close(late);
	munmap(other, 4 * PAGE);
}

static void bits(const char *what, const uint64_t *words, unsigned int count)
{
	unsigned int i;

	printf("%s:", what);
	for (i = 0; i < count; i++)
		printf(" %016llx", (unsigned long long)words[i]);
	printf("\n");
}

static void dirty_pages(void)
{
	uint64_t *words = (uint64_t *)shared_pages(1);
	char *end = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint32_t flags;
	unsigned int i;

	heading("DIRTY_PAGES");
	NEED(end != MAP_FAILED && munmap(end + PAGE, PAGE) == 0);
	fresh(V1);
	SAY(start_tracking(container), "type1");
	SAY(call(container, VFIO_IOMMU_DIRTY_PAGES, NULL), "type1, of NULL");
	fresh(V2);
	for (flags = 0; flags < 9; flags++)
		SAY(dirty(container, 8, flags), "flags %u", flags);
	SAY(stop_tracking(container), "stop");
	SAY(dirty(container, 7, 1), "argsz 7");
	SAY(dirty(container, 0, 1), "argsz 0");
	NEED(map_dma(container, memory, 0, 3 * PAGE) == 0);
	NEED(map_dma(container, memory, 5 * PAGE, 2 * PAGE) == 0);
	NEED(map_dma(container, memory, 60 * PAGE, 70 * PAGE) == 0);
	NEED(map_dma(container, memory, 200 * PAGE, PAGE) == 0);
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 32, words), "without START");
	SAY(start_tracking(container), "start");
	SAY(start_tracking(container), "again");
	memset(words, 0xff, 64);
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 32, words), "all");
	bits("bits, over ones", words, 5);
	memset(words, 0, 64);
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 32, words), "again");
	bits("bits, over zeros", words, 5);
	memset(words, 0x55, 64);
	SAY(get_dirty(container, 3 * PAGE, 57 * PAGE, PAGE, 8, words), "from a hole to the start of one");
	bits("bits", words, 2);
	memset(words, 0x55, 64);
	SAY(get_dirty(container, 4 * PAGE, 130 * PAGE, PAGE, 24, words), "from a hole");
	bits("bits", words, 4);
	SAY(get_dirty(container, 3 * PAGE, 58 * PAGE, PAGE, 8, words), "cut at the end");
	SAY(get_dirty(container, PAGE, 59 * PAGE, PAGE, 8, words), "cut at the start");
	SAY(get_dirty(container, 5 * PAGE, PAGE, PAGE, 8, words), "half of one");
	SAY(get_dirty(container, 3 * PAGE, PAGE, PAGE, 8, words), "a hole");
	bits("bits", words, 2);
	for (i = 8; i < 50; i += 8)
		SAY(get_dirty_size(container, i, 0, 256 * PAGE, PAGE, 32, words), "argsz %u", i);
	SAY(get_dirty_size(container, 47, 0, 256 * PAGE, PAGE, 32, words), "argsz 47");
	SAY(get_dirty(container, 0, 0, PAGE, 32, words), "size 0");
	SAY(get_dirty(container, -PAGE, 2 * PAGE, PAGE, 32, words), "beyond the end");
	SAY(get_dirty(container, 0, 256 * PAGE, 2 * PAGE, 32, words), "a bit for two pages");
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE / 2, 64, words), "a bit for half a page");
	SAY(get_dirty(container, 0, 256 * PAGE, 0, 1 << 20, words), "a bit for nothing");
	SAY(get_dirty(container, 0, 256 * PAGE, 3 * PAGE, 32, words), "a bit for three pages");
	SAY(get_dirty(container, 1, 256 * PAGE, PAGE, 40, words), "IOVA off the page");
	SAY(get_dirty(container, 0, 256 * PAGE + 1, PAGE, 40, words), "size off the page");
	SAY(get_dirty(container, 0, PAGE - 1, PAGE, 40, words), "less than a page");
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 31, words), "a byte too few");
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 0, words), "no bytes");
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 33, words), "a byte more");
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 1 << 28, words), "256 MiB");
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, (1 << 28) + 1, words), "more than 256 MiB");
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 32, NULL), "at NULL");
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 32, (void *)-PAGE), "at the end of all");
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 32, (void *)(1UL << 63)), "in the kernel's half");
	SAY(get_dirty(container, 3 * PAGE, PAGE, PAGE, 8, NULL), "a hole at NULL");
	SAY(get_dirty(container, 0, 256 * PAGE, PAGE, 32, end + PAGE - 16), "at the end of memory");
	bits("bits", (uint64_t *)(end + PAGE - 16), 2);
	SAY(get_dirty(container, 0, -PAGE, PAGE, 1 << 28, words), "more than a bitmap can tell");
	SAY(map_dma(container, memory, 300 * PAGE, PAGE), "a mapping that comes later");
	memset(words, 0, 64);
	SAY(get_dirty(container, 256 * PAGE, 64 * PAGE, PAGE, 8, words), "is dirty");
	bits("bits", words, 2);
	heading("UNMAP_DMA with a bitmap");
	memset(words, 0, 64);
	SAY(unmap_dirty(container, 300 * PAGE, PAGE, PAGE, 7, words), "7 bytes");
	SAY(unmap_dirty(container, 300 * PAGE, PAGE, 2 * PAGE, 8, words), "a bit for two pages");
	SAY(unmap_dirty(container, 300 * PAGE, PAGE, PAGE, 8, NULL), "at NULL");
	SAY(unmap_dirty(container, 300 * PAGE, 0, PAGE, 8, words), "size 0");
	SAY(unmap_dirty(container, 300 * PAGE, PAGE, PAGE, 8, words), "one page");
	bits("bits", words, 2);
	memset(words, 0x55, 64);
	SAY(unmap_dirty(container, 3 * PAGE, 130 * PAGE, PAGE, 24, words), "two mappings");
	bits("bits", words, 4);
	SAY(unmap_dirty(container, PAGE, 2 * PAGE, PAGE, 8, words), "half of one");
	SAY(unmap_dirty(container, 3 * PAGE, PAGE, PAGE, 8, NULL), "a hole");
	SAY(available(container), "mappings left");
	SAY(stop_tracking(container), "stop");
	SAY(stop_tracking(container), "again");
	SAY(unmap_dirty(container, 0, 3 * PAGE, PAGE, 8, words), "when it has stopped");
	SAY(get_dirty(container, 0, 3 * PAGE, PAGE, 8, words), "GET_BITMAP");
	{
		struct vfio_iommu_type1_dma_unmap cmd = { .argsz = sizeof(cmd), .size = 3 * PAGE };
		static const uint32_t with[] = { 1, 1 | 2, 1 | 4, 1 | 2 | 4, 1 | 8 };

		for (i = 0; i < ARRAY_LEN(with); i++) {
			cmd.flags = with[i];
			SAY(call(container, VFIO_IOMMU_UNMAP_DMA, &cmd), "flags %u without room for the bitmap", with[i]);
		}
	}
	SAY(start_tracking(container), "start anew");
	NEED(unset_container(group) == 0 && set_container(group, container) == 0 && set_iommu(container, V2) == 0);
	SAY(get_dirty(container, 0, 3 * PAGE, PAGE, 8, words), "with a new driver");
	munmap(end, PAGE);
	munmap(words, PAGE);
}

/* Of one process that may have 8 pages, none of them locked. */
static void locked_memory(void)
{
	struct rlimit limit = { 8 * PAGE, 8 * PAGE };
	char *pages = shared_pages(32), *holes = shared_pages(32);
	uint64_t left;

	heading("RLIMIT_MEMLOCK");
	fresh(V2);
	NEED(munmap(holes + 12 * PAGE, PAGE) == 0);
	NEED(munmap(holes + 4 * PAGE, PAGE) == 0);
	IN_CHILD({
		NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
		SAY(map_dma(container, pages, 0, 9 * PAGE), "9 pages, with CAP_IPC_LOCK");
		NEED(taken_out(container, 0, 9 * PAGE) == (long)(9 * PAGE));
		drop_capability(CAP_IPC_LOCK);
		SAY(map_dma(container, pages, 0, 9 * PAGE), "9 pages, without");
		SAY(available(container), "mappings left");
		SAY(map_dma(container, pages, 0, 8 * PAGE), "8 pages");
		SAY(map_dma(container, pages, MIB, PAGE), "the same again");
		SAY(taken_out(container, 0, 8 * PAGE), "unmap");
		SAY(map_dma(container, pages, 0, 4 * PAGE), "4 pages");
		SAY(map_dma(container, pages, MIB, 4 * PAGE), "the same again");
		SAY(map_dma(container, pages, 2 * MIB, PAGE), "and again");
		SAY(taken_out(container, MIB, 4 * PAGE), "unmap");
		SAY(map_dma(container, holes + 5 * PAGE, MIB, 9 * PAGE), "7 pages, and a hole");
		SAY(map_dma(container, holes, MIB, 9 * PAGE), "4 pages, and a hole");
		SAY(map_dma(container, holes + PAGE, MIB, 9 * PAGE), "3 pages, and a hole");
		SAY(unmap_as(container, 0, 0, VFIO_DMA_UNMAP_FLAG_VADDR | VFIO_DMA_UNMAP_FLAG_ALL, &left), "all wait for an address");
		SAY(map_dma(container, pages, MIB, 4 * PAGE), "4 pages");
		IN_CHILD({
			limit.rlim_cur = 3 * PAGE;
			NEED(setrlimit(RLIMIT_MEMLOCK, &limit) == 0);
			SAY(map_as(container, pages, 0, 4 * PAGE, VFIO_DMA_MAP_FLAG_VADDR), "a child that may have 3 pages takes 4");
		});
		SAY(map_dma(container, pages, 2 * MIB, PAGE), "one page more");
		IN_CHILD(SAY(map_as(container, pages, 0, 4 * PAGE, VFIO_DMA_MAP_FLAG_VADDR), "a child takes them"));
		SAY(map_dma(container, pages, 2 * MIB, 4 * PAGE), "so 4 pages more");
		SAY(map_dma(container, pages, 3 * MIB, PAGE), "and one more");
		SAY(taken_out(container, 2 * MIB, 4 * PAGE), "unmap");
		SAY(told(mlock(memory, 3 * PAGE)), "mlock of 3 pages");
		SAY(map_dma(container, pages, 2 * MIB, 2 * PAGE), "2 pages");
		SAY(map_dma(container, pages, 2 * MIB, PAGE), "1 page");
	});
	SAY(available(container), "when the child is dead, mappings left");
	SAY(unmap_everything(container), "unmap all");
	munmap(pages, 32 * PAGE);
	munmap(holes, 32 * PAGE);
}

/* Registers as what devices do DMA to. */
static void registers(void)
{
	int other = open_to(group_of(alone)), device, target;
	uint32_t *bar, *part, *reader;
	char *around;

	heading("registers");
	fresh(V2);
	NEED(set_container(other, container) == 0);
	NEED(take_device(group, first, &device) == 0 && take_device(other, alone, &target) == 0);
	bar = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, target, AT(BAR0, 0));
	part = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, target, AT(BAR0, EDU_BUFFER));
	reader = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, target, AT(BAR0, EDU_BUFFER));
	NEED(bar != MAP_FAILED && part != MAP_FAILED && reader != MAP_FAILED);
	enable(device, true);
	put(target, CONFIG, 4, 2, 0);
	SAY(map_dma(container, bar, 16 * MIB, MIB), "of a device whose memory is disabled");
	enable(target, true);
	SAY(map_dma(container, bar, 16 * MIB, MIB), "all");
	SAY(map_dma(container, bar, 16 * MIB, MIB), "again");
	SAY(map_dma(container, part, 32 * MIB, PAGE), "a page");
	SAY(map_dma(container, bar + 1024, 33 * MIB, 2 * PAGE), "two pages of many");
	SAY(map_dma(container, reader, 34 * MIB, PAGE), "mapped to be read, to be written");
	SAY(map_as(container, reader, 34 * MIB, PAGE, VFIO_DMA_MAP_FLAG_READ), "mapped to be read, to be read");
	SAY(available(container), "mappings left");
	SAY(taken_out(container, 16 * MIB, MIB), "unmap");
	SAY(map_dma(container, bar, 16 * MIB, MIB), "map");
	SAY(taken_out(container, 32 * MIB, PAGE), "unmap the page");
	around = shared_pages(4);
	NEED(mmap(around + PAGE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, target, AT(BAR0, 0)) != MAP_FAILED);
	SAY(map_dma(container, around, 35 * MIB, 4 * PAGE), "memory, registers, memory");
	memcpy(around + 8, "abcd", 4);
	memcpy(around + 2 * PAGE, "efgh", 4);
	edu_dma(device, 35 * MIB + 8, EDU_BUFFER, 4, 0);
	edu_dma(device, EDU_BUFFER, 35 * MIB + 3 * PAGE, 4, EDU_TO_MEMORY);
	SAY(memcmp(around + 3 * PAGE, "abcd", 4), "DMA to the memory before and behind");
	edu_dma(device, EDU_BUFFER, 16 * MIB + EDU_LIVENESS, 4, EDU_TO_MEMORY);
	SAY(get(target, BAR0, EDU_LIVENESS, 4), "DMA to a register, which then says");
	put(target, BAR0, EDU_LIVENESS, 4, 0x11223344);
	edu_dma(device, 35 * MIB + PAGE + EDU_LIVENESS, EDU_BUFFER, 4, 0);
	edu_dma(device, EDU_BUFFER, 35 * MIB + 3 * PAGE, 4, EDU_TO_MEMORY);
	SAY(*(uint32_t *)(around + 3 * PAGE), "DMA from it");
	put(target, CONFIG, 4, 2, 0);
	edu_dma(device, EDU_BUFFER, 16 * MIB + EDU_LIVENESS, 4, EDU_TO_MEMORY);
	enable(target, true);
	SAY(get(target, BAR0, EDU_LIVENESS, 4), "after DMA while its memory was disabled");
	edu_dma(device, EDU_BUFFER, 16 * MIB + EDU_LIVENESS, 4, EDU_TO_MEMORY);
	SAY(get(target, BAR0, EDU_LIVENESS, 4), "and when it is enabled");
	NEED(munmap(around + 2 * PAGE, PAGE) == 0);
	SAY(map_dma(container, around, 36 * MIB, 4 * PAGE), "memory, registers, a hole");
	SAY(taken_out(container, 35 * MIB, 4 * PAGE), "unmap");
	NEED(munmap(bar, MIB) == 0 && munmap(part, PAGE) == 0 && munmap(reader, PAGE) == 0);
	munmap(around, 4 * PAGE);
	SAY(map_dma(container, bar, 40 * MIB, PAGE), "when they are not mapped any more");
	close(target);
	close(device);
	SAY(unmap_everything(container), "unmap all");
	close(other);
}

/* A process that did not map them, and one that is gone. */
static void whose_memory(void)
{
	char *private = new_pages(2);
	int device;

	heading("whose memory");
	fresh(V2);
	NEED(take_device(group, first, &device) == 0);
	enable(device, true);
	IN_CHILD(SAY(map_dma(container, memory, MIB, PAGE), "a child maps its own"));
	memcpy(memory, "mnop", 4);
	edu_dma(device, MIB, EDU_BUFFER, 4, 0);
	edu_dma(device, EDU_BUFFER, MIB + 4, 4, EDU_TO_MEMORY);
	SAY(memcmp(memory + 4, "mnop", 4), "which is ours too, and stays when the child is gone");
	SAY(taken_out(container, MIB, PAGE), "unmap what the child mapped");
	SAY(map_dma(container, private, MIB, PAGE), "map private memory");
	memcpy(private, "qrst", 4);
	edu_dma(device, MIB, EDU_BUFFER, 4, 0);
	edu_dma(device, EDU_BUFFER, MIB + 4, 4, EDU_TO_MEMORY);
	SAY(memcmp(private + 4, "qrst", 4), "DMA reaches it");
	IN_CHILD(SAY(taken_out(container, MIB, PAGE), "a child unmaps it"));
	SAY(available(container), "mappings left");
	close(device);
}

int main(int argc, char **argv)
{
	checks_begin();
	NEED(argc > 3);
	first = argv[1];
	alone = argv[3];
	group = -1;
	memory = shared_pages(128);
	what_there_is();
	maps_refused();
	unmaps(V1);
	unmaps(V2);
	addresses_anew(V1);
	addresses_anew(V2);
	dirty_pages();
	locked_memory();
	registers();
	whose_memory();
	return 0;
}
