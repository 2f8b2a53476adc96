/* SPDX-License-Identifier: MIT */
/*
 * The commands of the kernel's mock IOMMU (CONFIG_IOMMUFD_TEST of Linux 7.3), declared anew.
 *
 * They are no stable interface: they belong to the kernel's selftests, which iommud serves with
 * --mock. One ioctl, IOMMU_TEST_CMD, carries them all: `op` says which member of the union counts.
 * Guard and conventions as in <linux/iommufd.h>.
 */
#ifndef _UAPI_IOMMUFD_TEST_H
#define _UAPI_IOMMUFD_TEST_H

#include <linux/iommufd.h>
#include <linux/types.h>

#define IOMMU_TEST_CMD	_IO(IOMMUFD_TYPE, IOMMUFD_CMD_BASE + 32)

/* `op`, and which member of the union goes with it where the name does not say. */
enum {
	IOMMU_TEST_OP_ADD_RESERVED = 1,
	IOMMU_TEST_OP_MOCK_DOMAIN = 2,
	IOMMU_TEST_OP_MD_CHECK_MAP = 3,		/* check_map */
	IOMMU_TEST_OP_MD_CHECK_REFS = 4,	/* check_refs */
	IOMMU_TEST_OP_CREATE_ACCESS = 5,
	IOMMU_TEST_OP_DESTROY_ACCESS_PAGES = 6,
	IOMMU_TEST_OP_ACCESS_PAGES = 7,
	IOMMU_TEST_OP_ACCESS_RW = 8,
	IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT = 9,	/* memory_limit */
	IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE = 10,
	IOMMU_TEST_OP_ACCESS_REPLACE_IOAS = 11,
	IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS = 12,
	IOMMU_TEST_OP_DIRTY = 13,
	IOMMU_TEST_OP_MD_CHECK_IOTLB = 14,	/* check_iotlb */
	IOMMU_TEST_OP_TRIGGER_IOPF = 15,
	IOMMU_TEST_OP_DEV_CHECK_CACHE = 16,	/* check_dev_cache */
	IOMMU_TEST_OP_TRIGGER_VEVENT = 17,
	IOMMU_TEST_OP_PASID_ATTACH = 18,
	IOMMU_TEST_OP_PASID_REPLACE = 19,
	IOMMU_TEST_OP_PASID_DETACH = 20,
	IOMMU_TEST_OP_PASID_CHECK_HWPT = 21,	/* pasid_check */
	IOMMU_TEST_OP_DMABUF_GET = 22,
	IOMMU_TEST_OP_DMABUF_REVOKE = 23,
};

/* `id` is the IOAS, HWPT, mock device or access that the op works on. */
struct iommu_test_cmd {
	__u32 size;
	__u32 op;
	__u32 id;
	__u32 __reserved;
	union {
		struct {
			__aligned_u64 start;
			__aligned_u64 length;
		} add_reserved;
		struct {
			__u32 out_stdev_id;	/* the mock device, DESTROY unplugs it */
			__u32 out_hwpt_id;
			__u32 out_idev_id;	/* its binding, what dev_id means elsewhere */
		} mock_domain;
		struct {
			__u32 out_stdev_id;
			__u32 out_hwpt_id;
			__u32 out_idev_id;
			__u32 dev_flags;	/* MOCK_FLAGS_DEVICE_* */
		} mock_domain_flags;
		struct {
			__u32 pt_id;
		} mock_domain_replace;
		struct {
			__aligned_u64 iova;
			__aligned_u64 length;
			__aligned_u64 uptr;
		} check_map;
		struct {
			__aligned_u64 length;
			__aligned_u64 uptr;
			__u32 refs;		/* pins expected on each page */
		} check_refs;
		struct {
			__u32 out_access_fd;
			__u32 flags;		/* MOCK_FLAGS_ACCESS_CREATE_* */
		} create_access;
		struct {
			__u32 access_pages_id;
		} destroy_access_pages;
		struct {
			__u32 flags;		/* MOCK_FLAGS_ACCESS_* */
			__u32 out_access_pages_id;
			__aligned_u64 iova;
			__aligned_u64 length;
			__aligned_u64 uptr;	/* the same memory, to compare; or 0 */
		} access_pages;
		struct {
			__aligned_u64 iova;
			__aligned_u64 length;
			__aligned_u64 uptr;
			__u32 flags;		/* MOCK_ACCESS_RW_* */
		} access_rw;
		struct {
			__u32 limit;		/* of scratch memory in the kernel, at least 12 */
		} memory_limit;
		struct {
			__u32 ioas_id;
		} access_replace_ioas;
		struct {
			__u32 flags;
			__aligned_u64 iova;
			__aligned_u64 length;
			__aligned_u64 page_size;
			__aligned_u64 uptr;	/* bitmap: which pages to mark dirty */
			__aligned_u64 out_nr_dirty;
		} dirty;
		struct {
			__u32 id;		/* slot */
			__u32 iotlb;		/* value expected there */
		} check_iotlb;
		struct {
			__u32 dev_id;
			__u32 pasid;
			__u32 grpid;
			__u32 perm;
			__u64 addr;
		} trigger_iopf;
		struct {
			__u32 id;		/* slot */
			__u32 cache;		/* value expected there */
		} check_dev_cache;
		struct {
			__u32 dev_id;
		} trigger_vevent;
		/* For the pasid_* below the command's `id` is the mock device. */
		struct {
			__u32 pasid;
			__u32 pt_id;
		} pasid_attach;
		struct {
			__u32 pasid;
			__u32 pt_id;
		} pasid_replace;
		struct {
			__u32 pasid;
		} pasid_detach;
		struct {
			__u32 pasid;
			__u32 hwpt_id;
		} pasid_check;
		struct {
			__u32 length;
			__u32 open_flags;
		} dmabuf_get;
		struct {
			__s32 dmabuf_fd;
			__u32 revoked;
		} dmabuf_revoke;
	};
	__u32 last;
};

/* ---- The mock IOMMU -------------------------------------------------------------------------- */

/* Page tables; the sizes are those of the default one. */
enum {
	MOCK_IOMMUPT_DEFAULT = 0,
	MOCK_IOMMUPT_HUGE = 1,
};

enum {
	MOCK_APERTURE_START = 0x1000000,
	MOCK_APERTURE_LAST = 0x7fffffff,
	MOCK_PAGE_SIZE = 0x800,
	MOCK_HUGE_PAGE_SIZE = 0x100000,
};

#define MOCK_PASID_WIDTH		20	/* bits */
#define IOMMU_TEST_PASID_RESERVED	1024	/* set apart by the selftests */

enum {
	MOCK_FLAGS_DEVICE_NO_DIRTY = 0x1,
	MOCK_FLAGS_DEVICE_PASID = 0x4,
};

/* Slots of a nested table's IOTLB. */
enum {
	MOCK_NESTED_DOMAIN_IOTLB_ID_MAX = 3,
	MOCK_NESTED_DOMAIN_IOTLB_NUM = 4,
};

/* Slots of a device's cache. */
enum {
	MOCK_DEV_CACHE_ID_MAX = 3,
	MOCK_DEV_CACHE_NUM = 4,
};

#define IOMMU_TEST_IOTLB_DEFAULT	0xbadbeef
#define IOMMU_TEST_DEV_CACHE_DEFAULT	0xbaddad

/* ---- Accesses: the kernel reading and writing as a device would ------------------------------ */

enum {
	MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES = 0x1,
};

enum {
	MOCK_FLAGS_ACCESS_WRITE = 0x1,
	MOCK_FLAGS_ACCESS_SYZ = 0x10000,	/* iova is area index + (offset << 32) */
};

enum {
	MOCK_ACCESS_RW_WRITE = 0x1,
	MOCK_ACCESS_RW_SLOW_PATH = 0x4,
};

/* ---- The mock's own types for the stable commands -------------------------------------------- */

#define IOMMU_HW_INFO_TYPE_SELFTEST	0xfeedbeef
#define IOMMU_HW_INFO_SELFTEST_REGVAL	0xdeadbeef

struct iommu_test_hw_info {
	__u32 flags;
	__u32 test_reg;		/* IOMMU_HW_INFO_SELFTEST_REGVAL */
};

#define IOMMU_HWPT_DATA_SELFTEST	0xdead

struct iommu_hwpt_selftest {
	__u32 iotlb;		/* what every slot starts with */
	__u32 pagetable_type;	/* MOCK_IOMMUPT_* */
};

#define IOMMU_HWPT_INVALIDATE_DATA_SELFTEST		0xdeadbeef
#define IOMMU_HWPT_INVALIDATE_DATA_SELFTEST_INVALID	0xdadbeef

#define IOMMU_TEST_INVALIDATE_FLAG_ALL	0x1	/* every slot, whatever the ID says */

struct iommu_hwpt_invalidate_selftest {
	__u32 flags;		/* IOMMU_TEST_INVALIDATE_FLAG_ALL */
	__u32 iotlb_id;
};

#define IOMMU_VIOMMU_TYPE_SELFTEST	0xdeadbeef

struct iommu_viommu_selftest {
	__u32 in_data;
	__u32 out_data;		/* in_data again */
	__aligned_u64 out_mmap_offset;
	__aligned_u64 out_mmap_length;
};

#define IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST		0xdeadbeef
#define IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST_INVALID	0xdadbeef

struct iommu_viommu_invalidate_selftest {
	__u32 flags;		/* IOMMU_TEST_INVALIDATE_FLAG_ALL */
	__u32 vdev_id;
	__u32 cache_id;
};

#define IOMMU_VEVENTQ_TYPE_SELFTEST	0xbeefbeef

struct iommu_viommu_event_selftest {
	__u32 virt_id;
};

#define IOMMU_HW_QUEUE_TYPE_SELFTEST	0xdeadbeef
#define IOMMU_TEST_HW_QUEUE_MAX		2

#endif
