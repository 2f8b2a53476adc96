/* SPDX-License-Identifier: MIT */
/* NVM Express 1.4 as far as the clients here use it: registers, entries of queues, and numbers. */
#ifndef NVME_SPEC_H
#define NVME_SPEC_H

#include <stdint.h>

/* Registers. Ref: 3.1 */
#define REG_CAP 0x00
#define REG_VS 0x08
#define REG_INTMS 0x0c
#define REG_INTMC 0x10
#define REG_CC 0x14
#define REG_CSTS 0x1c
#define REG_AQA 0x24
#define REG_ASQ 0x28
#define REG_ACQ 0x30
#define REG_DOORBELLS 0x1000

#define CAP_MQES(cap) ((uint32_t)((cap) & 0xffff))
#define CAP_CQR(cap) ((uint32_t)((cap) >> 16 & 1))
#define CAP_TO(cap) ((uint32_t)((cap) >> 24 & 0xff)) /* of half a second */
#define CAP_DSTRD(cap) ((uint32_t)((cap) >> 32 & 0xf))
#define CAP_CSS_NVM(cap) ((uint32_t)((cap) >> 37 & 1))
#define CAP_MPSMIN(cap) ((uint32_t)((cap) >> 48 & 0xf))
#define CAP_MPSMAX(cap) ((uint32_t)((cap) >> 52 & 0xf))

#define CC_EN 1U
#define CC_MPS(shift) ((uint32_t)(shift) << 7)
#define CC_SHN_NORMAL (1U << 14)
#define CC_SHN_ABRUPT (2U << 14)
#define CC_SHN (3U << 14)
#define CC_ENTRIES (6U << 16 | 4U << 20) /* 64 and 16 bytes */

#define CSTS_RDY 1U
#define CSTS_CFS 2U
#define CSTS_SHST 0xcU
#define CSTS_SHST_DONE 0x8U

/* Entries of queues. Ref: 4.2, 4.6 */
struct command {
	uint8_t opcode;
	uint8_t flags;
	uint16_t cid;
	uint32_t nsid;
	uint32_t cdw2;
	uint32_t cdw3;
	uint64_t mptr;
	uint64_t prp1;
	uint64_t prp2;
	uint32_t cdw10;
	uint32_t cdw11;
	uint32_t cdw12;
	uint32_t cdw13;
	uint32_t cdw14;
	uint32_t cdw15;
};

struct completion {
	uint32_t dw0;
	uint32_t dw1;
	uint16_t sq_head;
	uint16_t sq_id;
	uint16_t cid;
	uint16_t status; /* bit 0 is the phase */
};

#define STATUS_SC(status) ((status) >> 1 & 0xffU)
#define STATUS_SCT(status) ((status) >> 9 & 7U)
#define STATUS_CODE(status) ((status) >> 1 & 0x7ffU) /* both */
#define STATUS_MORE(status) ((status) >> 14 & 1U)
#define STATUS_DNR(status) ((status) >> 15 & 1U)

#define FLAG_FUSE_FIRST 1U
#define FLAG_FUSE_SECOND 2U
#define FLAG_SGL (1U << 6)
#define FLAG_SGL_METADATA (2U << 6)

struct sgl {
	uint64_t address;
	uint32_t length;
	uint8_t reserved[3];
	uint8_t type; /* and subtype in the low half */
};

#define SGL_DATA 0x00U
#define SGL_BIT_BUCKET 0x10U
#define SGL_SEGMENT 0x20U
#define SGL_LAST_SEGMENT 0x30U

struct dsm_range {
	uint32_t attributes;
	uint32_t count;
	uint64_t lba;
};

/* Admin commands. Ref: 5 */
#define ADMIN_DELETE_SQ 0x00
#define ADMIN_CREATE_SQ 0x01
#define ADMIN_GET_LOG 0x02
#define ADMIN_DELETE_CQ 0x04
#define ADMIN_CREATE_CQ 0x05
#define ADMIN_IDENTIFY 0x06
#define ADMIN_ABORT 0x08
#define ADMIN_SET_FEATURES 0x09
#define ADMIN_GET_FEATURES 0x0a
#define ADMIN_ASYNC_EVENT 0x0c
#define ADMIN_NAMESPACE_MANAGEMENT 0x0d
#define ADMIN_NAMESPACE_ATTACHMENT 0x15
#define ADMIN_DOORBELL_BUFFER 0x7c
#define ADMIN_FORMAT 0x80

/* I/O commands. Ref: 6 */
#define IO_FLUSH 0x00
#define IO_WRITE 0x01
#define IO_READ 0x02
#define IO_COMPARE 0x05
#define IO_WRITE_ZEROES 0x08
#define IO_DSM 0x09
#define IO_VERIFY 0x0c

#define QUEUE_CONTIGUOUS 1U
#define QUEUE_INTERRUPTS 2U

#define CNS_NAMESPACE 0x00
#define CNS_CONTROLLER 0x01
#define CNS_ACTIVE 0x02
#define CNS_DESCRIPTORS 0x03
#define CNS_IO_COMMAND_SET 0x06
#define CNS_ALLOCATED 0x10

#define LOG_ERRORS 1
#define LOG_SMART 2
#define LOG_FIRMWARE 3
#define LOG_EFFECTS 5
#define LOG_RETAIN (1U << 15)

#define FEATURE_ARBITRATION 0x01
#define FEATURE_POWER 0x02
#define FEATURE_LBA_RANGE 0x03
#define FEATURE_TEMPERATURE 0x04
#define FEATURE_ERROR_RECOVERY 0x05
#define FEATURE_WRITE_CACHE 0x06
#define FEATURE_QUEUES 0x07
#define FEATURE_COALESCING 0x08
#define FEATURE_VECTOR 0x09
#define FEATURE_ATOMICITY 0x0a
#define FEATURE_EVENTS 0x0b
#define FEATURE_HOST_MEMORY 0x0d
#define FEATURE_TIMESTAMP 0x0e

#define EVERY_NAMESPACE 0xffffffffU

/* Status type and code, as STATUS_CODE gives them. Ref: 4.6.1 */
#define STATUS_ABORTED 0x007
#define STATUS_QUEUE_DELETED 0x008

/* Bytes of Identify Controller. Ref: 5.15.2.2 */
#define ID_MDTS 77
#define ID_OACS 256
#define ID_ACL 258
#define ID_AERL 259
#define ID_LPA 261
#define ID_NPSS 263
#define ID_WARNING_TEMPERATURE 266
#define ID_NN 516
#define ID_ONCS 520
#define ID_VWC 525
#define ID_SGLS 536

#define OACS_FORMAT (1U << 1)
#define OACS_DOORBELL_BUFFER (1U << 8)
#define ONCS_COMPARE (1U << 0)
#define ONCS_DSM (1U << 2)
#define ONCS_WRITE_ZEROES (1U << 3)
#define ONCS_VERIFY (1U << 7)

#endif
