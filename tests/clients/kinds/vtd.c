// SPDX-License-Identifier: MIT
/*
 * A device behind a VT-d. What it can do is read from its own registers, so that the same program
 * judges any VT-d.
 */
#include "kinds.h"

#define TYPE IOMMU_HW_INFO_TYPE_INTEL_VTD
#define S1 IOMMU_HWPT_DATA_VTD_S1
#define INV IOMMU_HWPT_INVALIDATE_DATA_VTD_S1
#define MSI_START 0xfee00000UL
#define MSI_LAST 0xfeefffffUL
#define LEAF IOMMU_VTD_INV_FLAGS_LEAF

static struct iommu_hw_info_vtd vtd;
static bool scalable, first_stage, nests, tracks;

static bool ecap(unsigned int bit)
{
	return vtd.ecap_reg >> bit & 1;
}

static void learn(int fd, const struct device *device)
{
	struct iommu_hw_info cmd = { 0 };

	CHECK_OK(hw_info(fd, &cmd, device->id, &vtd, sizeof(vtd)), "GET_HW_INFO");
	CHECK_EQ(vtd.flags, IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17, "flags, which any VT-d has");
	CHECK_EQ(vtd.__reserved, 0, "reserved");
	scalable = ecap(43);
	first_stage = scalable && ecap(47);
	nests = scalable && ecap(26);
	tracks = scalable && ecap(45) && ecap(48);
	CHECK_EQ(!!(cmd.out_capabilities & IOMMU_HW_CAP_DIRTY_TRACKING), tracks, "dirty tracking");
	check_hw_info(fd, device->id, TYPE, sizeof(vtd));
}

/* The last IOVA of a page table that is filled by the IOMMU's own format, or the CPU's. */
static uint64_t last_of(bool second)
{
	unsigned int mgaw = (vtd.cap_reg >> 16 & 0x3f) + 1, sagaw = vtd.cap_reg >> 8 & 0x1f, bits;

	if (!second) {
		bits = mgaw > 48 && vtd.cap_reg >> 60 & 1 ? 57 : 48;
		return (1UL << ((mgaw < bits ? mgaw : bits) - 1)) - 1;
	}
	if (mgaw > 48 && sagaw >= 8)
		bits = 57;
	else if (mgaw > 39 && sagaw >= 4)
		bits = 48;
	else
		bits = 39;
	return (1UL << (mgaw < bits ? mgaw : bits)) - 1;
}

static void reach(int fd, const struct device *device, uint32_t ioas)
{
	struct iommu_iova_range attached[] = { { 0, MSI_START - 1 },
					       { MSI_LAST + 1, last_of(!first_stage) } };
	struct iommu_iova_range alone = { 0, last_of(true) };
	uint32_t other = new_ioas(fd), hwpt;
	char *page = new_pages(1);

	check_iovas(fd, ioas, attached, 2, "of an attached device");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)page, PAGE, MSI_START), "interrupts");
	CHECK_ERR(EINVAL, map_at(fd, ioas, (uintptr_t)page, PAGE, attached[1].last + 1), "beyond");
	CHECK_OK(map_at(fd, ioas, (uintptr_t)page, PAGE, attached[1].last + 1 - PAGE), "the end");
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "unmap");
	if (!tracks)
		return;
	hwpt = new_hwpt(fd, device->id, other, DIRTY);
	check_iovas(fd, other, &alone, 1, "of a second stage");
	CHECK_OK(destroy(fd, hwpt), "destroy it");
	CHECK_OK(destroy(fd, other), "and its IOAS");
}

static void alloc(int fd, const struct device *device)
{
	uint32_t ioas = new_ioas(fd), flags, hwpt;
	bool can;

	check_alloc_refused(fd, device->id, ioas, S1);
	for (flags = 0; flags < 16; flags++) {
		if (flags & FAULT)
			continue;
		can = (tracks || !(flags & DIRTY)) && (nests || !(flags & PARENT));
		CHECK_EQ((uint64_t)hwpt_alloc(fd, device->id, ioas, flags, &hwpt),
			 (uint64_t)(can ? 0 : -EOPNOTSUPP), "flags %#x", flags);
		if (can)
			CHECK_OK(destroy(fd, hwpt), "destroy it");
	}
	CHECK_OK(destroy(fd, ioas), "nothing holds the IOAS");
}

static void no_viommu(int fd, const struct device *device, uint32_t ioas)
{
	uint32_t hwpt = new_hwpt(fd, device->id, ioas, nests ? PARENT : 0), type, id;

	for (type = 0; type < 4; type++)
		CHECK_ERR(EOPNOTSUPP, try_viommu(fd, device->id, hwpt, type, &id), "vIOMMU %u",
			  type);
	CHECK_OK(destroy(fd, hwpt), "destroy");
}

static void nested_refused(int fd, const struct device *device, uint32_t ioas)
{
	struct iommu_hwpt_vtd_s1 data[2] = { { .addr_width = 48 } };
	uint32_t plain = new_hwpt(fd, device->id, ioas, 0), parent;
	struct iommu_hwpt_alloc good = { .dev_id = device->id, .pt_id = plain, .data_type = S1,
					 .data_len = sizeof(data[0]),
					 .data_uptr = (uintptr_t)data };
	struct iommu_hwpt_alloc cmd = good;
	uint32_t free_id;

	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "not made as a parent");
	cmd.data_type = IOMMU_HWPT_DATA_ARM_SMMUV3;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "before the type");
	cmd.flags = DIRTY;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "after the flags");
	cmd = good;
	cmd.data_type = 0;
	cmd.data_len = 0;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "and without data");
	CHECK_OK(destroy(fd, plain), "destroy it");
	if (!nests)
		return;

	parent = new_hwpt(fd, device->id, ioas, PARENT);
	free_id = next_id(fd);
	good.pt_id = parent;
	cmd = good;
	for (cmd.data_type = 2; cmd.data_type < 6; cmd.data_type++) {
		cmd.data_uptr = (uintptr_t)unmapped();
		CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "data of type %u", cmd.data_type);
	}
	cmd = good;
	cmd.data_len--;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "short data");
	cmd.data_len += 2;
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "long data");
	cmd.data_uptr = (uintptr_t)unmapped();
	CHECK_ERR(EINVAL, try_alloc(fd, cmd), "before it is read");
	cmd.data_len = good.data_len;
	CHECK_ERR(EFAULT, try_alloc(fd, cmd), "data that is not there");
	CHECK_EQ(next_id(fd), free_id, "nothing took an ID");
	CHECK_OK(destroy(fd, parent), "nothing holds the parent");
}

static uint32_t new_s1(int fd, const struct device *device, uint32_t parent, uint32_t flags,
		       uint32_t fault, struct iommu_hwpt_vtd_s1 data)
{
	struct iommu_hwpt_alloc cmd = { .flags = flags, .dev_id = device->id, .pt_id = parent,
					.data_type = S1, .data_len = sizeof(data),
					.data_uptr = (uintptr_t)&data, .fault_id = fault };
	uint32_t id = 0;

	CHECK_OK(alloc_cmd(fd, cmd, &id), "nested: width %u, flags %#llx", data.addr_width,
		 (unsigned long long)data.flags);
	return id;
}

/* Nothing of the guest's table is looked at before a device is attached to it. */
static void nested_attach(int fd, const struct device *device, uint32_t ioas)
{
	uint32_t parent = new_hwpt(fd, device->id, ioas, PARENT), bits, hwpt;
	static const uint32_t widths[] = { 0, 39, 47, 49, 57, UINT32_MAX };
	uint64_t flag;

	for (bits = 0; bits < ARRAY_LEN(widths); bits++) {
		hwpt = new_s1(fd, device, parent, 0, 0,
			      (struct iommu_hwpt_vtd_s1){ .addr_width = widths[bits] });
		if (widths[bits] != 57 || !(vtd.cap_reg >> 60 & 1))
			CHECK_ERR(EINVAL, attach(fd, device, hwpt), "width %u", widths[bits]);
		CHECK_OK(destroy(fd, hwpt), "no device is on it");
	}
	for (flag = 1; flag; flag <<= 1) {
		bool can = flag == IOMMU_VTD_S1_SRE  ? ecap(31) :
			   flag == IOMMU_VTD_S1_EAFE ? ecap(34) :
						       true;

		hwpt = new_s1(fd, device, parent, 0, 0,
			      (struct iommu_hwpt_vtd_s1){ .flags = flag, .addr_width = 48,
							  .pgtbl_addr = U64_MAX,
							  .__reserved = 1 });
		CHECK_EQ((uint64_t)attach(fd, device, hwpt), (uint64_t)(can ? 0 : -EINVAL),
			 "flag %#llx", (unsigned long long)flag);
		if (can) {
			CHECK_ERR(EBUSY, destroy(fd, hwpt), "the device is on it");
			CHECK_ERR(EBUSY, destroy(fd, parent), "and holds the parent");
			CHECK_OK(attach(fd, device, ioas), "the device goes back");
		}
		CHECK_OK(destroy(fd, hwpt), "it can go");
	}
	CHECK_OK(destroy(fd, parent), "and the parent");
}

static void only_writeable(int fd, const struct device *device)
{
	uint32_t ioas = new_ioas(fd), source = new_ioas(fd), parent;
	char *page = new_pages(1);
	uint64_t iova = MIB;

	CHECK_OK(map_flags(fd, ioas, FIXED | R, (uintptr_t)page, PAGE, &iova), "read-only");
	CHECK_ERR(EINVAL, hwpt_alloc(fd, device->id, ioas, PARENT, &parent), "no parent shows that");
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "unmap");
	parent = new_hwpt(fd, device->id, ioas, PARENT);
	CHECK_ERR(EINVAL, map_flags(fd, ioas, FIXED | R, (uintptr_t)page, PAGE, &iova), "nor now");
	CHECK_OK(map_at(fd, source, (uintptr_t)page, PAGE, 0), "elsewhere");
	CHECK_ERR(EINVAL, copy_flags(fd, FIXED | R, ioas, &iova, source, 0, PAGE), "nor by copy");
	CHECK_ERR(EFAULT, map_flags(fd, ioas, FIXED | R, (uintptr_t)unmapped(), PAGE, &iova),
		  "after the memory");
	CHECK_OK(map_flags(fd, ioas, FIXED | W, (uintptr_t)page, PAGE, &iova), "writeable only");
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "unmap");
	CHECK_OK(destroy(fd, parent), "without the parent");
	CHECK_OK(map_flags(fd, ioas, FIXED | R, (uintptr_t)page, PAGE, &iova), "read-only");
	CHECK_OK(destroy(fd, ioas), "destroy");
	CHECK_OK(destroy(fd, source), "destroy");
}

#define ENTRIES 6

static struct iommu_hwpt_vtd_s1_invalidate *good_entries(void)
{
	static struct iommu_hwpt_vtd_s1_invalidate entries[ENTRIES];
	uint32_t i;

	for (i = 0; i < ENTRIES; i++)
		entries[i] = (struct iommu_hwpt_vtd_s1_invalidate){ .addr = i * PAGE, .npages = i,
								    .flags = i & LEAF };
	entries[5] = (struct iommu_hwpt_vtd_s1_invalidate){ .npages = U64_MAX };
	return entries;
}

static void one_bad(int fd, uint32_t hwpt, struct iommu_hwpt_vtd_s1_invalidate bad, int error,
		    const char *text)
{
	struct iommu_hwpt_vtd_s1_invalidate *entries = good_entries();
	uint32_t count = ENTRIES;

	entries[2] = bad;
	CHECK_ERR(error, invalidate(fd, hwpt, INV, entries, sizeof(*entries), &count), "%s", text);
	CHECK_EQ(count, 2, "those before it are done");
}

static void invalidation(int fd, const struct device *device, uint32_t ioas)
{
	uint32_t parent = new_hwpt(fd, device->id, ioas, PARENT), hwpt, count, bit;
	struct iommu_hwpt_vtd_s1_invalidate *entries = good_entries();
	const uint32_t size = sizeof(*entries);

	hwpt = new_s1(fd, device, parent, 0, 0, (struct iommu_hwpt_vtd_s1){ .addr_width = 48 });
	count = ENTRIES;
	CHECK_OK(invalidate(fd, hwpt, INV, entries, size, &count), "all good");
	CHECK_EQ(count, ENTRIES, "all done");
	count = 0;
	CHECK_OK(invalidate(fd, hwpt, INV, NULL, 0, &count), "none: the type is known");
	CHECK_EQ(count, 0, "none done");
	for (bit = 0; bit < 32; bit++) {
		count = bit & 1 ? ENTRIES : 0;
		CHECK_ERR(EINVAL, invalidate(fd, hwpt, 1U << bit, entries, size, &count),
			  "type %#x", 1U << bit);
		CHECK_EQ(count, 0, "none done");
	}
	for (bit = 1; bit < 32; bit++)
		one_bad(fd, hwpt, (struct iommu_hwpt_vtd_s1_invalidate){ .flags = 1U << bit, .addr = 1 },
			EOPNOTSUPP, "a flag, before the address");
	one_bad(fd, hwpt, (struct iommu_hwpt_vtd_s1_invalidate){ .__reserved = 1, .addr = 1 },
		EOPNOTSUPP, "reserved, before the address");
	one_bad(fd, hwpt, (struct iommu_hwpt_vtd_s1_invalidate){ .addr = PAGE + 8 }, EINVAL,
		"off the page");
	one_bad(fd, hwpt, (struct iommu_hwpt_vtd_s1_invalidate){ .addr = PAGE, .npages = U64_MAX },
		EINVAL, "all of it, from somewhere");
	entries = good_entries();
	count = ENTRIES;
	CHECK_ERR(EINVAL, invalidate(fd, hwpt, INV, entries, size - 1, &count), "short entries");
	CHECK_EQ(count, 0, "none done");
	count = ENTRIES;
	CHECK_ERR(EINVAL, invalidate(fd, hwpt, INV, entries, size + 8, &count), "long entries");
	CHECK_EQ(count, 0, "none done");
	count = 3;
	CHECK_ERR(EFAULT, invalidate(fd, hwpt, INV, at_edge(entries, 2 * size), size, &count),
		  "the third is not there");
	CHECK_EQ(count, 2, "two are done");
	count = ENTRIES;
	CHECK_ERR(EINVAL, invalidate(fd, parent, INV, entries, size, &count), "the parent");
	CHECK_EQ(count, 0, "none done");
	CHECK_OK(destroy(fd, hwpt), "destroy");
	CHECK_OK(destroy(fd, parent), "and the parent");
}

/* Two devices of the test ioctl's: one whose IOMMU does not track writes, one with PASIDs. */
static void unlike(int fd, uint32_t ioas)
{
	struct iommu_hwpt_vtd_s1 data = { .addr_width = 48 };
	uint32_t queue = new_fault_queue(fd), dirty, parent, nested, faulting, faults, plain, type;
	struct device blind, shared, device;

	CHECK_ERR(EINVAL, flagged_device(fd, ioas, 2, &device), "an unknown flag");
	device = new_device(fd, ioas);
	NEED(flagged_device(fd, ioas, MOCK_FLAGS_DEVICE_NO_DIRTY, &blind) == 0);
	NEED(flagged_device(fd, ioas, MOCK_FLAGS_DEVICE_PASID, &shared) == 0);
	CHECK_ERR(EOPNOTSUPP, hwpt_alloc(fd, blind.id, ioas, DIRTY, &dirty), "no dirty tracking");
	dirty = new_hwpt(fd, device.id, ioas, DIRTY | PASID);
	CHECK_ERR(EINVAL, attach(fd, &blind, dirty), "one that does not track");
	CHECK_OK(attach(fd, &device, dirty), "one that does");
	parent = new_hwpt(fd, device.id, ioas, DIRTY | PARENT);
	nested = new_s1(fd, &blind, parent, PASID, 0, data);
	CHECK_ERR(EINVAL, attach(fd, &blind, nested), "nor nested");
	CHECK_OK(attach(fd, &device, nested), "nested");

	data.addr_width = 57;
	faulting = new_s1(fd, &device, parent, FAULT, queue, data);
	CHECK_ERR(ENODEV, attach(fd, &device, faulting), "no page requests, before the width");
	CHECK_ERR(EINVAL, attach(fd, &shared, faulting), "with them, the width");
	CHECK_OK(hwpt_alloc_fault(fd, device.id, ioas, FAULT, queue, NULL, &faults), "a queue");
	CHECK_ERR(ENODEV, attach(fd, &device, faults), "no page requests");
	CHECK_OK(attach(fd, &shared, faults), "with them");
	CHECK_OK(attach(fd, &shared, ioas), "and back");

	plain = new_hwpt(fd, device.id, ioas, 0);
	CHECK_ERR(EINVAL, pasid_attach(fd, &shared, 5, plain), "a table not for PASIDs");
	CHECK_OK(attach(fd, &shared, dirty), "on one that is");
	CHECK_OK(pasid_attach(fd, &shared, 5, nested), "a PASID on a nested one");
	CHECK_OK(pasid_attach(fd, &shared, 6, dirty), "another");
	CHECK_ERR(EINVAL, pasid_attach(fd, &shared, 1 << 20, dirty), "beyond 20 bits");
	CHECK_ERR(EBUSY, destroy(fd, nested), "the PASID holds it");
	CHECK_OK(pasid_detach(fd, &shared, 5), "detach");
	CHECK_OK(pasid_detach(fd, &shared, 6), "detach");

	type = IOMMU_HW_CAP_DIRTY_TRACKING | IOMMU_HW_CAP_PCI_PASID_EXEC | IOMMU_HW_CAP_PCI_PASID_PRIV;
	struct iommu_hw_info cmd = { 0 };
	NEED(hw_info(fd, &cmd, shared.id, NULL, 0) == 0);
	CHECK_EQ(cmd.out_capabilities, type, "capabilities with PASIDs");
	CHECK_EQ(cmd.out_max_pasid_log2, 20, "their width");
	NEED(hw_info(fd, &cmd, blind.id, &vtd, sizeof(vtd)) == 0);
	CHECK_EQ(cmd.out_capabilities, IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED, "without");
	CHECK_EQ(ecap(45), 0, "the register says so too");
}

/* What only mock devices have is refused, not misunderstood. */
static void not_the_mock(int fd, const struct device *device, uint32_t ioas)
{
	uint32_t hwpt = new_hwpt(fd, device->id, ioas, 0);
	struct iommu_test_cmd cmd = { .id = device->id };

	CHECK_ERR(EINVAL, check_map(fd, hwpt, 0, NULL, 0), "MD_CHECK_MAP");
	CHECK_ERR(ENOENT, check_iotlb(fd, hwpt, 0, 0), "MD_CHECK_IOTLB");
	CHECK_ERR(EINVAL, test_cmd(fd, IOMMU_TEST_OP_DEV_CHECK_CACHE, &cmd), "DEV_CHECK_CACHE");
	cmd = (struct iommu_test_cmd){ .trigger_iopf = { .dev_id = device->id } };
	CHECK_ERR(EINVAL, test_cmd(fd, IOMMU_TEST_OP_TRIGGER_IOPF, &cmd), "TRIGGER_IOPF");
	cmd = (struct iommu_test_cmd){ .trigger_vevent = { .dev_id = device->id } };
	CHECK_ERR(EINVAL, test_cmd(fd, IOMMU_TEST_OP_TRIGGER_VEVENT, &cmd), "TRIGGER_VEVENT");
}

int main(void)
{
	struct device device;
	uint32_t ioas;
	int fd;

	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	device = new_device(fd, ioas);
	NEED(kind_of(fd, device.id) == TYPE);
	learn(fd, &device);
	reach(fd, &device, ioas);
	alloc(fd, &device);
	no_viommu(fd, &device, ioas);
	nested_refused(fd, &device, ioas);
	if (nests) {
		nested_attach(fd, &device, ioas);
		only_writeable(fd, &device);
		invalidation(fd, &device, ioas);
	}
	if (!device.vfio) {
		not_the_mock(fd, &device, ioas);
		unlike(fd, ioas);
	}
	CHECK_OK(close(fd), "close");
	return checks_end();
}
