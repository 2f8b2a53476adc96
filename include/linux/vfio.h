/* SPDX-License-Identifier: MIT */
/*
 * VFIO's container and its type1 IOMMU, as far as Linux 7.3 has them behind /dev/iommu and
 * /dev/vfio/vfio (CONFIG_IOMMUFD_VFIO_CONTAINER): our own declaration of that part of the ABI.
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
	__u8 data[];
};

#endif
