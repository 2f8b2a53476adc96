/* SPDX-License-Identifier: MIT */
/*
 * What the test ioctl of iommud has and the kernel's has not (it answers EOPNOTSUPP): DMA.
 *
 * The device `id` (its binding) reads memory into the client's buffer or, with
 * MOCK_ACCESS_RW_WRITE, writes it from there. The union's member is access_rw; iova is where the
 * DMA goes to: of a device without an IOMMU, a physical address. At most 1 MiB (ENOMEM). ENOENT,
 * EPERM, EFAULT: the device's DMA fails there.
 */
#ifndef _IOMMUD_DMA_H
#define _IOMMUD_DMA_H

#include <iommud/iommufd_test.h>

#define IOMMUD_TEST_OP_DMA	0x10000

#endif
