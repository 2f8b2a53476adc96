// SPDX-License-Identifier: MIT
/*
 * A driver's life with an NVMe controller: enable, identify, queues, one of each I/O command, interrupts of
 * both kinds, shadow doorbells, shutdown, reset. It prints what it is answered.
 *
 *     nvme_basic [DEVICE [IOMMU]]
 */
#include "run.h"

static uint8_t *data, *other, *identified; /* a page each */
static uint32_t blocks;			   /* bytes of one */

/* ---- registers ----------------------------------------------------------------------------------- */

static void registers(void)
{
	heading("registers");
	printf("queues: of %s entries, contiguous only: %u\n", CAP_MQES(cap) >= 63 ? "64 and more" : "too few",
	       CAP_CQR(cap));
	printf("doorbells: %u apart, NVM command set: %u, smallest page: %u\n", 4 << CAP_DSTRD(cap),
	       CAP_CSS_NVM(cap), 4096 << CAP_MPSMIN(cap));
	printf("version %#x\n", load4(REG_VS));
	printf("CC %#x, CSTS %#x\n", load4(REG_CC), load4(REG_CSTS));
	store4(REG_CSTS, 0xff);
	store4(REG_VS, 0);
	printf("what cannot be written: VS %#x, CSTS %#x\n", load4(REG_VS), load4(REG_CSTS));
	store8(REG_ASQ, 0x123456789abc0000);
	store4(REG_AQA, 0x001f000f);
	printf("ASQ %#lx, AQA %#x\n", load8(REG_ASQ), load4(REG_AQA));
}

/* ---- life ---------------------------------------------------------------------------------------- */

static void begin_again(uint32_t pages)
{
	SAY(begin_controller(pages, 16, 16), "enable: CSTS");
}

static void identify_all(void)
{
	uint32_t i, active;

	heading("identify");
	identify(CNS_CONTROLLER, 0, identified);
	printf("entries: %#x and %#x, version %#x, model \"%s\"\n", identified[512], identified[513], word(identified, 80),
	       identified[24] > ' ' ? "named" : "");
	printf("write cache: %u, namespaces: %s\n", identified[ID_VWC] & 1, word(identified, ID_NN) ? "some" : "none");
	identify(CNS_ACTIVE, 0, data);
	for (i = 0, active = 0; i < 1024 && word(data, 4 * i); i++) {
		identify(CNS_NAMESPACE, word(data, 4 * i), identified);
		printf("namespace %u: %lu blocks of %u bytes, %lu and %lu of them in use\n", word(data, 4 * i),
		       long_word(identified, 0), block_size(identified), long_word(identified, 8), long_word(identified, 16));
		active++;
	}
	printf("%u are active\n", active);
	identify(CNS_NAMESPACE, 1, identified);
	blocks = block_size(identified);
}

/* How often the vector was signalled: once at least, within seconds. */
static void interrupted(const char *what, uint32_t vector)
{
	printf("%s: %s\n", what, rings_soon(events[vector]) > 0 ? "interrupted" : "no interrupt");
}

static void one(const char *what, struct command command)
{
	struct request done = run(1, command);

	printf("%s: %s\n", what, status_text(done.status));
}

static void input_and_output(uint32_t vector)
{
	uint32_t nsid = 1, i;
	uint64_t sum;

	heading("input and output");
	for (i = 0; i < PAGE; i++)
		data[i] = (uint8_t)(i * 7 + i / 256 + vector);
	sum = checksum(data, blocks);
	one("write", block_command(IO_WRITE, nsid, 5, 1, data));
	interrupted("write", vector);
	one("flush", (struct command){ .opcode = IO_FLUSH, .nsid = nsid });
	one("flush all", (struct command){ .opcode = IO_FLUSH, .nsid = EVERY_NAMESPACE });
	memset(other, 0, PAGE);
	one("read", block_command(IO_READ, nsid, 5, 1, other));
	printf("what was read: %s\n", checksum(other, blocks) == sum && !memcmp(data, other, blocks) ? "right" : "wrong");
	one("compare with the same", block_command(IO_COMPARE, nsid, 5, 1, other));
	other[blocks - 1] ^= 1;
	one("compare with another", block_command(IO_COMPARE, nsid, 5, 1, other));
	one("verify", block_command(IO_VERIFY, nsid, 5, 1, NULL));
	one("write zeroes", block_command(IO_WRITE_ZEROES, nsid, 5, 1, NULL));
	one("read", block_command(IO_READ, nsid, 5, 1, other));
	printf("what was read: %s\n", other[0] == 0 && !memcmp(other, other + 1, blocks - 1) ? "zeroes" : "something");
	*(struct dsm_range *)data = (struct dsm_range){ .count = 8, .lba = 5 };
	one("deallocate", (struct command){ .opcode = IO_DSM, .nsid = nsid, .prp1 = iova_of(data, true), .cdw11 = 4 });
	one("beyond the end", block_command(IO_READ, nsid, long_word(identified, 0), 1, other));
	one("of no namespace", block_command(IO_READ, 0, 0, 1, other));
	one("no such command", block_command(0x7f, nsid, 0, 1, other));
}

static void delete_queues(void)
{
	struct request done;

	heading("the queues go");
	done = run(0, (struct command){ .opcode = ADMIN_DELETE_CQ, .cdw10 = 1 });
	printf("a completion queue that is used: %s\n", status_text(done.status));
	done = run(0, (struct command){ .opcode = ADMIN_DELETE_SQ, .cdw10 = 1 });
	printf("the submission queue: %s\n", status_text(done.status));
	sqs[1].there = false;
	done = run(0, (struct command){ .opcode = ADMIN_DELETE_SQ, .cdw10 = 1 });
	printf("once more: %s\n", status_text(done.status));
	done = run(0, (struct command){ .opcode = ADMIN_DELETE_CQ, .cdw10 = 1 });
	printf("the completion queue: %s\n", status_text(done.status));
	cqs[1].there = false;
}

static void life(uint32_t pages)
{
	uint32_t granted;

	printf("# life with pages of %u bytes\n", 4096 << pages);
	begin_again(pages);
	identify_all();
	interrupted("identify", 0);
	granted = set_feature(FEATURE_QUEUES, 3 << 16 | 3);
	printf("queues: %s\n", (granted & 0xffff) >= 3 && granted >> 16 >= 3 ? "4 and 4, at least" : "fewer than 4");
	create_queues(1, 8, 1);
	input_and_output(1);
	delete_queues();
	SAY(shut_down(false), "shut down: CSTS");
	SAY(disable_controller(), "disable: CSTS");
}

/* ---- doorbells and interrupts ---------------------------------------------------------------------- */

static void shadow_doorbells(void)
{
	struct command command = { .opcode = ADMIN_DOORBELL_BUFFER, .prp1 = iova_of(SHADOW_MEMORY, false),
				   .prp2 = iova_of(SHADOW_MEMORY + QUEUE_ROOM, false) };
	int i, rounds = 200;

	heading("shadow doorbells");
	begin_again(0);
	identify(CNS_CONTROLLER, 0, identified);
	if (!(word(identified, ID_OACS) & OACS_DOORBELL_BUFFER)) {
		printf("there are none\n");
		return;
	}
	set_feature(FEATURE_QUEUES, 3 << 16 | 3);
	memset(SHADOW_MEMORY, 0, 2 * QUEUE_ROOM);
	shadows = (void *)SHADOW_MEMORY;
	wanted = (void *)(SHADOW_MEMORY + QUEUE_ROOM);
	printf("set up: %s\n", status_text(run(0, command).status));
	shadowed = true;
	shadows[0] = sqs[0].tail;
	shadows[1] = cqs[0].head;
	create_queues(1, 8, 1);
	for (i = 0; i < rounds; i++) {
		memset(data, i, PAGE);
		run_well(1, block_command(IO_WRITE, 1, 7, 1, data));
		run_well(1, block_command(IO_READ, 1, 7, 1, other));
		NEED(other[blocks - 1] == (uint8_t)i);
	}
	printf("%d writes and reads, rung again: %u\n", rounds, rung_again);
	delete_queues();
	SAY(disable_controller(), "disable: CSTS");
}

static void pin_interrupts(void)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = VFIO_PCI_INTX_IRQ_INDEX };
	int fd = new_eventfd();

	heading("the interrupt pin");
	NEED(call(device, VFIO_DEVICE_GET_IRQ_INFO, &info) == 0);
	if (!info.count) {
		printf("there is none\n");
		return;
	}
	NEED(set_irqs(device, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_MSIX_IRQ_INDEX, 0, 0, NULL, 0) ==
	     0);
	NEED(trigger_by(device, VFIO_PCI_INTX_IRQ_INDEX, 0, fd) == 0);
	begin_again(0);
	identify(CNS_CONTROLLER, 0, identified);
	printf("identify: %s\n", rings_soon(fd) > 0 ? "interrupted" : "no interrupt");
	NEED(set_irqs(device, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_UNMASK, VFIO_PCI_INTX_IRQ_INDEX, 0, 1, NULL, 0) ==
	     0);
	printf("all taken, and unmasked: %ld\n", rings(fd));
	store4(REG_INTMS, 1);
	printf("masked in the controller: %#x, %#x\n", load4(REG_INTMS), load4(REG_INTMC));
	identify(CNS_CONTROLLER, 0, identified);
	printf("identify: %ld\n", rings(fd));
	store4(REG_INTMC, 1);
	printf("unmasked in the controller: %#x\n", load4(REG_INTMS));
	identify(CNS_CONTROLLER, 0, identified);
	printf("identify: %s\n", rings_soon(fd) > 0 ? "interrupted" : "no interrupt");
	SAY(disable_controller(), "disable: CSTS");
	NEED(set_irqs(device, VFIO_IRQ_SET_DATA_NONE | VFIO_IRQ_SET_ACTION_TRIGGER, VFIO_PCI_INTX_IRQ_INDEX, 0, 0, NULL, 0) ==
	     0);
	close(fd);
	set_up_vectors();
}

static void reset(void)
{
	heading("reset");
	begin_again(0);
	SAY(shut_down(true), "shut down at once: CSTS");
	reset_function();
	printf("after a reset: CC %#x, CSTS %#x, AQA %#x, ASQ %#lx, ACQ %#lx\n", load4(REG_CC), load4(REG_CSTS),
	       load4(REG_AQA), load8(REG_ASQ), load8(REG_ACQ));
	begin_again(0);
	identify(CNS_CONTROLLER, 0, identified);
	interrupted("identify", 0);
	SAY(disable_controller(), "disable: CSTS");
}

int main(int argc, char **argv)
{
	begin(argc, argv);
	open_controller();
	reset_function();
	data = memory + FREE_MEMORY;
	other = data + PAGE;
	identified = other + PAGE;
	registers();
	life(0);
	life(CAP_MPSMAX(cap) ? 1 : 0);
	mapped = false;
	life(0);
	mapped = bar != NULL;
	shadow_doorbells();
	pin_interrupts();
	reset();
	return 0;
}
