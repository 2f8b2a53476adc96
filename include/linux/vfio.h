/* SPDX-License-Identifier: MIT */
/*
 * VFIO's container and its type1 IOMMU, as far as Linux 7.3 has them behind /dev/iommu and
 * /dev/vfio/vfio (CONFIG_IOMMUFD_VFIO_CONTAINER), its groups (/dev/vfio/7), and its device files of
 * PCI functions (/dev/vfio/devices/vfio0): our own declaration of these parts of the ABI.
 *
 * As in iommufd.h every command number is VFIO_TYPE and a number, without a size. Structs carry
 * theirs in argsz (bytes), as the caller knows them.
 */
#ifndef _UAPIVFIO_H
#define _UAPIVFIO_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define VFIO_API_VERSION 0

/* What VFIO_CHECK_EXTENSION asks for; the first two and VFIO_NOIOMMU_IOMMU are kinds of IOMMU, too. */
#define VFIO_TYPE1_IOMMU 1
#define VFIO_TYPE1v2_IOMMU 3	/* unmaps what was mapped, no less */
#define VFIO_DMA_CC_IOMMU 4	/* all DMA sees the CPU's caches */
#define VFIO_NOIOMMU_IOMMU 8
#define VFIO_UNMAP_ALL 9
#define VFIO_UPDATE_VADDR 10

#define VFIO_TYPE ';'
#define VFIO_BASE 100

#define VFIO_GET_API_VERSION _IO(VFIO_TYPE, VFIO_BASE + 0)
#define VFIO_CHECK_EXTENSION _IO(VFIO_TYPE, VFIO_BASE + 1)	/* the argument is the extension */
#define VFIO_SET_IOMMU _IO(VFIO_TYPE, VFIO_BASE + 2)	/* the argument is the kind */
#define VFIO_IOMMU_GET_INFO _IO(VFIO_TYPE, VFIO_BASE + 12)
#define VFIO_IOMMU_MAP_DMA _IO(VFIO_TYPE, VFIO_BASE + 13)
#define VFIO_IOMMU_UNMAP_DMA _IO(VFIO_TYPE, VFIO_BASE + 14)
#define VFIO_IOMMU_DIRTY_PAGES _IO(VFIO_TYPE, VFIO_BASE + 17)

/* ---- VFIO_IOMMU_GET_INFO: a struct, and behind it a chain of capabilities ----------------------- */

#define VFIO_IOMMU_INFO_PGSIZES (1 << 0)	/* iova_pgsizes is set */
#define VFIO_IOMMU_INFO_CAPS (1 << 1)	/* cap_offset is, if there was room */

struct vfio_iommu_type1_info {
	__u32 argsz;		/* in: the room; out: what all of it takes */
	__u32 flags;
	__u64 iova_pgsizes;	/* bitmap of page sizes */
	__u32 cap_offset;	/* of the first capability, from the struct's start; 0: none */
	__u32 pad;
};

struct vfio_info_cap_header {
	__u16 id;
	__u16 version;
	__u32 next;		/* as cap_offset; 0: this is the last */
};

#define VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE 1

struct vfio_iova_range {
	__u64 start;
	__u64 end;		/* inclusive */
};

struct vfio_iommu_type1_info_cap_iova_range {
	struct vfio_info_cap_header header;
	__u32 nr_iovas;
	__u32 reserved;
	struct vfio_iova_range iova_ranges[];
};

#define VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL 3

struct vfio_iommu_type1_info_dma_avail {
	struct vfio_info_cap_header header;
	__u32 avail;		/* mappings that can still be made */
};

#define VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION 2

struct vfio_iommu_type1_info_cap_migration {
	struct vfio_info_cap_header header;
	__u32 flags;
	__u64 pgsize_bitmap;	/* of the pages that a bit of a dirty bitmap may stand for */
	__u64 max_dirty_bitmap_size;	/* bytes */
};

/* ---- VFIO_IOMMU_MAP_DMA -------------------------------------------------------------------------- */

#define VFIO_DMA_MAP_FLAG_READ (1 << 0)
#define VFIO_DMA_MAP_FLAG_WRITE (1 << 1)
#define VFIO_DMA_MAP_FLAG_VADDR (1 << 2)

struct vfio_iommu_type1_dma_map {
	__u32 argsz;
	__u32 flags;
	__u64 vaddr;
	__u64 iova;
	__u64 size;
};

/* ---- VFIO_IOMMU_UNMAP_DMA ------------------------------------------------------------------------ */

#define VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP (1 << 0)
#define VFIO_DMA_UNMAP_FLAG_ALL (1 << 1)	/* iova and size are 0 */
#define VFIO_DMA_UNMAP_FLAG_VADDR (1 << 2)

struct vfio_iommu_type1_dma_unmap {
	__u32 argsz;
	__u32 flags;
	__u64 iova;
	__u64 size;		/* in: the range; out: what was unmapped of it */
	__u8 data[];		/* with GET_DIRTY_BITMAP: struct vfio_bitmap */
};

/* ---- VFIO_IOMMU_DIRTY_PAGES ---------------------------------------------------------------------- */

struct vfio_bitmap {
	__u64 pgsize;		/* bytes that a bit stands for */
	__u64 size;		/* of the bitmap, bytes */
	__u64 *data;
};

#define VFIO_IOMMU_DIRTY_PAGES_FLAG_START (1 << 0)
#define VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP (1 << 1)
#define VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP (1 << 2)

struct vfio_iommu_type1_dirty_bitmap {
	__u32 argsz;
	__u32 flags;		/* one of them */
	__u8 data[];		/* with GET_BITMAP: struct vfio_iommu_type1_dirty_bitmap_get */
};

struct vfio_iommu_type1_dirty_bitmap_get {
	__u64 iova;
	__u64 size;
	struct vfio_bitmap bitmap;
};

/* ==== Groups' files ================================================================================ */

#define VFIO_GROUP_GET_STATUS _IO(VFIO_TYPE, VFIO_BASE + 3)
#define VFIO_GROUP_SET_CONTAINER _IO(VFIO_TYPE, VFIO_BASE + 4)	/* the argument points to a descriptor's number */
#define VFIO_GROUP_UNSET_CONTAINER _IO(VFIO_TYPE, VFIO_BASE + 5)	/* no argument */
#define VFIO_GROUP_GET_DEVICE_FD _IO(VFIO_TYPE, VFIO_BASE + 6)	/* the argument points to a name */

#define VFIO_GROUP_FLAGS_VIABLE (1 << 0)
#define VFIO_GROUP_FLAGS_CONTAINER_SET (1 << 1)

struct vfio_group_status {
	__u32 argsz;
	__u32 flags;		/* out */
};

/* ==== Device files ================================================================================ */

/*
 * Some of their numbers are a container's as well. Where a struct ends with an array, argsz counts
 * what of it is there.
 */

#define VFIO_DEVICE_GET_INFO _IO(VFIO_TYPE, VFIO_BASE + 7)
#define VFIO_DEVICE_GET_REGION_INFO _IO(VFIO_TYPE, VFIO_BASE + 8)
#define VFIO_DEVICE_GET_IRQ_INFO _IO(VFIO_TYPE, VFIO_BASE + 9)
#define VFIO_DEVICE_SET_IRQS _IO(VFIO_TYPE, VFIO_BASE + 10)
#define VFIO_DEVICE_RESET _IO(VFIO_TYPE, VFIO_BASE + 11)	/* no argument */
#define VFIO_DEVICE_GET_PCI_HOT_RESET_INFO _IO(VFIO_TYPE, VFIO_BASE + 12)
#define VFIO_DEVICE_PCI_HOT_RESET _IO(VFIO_TYPE, VFIO_BASE + 13)
#define VFIO_DEVICE_IOEVENTFD _IO(VFIO_TYPE, VFIO_BASE + 16)
#define VFIO_DEVICE_FEATURE _IO(VFIO_TYPE, VFIO_BASE + 17)
#define VFIO_DEVICE_BIND_IOMMUFD _IO(VFIO_TYPE, VFIO_BASE + 18)
#define VFIO_DEVICE_ATTACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 19)
#define VFIO_DEVICE_DETACH_IOMMUFD_PT _IO(VFIO_TYPE, VFIO_BASE + 20)

/* ---- VFIO_DEVICE_BIND_IOMMUFD: until then all others fail ----------------------------------------- */

#define VFIO_DEVICE_BIND_FLAG_TOKEN (1 << 0)	/* token_uuid_ptr is set */

struct vfio_device_bind_iommufd {
	__u32 argsz;
	__u32 flags;
	__s32 iommufd;		/* a descriptor of /dev/iommu */
	__u32 out_devid;	/* the device's object there */
	__aligned_u64 token_uuid_ptr;	/* 16 bytes */
};

/* ---- VFIO_DEVICE_ATTACH_IOMMUFD_PT, VFIO_DEVICE_DETACH_IOMMUFD_PT ---------------------------------- */

#define VFIO_DEVICE_ATTACH_PASID (1 << 0)	/* pasid is set */

struct vfio_device_attach_iommufd_pt {
	__u32 argsz;
	__u32 flags;
	__u32 pt_id;		/* in: an IOAS or a HWPT; out: the HWPT */
	__u32 pasid;
};

#define VFIO_DEVICE_DETACH_PASID (1 << 0)

struct vfio_device_detach_iommufd_pt {
	__u32 argsz;
	__u32 flags;
	__u32 pasid;
};

/* ---- VFIO_DEVICE_GET_INFO: a struct, and behind it a chain of capabilities ------------------------- */

#define VFIO_DEVICE_FLAGS_RESET (1 << 0)	/* VFIO_DEVICE_RESET works */
#define VFIO_DEVICE_FLAGS_PCI (1 << 1)
#define VFIO_DEVICE_FLAGS_CAPS (1 << 7)	/* cap_offset is set, if there was room */

struct vfio_device_info {
	__u32 argsz;		/* in: the room; out: what all of it takes */
	__u32 flags;
	__u32 num_regions;
	__u32 num_irqs;
	__u32 cap_offset;
	__u32 pad;
};

#define VFIO_DEVICE_INFO_CAP_PCI_ATOMIC_COMP 5

#define VFIO_PCI_ATOMIC_COMP32 (1 << 0)	/* atomic operations that reach memory */
#define VFIO_PCI_ATOMIC_COMP64 (1 << 1)
#define VFIO_PCI_ATOMIC_COMP128 (1 << 2)

struct vfio_device_info_cap_pci_atomic_comp {
	struct vfio_info_cap_header header;
	__u32 flags;
	__u32 reserved;
};

/* ---- VFIO_DEVICE_GET_REGION_INFO: as VFIO_DEVICE_GET_INFO, for one region -------------------------- */

enum {
	VFIO_PCI_BAR0_REGION_INDEX,
	VFIO_PCI_BAR1_REGION_INDEX,
	VFIO_PCI_BAR2_REGION_INDEX,
	VFIO_PCI_BAR3_REGION_INDEX,
	VFIO_PCI_BAR4_REGION_INDEX,
	VFIO_PCI_BAR5_REGION_INDEX,
	VFIO_PCI_ROM_REGION_INDEX,
	VFIO_PCI_CONFIG_REGION_INDEX,
	VFIO_PCI_VGA_REGION_INDEX,
	VFIO_PCI_NUM_REGIONS,
};

#define VFIO_REGION_INFO_FLAG_READ (1 << 0)
#define VFIO_REGION_INFO_FLAG_WRITE (1 << 1)
#define VFIO_REGION_INFO_FLAG_MMAP (1 << 2)
#define VFIO_REGION_INFO_FLAG_CAPS (1 << 3)

struct vfio_region_info {
	__u32 argsz;
	__u32 flags;
	__u32 index;		/* in */
	__u32 cap_offset;
	__aligned_u64 size;	/* bytes; 0: there is none */
	__aligned_u64 offset;	/* where it is in the device file */
};

#define VFIO_REGION_INFO_CAP_MSIX_MAPPABLE 3	/* no more than its header: the table's page can be mapped too */

/* ---- VFIO_DEVICE_GET_IRQ_INFO, VFIO_DEVICE_SET_IRQS ------------------------------------------------ */

enum {
	VFIO_PCI_INTX_IRQ_INDEX,
	VFIO_PCI_MSI_IRQ_INDEX,
	VFIO_PCI_MSIX_IRQ_INDEX,
	VFIO_PCI_ERR_IRQ_INDEX,	/* an error of the device's */
	VFIO_PCI_REQ_IRQ_INDEX,	/* the device is wanted back */
	VFIO_PCI_NUM_IRQS,
};

#define VFIO_IRQ_INFO_EVENTFD (1 << 0)
#define VFIO_IRQ_INFO_MASKABLE (1 << 1)
#define VFIO_IRQ_INFO_AUTOMASKED (1 << 2)	/* masked by each interrupt */
#define VFIO_IRQ_INFO_NORESIZE (1 << 3)	/* more vectors only from the start */

struct vfio_irq_info {
	__u32 argsz;
	__u32 flags;
	__u32 index;		/* in */
	__u32 count;		/* vectors */
};

/* One of these says what data is, */
#define VFIO_IRQ_SET_DATA_NONE (1 << 0)
#define VFIO_IRQ_SET_DATA_BOOL (1 << 1)	/* u8 for each vector */
#define VFIO_IRQ_SET_DATA_EVENTFD (1 << 2)	/* s32 for each; -1: none */
#define VFIO_IRQ_SET_DATA_TYPE_MASK \
	(VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_DATA_BOOL | VFIO_IRQ_SET_DATA_EVENTFD)
/* and one of these what to do. */
#define VFIO_IRQ_SET_ACTION_MASK (1 << 3)
#define VFIO_IRQ_SET_ACTION_UNMASK (1 << 4)
#define VFIO_IRQ_SET_ACTION_TRIGGER (1 << 5)
#define VFIO_IRQ_SET_ACTION_TYPE_MASK \
	(VFIO_IRQ_SET_ACTION_MASK | VFIO_IRQ_SET_ACTION_UNMASK | VFIO_IRQ_SET_ACTION_TRIGGER)

struct vfio_irq_set {
	__u32 argsz;
	__u32 flags;
	__u32 index;
	__u32 start;		/* the first vector */
	__u32 count;
	__u8 data[];
};

/* ---- VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, VFIO_DEVICE_PCI_HOT_RESET: by its bus ---------------------- */

#define VFIO_PCI_DEVID_OWNED 0	/* it has no ID, but its group is the caller's */
#define VFIO_PCI_DEVID_NOT_OWNED -1

struct vfio_pci_dependent_device {
	union {
		__u32 group_id;
		__u32 devid;
	};
	__u16 segment;
	__u8 bus;
	__u8 devfn;
};

#define VFIO_PCI_HOT_RESET_FLAG_DEV_ID (1 << 0)	/* devid is set, not group_id */
#define VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED (1 << 1)	/* all are the caller's */

struct vfio_pci_hot_reset_info {
	__u32 argsz;
	__u32 flags;
	__u32 count;
	struct vfio_pci_dependent_device devices[];
};

struct vfio_pci_hot_reset {
	__u32 argsz;
	__u32 flags;
	__u32 count;		/* of a device file: 0 */
	__s32 group_fds[];
};

/* ---- VFIO_DEVICE_IOEVENTFD: an eventfd that stores something into a region -------------------------- */

#define VFIO_DEVICE_IOEVENTFD_8 (1 << 0)
#define VFIO_DEVICE_IOEVENTFD_16 (1 << 1)
#define VFIO_DEVICE_IOEVENTFD_32 (1 << 2)
#define VFIO_DEVICE_IOEVENTFD_64 (1 << 3)
#define VFIO_DEVICE_IOEVENTFD_SIZE_MASK (0xf)

struct vfio_device_ioeventfd {
	__u32 argsz;
	__u32 flags;
	__aligned_u64 offset;	/* in the device file */
	__aligned_u64 data;
	__s32 fd;		/* -1: not any more */
	__u32 reserved;
};

/* ---- VFIO_DEVICE_FEATURE: what not every device has ------------------------------------------------- */

#define VFIO_DEVICE_FEATURE_MASK (0xffff)
#define VFIO_DEVICE_FEATURE_GET (1 << 16)
#define VFIO_DEVICE_FEATURE_SET (1 << 17)
#define VFIO_DEVICE_FEATURE_PROBE (1 << 18)	/* with what it is asked about, or with none of them */

struct vfio_device_feature {
	__u32 argsz;
	__u32 flags;
	__u8 data[];
};

#define VFIO_DEVICE_FEATURE_PCI_VF_TOKEN (0)
#define VFIO_DEVICE_FEATURE_MIGRATION 1
#define VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE 2
#define VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY 3
#define VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP 4
#define VFIO_DEVICE_FEATURE_LOW_POWER_EXIT 5
#define VFIO_DEVICE_FEATURE_DMA_LOGGING_START 6
#define VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP 7
#define VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT 8
#define VFIO_DEVICE_FEATURE_MIG_DATA_SIZE 9
#define VFIO_DEVICE_FEATURE_BUS_MASTER 10
#define VFIO_DEVICE_FEATURE_DMA_BUF 11
#define VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 12
#define VFIO_DEVICE_FEATURE_ZPCI_ERROR 13

struct vfio_device_low_power_entry_with_wakeup {
	__s32 wakeup_eventfd;
	__u32 reserved;
};

struct vfio_region_dma_range {
	__u64 offset;		/* within the region */
	__u64 length;
};

struct vfio_device_feature_dma_buf {
	__u32 region_index;
	__u32 open_flags;	/* of the descriptor */
	__u32 flags;
	__u32 nr_ranges;
	struct vfio_region_dma_range dma_ranges[];
};

#endif
