// SPDX-License-Identifier: MIT
/*
 * A device behind an SMMUv3: what Linux 7.3's driver makes of each page table, of a guest's stream
 * table entry and of every command of a guest's. Arm's driver runs on no other machine, so where
 * there is none the device is the test ioctl's.
 */
#include "kinds.h"

#include "../mock/viommu.h"

#include <poll.h>

#define TYPE IOMMU_HW_INFO_TYPE_ARM_SMMUV3
#define STE IOMMU_HWPT_DATA_ARM_SMMUV3
#define COMMANDS_TYPE IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3
#define VSID 0x77UL

/* A valid entry of this Config, its context descriptors at some place. */
#define ENTRY(config) (1 | (uint64_t)(config) << 1 | 0x40000)
#define ABORT 0
#define BYPASS 4
#define STAGE_1 5

static int fd;
static uint32_t ioas, parent, viommu;
static struct device device;

static long nested_flags(uint32_t flags, uint64_t first, uint64_t second, uint32_t *id)
{
	struct iommu_hwpt_arm_smmuv3 data = { { first, second } };
	struct iommu_hwpt_alloc cmd = { .flags = flags, .dev_id = device.id, .pt_id = viommu,
					.data_type = STE, .data_len = sizeof(data),
					.data_uptr = (uintptr_t)&data };

	return alloc_cmd(fd, cmd, id);
}

static long nested(uint64_t first, uint64_t second)
{
	uint32_t id;
	long rc = nested_flags(0, first, second, &id);

	if (rc == 0)
		NEED(destroy(fd, id) == 0);
	return rc;
}

static uint32_t new_entry(uint64_t first, uint64_t second)
{
	uint32_t id;

	NEED(nested_flags(0, first, second, &id) == 0);
	return id;
}

static void page_tables(void)
{
	static const struct iommu_iova_range free_iovas[] = { { 0, 0x7ffffff },
							      { 0x8100000, 0xffffffffffff } };
	static const uint32_t good[] = { 0, PASID, DIRTY, DIRTY | PASID, PARENT };
	static const uint32_t bad[] = { PARENT | DIRTY, PARENT | PASID, PARENT | DIRTY | PASID };
	struct iommu_hwpt_alloc cmd = { .dev_id = device.id, .pt_id = ioas };
	uint32_t i, id;

	check_iovas(fd, ioas, free_iovas, 2, "without interrupts' window");
	check_alloc_refused(fd, device.id, ioas, STE);
	for (i = 0; i < ARRAY_LEN(good); i++) {
		cmd.flags = good[i];
		CHECK_OK(alloc_cmd(fd, cmd, &id), "flags %#x", good[i]);
		CHECK_OK(attach(fd, &device, id), "the device takes it");
		CHECK_OK(attach(fd, &device, ioas), "back");
		CHECK_OK(destroy(fd, id), "destroy");
	}
	for (i = 0; i < ARRAY_LEN(bad); i++) {
		cmd.flags = bad[i];
		CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "flags %#x", bad[i]);
	}
}

static void entries(void)
{
	struct iommu_hwpt_arm_smmuv3 data = { { ENTRY(STAGE_1), 0 } };
	struct iommu_hwpt_alloc cmd = { .dev_id = device.id, .pt_id = parent, .data_type = STE,
					.data_len = sizeof(data), .data_uptr = (uintptr_t)&data };
	unsigned int bit, config, eats;
	uint32_t id;

	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "without a vIOMMU nothing nests");
	cmd.pt_id = viommu;
	cmd.data_type = IOMMU_HWPT_DATA_VTD_S1;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "another IOMMU's data");
	cmd.data_type = STE;
	cmd.data_len = 8;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "half an entry");
	cmd.data_len = 24;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "more than one"); /* Only if it is not zero, E2BIG. */
	cmd.data_len = 16;
	cmd.data_uptr = (uintptr_t)unmapped();
	CHECK_ERR(EFAULT, try_alloc(fd, cmd), "nowhere");
	CHECK_ERR(EOPNOTSUPP, nested_flags(PASID, ENTRY(STAGE_1), 0, &id), "for PASIDs");
	for (config = 0; config < 8; config++)
		CHECK_ERR(config == ABORT || config == BYPASS || config == STAGE_1 ? 0 : EIO,
			  nested(ENTRY(config), 0), "Config %u", config);
	for (bit = 4; bit < 64; bit++)
		CHECK_ERR(bit <= 51 || bit >= 59 ? 0 : EIO, nested(ENTRY(STAGE_1) | 1UL << bit, 0),
			  "bit %u", bit);
	for (bit = 0; bit < 64; bit++)
		CHECK_ERR(bit < 8 || bit == 27 || bit == 28 ? 0 : EIO,
			  nested(ENTRY(STAGE_1), 1UL << bit), "bit %u of the second word", bit);
	for (eats = 0; eats < 4; eats++)
		CHECK_ERR(eats < 2 ? 0 : EIO, nested(ENTRY(BYPASS), (uint64_t)eats << 28),
			  "EATS %u", eats);
	CHECK_OK(nested(~1UL, ~0UL), "what is not valid may be anything");
}

static void attaching(void)
{
	uint32_t translating = new_entry(ENTRY(STAGE_1), 0), invalid = new_entry(0, 0);
	uint32_t bypass = new_entry(ENTRY(BYPASS), 0), abort_it = new_entry(ENTRY(ABORT), 0), vdevice;

	CHECK_ERR(ENOENT, attach(fd, &device, translating), "the guest has no number for it");
	CHECK_OK(attach(fd, &device, bypass), "but for what goes through");
	CHECK_OK(attach(fd, &device, abort_it), "what is aborted");
	CHECK_OK(attach(fd, &device, invalid), "and what is no entry it needs none");
	CHECK_OK(vdevice_alloc(fd, viommu, device.id, VSID, &vdevice), "a vDEVICE");
	CHECK_OK(attach(fd, &device, translating), "then it can be attached");
	CHECK_OK(attach(fd, &device, ioas), "and taken off");
	CHECK_OK(destroy(fd, vdevice), "without the vDEVICE");
	CHECK_ERR(ENOENT, attach(fd, &device, translating), "it is as before");
	CHECK_OK(destroy(fd, translating), "destroy");
	CHECK_OK(destroy(fd, bypass), "destroy");
	CHECK_OK(destroy(fd, abort_it), "destroy");
	CHECK_OK(destroy(fd, invalid), "destroy");
}

static long command(uint64_t first, uint64_t second)
{
	struct iommu_viommu_arm_smmuv3_invalidate one = { { first, second } };
	uint32_t count = 1;
	long rc = invalidate(fd, viommu, COMMANDS_TYPE, &one, sizeof(one), &count);

	NEED(count == (rc == 0));
	return rc;
}

/* Exactly these bits of the two words may be set. */
static void only_bits(uint64_t opcode, uint64_t first, uint64_t second, uint64_t also_first,
		      uint64_t also_second, const char *text)
{
	unsigned int bit, wrong = 0;

	for (bit = 8; bit < 64; bit++)
		wrong += command(opcode | also_first | 1UL << bit, also_second) !=
			 (first >> bit & 1 ? 0 : -EIO);
	for (bit = 0; bit < 64; bit++)
		wrong += command(opcode | also_first, also_second | 1UL << bit) !=
			 (second >> bit & 1 ? 0 : -EIO);
	CHECK_EQ(wrong, 0, "%s: bits that may be set, and no others", text);
}

#define BITS(high, low) ((~0UL >> (63 - (high))) & (~0UL << (low)))

static void commands_one_by_one(void)
{
	static const uint64_t known[] = { 0x05, 0x06, 0x10, 0x11, 0x12, 0x13, 0x30, 0x40 };
	const uint64_t sid = VSID << 32, range = 1UL << 12, granule = 1UL << 10;
	unsigned int i, opcode;

	for (opcode = 0; opcode < 256; opcode++) {
		for (i = 0; i < ARRAY_LEN(known) && known[i] != opcode; i++)
			;
		CHECK_ERR(i < ARRAY_LEN(known) ? 0 : EIO, command(opcode | (opcode == 0x40 ||
			  opcode < 0x10 ? sid : 0), 0), "opcode %#x", opcode);
	}
	only_bits(0x30, 0, 0, 0, 0, "everything");
	only_bits(0x10, BITS(47, 32), 0, 0, 0, "all of stage 1");
	only_bits(0x11, BITS(63, 32), 0, 0, 0, "an ASID");
	only_bits(0x12, BITS(63, 32) | BITS(24, 20) | BITS(16, 12),
		  1 | BITS(9, 8) | BITS(11, 10) | BITS(63, 12), range, granule, "an address");
	only_bits(0x13, BITS(47, 32) | BITS(24, 20) | BITS(16, 12),
		  1 | BITS(9, 8) | BITS(11, 10) | BITS(63, 12), range, granule, "any ASID's");
	only_bits(0x05, BITS(31, 12) | sid, 1, sid, 0, "a context descriptor");
	only_bits(0x06, sid, 0, sid, 0, "all of a stream");
	only_bits(0x40, BITS(31, 12) | 1 << 11 | 1 << 9 | sid, BITS(5, 0) | BITS(63, 12), sid, 0,
		  "a device's translations");
	CHECK_OK(command(0x12, 0), "no range, no granule");
	CHECK_ERR(EIO, command(0x12 | range, 0), "a range without a granule");
	CHECK_ERR(EIO, command(0x12, 1 << 8), "a level without a granule");
	CHECK_ERR(EIO, command(0x12, granule), "a granule without either");
	CHECK_OK(command(0x12, granule | 1 << 8), "a granule and a level");
	CHECK_ERR(EIO, command(0x12, 2 << 10 | 1 << 8), "level 1 of 16 KiB");
	CHECK_OK(command(0x12 | range, 2 << 10), "a range of 16 KiB");
	CHECK_OK(command(0x40 | sid, 52), "2^52 pages of a device's");
	CHECK_ERR(EIO, command(0x40 | sid, 53), "more than there are");
	CHECK_ERR(EIO, command(0x06 | (VSID + 1) << 32, 0), "a stream that the guest has not");
}

static void command_lists(void)
{
	struct iommu_viommu_arm_smmuv3_invalidate list[200] = { 0 };
	uint32_t i, count = ARRAY_LEN(list);

	for (i = 0; i < count; i++)
		list[i].cmd[0] = 0x30;
	CHECK_OK(invalidate(fd, viommu, COMMANDS_TYPE, list, 16, &count), "200 commands");
	CHECK_EQ(count, ARRAY_LEN(list), "all done");
	list[150].cmd[0] = 0xff;
	CHECK_ERR(EIO, invalidate(fd, viommu, COMMANDS_TYPE, list, 16, &count), "one is illegal");
	CHECK_EQ(count, 150, "those before it are done");
	count = 2;
	CHECK_ERR(EINVAL, invalidate(fd, viommu, 0, list, 16, &count), "another IOMMU's");
	CHECK_EQ(count, 0, "none is done");
	count = 2;
	CHECK_ERR(EFAULT, invalidate(fd, viommu, COMMANDS_TYPE, unmapped(), 16, &count), "nowhere");
	CHECK_EQ(count, 0, "none is done");
	count = 2;
	CHECK_ERR(EINVAL, invalidate(fd, viommu, COMMANDS_TYPE, list, 0, &count), "of no length");
	count = 2;
	list[0] = list[1] = (struct iommu_viommu_arm_smmuv3_invalidate){ { 0x30, 0 } };
	list[2].cmd[0] = 0;
	CHECK_ERR(E2BIG, invalidate(fd, viommu, COMMANDS_TYPE, list, 32, &count),
		  "longer ones, not zero at the end");
	count = (4 << 20) / 16 + 1;
	CHECK_ERR(ENOMEM, invalidate(fd, viommu, COMMANDS_TYPE, list, 16, &count), "4 MiB and one");
}

static void events(void)
{
	struct iommu_veventq_alloc cmd = { .size = sizeof(cmd), .viommu_id = viommu,
					   .type = IOMMU_VEVENTQ_TYPE_ARM_SMMUV3,
					   .veventq_depth = 4 };
	struct {
		struct iommufd_vevent_header header;
		struct iommu_vevent_arm_smmuv3 event;
	} got = { 0 };
	uint32_t entry = new_entry(ENTRY(STAGE_1), 0);
	struct pollfd ask = { .events = POLLIN };

	CHECK_ERR(ENOENT, trigger_vevent(fd, device.id), "an event of nobody's");
	CHECK_OK(attach(fd, &device, entry), "attach");
	CHECK_ERR(EOPNOTSUPP, trigger_vevent(fd, device.id), "nobody reads events");
	CHECK_OK(call(fd, IOMMU_VEVENTQ_ALLOC, &cmd), "somebody does");
	ask.fd = (int)cmd.out_veventq_fd;
	CHECK_EQ((uint64_t)poll(&ask, 1, 0), 0, "nothing yet");
	CHECK_OK(trigger_vevent(fd, device.id), "an event");
	CHECK_EQ((uint64_t)poll(&ask, 1, 0), 1, "it is there");
	CHECK_EQ((uint64_t)read(ask.fd, &got, sizeof(got)), sizeof(got), "read it");
	CHECK_EQ(got.header.sequence, 0, "the first");
	CHECK_EQ(got.event.evt[0], 4 | VSID << 32, "a bad entry, of the guest's number");
	CHECK_OK(attach(fd, &device, ioas), "take it off");
	CHECK_ERR(ENOENT, trigger_vevent(fd, device.id), "then it is nobody's again");
	CHECK_OK(close(ask.fd), "close the queue");
	CHECK_OK(destroy(fd, cmd.out_veventq_id), "destroy it");
	CHECK_OK(destroy(fd, entry), "destroy the entry");
}

/* Devices of another make: one with PASIDs, and one behind an SMMU that tracks no writes. */
static void unlike(void)
{
	struct device shared, blind;
	uint32_t entry, first = new_hwpt(fd, device.id, ioas, PASID), made, hwpt;
	struct iommu_hw_info cmd = { 0 };

	NEED(flagged_device(fd, first, MOCK_FLAGS_DEVICE_PASID, &shared) == 0);
	NEED(hw_info(fd, &cmd, shared.id, NULL, 0) == 0);
	CHECK_EQ(cmd.out_capabilities, IOMMU_HW_CAP_DIRTY_TRACKING | IOMMU_HW_CAP_PCI_PASID_EXEC |
		 IOMMU_HW_CAP_PCI_PASID_PRIV, "what a device with PASIDs can do");
	CHECK_EQ(cmd.out_max_pasid_log2, 20, "with so many");
	CHECK_OK(pasid_attach(fd, &shared, 5, first), "PASID 5");
	CHECK_ERR(EINVAL, attach(fd, &shared, parent), "a second stage leaves no room for it");
	entry = new_entry(ENTRY(BYPASS), 0);
	CHECK_ERR(EINVAL, attach(fd, &shared, entry), "nor does a guest's");
	CHECK_OK(pasid_detach(fd, &shared, 5), "without it");
	CHECK_OK(attach(fd, &shared, entry), "both do");
	CHECK_OK(attach(fd, &shared, ioas), "back");
	CHECK_OK(destroy(fd, shared.handle), "unplug");
	CHECK_OK(destroy(fd, entry), "destroy");
	CHECK_OK(flagged_device(fd, ioas, MOCK_FLAGS_DEVICE_NO_DIRTY, &blind), "another SMMU's");
	CHECK_ERR(EINVAL, attach(fd, &blind, first), "takes no page table of this one's");
	CHECK_ERR(EINVAL, try_viommu(fd, blind.id, parent, IOMMU_VIOMMU_TYPE_ARM_SMMUV3, &made),
		  "nor makes a vIOMMU of its parent");
	CHECK_ERR(EINVAL, vdevice_alloc(fd, viommu, blind.id, VSID + 1, &made),
		  "has no number in a vIOMMU of this one");
	CHECK_ERR(EINVAL, try_alloc(fd, (struct iommu_hwpt_alloc){
		  .dev_id = blind.id, .pt_id = viommu, .data_type = STE, .data_len = 15 }),
		  "and nothing nested in it, before the length");
	CHECK_ERR(EINVAL, try_alloc(fd, (struct iommu_hwpt_alloc){
		  .flags = DIRTY, .dev_id = blind.id, .pt_id = viommu, .data_type = STE,
		  .data_len = 16 }), "before the flags");
	CHECK_ERR(EOPNOTSUPP, hwpt_alloc(fd, blind.id, ioas, DIRTY, &hwpt), "and tracks no writes");
	CHECK_OK(destroy(fd, blind.handle), "unplug");
	CHECK_OK(destroy(fd, first), "destroy");
}

int main(void)
{
	uint32_t vdevice, made;

	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	device = new_device(fd, ioas);
	NEED(kind_of(fd, device.id) == TYPE);
	check_hw_info(fd, device.id, TYPE, sizeof(struct iommu_hw_info_arm_smmuv3));
	page_tables();
	parent = new_hwpt(fd, device.id, ioas, PARENT);
	CHECK_ERR(EOPNOTSUPP, try_viommu(fd, device.id, parent, IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV,
					 &made), "a Tegra's vIOMMU");
	CHECK_OK(try_viommu(fd, device.id, parent, IOMMU_VIOMMU_TYPE_ARM_SMMUV3, &viommu), "a vIOMMU");
	entries();
	attaching();
	NEED(vdevice_alloc(fd, viommu, device.id, VSID, &vdevice) == 0);
	commands_one_by_one();
	command_lists();
	events();
	if (!device.vfio)
		unlike();
	CHECK_OK(close(fd), "close");
	return checks_end();
}
