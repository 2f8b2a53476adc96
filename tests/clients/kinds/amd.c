// SPDX-License-Identifier: MIT
/*
 * A device behind an AMD IOMMU, of which Linux 7.3 gives clients no nested page tables yet. What it
 * can do is read from its own registers; a kernel without CONFIG_AMD_IOMMU_IOMMUFD does not tell
 * them, and then the least is expected (which is what QEMU's has).
 */
#include "kinds.h"

#define TYPE IOMMU_HW_INFO_TYPE_AMD
#define GUEST IOMMU_HWPT_DATA_AMD_GUEST

static struct iommu_hw_info_amd amd;
static bool told;

static bool efr(unsigned int bit)
{
	return amd.efr >> bit & 1;
}

static void learn(int fd, const struct device *device)
{
	struct iommu_hw_info cmd = { 0 };

	CHECK_OK(hw_info(fd, &cmd, device->id, &amd, sizeof(amd)), "GET_HW_INFO");
	told = cmd.out_data_type == TYPE;
	CHECK_EQ(!!(cmd.out_capabilities & IOMMU_HW_CAP_DIRTY_TRACKING), efr(52), "dirty tracking");
	if (told)
		check_hw_info(fd, device->id, TYPE, sizeof(amd));
}

static uint64_t last(void)
{
	unsigned int hats = amd.efr >> 10 & 3, bits = (hats + 3) * 9 + 21;

	return bits < 64 ? (1UL << bits) - 1 : U64_MAX;
}

static void reach(int fd, uint32_t ioas)
{
	struct iommu_iova_range attached[] = {
		{ 0, 0xfedfffff }, /* interrupts */
		{ 0xfef00000, 0xfcffffffff }, /* HyperTransport */
		{ 0x10000000000, last() },
	};

	check_iovas(fd, ioas, attached, ARRAY_LEN(attached), "of an attached device");
}

/* PASIDs need the CPU's format, all else AMD's own: they cannot be had together. */
static void alloc(int fd, const struct device *device)
{
	bool guests = efr(4) && efr(48), parents = guests && amd.efr2 >> 3 & 1, can;
	uint32_t ioas = new_ioas(fd), flags, hwpt;
	struct iommu_iova_range low = { 0, (1UL << 47) - 1 }, all = { 0, last() };

	check_alloc_refused(fd, device->id, ioas, GUEST);
	for (flags = 0; flags < 16; flags++) {
		if (flags & FAULT)
			continue;
		can = (efr(52) || !(flags & DIRTY)) && (parents || !(flags & PARENT));
		if (flags & PASID)
			can = flags == PASID && guests && efr(1) && efr(50);
		CHECK_EQ((uint64_t)hwpt_alloc(fd, device->id, ioas, flags, &hwpt),
			 (uint64_t)(can ? 0 : -EOPNOTSUPP), "flags %#x", flags);
		if (!can)
			continue;
		check_iovas(fd, ioas, flags & PASID ? &low : &all, 1, "of it alone");
		CHECK_OK(destroy(fd, hwpt), "destroy it");
	}
	CHECK_OK(destroy(fd, ioas), "nothing holds the IOAS");
}

static struct iommu_hwpt_amd_guest data;

static void not_nested(int fd, const struct device *device, uint32_t ioas)
{
	struct iommu_hwpt_alloc cmd = { .dev_id = device->id, .data_type = GUEST,
					.data_len = sizeof(data), .data_uptr = (uintptr_t)&data };
	uint32_t id, type;

	cmd.pt_id = new_hwpt(fd, device->id, ioas, 0);
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "nested, before what the parent is");
	CHECK_OK(destroy(fd, cmd.pt_id), "destroy it");
	for (type = 0; !told && type < 3; type++)
		CHECK_ERR(EOPNOTSUPP, try_viommu(fd, device->id, NO_ID, type, &id), "no vIOMMU");
}

static void idle_viommu(int fd, const struct device *device, uint32_t ioas)
{
	uint32_t parent = new_hwpt(fd, device->id, ioas, PARENT), viommu, other, id, count = 0;
	struct iommu_hwpt_alloc cmd = { .dev_id = device->id, .pt_id = parent, .data_type = GUEST,
					.data_len = sizeof(data), .data_uptr = (uintptr_t)&data };
	struct iommu_vdevice_alloc vdevice = { .size = sizeof(vdevice), .dev_id = device->id,
					       .virt_id = 0x100 };
	struct iommu_hw_queue_alloc queue = { .size = sizeof(queue), .type = 1, .length = PAGE };
	char *page = new_pages(1);
	uint64_t iova = MIB;

	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "nested in a parent");
	CHECK_OK(map_flags(fd, ioas, FIXED | R, (uintptr_t)page, PAGE, &iova), "read-only");
	CHECK_EQ(unmap_all(fd, ioas), PAGE, "a parent shows that");

	CHECK_ERR(EOPNOTSUPP, try_viommu(fd, device->id, parent, 0, &id), "vIOMMU of no type");
	CHECK_OK(try_viommu(fd, device->id, parent, 1, &viommu), "of type 1");
	CHECK_OK(try_viommu(fd, device->id, parent, 0xffffffff, &other), "of any");
	CHECK_OK(destroy(fd, other), "destroy it");
	CHECK_ERR(ENOENT, try_viommu(fd, device->id, NO_ID, 1, &id), "on nothing");
	CHECK_ERR(EBUSY, destroy(fd, parent), "it holds the parent");
	cmd.pt_id = viommu;
	CHECK_ERR(EOPNOTSUPP, try_alloc(fd, cmd), "nested in a vIOMMU");
	CHECK_ERR(EOPNOTSUPP, invalidate(fd, viommu, 1, NULL, 0, &count), "nothing to invalidate");
	CHECK_EQ(count, 0, "none done");
	CHECK_ERR(EINVAL, invalidate(fd, parent, 1, NULL, 0, &count), "nor in the parent");
	vdevice.viommu_id = viommu;
	CHECK_OK(call(fd, IOMMU_VDEVICE_ALLOC, &vdevice), "a vDEVICE");
	CHECK_ERR(EEXIST, call(fd, IOMMU_VDEVICE_ALLOC, &vdevice), "another");
	queue.viommu_id = viommu;
	CHECK_ERR(EOPNOTSUPP, call(fd, IOMMU_HW_QUEUE_ALLOC, &queue), "no hardware queue");
	CHECK_ERR(EBUSY, destroy(fd, viommu), "the vDEVICE holds the vIOMMU");
	CHECK_OK(destroy(fd, vdevice.out_vdevice_id), "destroy it");
	CHECK_OK(destroy(fd, viommu), "and the vIOMMU");
	CHECK_OK(destroy(fd, parent), "and the parent");
}

/* Two devices of the test ioctl's: one whose IOMMU does not track writes, one with PASIDs. */
static void unlike(int fd, const struct device *device, uint32_t ioas)
{
	struct iommu_vdevice_alloc vdevice = { .size = sizeof(vdevice), .virt_id = 1 };
	uint32_t queue = new_fault_queue(fd), dirty, pasids, faults, hwpt, viommu;
	struct iommu_hw_info cmd = { 0 };
	struct device blind, shared;

	NEED(flagged_device(fd, ioas, MOCK_FLAGS_DEVICE_NO_DIRTY, &blind) == 0);
	NEED(flagged_device(fd, ioas, MOCK_FLAGS_DEVICE_PASID, &shared) == 0);
	CHECK_ERR(EOPNOTSUPP, hwpt_alloc(fd, blind.id, ioas, DIRTY, &hwpt), "no dirty tracking");
	dirty = new_hwpt(fd, device->id, ioas, DIRTY);
	CHECK_ERR(EINVAL, attach(fd, &blind, dirty), "one that does not track");
	CHECK_OK(attach(fd, device, dirty), "one that does");
	hwpt = new_hwpt(fd, device->id, ioas, PARENT);
	CHECK_OK(try_viommu(fd, device->id, hwpt, 1, &viommu), "a vIOMMU");
	vdevice.viommu_id = viommu;
	vdevice.dev_id = blind.id;
	CHECK_ERR(EINVAL, call(fd, IOMMU_VDEVICE_ALLOC, &vdevice), "another IOMMU's device");
	vdevice.dev_id = shared.id;
	CHECK_OK(call(fd, IOMMU_VDEVICE_ALLOC, &vdevice), "the same one's");
	CHECK_OK(destroy(fd, vdevice.out_vdevice_id), "destroy");
	CHECK_OK(destroy(fd, viommu), "destroy");
	CHECK_OK(hwpt_alloc_fault(fd, device->id, ioas, FAULT, queue, NULL, &faults), "a queue");
	CHECK_OK(attach(fd, &blind, faults), "any device may have one");
	pasids = new_hwpt(fd, shared.id, ioas, PASID);
	CHECK_OK(attach(fd, &shared, pasids), "a table for PASIDs, without one");
	CHECK_ERR(EOPNOTSUPP, pasid_attach(fd, &shared, 5, pasids), "but none at a PASID");
	CHECK_ERR(EOPNOTSUPP, pasid_attach(fd, &shared, 1 << 20, pasids), "whatever its number");
	CHECK_ERR(EINVAL, pasid_attach(fd, &shared, 5, dirty), "a table not for PASIDs");
	CHECK_OK(attach(fd, device, pasids), "nor a device");
	CHECK_ERR(EOPNOTSUPP, pasid_attach(fd, device, 5, pasids), "that has none");
	NEED(hw_info(fd, &cmd, shared.id, NULL, 0) == 0);
	CHECK_EQ(cmd.out_capabilities, IOMMU_HW_CAP_DIRTY_TRACKING, "capabilities with PASIDs");
	CHECK_EQ(cmd.out_max_pasid_log2, 15, "one less than 2^16 of them");
	NEED(hw_info(fd, &cmd, blind.id, &amd, sizeof(amd)) == 0);
	CHECK_EQ(cmd.out_capabilities, IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED, "without");
	CHECK_EQ(efr(52), 0, "the register says so too");
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
	learn(fd, &device);
	NEED(told || device.vfio);
	reach(fd, ioas);
	alloc(fd, &device);
	not_nested(fd, &device, ioas);
	if (told)
		idle_viommu(fd, &device, ioas);
	if (!device.vfio)
		unlike(fd, &device, ioas);
	CHECK_OK(close(fd), "close");
	return checks_end();
}
