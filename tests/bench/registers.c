// SPDX-License-Identifier: MIT
/*
 * The client of the benchmark that touches registers: of edu, or of what takes its place
 * (registers_peer.c). It answers as client.c does.
 *
 * Usage: registers IOMMU DEVICE...    each DEVICE is target 0, 1, ...; then, a line each:
 *   batch TARGET WORKLOAD N   do WORKLOAD N times: the nanoseconds all of them took
 */
#define _GNU_SOURCE
#include "client.h"
#include "registers.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096
#define MAX_TARGETS 4
#define WARM_UP 16
#define REGION(index) ((off_t)(index) << 40)
#define COMMAND 4 /* of configuration space; 6 lets memory answer, and the device send messages */

struct target {
	int fd, event;
	volatile uint8_t *bar;
};

static void expect(int is_true, const char *what)
{
	if (!is_true) {
		errno = EPROTO;
		die(what);
	}
}

static void read_register(struct target *t)
{
	uint32_t value;

	expect(pread(t->fd, &value, 4, REGION(0)) == 4 && value == IDENTIFICATION, "pread");
}

/* The instructions are those that registers_peer.c knows. */
static void load(struct target *t)
{
	uint32_t value;

	__asm__ volatile("movl (%%rdi), %%eax" : "=a"(value) : "D"(t->bar) : "memory");
	expect(value == IDENTIFICATION, "load");
}

static void store_at(struct target *t, int offset)
{
	__asm__ volatile("movl %%eax, (%%rdi)" : : "a"(1), "D"(t->bar + offset) : "memory");
}

static void store(struct target *t)
{
	store_at(t, SCRATCH);
}

static void ring(struct target *t)
{
	uint64_t count;

	store_at(t, RAISE);
	expect(read(t->event, &count, sizeof(count)) == sizeof(count) && count == 1, "eventfd");
}

static const struct {
	const char *name;
	void (*once)(struct target *t);
} workloads[] = { { "pread", read_register }, { "load", load }, { "store", store }, { "doorbell", ring } };

static __u64 batch(struct target *t, const char *name, __u64 n)
{
	__u64 begin;
	size_t i;

	for (i = 0; strcmp(workloads[i].name, name); i++)
		expect(i + 1 < sizeof(workloads) / sizeof(workloads[0]), name);
	for (int k = 0; k < WARM_UP; k++)
		workloads[i].once(t);
	begin = now();
	while (n--)
		workloads[i].once(t);
	return now() - begin;
}

static void open_target(struct target *t, const char *path, int iommu)
{
	struct vfio_device_bind_iommufd bind = { .argsz = sizeof(bind), .iommufd = iommu };
	const uint16_t command = 6;
	struct stat size;
	union {
		struct vfio_irq_set set;
		char room[sizeof(struct vfio_irq_set) + sizeof(int)];
	} irq = { .set = {
			  .argsz = sizeof(irq),
			  .flags = VFIO_IRQ_SET_DATA_EVENTFD | VFIO_IRQ_SET_ACTION_TRIGGER,
			  .index = VFIO_PCI_MSI_IRQ_INDEX,
			  .count = 1,
		  } };

	t->fd = open(path, O_RDWR | O_CLOEXEC);
	t->event = eventfd(0, EFD_CLOEXEC);
	if (t->fd < 0 || t->event < 0 || fstat(t->fd, &size)) /* FUSE asks for the size now */
		die(path);
	if (ioctl(t->fd, VFIO_DEVICE_BIND_IOMMUFD, &bind))
		die("BIND_IOMMUFD");
	if (pwrite(t->fd, &command, 2, REGION(VFIO_PCI_CONFIG_REGION_INDEX) + COMMAND) != 2)
		die("the command register");
	memcpy(irq.set.data, &t->event, sizeof(t->event));
	if (ioctl(t->fd, VFIO_DEVICE_SET_IRQS, &irq))
		die("SET_IRQS");
	t->bar = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, t->fd, REGION(0));
	if (t->bar == MAP_FAILED)
		die("mmap");
}

int main(int argc, char **argv)
{
	static struct target targets[MAX_TARGETS];
	unsigned long long n;
	char verb[16], name[32];
	unsigned int i;
	int iommu;

	if (argc < 3 || argc > 2 + MAX_TARGETS) {
		fprintf(stderr, "usage: registers IOMMU DEVICE...\n");
		return 2;
	}
	prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY); /* the peer is no relative; iommud sees to itself */
	iommu = open(argv[1], O_RDWR | O_CLOEXEC);
	if (iommu < 0)
		die(argv[1]);
	for (int k = 2; k < argc; k++)
		open_target(&targets[k - 2], argv[k], iommu);
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (scanf("%15s %u %31s %llu", verb, &i, name, &n) == 4 && i < (unsigned int)argc - 2 && !strcmp(verb, "batch"))
		printf("%llu\n", batch(&targets[i], name, n));
	if (feof(stdin))
		return 0;
	fprintf(stderr, "registers: a command it does not know\n");
	return 2;
}
