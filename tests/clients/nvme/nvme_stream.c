// SPDX-License-Identifier: MIT
/*
 * A stream of NVMe commands, right and wrong, by the dice: the same for the same seed, whatever is
 * answered. Each command is a line (stream/op.h); what comes between two sessions is a line too.
 *
 *     nvme_stream DEVICE IOMMU SEED COUNT
 *
 * At the beginning it writes zeros over what it uses of each namespace. It ends itself, with status
 * 1, when a command is not answered, or something is completed that is not in flight.
 */
#include "stream/session.h"

static const struct {
	uint32_t weight;
	void (*step)(void);
} steps[] = {
	{ 200, step_read },
	{ 160, step_write },
	{ 30, step_flush },
	{ 30, step_write_zeroes },
	{ 50, step_compare },
	{ 25, step_verify },
	{ 25, step_dsm },
	{ 30, step_sgl },
	{ 40, step_wrong_namespace },
	{ 40, step_wrong_range },
	{ 10, step_too_long },
	{ 25, step_wrong_flags },
	{ 20, step_wrong_opcode },
	{ 25, step_wrong_offset },
	{ 5, step_odd_offset },
	{ 25, step_unmapped },
	{ 10, step_read_only },
	{ 20, step_wrong_sgl },
	{ 40, step_identify },
	{ 20, step_identify_wrong },
	{ 40, step_log },
	{ 25, step_wrong_admin },
	{ 30, step_set_feature },
	{ 40, step_get_feature },
	{ 40, step_wrong_feature },
	{ 5, step_timestamp },
	{ 5, step_get_queues },
	{ 40, step_wrong_creation },
	{ 20, step_wrong_deletion },
	{ 10, step_renew },
	{ 10, step_delete_busy },
	{ 10, step_request_event },
	{ 8, step_temperature },
	{ 8, step_doorbell },
	{ 10, step_abort },
	{ 3, step_format },
	{ 5, step_wrong_buffer },
};

/* What the stream has to know of this controller. Admin queue only; nothing is printed. */
static void look_around(void)
{
	uint8_t *page = slot_data(0), *list = slot_data(1);
	uint32_t i, known[] = { LOG_FIRMWARE, LOG_EFFECTS };

	NEED(begin_controller(0, 16, 16) >= 0);
	identify(CNS_CONTROLLER, 0, page);
	memcpy(controller, page, sizeof(controller));
	most_namespaces = word(controller, ID_NN);
	is_limited = controller[ID_MDTS] && (4096U << CAP_MPSMIN(cap)) << controller[ID_MDTS] <= MOST_BYTES;
	most_bytes = is_limited ? (4096U << CAP_MPSMIN(cap)) << controller[ID_MDTS] : MOST_BYTES;
	waiting_limit = controller[ID_AERL] + 1U;
	identify(CNS_ACTIVE, 0, list);
	for (i = 0; i < MOST_NAMESPACES && word(list, 4 * i); i++) {
		struct namespace *ns = &namespaces[namespace_count++];

		ns->nsid = word(list, 4 * i);
		identify(CNS_NAMESPACE, ns->nsid, page);
		memcpy(namespace_data[i], page, 4096);
		ns->block = block_size(page);
		ns->blocks = long_word(page, 0);
		ns->format = page[26] & 15;
		NEED(ns->blocks >= 2 * AREA);
	}
	NEED(namespace_count && vector_limit > MOST_SHARED);
	for (i = 0; i < ARRAY_LEN(known); i++) {
		uint32_t words = (known[i] == LOG_EFFECTS ? 4096 : 512) / 4 - 1;
		struct request done = run(0, (struct command){ .opcode = ADMIN_GET_LOG, .prp1 = iova_of(page, false),
							       .nsid = EVERY_NAMESPACE,
							       .cdw10 = known[i] | LOG_RETAIN | words << 16 });

		has_log[known[i]] = !done.status;
		memcpy(logs[known[i]], page, sizeof(logs[0]));
	}
	for (i = 0; i < ARRAY_LEN(features); i++) {
		struct feature *feature = &features[i];
		struct request done = run(0, (struct command){ .opcode = ADMIN_GET_FEATURES, .cdw10 = feature->id,
							       .cdw11 = feature->which,
							       .nsid = feature->of_namespace ? namespaces[0].nsid : 0 });

		feature->was_read = !done.status;
		feature->at_first = done.dw0 & feature->mask;
	}
	set_feature(FEATURE_QUEUES, 0x00030003);
	create_queues(1, 16, 0);
	for (i = 0; i < namespace_count; i++)
		heal_all(&namespaces[i], 1);
	NEED(disable_controller() >= 0);
}

static void take_step(void)
{
	static uint32_t total;
	uint32_t i, dice_;

	begin_dice();
	if (!total)
		for (i = 0; i < ARRAY_LEN(steps); i++)
			total += steps[i].weight;
	dice_ = below(total);
	for (i = 0; dice_ >= steps[i].weight; i++)
		dice_ -= steps[i].weight;
	steps[i].step();
}

int main(int argc, char **argv)
{
	struct vfio_irq_info info = { .argsz = sizeof(info), .index = VFIO_PCI_MSIX_IRQ_INDEX };
	uint64_t count;

	begin(argc, argv);
	seed = argc > 3 ? strtoull(argv[3], NULL, 0) : 1;
	count = argc > 4 ? strtoull(argv[4], NULL, 0) : 1000;
	open_controller();
	reset_function();
	NEED(call(device, VFIO_DEVICE_GET_IRQ_INFO, &info) == 0);
	vector_limit = info.count;
	look_around();
	while (next_op <= count) {
		uint64_t end;

		begin_dice();
		end = next_op + 50 + below(500);
		begin_session();
		while (next_op < end && next_op <= count)
			take_step();
		begin_dice();
		end_session();
	}
	fprintf(stderr, "%s", rung_again ? "a shadow doorbell was not looked at\n" : "");
	return rung_again != 0;
}
