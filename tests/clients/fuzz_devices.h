/* SPDX-License-Identifier: MIT */
/*
 * Random calls that know what they are about: every command and every operation of the mock device,
 * filled with IDs that were handed out. Most are of the kind the field wants; some are of another
 * kind, of another open file, or were just destroyed.
 */
#ifndef FUZZ_DEVICES_H
#define FUZZ_DEVICES_H

#include "fuzz_calls.h"

#include <iommud/iommufd_test.h>

#define KNOWN 96
#define ATTACHED 4096
#define GIVEN 4
#define LAST_OP IOMMU_TEST_OP_DMABUF_REVOKE
#define BASE ((uint64_t)MOCK_APERTURE_START)

/* PARENT: a HWPT to nest in. NESTED: one that is nested. */
enum kind {
	NONE, IOAS, STDEV, IDEV, HWPT, PARENT, NESTED, FAULTQ, VIOMMU, VDEVICE, VEVENTQ, HW_QUEUE
};

enum given { ACCESS, QUEUE, DMABUF, GIVEN_KINDS };

struct guesser {
	struct player p;
	char *memory;
	struct {
		uint32_t slot, id;
		enum kind kind;
	} known[KNOWN];
	uint32_t destroyed, next;
	/* Nothing that Linux's mock is known to do otherwise. */
	bool tame;
	/* Where PASIDs were attached, if tame. */
	struct {
		uint32_t slot, stdev, pasid;
	} attached[ATTACHED];
	uint32_t attachments;
	int given[GIVEN_KINDS][GIVEN];
};

#define MEMORY_PAGES 64
#define BEYOND (1UL << 40)

union call {
	uint32_t size;
	char bytes[160];
	struct iommu_destroy destroy;
	struct iommu_ioas_alloc alloc;
	struct iommu_ioas_allow_iovas allow;
	struct iommu_ioas_copy copy;
	struct iommu_ioas_iova_ranges ranges;
	struct iommu_ioas_map map;
	struct iommu_ioas_map_file file;
	struct iommu_ioas_unmap unmap;
	struct iommu_option option;
	struct iommu_vfio_ioas vfio;
	struct iommu_hwpt_alloc hwpt;
	struct iommu_hw_info info;
	struct iommu_hwpt_set_dirty_tracking track;
	struct iommu_hwpt_get_dirty_bitmap bitmap;
	struct iommu_hwpt_invalidate invalidate;
	struct iommu_fault_alloc fault;
	struct iommu_viommu_alloc viommu;
	struct iommu_vdevice_alloc vdevice;
	struct iommu_veventq_alloc veventq;
	struct iommu_hw_queue_alloc queue;
	struct iommu_ioas_noiommu_get_pa pa;
	struct iommu_test_cmd test;
};

static inline void know(struct guesser *g, uint32_t slot, enum kind kind, uint32_t id)
{
	g->known[g->next % KNOWN].slot = slot;
	g->known[g->next % KNOWN].kind = kind;
	g->known[g->next++ % KNOWN].id = id;
}

static inline bool is(enum kind kind, enum kind wanted)
{
	return kind == wanted || (wanted == HWPT && (kind == PARENT || kind == NESTED));
}

/* Of those of the right kind each second time the same one, so that there is something to it. */
static inline uint32_t some_id(struct guesser *g, uint32_t slot, enum kind kind)
{
	uint64_t how = below(&g->p, 32);
	uint32_t i, at = (uint32_t)draw(&g->p);

	if (at & 1)
		at = 0;

	if (how == 0)
		return g->destroyed;
	if (how == 1)
		return (uint32_t)draw(&g->p);
	if (how < 4)
		return 1 + (uint32_t)below(&g->p, 24);
	/* A known ID: 4 of another file, 5 and 6 of any kind. */
	for (i = 0; i < KNOWN; i++, at++) {
		if (how == 4 && g->known[at % KNOWN].slot != slot)
			return g->known[at % KNOWN].id;
		if (g->known[at % KNOWN].slot != slot)
			continue;
		if (how < 7 || is(g->known[at % KNOWN].kind, kind))
			return g->known[at % KNOWN].id;
	}
	return 1 + (uint32_t)below(&g->p, 4);
}

static inline uint32_t some_table(struct guesser *g, uint32_t slot)
{
	static const enum kind kinds[] = { IOAS, IOAS, HWPT, PARENT, NESTED, VIOMMU };

	return some_id(g, slot, kinds[below(&g->p, ARRAY_LEN(kinds))]);
}

static inline uint64_t dma(struct guesser *g)
{
	return one_in(&g->p, 16) ? iova(&g->p) : BASE + below(&g->p, 16) * PAGE;
}

static inline uint64_t few(struct guesser *g)
{
	return one_in(&g->p, 24) ? length(&g->p) :
				       (1 + (draw(&g->p) & draw(&g->p) & draw(&g->p) & 7)) * PAGE;
}

static inline uint64_t address(struct guesser *g)
{
	return one_in(&g->p, 24) ? draw(&g->p) :
				   (uintptr_t)g->memory + below(&g->p, MEMORY_PAGES) * PAGE;
}

static inline uint32_t flag(struct guesser *g, uint32_t known)
{
	uint32_t bits = (uint32_t)draw(&g->p);

	return one_in(&g->p, 30) ? bits & ~(1U << 16) : bits & known;
}

static inline int some_fd(struct guesser *g, enum given kind)
{
	if (one_in(&g->p, 16))
		return g->p.files[below(&g->p, FILES)];
	if (one_in(&g->p, 16) && !g->tame)
		kind = (enum given)below(&g->p, GIVEN_KINDS);
	return g->given[kind][below(&g->p, GIVEN)];
}

/* A small struct in the client's memory. */
static inline uint64_t data(struct guesser *g, uint32_t a, uint32_t b)
{
	uint32_t words[4] = { a, b, 0, 0 };
	void *body;

	return (uintptr_t)place(&g->p, &g->p.arrays, words, sizeof(words), &body);
}

static inline void fill_test(struct guesser *g, uint32_t slot, struct iommu_test_cmd *t)
{
	static const uint32_t often[] = { IOMMU_TEST_OP_MOCK_DOMAIN, IOMMU_TEST_OP_CREATE_ACCESS,
					  IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS,
					  IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE,
					  IOMMU_TEST_OP_ACCESS_PAGES,
					  IOMMU_TEST_OP_TRIGGER_VEVENT };
	struct player *p = &g->p;

	t->op = one_in(p, 4) ? often[below(p, ARRAY_LEN(often))] :
			       (uint32_t)below(p, LAST_OP + 2);
	t->id = some_id(g, slot, STDEV);
	switch (t->op) {
	case IOMMU_TEST_OP_ADD_RESERVED:
		t->id = some_id(g, slot, IOAS);
		t->add_reserved.start = dma(g) + 64 * PAGE;
		t->add_reserved.length = few(g);
		break;
	case IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS:
		t->mock_domain_flags.dev_flags = flag(g, 5);
		/* fallthrough */
	case IOMMU_TEST_OP_MOCK_DOMAIN:
		t->id = some_table(g, slot);
		break;
	case IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE:
		t->mock_domain_replace.pt_id = one_in(p, 2) ? some_id(g, slot, NESTED) :
							      some_table(g, slot);
		break;
	case IOMMU_TEST_OP_MD_CHECK_MAP:
		t->id = some_id(g, slot, HWPT);
		t->check_map.iova = dma(g);
		t->check_map.length = few(g);
		t->check_map.uptr = address(g);
		break;
	case IOMMU_TEST_OP_MD_CHECK_REFS:
		t->check_refs.length = few(g);
		t->check_refs.uptr = address(g);
		t->check_refs.refs = (uint32_t)below(p, 3);
		break;
	case IOMMU_TEST_OP_CREATE_ACCESS:
		t->id = some_id(g, slot, IOAS);
		t->create_access.flags = flag(g, 1);
		break;
	case IOMMU_TEST_OP_DESTROY_ACCESS_PAGES:
		t->id = (uint32_t)some_fd(g, ACCESS);
		t->destroy_access_pages.access_pages_id = (uint32_t)below(p, 6);
		break;
	case IOMMU_TEST_OP_ACCESS_PAGES:
		t->id = (uint32_t)some_fd(g, ACCESS);
		t->access_pages.flags = flag(g, MOCK_FLAGS_ACCESS_WRITE);
		t->access_pages.iova = dma(g);
		t->access_pages.length = few(g);
		t->access_pages.uptr = one_in(p, 8) ? address(g) : 0;
		break;
	case IOMMU_TEST_OP_ACCESS_RW:
		t->id = (uint32_t)some_fd(g, ACCESS);
		t->access_rw.iova = dma(g);
		t->access_rw.length = few(g);
		t->access_rw.uptr = address(g);
		t->access_rw.flags = flag(g, MOCK_ACCESS_RW_WRITE | MOCK_ACCESS_RW_SLOW_PATH);
		break;
	case IOMMU_TEST_OP_ACCESS_REPLACE_IOAS:
		t->id = (uint32_t)some_fd(g, ACCESS);
		t->access_replace_ioas.ioas_id = some_id(g, slot, IOAS);
		break;
	case IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT:
		t->memory_limit.limit = 65536;
		break;
	case IOMMU_TEST_OP_DIRTY:
		t->id = some_id(g, slot, HWPT);
		t->dirty.iova = dma(g);
		t->dirty.length = few(g);
		t->dirty.page_size = MOCK_PAGE_SIZE << below(p, 3);
		t->dirty.uptr = address(g);
		break;
	case IOMMU_TEST_OP_MD_CHECK_IOTLB:
		t->id = some_id(g, slot, NESTED);
		t->check_iotlb.id = (uint32_t)below(p, 5);
		t->check_iotlb.iotlb = IOMMU_TEST_IOTLB_DEFAULT;
		break;
	case IOMMU_TEST_OP_TRIGGER_IOPF:
		t->trigger_iopf.dev_id = some_id(g, slot, IDEV);
		t->trigger_iopf.grpid = (uint32_t)below(p, 4);
		t->trigger_iopf.pasid = one_in(p, 2) ? (uint32_t)below(p, 4) : UINT32_MAX;
		break;
	case IOMMU_TEST_OP_DEV_CHECK_CACHE:
		t->id = some_id(g, slot, IDEV);
		t->check_dev_cache.id = (uint32_t)below(p, 5);
		t->check_dev_cache.cache = IOMMU_TEST_DEV_CACHE_DEFAULT;
		break;
	case IOMMU_TEST_OP_TRIGGER_VEVENT:
		t->trigger_vevent.dev_id = some_id(g, slot, IDEV);
		break;
	case IOMMU_TEST_OP_PASID_ATTACH:
	case IOMMU_TEST_OP_PASID_REPLACE:
		t->pasid_attach.pasid = (uint32_t)below(p, 4);
		t->pasid_attach.pt_id = some_table(g, slot);
		break;
	case IOMMU_TEST_OP_PASID_DETACH:
		t->pasid_detach.pasid = (uint32_t)below(p, 4);
		break;
	case IOMMU_TEST_OP_PASID_CHECK_HWPT:
		t->pasid_check.pasid = (uint32_t)below(p, 4);
		t->pasid_check.hwpt_id = some_id(g, slot, HWPT);
		break;
	case IOMMU_TEST_OP_DMABUF_GET:
		t->dmabuf_get.length = (uint32_t)few(g);
		t->dmabuf_get.open_flags = O_CLOEXEC;
		break;
	case IOMMU_TEST_OP_DMABUF_REVOKE:
		t->dmabuf_revoke.dmabuf_fd = some_fd(g, DMABUF);
		t->dmabuf_revoke.revoked = (uint32_t)below(p, 2);
		break;
	}
}

static inline void fill_call(struct guesser *g, uint32_t slot, unsigned int number, union call *c)
{
	struct player *p = &g->p;
	uint32_t selftest = one_in(p, 20) ? (uint32_t)below(p, 4) : IOMMU_VIOMMU_TYPE_SELFTEST;
	static const enum kind mortal[] = { IOAS, STDEV, HWPT, FAULTQ, VIOMMU, VDEVICE, VEVENTQ,
					    HW_QUEUE };

	switch (number) {
	case IOMMU_DESTROY:
		c->destroy.id = some_id(g, slot, mortal[below(p, ARRAY_LEN(mortal))]);
		break;
	case IOMMU_IOAS_ALLOW_IOVAS:
		c->allow.ioas_id = some_id(g, slot, IOAS);
		c->allow.num_iovas = one_in(p, 8) ? (uint32_t)below(p, 4) : 0;
		c->allow.allowed_iovas = ranges(p);
		break;
	case IOMMU_IOAS_COPY:
		c->copy = (struct iommu_ioas_copy){ 0, flag(g, FIXED | RW) | R,
						    some_id(g, slot, IOAS), some_id(g, slot, IOAS),
						    few(g), dma(g), dma(g) };
		break;
	case IOMMU_IOAS_IOVA_RANGES:
		c->ranges.ioas_id = some_id(g, slot, IOAS);
		c->ranges.num_iovas = (uint32_t)below(p, 6);
		c->ranges.allowed_iovas = ranges(p);
		break;
	case IOMMU_IOAS_MAP:
		c->map = (struct iommu_ioas_map){ 0, flag(g, FIXED | RW) | R,
						  some_id(g, slot, IOAS), 0, address(g), few(g),
						  dma(g) };
		break;
	case IOMMU_IOAS_MAP_FILE:
		c->file = (struct iommu_ioas_map_file){ 0, flag(g, FIXED | RW) | R,
							some_id(g, slot, IOAS),
							one_in(p, 3) ? some_fd(g, DMABUF) :
								       p->files[below(p, FILES)],
							below(p, 16) * PAGE, few(g), dma(g) };
		break;
	case IOMMU_IOAS_UNMAP:
		c->unmap = (struct iommu_ioas_unmap){ 0, some_id(g, slot, IOAS), dma(g), few(g) };
		if (one_in(p, 8)) {
			c->unmap.iova = 0;
			c->unmap.length = U64_MAX;
		}
		break;
	case IOMMU_OPTION:
		c->option = (struct iommu_option){ 0, (uint32_t)below(p, 2), (uint16_t)below(p, 2),
						   0, some_id(g, slot, IOAS), below(p, 2) };
		break;
	case IOMMU_VFIO_IOAS:
		c->vfio = (struct iommu_vfio_ioas){ 0, some_id(g, slot, IOAS), (uint16_t)below(p, 4), 0 };
		break;
	case IOMMU_HWPT_ALLOC:
		c->hwpt = (struct iommu_hwpt_alloc){ 0, flag(g, 15), some_id(g, slot, IDEV),
						     some_id(g, slot, IOAS), 0, 0, 0, 0, 0,
						     some_id(g, slot, FAULTQ), 0 };
		if (one_in(p, 3))
			c->hwpt.flags = IOMMU_HWPT_ALLOC_NEST_PARENT;
		if (one_in(p, 2)) {
			c->hwpt.pt_id = one_in(p, 8) ? some_table(g, slot) :
				some_id(g, slot, one_in(p, 2) ? PARENT : VIOMMU);
			c->hwpt.data_type = IOMMU_HWPT_DATA_SELFTEST;
			c->hwpt.data_len = one_in(p, 8) ? (uint32_t)below(p, 20) : 8;
			c->hwpt.data_uptr = data(g, IOMMU_TEST_IOTLB_DEFAULT,
						 (uint32_t)below(p, 3));
			c->hwpt.flags = flag(g, 4);
		}
		break;
	case IOMMU_GET_HW_INFO:
		c->info.flags = flag(g, IOMMU_HW_INFO_FLAG_INPUT_TYPE);
		c->info.in_data_type = one_in(p, 2) ? (uint32_t)below(p, 3) :
						      (uint32_t)IOMMU_HW_INFO_TYPE_SELFTEST;
		c->info.dev_id = some_id(g, slot, IDEV);
		c->info.data_len = (uint32_t)below(p, 16);
		c->info.data_uptr = data(g, 0, 0);
		break;
	case IOMMU_HWPT_SET_DIRTY_TRACKING:
		c->track.flags = flag(g, 1);
		c->track.hwpt_id = some_id(g, slot, HWPT);
		break;
	case IOMMU_HWPT_GET_DIRTY_BITMAP:
		c->bitmap = (struct iommu_hwpt_get_dirty_bitmap){
			0, some_id(g, slot, HWPT), flag(g, 1), 0, dma(g), few(g),
			MOCK_PAGE_SIZE << below(p, 3), address(g) };
		break;
	case IOMMU_HWPT_INVALIDATE:
		c->invalidate = (struct iommu_hwpt_invalidate){
			0, some_id(g, slot, one_in(p, 2) ? NESTED : VIOMMU),
			data(g, flag(g, 1), (uint32_t)below(p, 5)),
			one_in(p, 2) ? selftest : IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
			(uint32_t)below(p, 4) * 4, (uint32_t)below(p, 3), 0 };
		break;
	case IOMMU_VIOMMU_ALLOC:
		c->viommu = (struct iommu_viommu_alloc){ 0, 0, selftest, some_id(g, slot, IDEV),
							 some_id(g, slot, PARENT), 0,
							 one_in(p, 2) ? 0 : (uint32_t)below(p, 40),
							 0, data(g, 1, 0) };
		break;
	case IOMMU_VDEVICE_ALLOC:
		c->vdevice = (struct iommu_vdevice_alloc){ 0, some_id(g, slot, VIOMMU),
							   some_id(g, slot, IDEV), 0,
							   below(p, 4) };
		break;
	case IOMMU_VEVENTQ_ALLOC:
		c->veventq = (struct iommu_veventq_alloc){ 0, 0, some_id(g, slot, VIOMMU),
							   one_in(p, 9) ? 0 : IOMMU_VEVENTQ_TYPE_SELFTEST,
							   (uint32_t)below(p, 8), 0, 0, 0 };
		break;
	case IOMMU_HW_QUEUE_ALLOC:
		c->queue = (struct iommu_hw_queue_alloc){ 0, 0, some_id(g, slot, VIOMMU),
							  one_in(p, 9) ? 0 : IOMMU_HW_QUEUE_TYPE_SELFTEST,
							  (uint32_t)below(p, 3), 0, dma(g),
							  few(g) };
		if (!g->tame)
			break;
		/* The mock of Linux frees queue 0 when another goes; and it wants physical addresses in order. */
		c->queue.index *= 2;
		if (c->queue.length > PAGE)
			c->queue.length = PAGE;
		break;
	case IOMMU_IOAS_NOIOMMU_GET_PA:
		c->pa.ioas_id = some_id(g, slot, IOAS);
		c->pa.iova = dma(g);
		c->pa.length = few(g);
		break;
	case IOMMU_TEST_CMD:
		fill_test(g, slot, &c->test);
	}
}

#endif
