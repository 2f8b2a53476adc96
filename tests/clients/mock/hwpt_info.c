// SPDX-License-Identifier: MIT
/* GET_HW_INFO: the data as far as there is room, zeros behind it. */
#include "hwpt.h"

#define SIZE sizeof(struct iommu_test_hw_info)
#define TYPE IOMMU_HW_INFO_TYPE_SELFTEST

static long info(int fd, struct iommu_hw_info *cmd, uint32_t device, void *data, uint32_t room)
{
	cmd->size = sizeof(*cmd);
	cmd->dev_id = device;
	cmd->data_uptr = (uintptr_t)data;
	cmd->data_len = room;
	return call(fd, IOMMU_GET_HW_INFO, cmd);
}

static void refused(int fd, const struct mock *mock)
{
	struct iommu_hw_info cmd = { 0 };
	char *page = new_pages(1);
	unsigned int i;

	for (i = 1; i < 32; i++) {
		cmd.flags = 1U << i;
		CHECK_ERR(EOPNOTSUPP, info(fd, &cmd, NO_ID, NULL, 0), "flag bit %u", i);
	}
	cmd.flags = 0;
	for (i = 0; i < 3; i++) {
		cmd.__reserved[i] = 1;
		CHECK_ERR(EOPNOTSUPP, info(fd, &cmd, NO_ID, NULL, 0), "__reserved[%u]", i);
		cmd.__reserved[i] = 0;
	}
	CHECK_ERR(ENOENT, info(fd, &cmd, NO_ID, NULL, 1), "no such device");
	CHECK_ERR(ENOENT, info(fd, &cmd, mock->stdev, NULL, 1), "the mock's own ID");
	cmd.flags = IOMMU_HW_INFO_FLAG_INPUT_TYPE;
	cmd.in_data_type = TYPE + 1;
	CHECK_ERR(EOPNOTSUPP, info(fd, &cmd, mock->device, NULL, 1), "another type");
	cmd.in_data_type = IOMMU_HW_INFO_TYPE_INTEL_VTD;
	CHECK_ERR(EOPNOTSUPP, info(fd, &cmd, mock->device, NULL, 0), "another's type");
	CHECK_EQ(cmd.in_data_type, IOMMU_HW_INFO_TYPE_INTEL_VTD, "nothing is written");
	cmd.flags = 0;
	CHECK_ERR(EFAULT, info(fd, &cmd, mock->device, NULL, 1), "no room after all");
	CHECK_ERR(EFAULT, info(fd, &cmd, mock->device, unmapped(), SIZE), "none mapped");
	CHECK_ERR(EFAULT, info(fd, &cmd, mock->device, page + PAGE - SIZE, SIZE + 1),
		  "room for the data, not for the zeros");
	CHECK_ERR(EFAULT, info(fd, &cmd, mock->device, read_only(page, 1), 4), "read-only room");
	CHECK_EQ(cmd.data_len, 4, "nothing is written back");
	NEED(info(fd, &cmd, mock->device, page, 8) == 0);
	cmd = (struct iommu_hw_info){ .size = sizeof(cmd), .dev_id = mock->device };
	CHECK_ERR(EFAULT, call(fd, IOMMU_GET_HW_INFO, read_only(&cmd, sizeof(cmd))),
		  "the struct cannot be written");
}

static void told(int fd, const struct mock *mock)
{
	struct iommu_hw_info cmd = { .in_data_type = 0x1234 };
	struct iommu_test_hw_info data;
	unsigned char *page = (void *)new_pages(3);
	unsigned int i, wrong = 0;

	CHECK_OK(info(fd, &cmd, mock->device, NULL, 0), "without room, and a type that is not meant");
	CHECK_EQ(cmd.data_len, SIZE, "the data's length");
	CHECK_EQ(cmd.out_data_type, TYPE, "its type");
	CHECK_EQ(cmd.out_max_pasid_log2, 0, "no PASIDs");
	CHECK_EQ(cmd.out_capabilities,
		 IOMMU_HW_CAP_DIRTY_TRACKING | IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED, "capabilities");
	memset(&data, 0xff, sizeof(data));
	CHECK_OK(info(fd, &cmd, mock->device, &data, SIZE), "room as needed");
	CHECK_EQ(data.flags, 0, "flags");
	CHECK_EQ(data.test_reg, IOMMU_HW_INFO_SELFTEST_REGVAL, "the register");
	cmd.flags = IOMMU_HW_INFO_FLAG_INPUT_TYPE;
	cmd.in_data_type = TYPE;
	CHECK_OK(info(fd, &cmd, mock->device, &data, SIZE), "by its type");
	cmd.in_data_type = IOMMU_HW_INFO_TYPE_DEFAULT;
	CHECK_OK(info(fd, &cmd, mock->device, &data, SIZE), "by no type");
	CHECK_EQ(cmd.out_data_type, TYPE, "its type");

	memset(page, 0xff, 3 * PAGE);
	CHECK_OK(info(fd, &cmd, mock->device, page, 5), "less room");
	CHECK_EQ(cmd.data_len, SIZE, "the data's own length");
	CHECK_EQ(page[4], IOMMU_HW_INFO_SELFTEST_REGVAL & 0xff, "the last byte that fits");
	CHECK_EQ(page[5], 0xff, "no more");
	CHECK_OK(info(fd, &cmd, mock->device, page, 2 * PAGE + 7), "more room");
	CHECK_EQ(cmd.data_len, SIZE, "the data's own length");
	for (i = SIZE; i < 2 * PAGE + 7; i++)
		wrong += page[i] != 0;
	CHECK_EQ(wrong, 0, "zeros behind the data");
	CHECK_EQ(page[2 * PAGE + 7], 0xff, "not behind the room");
}

int main(void)
{
	struct iommu_hw_info cmd = { 0 };
	struct mock mock, other;
	uint32_t ioas;
	int fd;

	checks_begin();
	fd = open_iommu();
	ioas = new_ioas(fd);
	mock = new_mock(fd, ioas);
	refused(fd, &mock);
	told(fd, &mock);
	NEED(mock_flags(fd, ioas, MOCK_FLAGS_DEVICE_PASID | MOCK_FLAGS_DEVICE_NO_DIRTY, &other) == 0);
	CHECK_OK(info(fd, &cmd, other.device, NULL, 0), "a device with PASIDs");
	CHECK_EQ(cmd.out_max_pasid_log2, 20, "their width");
	CHECK_EQ(cmd.out_capabilities, IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED, "no dirty tracking");
	CHECK_OK(close(fd), "close");
	return checks_end();
}
