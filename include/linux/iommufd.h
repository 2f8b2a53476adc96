/* SPDX-License-Identifier: MIT */
/*
 * The IOMMUFD interface of Linux 7.3, declared anew for iommud.
 *
 * Two readers: C programs, which get it as <linux/iommufd.h> when this directory comes first on
 * the include path, and iommud/uapi/header.py, which feeds it to cffi. The guard is the one of
 * the kernel's header, so a program that meets both sees one.
 *
 * Conventions of every command below:
 * - `size` is the caller's sizeof the struct, in bytes; it lets old programs meet new kernels.
 * - `__reserved*` and unknown flag bits are zero.
 * - `out_*` is written by the command, never read; `*_uptr`, `*_iovas`, `user_va` and `data` are
 *   addresses in the caller's memory.
 * - `*_id` names an object of the open file; 0 is never an object.
 * - lengths, offsets, addresses and alignments are bytes; `last` is inclusive.
 */
#ifndef _UAPI_IOMMUFD_H
#define _UAPI_IOMMUFD_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define IOMMUFD_TYPE (';')

/* ---- Command numbers: the low byte of each ioctl --------------------------------------------- */

enum {
	IOMMUFD_CMD_BASE = 0x80,
	IOMMUFD_CMD_DESTROY = 0x80,
	IOMMUFD_CMD_IOAS_ALLOC = 0x81,
	IOMMUFD_CMD_IOAS_ALLOW_IOVAS = 0x82,
	IOMMUFD_CMD_IOAS_COPY = 0x83,
	IOMMUFD_CMD_IOAS_IOVA_RANGES = 0x84,
	IOMMUFD_CMD_IOAS_MAP = 0x85,
	IOMMUFD_CMD_IOAS_UNMAP = 0x86,
	IOMMUFD_CMD_OPTION = 0x87,
	IOMMUFD_CMD_VFIO_IOAS = 0x88,
	IOMMUFD_CMD_HWPT_ALLOC = 0x89,
	IOMMUFD_CMD_GET_HW_INFO = 0x8a,
	IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING = 0x8b,
	IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP = 0x8c,
	IOMMUFD_CMD_HWPT_INVALIDATE = 0x8d,
	IOMMUFD_CMD_FAULT_QUEUE_ALLOC = 0x8e,
	IOMMUFD_CMD_IOAS_MAP_FILE = 0x8f,
	IOMMUFD_CMD_VIOMMU_ALLOC = 0x90,
	IOMMUFD_CMD_VDEVICE_ALLOC = 0x91,
	IOMMUFD_CMD_IOAS_CHANGE_PROCESS = 0x92,
	IOMMUFD_CMD_VEVENTQ_ALLOC = 0x93,
	IOMMUFD_CMD_HW_QUEUE_ALLOC = 0x94,
	IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA = 0x95,
};

#define IOMMU_DESTROY			_IO(IOMMUFD_TYPE, IOMMUFD_CMD_DESTROY)
#define IOMMU_OPTION			_IO(IOMMUFD_TYPE, IOMMUFD_CMD_OPTION)

#define IOMMU_IOAS_ALLOC		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOC)
#define IOMMU_IOAS_ALLOW_IOVAS		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_ALLOW_IOVAS)
#define IOMMU_IOAS_IOVA_RANGES		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_IOVA_RANGES)
#define IOMMU_IOAS_MAP			_IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP)
#define IOMMU_IOAS_MAP_FILE		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_MAP_FILE)
#define IOMMU_IOAS_COPY			_IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_COPY)
#define IOMMU_IOAS_UNMAP		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_UNMAP)
#define IOMMU_IOAS_CHANGE_PROCESS	_IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_CHANGE_PROCESS)
#define IOMMU_IOAS_NOIOMMU_GET_PA	_IO(IOMMUFD_TYPE, IOMMUFD_CMD_IOAS_NOIOMMU_GET_PA)
#define IOMMU_VFIO_IOAS			_IO(IOMMUFD_TYPE, IOMMUFD_CMD_VFIO_IOAS)

#define IOMMU_GET_HW_INFO		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_GET_HW_INFO)
#define IOMMU_HWPT_ALLOC		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_ALLOC)
#define IOMMU_HWPT_SET_DIRTY_TRACKING	_IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_SET_DIRTY_TRACKING)
#define IOMMU_HWPT_GET_DIRTY_BITMAP	_IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_GET_DIRTY_BITMAP)
#define IOMMU_HWPT_INVALIDATE		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_HWPT_INVALIDATE)
#define IOMMU_FAULT_QUEUE_ALLOC		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_FAULT_QUEUE_ALLOC)

#define IOMMU_VIOMMU_ALLOC		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_VIOMMU_ALLOC)
#define IOMMU_VDEVICE_ALLOC		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_VDEVICE_ALLOC)
#define IOMMU_VEVENTQ_ALLOC		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_VEVENTQ_ALLOC)
#define IOMMU_HW_QUEUE_ALLOC		_IO(IOMMUFD_TYPE, IOMMUFD_CMD_HW_QUEUE_ALLOC)

/* ---- The open file: destroy an object, set an option ----------------------------------------- */

struct iommu_destroy {
	__u32 size;
	__u32 id;		/* of any kind that a program may destroy */
};

enum iommufd_option {
	IOMMU_OPTION_RLIMIT_MODE = 0,	/* file: locked pages count 0 per user, 1 per process */
	IOMMU_OPTION_HUGE_PAGES = 1,	/* IOAS: 1 merges pages in page tables, 0 does not */
};

enum iommufd_option_ops {
	IOMMU_OPTION_OP_SET = 0,
	IOMMU_OPTION_OP_GET = 1,
};

struct iommu_option {
	__u32 size;
	__u32 option_id;	/* enum iommufd_option */
	__u16 op;		/* enum iommufd_option_ops */
	__u16 __reserved;
	__u32 object_id;	/* 0 for an option of the file */
	__aligned_u64 val64;	/* in for SET, out for GET */
};

/* ---- IOAS: a map from IO virtual addresses to memory ----------------------------------------- */

struct iommu_ioas_alloc {
	__u32 size;
	__u32 flags;		/* none is defined */
	__u32 out_ioas_id;
};

struct iommu_iova_range {
	__aligned_u64 start;
	__aligned_u64 last;
};

struct iommu_ioas_iova_ranges {
	__u32 size;
	__u32 ioas_id;
	__u32 num_iovas;	/* in: room in the array; out: how many ranges there are */
	__u32 __reserved;
	__aligned_u64 allowed_iovas;	/* array of struct iommu_iova_range, written */
	__aligned_u64 out_iova_alignment;	/* of the ends of every mapping; a power of two */
};

struct iommu_ioas_allow_iovas {
	__u32 size;
	__u32 ioas_id;
	__u32 num_iovas;	/* entries in the array; they replace the earlier list */
	__u32 __reserved;
	__aligned_u64 allowed_iovas;	/* array of struct iommu_iova_range, read */
};

/* Of MAP, MAP_FILE and COPY. */
enum iommufd_ioas_map_flags {
	IOMMU_IOAS_MAP_FIXED_IOVA = 0x1,	/* the caller chose the IOVA */
	IOMMU_IOAS_MAP_WRITEABLE = 0x2,		/* by devices */
	IOMMU_IOAS_MAP_READABLE = 0x4,		/* by devices */
};

struct iommu_ioas_map {
	__u32 size;
	__u32 flags;		/* enum iommufd_ioas_map_flags */
	__u32 ioas_id;
	__u32 __reserved;
	__aligned_u64 user_va;
	__aligned_u64 length;
	__aligned_u64 iova;	/* in with FIXED_IOVA, else out */
};

struct iommu_ioas_map_file {
	__u32 size;
	__u32 flags;		/* enum iommufd_ioas_map_flags */
	__u32 ioas_id;
	__s32 fd;		/* a memfd, or a dma-buf the kernel can take */
	__aligned_u64 start;	/* offset in the file */
	__aligned_u64 length;
	__aligned_u64 iova;	/* in with FIXED_IOVA, else out */
};

struct iommu_ioas_copy {
	__u32 size;
	__u32 flags;		/* enum iommufd_ioas_map_flags */
	__u32 dst_ioas_id;
	__u32 src_ioas_id;
	__aligned_u64 length;
	__aligned_u64 dst_iova;	/* in with FIXED_IOVA, else out */
	__aligned_u64 src_iova;
};

struct iommu_ioas_unmap {
	__u32 size;
	__u32 ioas_id;
	__aligned_u64 iova;
	__aligned_u64 length;	/* in: ~0 with iova 0 means all; out: how much was unmapped */
};

/* Moves the account of locked pages to the calling process. */
struct iommu_ioas_change_process {
	__u32 size;
	__u32 __reserved;
};

/* Physical address behind an IOVA, for devices that run without an IOMMU. */
struct iommu_ioas_noiommu_get_pa {
	__u32 size;
	__u32 flags;		/* none is defined */
	__u32 ioas_id;
	__u32 __reserved;
	__aligned_u64 iova;
	__aligned_u64 length;	/* in: most to look at; out: contiguous from out_phys */
	__aligned_u64 out_phys;
};

/* The one IOAS that VFIO's older, ID-less container interface works on. */
enum iommufd_vfio_ioas_op {
	IOMMU_VFIO_IOAS_GET = 0,
	IOMMU_VFIO_IOAS_SET = 1,
	IOMMU_VFIO_IOAS_CLEAR = 2,
};

struct iommu_vfio_ioas {
	__u32 size;
	__u32 ioas_id;		/* in for SET, out for GET */
	__u16 op;		/* enum iommufd_vfio_ioas_op */
	__u16 __reserved;
};

/* ---- What the IOMMU before a device can do --------------------------------------------------- */

enum iommu_hw_info_type {
	IOMMU_HW_INFO_TYPE_NONE = 0,	/* out: the driver tells nothing */
	IOMMU_HW_INFO_TYPE_DEFAULT = 0,	/* in: whatever the driver tells */
	IOMMU_HW_INFO_TYPE_INTEL_VTD = 1,
	IOMMU_HW_INFO_TYPE_ARM_SMMUV3 = 2,
	IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV = 3,
	IOMMU_HW_INFO_TYPE_AMD = 4,
};

enum iommufd_hw_info_flags {
	IOMMU_HW_INFO_FLAG_INPUT_TYPE = 0x1,	/* in_data_type counts */
};

enum iommufd_hw_capabilities {
	IOMMU_HW_CAP_DIRTY_TRACKING = 0x1,
	IOMMU_HW_CAP_PCI_PASID_EXEC = 0x2,
	IOMMU_HW_CAP_PCI_PASID_PRIV = 0x4,
	IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED = 0x8,
};

struct iommu_hw_info {
	__u32 size;
	__u32 flags;		/* enum iommufd_hw_info_flags */
	__u32 dev_id;
	__u32 data_len;		/* in: room at data_uptr; out: length the driver has */
	__aligned_u64 data_uptr;	/* one of struct iommu_hw_info_*, by out_data_type */
	union {
		__u32 in_data_type;	/* enum iommu_hw_info_type */
		__u32 out_data_type;	/* enum iommu_hw_info_type */
	};
	__u8 out_max_pasid_log2;	/* width of a PASID in bits; 0: no PASIDs */
	__u8 __reserved[3];
	__aligned_u64 out_capabilities;	/* enum iommufd_hw_capabilities */
};

enum iommu_hw_info_vtd_flags {
	IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17 = 0x1,	/* no read-only maps below a nest */
};

struct iommu_hw_info_vtd {
	__u32 flags;		/* enum iommu_hw_info_vtd_flags */
	__u32 __reserved;
	__aligned_u64 cap_reg;
	__aligned_u64 ecap_reg;
};

enum iommu_hw_info_arm_smmuv3_flags {
	IOMMU_HW_INFO_ARM_SMMUV3_ERRATA_REPEAT_TLBI_CFGI = 0x1,	/* invalidate twice */
};

struct iommu_hw_info_arm_smmuv3 {
	__u32 flags;		/* enum iommu_hw_info_arm_smmuv3_flags */
	__u32 __reserved;
	__u32 idr[6];		/* registers, raw */
	__u32 iidr;
	__u32 aidr;
};

struct iommu_hw_info_tegra241_cmdqv {
	__u32 flags;		/* none is defined */
	__u8 version;
	__u8 log2vcmdqs;
	__u8 log2vsids;
	__u8 __reserved;
};

struct iommu_hw_info_amd {
	__aligned_u64 efr;	/* registers, raw */
	__aligned_u64 efr2;
};

/* ---- HWPT: a page table that devices attach to ----------------------------------------------- */

enum iommufd_hwpt_alloc_flags {
	IOMMU_HWPT_ALLOC_NEST_PARENT = 0x1,	/* others may nest in it */
	IOMMU_HWPT_ALLOC_DIRTY_TRACKING = 0x2,	/* only devices that track may attach */
	IOMMU_HWPT_FAULT_ID_VALID = 0x4,	/* fault_id counts */
	IOMMU_HWPT_ALLOC_PASID = 0x8,		/* may be attached to a PASID */
};

enum iommu_hwpt_data_type {
	IOMMU_HWPT_DATA_NONE = 0,
	IOMMU_HWPT_DATA_VTD_S1 = 1,
	IOMMU_HWPT_DATA_ARM_SMMUV3 = 2,
	IOMMU_HWPT_DATA_AMD_GUEST = 3,
};

struct iommu_hwpt_alloc {
	__u32 size;
	__u32 flags;		/* enum iommufd_hwpt_alloc_flags */
	__u32 dev_id;
	__u32 pt_id;		/* IOAS, parent HWPT or vIOMMU */
	__u32 out_hwpt_id;
	__u32 __reserved;
	__u32 data_type;	/* enum iommu_hwpt_data_type */
	__u32 data_len;
	__aligned_u64 data_uptr;	/* the struct that data_type names */
	__u32 fault_id;
	__u32 __reserved2;
};

enum iommu_hwpt_vtd_s1_flags {
	IOMMU_VTD_S1_SRE = 0x1,
	IOMMU_VTD_S1_EAFE = 0x2,
	IOMMU_VTD_S1_WPE = 0x4,
};

struct iommu_hwpt_vtd_s1 {
	__aligned_u64 flags;	/* enum iommu_hwpt_vtd_s1_flags */
	__aligned_u64 pgtbl_addr;
	__u32 addr_width;	/* bits */
	__u32 __reserved;
};

struct iommu_hwpt_arm_smmuv3 {
	__aligned_le64 ste[2];	/* words 0 and 1 of the stream table entry */
};

struct iommu_hwpt_amd_guest {
	__aligned_u64 dte[4];	/* the guest's device table entry */
};

/* ---- Dirty pages ----------------------------------------------------------------------------- */

enum iommufd_hwpt_set_dirty_tracking_flags {
	IOMMU_HWPT_DIRTY_TRACKING_ENABLE = 0x1,	/* absent: off */
};

struct iommu_hwpt_set_dirty_tracking {
	__u32 size;
	__u32 flags;		/* enum iommufd_hwpt_set_dirty_tracking_flags */
	__u32 hwpt_id;
	__u32 __reserved;
};

enum iommufd_hwpt_get_dirty_bitmap_flags {
	IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 0x1,	/* leave the marks */
};

struct iommu_hwpt_get_dirty_bitmap {
	__u32 size;
	__u32 hwpt_id;
	__u32 flags;		/* enum iommufd_hwpt_get_dirty_bitmap_flags */
	__u32 __reserved;
	__aligned_u64 iova;	/* of bit 0 */
	__aligned_u64 length;
	__aligned_u64 page_size;	/* one bit stands for this many bytes */
	__aligned_u64 data;	/* array of 64-bit words; bits are set, none cleared */
};

/* ---- Invalidation of caches above a nested table or a vIOMMU --------------------------------- */

enum iommu_hwpt_invalidate_data_type {
	IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 = 0,
	IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 = 1,
};

struct iommu_hwpt_invalidate {
	__u32 size;
	__u32 hwpt_id;		/* nested HWPT or vIOMMU */
	__aligned_u64 data_uptr;	/* array of entry_num requests of entry_len bytes */
	__u32 data_type;	/* enum iommu_hwpt_invalidate_data_type */
	__u32 entry_len;
	__u32 entry_num;	/* out: how many were carried out */
	__u32 __reserved;
};

enum iommu_hwpt_vtd_s1_invalidate_flags {
	IOMMU_VTD_INV_FLAGS_LEAF = 0x1,	/* last level only */
};

struct iommu_hwpt_vtd_s1_invalidate {
	__aligned_u64 addr;
	__aligned_u64 npages;	/* of 4096 bytes; ~0 with addr 0 means all */
	__u32 flags;		/* enum iommu_hwpt_vtd_s1_invalidate_flags */
	__u32 __reserved;
};

struct iommu_viommu_arm_smmuv3_invalidate {
	__aligned_le64 cmd[2];	/* one command of the SMMU's queue */
};

/* ---- Page faults: read from the queue's descriptor, answered by writing to it ---------------- */

struct iommu_fault_alloc {
	__u32 size;
	__u32 flags;		/* none is defined */
	__u32 out_fault_id;
	__u32 out_fault_fd;
};

enum iommu_hwpt_pgfault_flags {
	IOMMU_PGFAULT_FLAGS_PASID_VALID = 0x1,	/* pasid counts */
	IOMMU_PGFAULT_FLAGS_LAST_PAGE = 0x2,	/* of its group; this one is to be answered */
};

enum iommu_hwpt_pgfault_perm {
	IOMMU_PGFAULT_PERM_READ = 0x1,
	IOMMU_PGFAULT_PERM_WRITE = 0x2,
	IOMMU_PGFAULT_PERM_EXEC = 0x4,
	IOMMU_PGFAULT_PERM_PRIV = 0x8,
};

/* Read. */
struct iommu_hwpt_pgfault {
	__u32 flags;		/* enum iommu_hwpt_pgfault_flags */
	__u32 dev_id;
	__u32 pasid;
	__u32 grpid;
	__u32 perm;		/* enum iommu_hwpt_pgfault_perm */
	__u32 __reserved;
	__aligned_u64 addr;
	__u32 length;		/* the device's hint; 0: none */
	__u32 cookie;		/* names the group in the answer */
};

enum iommufd_page_response_code {
	IOMMUFD_PAGE_RESP_SUCCESS = 0,	/* try again */
	IOMMUFD_PAGE_RESP_INVALID = 1,	/* give up */
};

/* Written. */
struct iommu_hwpt_page_response {
	__u32 cookie;
	__u32 code;		/* enum iommufd_page_response_code */
};

/* ---- vIOMMU: a virtual machine's slice of a physical IOMMU ----------------------------------- */

enum iommu_viommu_type {
	IOMMU_VIOMMU_TYPE_DEFAULT = 0,
	IOMMU_VIOMMU_TYPE_ARM_SMMUV3 = 1,
	IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV = 2,
};

struct iommu_viommu_alloc {
	__u32 size;
	__u32 flags;		/* none is defined */
	__u32 type;		/* enum iommu_viommu_type */
	__u32 dev_id;		/* any device behind the physical IOMMU */
	__u32 hwpt_id;		/* a nest parent */
	__u32 out_viommu_id;
	__u32 data_len;
	__u32 __reserved;
	__aligned_u64 data_uptr;	/* the struct of that type, read and written */
};

struct iommu_viommu_tegra241_cmdqv {
	__aligned_u64 out_vintf_mmap_offset;
	__aligned_u64 out_vintf_mmap_length;
};

struct iommu_vdevice_alloc {
	__u32 size;
	__u32 viommu_id;
	__u32 dev_id;
	__u32 out_vdevice_id;
	__aligned_u64 virt_id;	/* what the guest calls the device */
};

enum iommu_hw_queue_type {
	IOMMU_HW_QUEUE_TYPE_DEFAULT = 0,
	IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV = 1,
};

struct iommu_hw_queue_alloc {
	__u32 size;
	__u32 flags;		/* none is defined */
	__u32 viommu_id;
	__u32 type;		/* enum iommu_hw_queue_type */
	__u32 index;		/* unique per vIOMMU and type */
	__u32 out_hw_queue_id;
	__aligned_u64 nesting_parent_iova;	/* where the queue lies in guest memory */
	__aligned_u64 length;
};

/* ---- Events of a vIOMMU: read from the queue's descriptor ------------------------------------ */

enum iommu_veventq_type {
	IOMMU_VEVENTQ_TYPE_DEFAULT = 0,
	IOMMU_VEVENTQ_TYPE_ARM_SMMUV3 = 1,
	IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV = 2,
};

struct iommu_veventq_alloc {
	__u32 size;
	__u32 flags;		/* none is defined */
	__u32 viommu_id;
	__u32 type;		/* enum iommu_veventq_type */
	__u32 veventq_depth;	/* most events kept */
	__u32 out_veventq_id;
	__u32 out_veventq_fd;
	__u32 __reserved;
};

enum iommu_veventq_flag {
	IOMMU_VEVENTQ_FLAG_LOST_EVENTS = 0x1,	/* nothing follows this header */
};

/* Before each event. */
struct iommufd_vevent_header {
	__u32 flags;		/* enum iommu_veventq_flag */
	__u32 sequence;		/* 0 to INT_MAX and round; a gap means lost events */
};

struct iommu_vevent_arm_smmuv3 {
	__aligned_le64 evt[4];	/* one event record */
};

struct iommu_vevent_tegra241_cmdqv {
	__aligned_le64 lvcmdq_err_map[2];	/* one bit a queue */
};

#endif
