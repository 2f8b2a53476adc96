// SPDX-License-Identifier: MIT
/* GET_INFO, GET_REGION_INFO and GET_IRQ_INFO: every index, and every argsz. */
#include "device.h"

#define REGIONS 12
#define IRQS 7

/* A struct of `size` bytes at the end of a page, behind which nothing is. */
static void *at_end(size_t size)
{
	static char *page;

	if (page == NULL) {
		page = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		NEED(page != MAP_FAILED && munmap(page + PAGE, PAGE) == 0);
	}
	memset(page, 0xa5, PAGE);
	return page + PAGE - size;
}

static void dump(const char *what, long rc, const void *bytes, size_t size)
{
	size_t i;

	printf("%s: %s", what, rc ? errno_name(rc) : "0");
	for (i = 0; i < size; i += 4)
		printf(" %08x", ((const uint32_t *)bytes)[i / 4]);
	printf("\n");
}

/* GET_INFO's size is that of several kernels; argsz says how much of it. */
static void infos(int device)
{
	uint32_t sizes[] = { 0, 12, 15, 16, 17, 20, 24, 28, 64 }, i;
	char text[64];

	heading("the device");
	SAY(call(device, VFIO_DEVICE_GET_INFO, NULL), "NULL");
	for (i = 0; i < ARRAY_LEN(sizes); i++) {
		struct vfio_device_info *info = at_end(sizes[i] < 16 ? 16 : sizes[i]);
		long rc;

		info->argsz = sizes[i];
		rc = call(device, VFIO_DEVICE_GET_INFO, info);
		snprintf(text, sizeof(text), "argsz %u", sizes[i]);
		dump(text, rc, info, sizes[i] / 4 * 4);
	}
	{
		struct vfio_device_info *info = at_end(16);

		info->argsz = ~0U;
		SAY(call(device, VFIO_DEVICE_GET_INFO, info), "argsz -1 where there is not so much");
		info = at_end(12);
		info->argsz = 16;
		SAY(call(device, VFIO_DEVICE_GET_INFO, info), "a struct that ends too soon");
	}
}

static void regions(int device)
{
	uint32_t i, sizes[] = { 0, 28, 31, 32, 40, 64 };
	char text[64];

	heading("regions");
	SAY(call(device, VFIO_DEVICE_GET_REGION_INFO, NULL), "NULL");
	for (i = 0; i <= REGIONS; i++) {
		struct vfio_region_info info = { .argsz = sizeof(info), .index = i == REGIONS ? ~0U : i,
						 .flags = ~0U, .cap_offset = 77, .size = 77, .offset = 77 };
		long rc = call(device, VFIO_DEVICE_GET_REGION_INFO, &info);

		snprintf(text, sizeof(text), "region %d", (int)info.index);
		dump(text, rc, &info, sizeof(info));
	}
	for (i = 0; i < ARRAY_LEN(sizes); i++) {
		struct vfio_region_info *info = at_end(sizes[i] < 32 ? 32 : sizes[i]);
		long rc;

		info->argsz = sizes[i];
		info->index = 0;
		rc = call(device, VFIO_DEVICE_GET_REGION_INFO, info);
		snprintf(text, sizeof(text), "argsz %u", sizes[i]);
		dump(text, rc, info, sizes[i]);
	}
	{
		struct vfio_region_info *info = at_end(28);

		info->argsz = 32;
		info->index = 99;
		SAY(call(device, VFIO_DEVICE_GET_REGION_INFO, info), "a struct that ends too soon");
		info = at_end(32);
		info->argsz = 31;
		info->index = 99;
		SAY(call(device, VFIO_DEVICE_GET_REGION_INFO, info), "argsz and index wrong");
	}
}

static void irqs(int device)
{
	uint32_t i, sizes[] = { 0, 12, 15, 16, 32 };
	char text[64];

	heading("interrupts");
	SAY(call(device, VFIO_DEVICE_GET_IRQ_INFO, NULL), "NULL");
	for (i = 0; i <= IRQS; i++) {
		struct vfio_irq_info info = { .argsz = sizeof(info), .index = i == IRQS ? ~0U : i, .flags = ~0U,
					      .count = 77 };
		long rc = call(device, VFIO_DEVICE_GET_IRQ_INFO, &info);

		snprintf(text, sizeof(text), "index %d", (int)info.index);
		dump(text, rc, &info, sizeof(info));
	}
	for (i = 0; i < ARRAY_LEN(sizes); i++) {
		struct vfio_irq_info *info = at_end(sizes[i] < 16 ? 16 : sizes[i]);
		long rc;

		info->argsz = sizes[i];
		info->index = 0;
		rc = call(device, VFIO_DEVICE_GET_IRQ_INFO, info);
		snprintf(text, sizeof(text), "argsz %u", sizes[i]);
		dump(text, rc, info, sizes[i]);
	}
	{
		struct vfio_irq_info *info = at_end(12);

		info->argsz = 16;
		info->index = 99;
		SAY(call(device, VFIO_DEVICE_GET_IRQ_INFO, info), "a struct that ends too soon");
	}
}

static void numbers(int device)
{
	uint64_t nothing[2] = { 0 };
	unsigned int nr;

	heading("numbers");
	for (nr = 0; nr < 24; nr++)
		if (nr != 11)	/* RESET takes no argument */
			SAY(call(device, _IO(VFIO_TYPE, VFIO_BASE + nr), NULL), "number %u", nr);
	SAY(call(device, _IOW(VFIO_TYPE, VFIO_BASE + 7, uint64_t), nothing), "with a size");
	SAY(call(device, IOMMU_IOAS_ALLOC, NULL), "of iommufd's");
	SAY(call(device, 0x5401, NULL), "a terminal's");
}

int main(int argc, char **argv)
{
	int iommufd, device;

	begin(argc, argv);
	device = bound(&iommufd);
	infos(device);
	regions(device);
	irqs(device);
	numbers(device);
	return 0;
}
