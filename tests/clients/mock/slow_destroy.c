// SPDX-License-Identifier: MIT
/*
 * DESTROY of what an ioctl is at work on, while that waits for a page of the client's memory that
 * is slow to come: EBUSY, each time, and the ioctl ends as if nobody had asked.
 */
#include "viommu.h"

#include "../slow.h"

#include <pthread.h>

#define KIND IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST

static struct guest g;

struct job {
	unsigned long number;
	const void *cmd;
	long rc;
};

static void *work(void *arg)
{
	struct job *job = arg;

	job->rc = call(g.fd, job->number, job->cmd);
	return NULL;
}

/* `cmd` names `object`, and the page at `where`, which will begin with `data`. */
static void busy(const char *name, unsigned long number, const void *cmd, uint32_t object,
		 int uffd, void *where, const void *data, size_t size)
{
	struct job job = { number, cmd, 0 };
	pthread_t thread;

	NEED(pthread_create(&thread, NULL, work, &job) == 0);
	wait_wanted(uffd);
	CHECK_ERR(EBUSY, destroy(g.fd, object), "%s is at work on it", name);
	fill_page(uffd, where, data, size);
	NEED(pthread_join(thread, NULL) == 0);
	CHECK_OK(job.rc, "%s", name);
	NEED(close(uffd) == 0 && munmap(where, PAGE) == 0);
}

static void ranges(void)
{
	struct iommu_ioas_iova_ranges list = { .size = sizeof(list), .ioas_id = new_ioas(g.fd),
					       .num_iovas = 4 };
	struct iommu_ioas_allow_iovas allow = { .size = sizeof(allow), .ioas_id = list.ioas_id,
						.num_iovas = 1 };
	struct iommu_iova_range range = { PAGE, 2 * PAGE };
	void *page;
	int uffd = slow_pages(1, &page);

	list.allowed_iovas = (uintptr_t)page;
	busy("IOAS_IOVA_RANGES", IOMMU_IOAS_IOVA_RANGES, &list, list.ioas_id, uffd, page, "", 0);
	uffd = slow_pages(1, &page);
	allow.allowed_iovas = (uintptr_t)page;
	busy("IOAS_ALLOW_IOVAS", IOMMU_IOAS_ALLOW_IOVAS, &allow, list.ioas_id, uffd, page, &range,
	     sizeof(range));
	CHECK_OK(destroy(g.fd, list.ioas_id), "then it can go");
}

/* What is made on `below`, of data that is slow. */
static void hwpt(const char *name, uint32_t below)
{
	struct iommu_hwpt_selftest data = { .iotlb = 5 };
	struct iommu_hwpt_alloc cmd = { .size = sizeof(cmd), .dev_id = g.mock.device,
					.pt_id = below, .data_type = SELFTEST,
					.data_len = sizeof(data) };
	void *page;
	int uffd = slow_pages(1, &page);

	cmd.data_uptr = (uintptr_t)page;
	busy(name, IOMMU_HWPT_ALLOC, &cmd, below, uffd, page, &data, sizeof(data));
	CHECK_ERR(EBUSY, destroy(g.fd, below), "what it made stands on it");
	CHECK_OK(destroy(g.fd, cmd.out_hwpt_id), "destroy that");
	CHECK_OK(destroy(g.fd, below), "then it can go");
}

static void viommu(void)
{
	struct iommu_viommu_selftest data = { .in_data = 5 };
	struct iommu_viommu_alloc cmd = { .size = sizeof(cmd), .type = IOMMU_VIOMMU_TYPE_SELFTEST,
					  .dev_id = g.mock.device, .data_len = sizeof(data) };
	void *page;
	int uffd = slow_pages(1, &page);

	cmd.hwpt_id = new_hwpt(g.fd, g.mock.device, g.ioas, PARENT);
	cmd.data_uptr = (uintptr_t)page;
	busy("VIOMMU_ALLOC", IOMMU_VIOMMU_ALLOC, &cmd, cmd.hwpt_id, uffd, page, &data, sizeof(data));
	CHECK_ERR(EBUSY, destroy(g.fd, cmd.hwpt_id), "the vIOMMU stands on it");
	CHECK_OK(destroy(g.fd, cmd.out_viommu_id), "destroy that");
	CHECK_OK(destroy(g.fd, cmd.hwpt_id), "then it can go");
}

static void invalidation(void)
{
	struct iommu_hwpt_invalidate_selftest entry = { .iotlb_id = 1 };
	struct iommu_viommu_invalidate_selftest other = { .vdev_id = 7, .cache_id = 1 };
	struct iommu_hwpt_invalidate cmd = {
		.size = sizeof(cmd), .data_type = IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
		.entry_len = sizeof(entry), .entry_num = 1 };
	uint32_t vdevice;
	void *page;
	int uffd = slow_pages(1, &page);

	cmd.hwpt_id = new_nested(g.fd, g.mock.device, g.parent, 0, 5);
	cmd.data_uptr = (uintptr_t)page;
	busy("HWPT_INVALIDATE", IOMMU_HWPT_INVALIDATE, &cmd, cmd.hwpt_id, uffd, page, &entry,
	     sizeof(entry));
	CHECK_EQ(cmd.entry_num, 1, "it is done");
	CHECK_OK(check_iotlb(g.fd, cmd.hwpt_id, 1, 0), "really");
	CHECK_OK(destroy(g.fd, cmd.hwpt_id), "then it can go");

	NEED(vdevice_alloc(g.fd, g.viommu, g.mock.device, 7, &vdevice) == 0);
	uffd = slow_pages(1, &page);
	cmd.data_uptr = (uintptr_t)page;
	cmd.data_type = KIND;
	cmd.entry_len = sizeof(other);
	cmd.hwpt_id = g.viommu;
	busy("HWPT_INVALIDATE of a vIOMMU", IOMMU_HWPT_INVALIDATE, &cmd, g.viommu, uffd, page,
	     &other, sizeof(other));
	CHECK_EQ(cmd.entry_num, 1, "it is done");
	CHECK_OK(destroy(g.fd, vdevice), "destroy its vDEVICE");
}

static void bitmaps(void)
{
	uint32_t id = new_hwpt(g.fd, g.mock.device, g.ioas, DIRTY);
	struct iommu_hwpt_set_dirty_tracking track = { .size = sizeof(track), .flags = 1,
						       .hwpt_id = id };
	struct iommu_test_cmd mark = { .size = sizeof(mark), .op = IOMMU_TEST_OP_DIRTY, .id = id,
				       .dirty = { .iova = APERTURE, .length = PAGE,
						  .page_size = MOCK_PAGE } };
	struct iommu_hwpt_get_dirty_bitmap get = { .size = sizeof(get), .hwpt_id = id,
						   .iova = APERTURE, .length = PAGE,
						   .page_size = PAGE };
	char *memory = new_pages(1);
	void *page;
	int uffd = slow_pages(1, &page);

	NEED(map_at(g.fd, g.ioas, (uintptr_t)memory, PAGE, APERTURE) == 0);
	NEED(call(g.fd, IOMMU_HWPT_SET_DIRTY_TRACKING, &track) == 0);
	mark.dirty.uptr = (uintptr_t)page;
	busy("the mock's DMA", IOMMU_TEST_CMD, &mark, id, uffd, page, "\3", 1);
	CHECK_EQ(mark.dirty.out_nr_dirty, 2, "both halves of a page");
	uffd = slow_pages(1, &page);
	get.data = (uintptr_t)page;
	busy("HWPT_GET_DIRTY_BITMAP", IOMMU_HWPT_GET_DIRTY_BITMAP, &get, id, uffd, page, "", 0);
	CHECK_OK(destroy(g.fd, id), "then it can go");
	CHECK_OK(unmap_at(g.fd, g.ioas, APERTURE, PAGE), "and what it showed");
}

int main(void)
{
	uint32_t id;

	checks_begin();
	g = new_guest();
	ranges();
	hwpt("HWPT_ALLOC", new_ioas(g.fd));
	hwpt("HWPT_ALLOC in a parent", new_hwpt(g.fd, g.mock.device, g.ioas, PARENT));
	NEED(viommu_alloc(g.fd, g.mock.device, g.parent, NULL, 0, &id) == 0);
	hwpt("HWPT_ALLOC in a vIOMMU", id);
	viommu();
	invalidation();
	bitmaps();
	CHECK_OK(destroy(g.fd, g.viommu), "the vIOMMU");
	CHECK_OK(destroy(g.fd, g.parent), "its parent");
	CHECK_OK(destroy(g.fd, g.mock.stdev), "the device");
	CHECK_OK(destroy(g.fd, g.ioas), "the IOAS");
	CHECK_OK(close(g.fd), "close");
	return checks_end();
}
