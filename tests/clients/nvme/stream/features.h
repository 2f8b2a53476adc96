/* SPDX-License-Identifier: MIT */
/* Set Features and Get Features: what was set is there, what was refused has changed nothing. */
#ifndef STREAM_FEATURES_H
#define STREAM_FEATURES_H

#include "admin.h"

#define SAVE (1U << 31)

/* One value of a feature. `which` is what selects it in CDW11; under `mask` is what is kept of it. */
struct feature {
	const char *name;
	uint8_t id;
	bool of_namespace;
	uint32_t which, mask;
	bool was_set, was_read; /* in this session; ever */
	uint32_t value, at_first;
};

static struct feature features[] = {
	{ .name = "arbitration", .id = FEATURE_ARBITRATION, .mask = 0xffffff07 },
	{ .name = "power", .id = FEATURE_POWER, .mask = 0x1f },
	{ .name = "temperature_over", .id = FEATURE_TEMPERATURE, .mask = 0xffff },
	{ .name = "temperature_under", .id = FEATURE_TEMPERATURE, .which = 1U << 20, .mask = 0xffff },
	{ .name = "error_recovery", .id = FEATURE_ERROR_RECOVERY, .of_namespace = true, .mask = 0x1ffff },
	{ .name = "write_cache", .id = FEATURE_WRITE_CACHE, .mask = 1 },
	{ .name = "coalescing", .id = FEATURE_COALESCING, .mask = 0xffff },
	{ .name = "vector", .id = FEATURE_VECTOR, .which = 1, .mask = 0x1ffff },
	{ .name = "atomicity", .id = FEATURE_ATOMICITY, .mask = 1 },
	{ .name = "events", .id = FEATURE_EVENTS, .mask = 0xff },
};

static inline uint32_t some_value(const struct feature *feature)
{
	uint32_t dice_ = (uint32_t)(draw() >> 8);

	switch (feature->id) {
	case FEATURE_ARBITRATION:
		return dice_ & 0xffffff07;
	case FEATURE_TEMPERATURE: /* which is not reached: no event */
		return feature->which | (feature->which ? dice_ % 200 : 400 + dice_ % 100);
	case FEATURE_ERROR_RECOVERY:
		return dice_ & 0xffff;
	case FEATURE_WRITE_CACHE:
	case FEATURE_ATOMICITY:
		return dice_ & 1;
	case FEATURE_COALESCING:
		return dice_ & 0x0303;
	case FEATURE_VECTOR:
		return feature->which | (dice_ & 1) << 16;
	case FEATURE_EVENTS:
		return dice_ & 0x1f;
	default:
		return 0;
	}
}

static inline void forget_features(void)
{
	uint32_t i;

	for (i = 0; i < ARRAY_LEN(features); i++)
		features[i].was_set = false;
}

/* A feature that has been set is what it was set to; else it is what it was at first. */
static inline void hold(struct op *op, struct feature *feature, bool current)
{
	uint32_t value = op->request.dw0 & feature->mask;

	if (!feature->was_read && !(current && feature->was_set)) {
		feature->was_read = true;
		feature->at_first = value;
	}
	if (value == (current && feature->was_set ? feature->value : feature->at_first))
		found(op, " right");
	else
		found(op, " %#x INSTEAD OF %#x", value, current && feature->was_set ? feature->value : feature->at_first);
}

static inline void judge_get(struct op *op)
{
	uint32_t select = op->request.command.cdw10 >> 8 & 7;

	if (select == 3)
		found(op, op->request.dw0 & ~7U ? " MORE THAN THREE BITS" : " right");
	else
		hold(op, &features[op->argument], select == 0);
}

static inline void step_get_feature(void)
{
	static const char *const selects[] = { "current", "default", "saved", "supported" };
	uint32_t which = below(ARRAY_LEN(features)), select = below(2) ? 0 : below(4);
	struct feature *feature = &features[which];
	struct op *op = begin_admin("", ADMIN_GET_FEATURES);

	snprintf(op->kind, sizeof(op->kind), "get.%s.%s", feature->name, selects[select]);
	op->request.command.cdw10 = feature->id | select << 8;
	op->request.command.cdw11 = feature->which;
	op->request.command.nsid = feature->of_namespace ? namespaces[0].nsid : 0;
	op->judge = judge_get;
	op->hides_dw0 = true;
	op->argument = which;
	run_and_print(op, 0);
}

static inline struct op *begin_set(const char *kind, uint32_t id, uint32_t value)
{
	struct op *op = begin_admin(kind, ADMIN_SET_FEATURES);

	op->request.command.cdw10 = id;
	op->request.command.cdw11 = value;
	return op;
}

static inline void set_one(struct feature *feature, uint32_t value)
{
	struct op *op = begin_set("", feature->id, value);

	snprintf(op->kind, sizeof(op->kind), "set.%s", feature->name);
	op->request.command.nsid = feature->of_namespace ? namespaces[0].nsid : 0;
	tell(op, "%#x", value);
	run_and_print(op, 0);
	if (!op->request.status) {
		feature->was_set = true;
		feature->value = value & feature->mask;
	}
}

static inline void step_set_feature(void)
{
	struct feature *feature = &features[below(ARRAY_LEN(features))];

	set_one(feature, some_value(feature));
}

/* What is refused: each kind with what it names, and what it says. */
static inline void step_wrong_feature(void)
{
	uint32_t beyond = most_namespaces + 1, npss = controller[ID_NPSS];
	const struct {
		const char *name;
		uint8_t opcode;
		uint32_t cdw10, cdw11, nsid;
	} wrongs[] = {
		{ "set.save", ADMIN_SET_FEATURES, FEATURE_WRITE_CACHE | SAVE, 1, 0 },
		{ "set.save_temperature", ADMIN_SET_FEATURES, FEATURE_TEMPERATURE | SAVE, 500, 0 },
		{ "set.timestamp_unmapped", ADMIN_SET_FEATURES, FEATURE_TIMESTAMP, 0, 0 },
		{ "get.timestamp_unmapped", ADMIN_GET_FEATURES, FEATURE_TIMESTAMP, 0, 0 },
		{ "set.zero", ADMIN_SET_FEATURES, 0, 0, 0 },
		{ "set.unknown", ADMIN_SET_FEATURES, 0x7f, 0, 0 },
		{ "set.vendor", ADMIN_SET_FEATURES, 0xc5, 0, 0 },
		{ "set.lba_range", ADMIN_SET_FEATURES, FEATURE_LBA_RANGE, 0, 1 },
		{ "set.host_memory", ADMIN_SET_FEATURES, FEATURE_HOST_MEMORY, 1, 0 },
		{ "set.keep_alive", ADMIN_SET_FEATURES, 0x0f, 0, 0 },
		{ "set.power_beyond", ADMIN_SET_FEATURES, FEATURE_POWER, npss + 1, 0 },
		{ "set.temperature_reserved", ADMIN_SET_FEATURES, FEATURE_TEMPERATURE, 400 | 2U << 20, 0 },
		{ "set.temperature_no_sensor", ADMIN_SET_FEATURES, FEATURE_TEMPERATURE, 400 | 0xaU << 16, 0 },
		{ "set.queues_again", ADMIN_SET_FEATURES, FEATURE_QUEUES, 0x00030003, 0 },
		{ "set.vector_beyond", ADMIN_SET_FEATURES, FEATURE_VECTOR, 0xffff, 0 },
		{ "set.namespace_zero", ADMIN_SET_FEATURES, FEATURE_ERROR_RECOVERY, 7, 0 },
		{ "set.namespace_beyond", ADMIN_SET_FEATURES, FEATURE_ERROR_RECOVERY, 7, beyond },
		{ "set.of_no_namespace", ADMIN_SET_FEATURES, FEATURE_TEMPERATURE, 401, 1 },
		{ "get.zero", ADMIN_GET_FEATURES, 0, 0, 0 },
		{ "get.unknown", ADMIN_GET_FEATURES, 0x7f, 0, 0 },
		{ "get.vendor", ADMIN_GET_FEATURES, 0xc5, 0, 0 },
		{ "get.lba_range", ADMIN_GET_FEATURES, FEATURE_LBA_RANGE, 0, 1 },
		{ "get.host_memory", ADMIN_GET_FEATURES, FEATURE_HOST_MEMORY, 0, 0 },
		{ "get.select_reserved", ADMIN_GET_FEATURES, FEATURE_WRITE_CACHE | 5 << 8, 0, 0 },
		{ "get.vector_beyond", ADMIN_GET_FEATURES, FEATURE_VECTOR, 0xffff, 0 },
		{ "get.namespace_zero", ADMIN_GET_FEATURES, FEATURE_ERROR_RECOVERY, 0, 0 },
		{ "get.namespace_beyond", ADMIN_GET_FEATURES, FEATURE_ERROR_RECOVERY, 0, beyond },
		{ "get.namespace_every", ADMIN_GET_FEATURES, FEATURE_ERROR_RECOVERY, 0, EVERY_NAMESPACE },
		{ "get.temperature_reserved", ADMIN_GET_FEATURES, FEATURE_TEMPERATURE, 3U << 20, 0 },
	};
	uint32_t which = below(ARRAY_LEN(wrongs));
	struct op *op = begin_admin(wrongs[which].name, wrongs[which].opcode);

	op->request.command.cdw10 = wrongs[which].cdw10;
	op->request.command.cdw11 = wrongs[which].cdw11;
	op->request.command.nsid = wrongs[which].nsid;
	use_pages(op, 4096, 0);
	if (strstr(op->kind, "unmapped"))
		op->request.command.prp1 = NOWHERE;
	op->hides_dw0 = true;
	run_and_print(op, 0);
	/* what should not have been done is undone, without a word */
	if (!op->request.status && wrongs[which].opcode == ADMIN_SET_FEATURES) {
		uint32_t i;

		for (i = 0; i < ARRAY_LEN(features); i++)
			if (features[i].id == (wrongs[which].cdw10 & 0xff) && (features[i].was_set || features[i].was_read))
				quietly(0, (struct command){
						   .opcode = ADMIN_SET_FEATURES, .cdw10 = features[i].id,
						   .nsid = features[i].of_namespace ? namespaces[0].nsid : 0,
						   .cdw11 = features[i].which |
							    (features[i].was_set ? features[i].value : features[i].at_first) });
	}
}

/* A time, and that it goes on from there. */
static inline void step_timestamp(void)
{
	uint64_t time = 1000000 + (draw() >> 24), read;
	struct op *op = begin_set("set.timestamp", FEATURE_TIMESTAMP, 0);

	use_pages(op, 8, FILLING);
	scatter(&op->pieces, (uint8_t *)&time);
	run_and_print(op, 0);
	op = begin_admin("get.timestamp", ADMIN_GET_FEATURES);
	op->request.command.cdw10 = FEATURE_TIMESTAMP;
	use_pages(op, 8, FILLING);
	run_op(op, 0);
	if (!op->request.status) {
		gather(&op->pieces, (uint8_t *)&read);
		found(op, (read & 0xffffffffffff) - time < 60000 && read >> 49 == 1 ? " right" : " ANOTHER");
	}
	drain();
}

/* The number of queues is what was granted. */
static inline void judge_queues(struct op *op)
{
	found(op, op->request.dw0 == op->argument ? " right" : " ANOTHER");
}

static uint32_t granted; /* by Set Features */

static inline void step_get_queues(void)
{
	struct op *op = begin_admin("get.queues.current", ADMIN_GET_FEATURES);

	op->request.command.cdw10 = FEATURE_QUEUES;
	op->argument = granted;
	op->hides_dw0 = true;
	op->judge = judge_queues;
	submit(op, 0);
}

#endif
