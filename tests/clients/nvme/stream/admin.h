/* SPDX-License-Identifier: MIT */
/* Admin commands that ask: Identify, Get Log Page; and those that are refused. */
#ifndef STREAM_ADMIN_H
#define STREAM_ADMIN_H

#include "data_wrong.h"

static uint8_t controller[4096];		/* as it was identified first */
static uint8_t namespace_data[MOST_NAMESPACES][4096];
static uint8_t logs[8][4096];			/* by their numbers, as they were read first */
static bool has_log[8];

static inline uint32_t short_word(const uint8_t *data, unsigned int at)
{
	return word(data, at) & 0xffff;
}

static inline struct op *begin_admin(const char *kind, uint8_t opcode)
{
	struct op *op = begin_op(kind);

	op->request.command = (struct command){ .opcode = opcode };
	return op;
}

static inline const uint8_t *bytes_of(struct op *op)
{
	static uint8_t bytes[64 << 10];

	gather(&op->pieces, bytes);
	if (!is_clean_around(op, FILLING))
		found(op, " WRITTEN BESIDE");
	return bytes;
}

/* ---- Identify ------------------------------------------------------------------------------------- */

static inline void judge_controller(struct op *op)
{
	found(op, memcmp(bytes_of(op), controller, 4096) ? " ANOTHER" : " right");
}

/* But for how much of it is in use. */
static inline void judge_namespace(struct op *op)
{
	const uint8_t *bytes = bytes_of(op), *known = namespace_data[op->argument];

	found(op, memcmp(bytes, known, 16) || memcmp(bytes + 24, known + 24, 4072) ? " ANOTHER" : " right");
}

static inline void judge_zeroes(struct op *op)
{
	const uint8_t *bytes = bytes_of(op);

	found(op, bytes[0] || memcmp(bytes, bytes + 1, 4095) ? " SOMETHING" : " right");
}

static inline void judge_list(struct op *op)
{
	const uint8_t *bytes = bytes_of(op);
	uint32_t i;

	for (i = 0; i < 1024 && word(bytes, 4 * i); i++)
		found(op, " %u", word(bytes, 4 * i));
	for (; i < 1024; i++)
		if (word(bytes, 4 * i))
			found(op, " AND MORE");
}

/* Each has a length, and is of a type of its own; there is one at least. */
static inline void judge_descriptors(struct op *op)
{
	static const uint8_t lengths[] = { 0, 8, 16, 16, 1 };
	const uint8_t *bytes = bytes_of(op);
	uint32_t at = 0, seen = 0;

	while (at + 4 <= 4096 && bytes[at]) {
		uint8_t type = bytes[at];

		if (type >= sizeof(lengths) || bytes[at + 1] != lengths[type] || seen & 1U << type)
			found(op, " WRONG at %u", at);
		seen |= 1U << (type & 31);
		at += 4U + bytes[at + 1];
	}
	found(op, seen ? " right" : " NONE");
}

static inline void ask_identify(struct op *op, uint32_t cns, uint32_t nsid)
{
	op->request.command.cdw10 = cns;
	op->request.command.nsid = nsid;
	use_pages(op, 4096, FILLING);
}

static inline void step_identify(void)
{
	uint32_t how = below(16), which = below(namespace_count), other = below(256);
	struct op *op = begin_admin("", ADMIN_IDENTIFY);
	static const char *const kinds[] = {
		"namespace", "namespace", "controller", "active", "active", "descriptors", "namespace_zero",
		"namespace_beyond", "namespace_every", "active_last", "active_every", "descriptors_zero",
		"descriptors_beyond", "io_command_set", "allocated", "unknown",
	};
	static const uint8_t cns[] = { 0, 0, 1, 2, 2, 3, 0, 0, 0, 2, 2, 3, 3, 6, 0x10, 0xff };
	static const uint8_t unknown[] = { 0x1f, 0x20, 0x7f, 0x80, 0xc0, 0xff };
	uint32_t nsid = 0;

	snprintf(op->kind, sizeof(op->kind), "identify.%s", kinds[how]);
	if (how < 2 || how == 5 || how == 13) {
		nsid = namespaces[which].nsid;
		op->judge = how < 2 ? judge_namespace : how == 5 ? judge_descriptors : NULL;
		op->argument = which;
		tell(op, "ns%u", nsid);
	} else if (how == 2) {
		op->judge = judge_controller;
	} else if (how < 5 || how == 14) {
		nsid = below(2) ? 0 : other % 4;
		op->judge = how < 5 ? judge_list : NULL;
		tell(op, "after %u", nsid);
	} else if (how == 7 || how == 12) {
		nsid = below(2) ? most_namespaces + 1 : EVERY_NAMESPACE - 1;
	} else if (how == 8 || how == 10) {
		nsid = EVERY_NAMESPACE;
	} else if (how == 9) {
		nsid = EVERY_NAMESPACE - 1;
	}
	ask_identify(op, how == 15 ? unknown[other % sizeof(unknown)] : cns[how], nsid);
	submit(op, 0);
}

/* The same wrong pointers as of I/O commands. */
static inline void step_identify_wrong(void)
{
	static const char *const kinds[] = { "unmapped",	"second_unmapped", "second_offset", "read_only",
					     "fuse",	"sgl",	"sgl_metadata",	 "psdt_reserved" };
	uint32_t how = below(ARRAY_LEN(kinds)), offset = 4 * (1 + below(1000));
	struct op *op = begin_admin("", ADMIN_IDENTIFY);
	struct command *command = &op->request.command;
	uint64_t address = iova_of(op->data, below(2));

	snprintf(op->kind, sizeof(op->kind), "identify.%s", kinds[how]);
	command->cdw10 = CNS_CONTROLLER;
	command->prp1 = address;
	if (how == 0) {
		command->prp1 = NOWHERE + page_size;
	} else if (how == 1) {
		command->prp1 += page_size - 4096 + offset;
		command->prp2 = NOWHERE;
	} else if (how == 2) {
		command->prp1 += page_size - 4096 + offset;
		command->prp2 = address + page_size + offset;
	} else if (how == 3) {
		command->prp1 = READ_ONLY;
	} else if (how == 4) {
		command->flags = (uint8_t)(1 + offset % 3);
	} else {
		set_sgl(command, sgl_of(SGL_DATA, address, 4096));
		command->flags = (uint8_t)((how - 4) << 6);
	}
	submit(op, 0);
}

/* ---- Get Log Page --------------------------------------------------------------------------------- */

/* Logs 3 and 5 do not change; of the others it is enough that they come. */
static inline void judge_log(struct op *op)
{
	uint32_t log = op->request.command.cdw10 & 0xff, at = op->request.command.cdw12, size = log == 5 ? 4096 : 512;
	const uint8_t *bytes = bytes_of(op);
	uint32_t length = op->bytes < size - at ? op->bytes : size - at;

	if (log == 3 || log == 5)
		found(op, has_log[log] && !memcmp(bytes, logs[log] + at, length) ? " right" : " ANOTHER");
}

static inline void ask_log(struct op *op, uint32_t log, uint32_t bytes, uint32_t offset, uint32_t more)
{
	uint32_t words = bytes / 4 - 1;

	op->request.command.opcode = ADMIN_GET_LOG;
	op->request.command.cdw10 = log | words << 16 | more;
	op->request.command.cdw11 = words >> 16;
	op->request.command.cdw12 = offset;
	use_pages(op, bytes, FILLING);
}

static inline void step_log(void)
{
	static const uint8_t known[] = { 1, 2, 3, 5 }, unknown[] = { 0x00, 0x6f, 0x7f, 0xbf, 0xc0, 0xff };
	uint32_t how = below(9), log = known[below(4)], size = log == 5 ? 4096 : log == 1 ? 64 : 512;
	uint32_t bytes = below(2) ? size : 4 * (1 + below(size / 4)), offset = below(2) ? 0 : 4 * below(size / 4);
	uint32_t nsid = EVERY_NAMESPACE;
	struct op *op = begin_admin("", ADMIN_GET_LOG);

	if (how == 0) {
		snprintf(op->kind, sizeof(op->kind), "log.unknown");
		log = unknown[offset / 4 % sizeof(unknown)];
		offset = 0;
	} else if (how == 1) {
		snprintf(op->kind, sizeof(op->kind), "log.%u_beyond", log);
		offset = (log == 1 ? 256 * 64U : size) + 4 * (1 + offset);
	} else if (how == 2) {
		snprintf(op->kind, sizeof(op->kind), "log.%u_longer", log);
		bytes = size + 4 * (1 + below(1000));
		offset = 0;
	} else if (how == 3) {
		snprintf(op->kind, sizeof(op->kind), "log.%u_odd_offset", log);
		bytes = 4;
		offset = 1 + below(3);
	} else if (how == 4) {
		log = 2;
		bytes = 512;
		offset = 0;
		nsid = below(2) ? namespaces[0].nsid : most_namespaces + 1;
		snprintf(op->kind, sizeof(op->kind), "log.2_%s", nsid == namespaces[0].nsid ? "of_namespace" : "beyond_namespaces");
	} else {
		snprintf(op->kind, sizeof(op->kind), "log.%u%s", log, offset ? "_from" : "");
		op->judge = judge_log;
		if (log == 1)
			offset = 0;
	}
	tell(op, "%u bytes from %#x", bytes, offset);
	ask_log(op, log, bytes, offset, LOG_RETAIN);
	op->request.command.nsid = nsid;
	submit(op, 0);
}

/* ---- what is refused ------------------------------------------------------------------------------ */

static inline void step_wrong_admin(void)
{
	static const uint8_t optional[] = { 0x10, 0x11, 0x14, 0x18, 0x19, 0x1a, 0x1c, 0x1d, 0x1e, 0x81, 0x82, 0x84, 0x86 };
	static const uint8_t unknown[] = { 0x03, 0x07, 0x0b, 0x0e, 0x0f, 0x12, 0x13, 0x16, 0x1f, 0x40, 0x7b, 0x83, 0xbf };
	uint32_t how = below(4);
	struct op *op = begin_admin(how == 0 ? "admin.optional" : how == 1 ? "admin.unknown" : "admin.vendor", 0);
	uint8_t opcode = how == 0   ? optional[below(sizeof(optional))]
			 : how == 1 ? unknown[below(sizeof(unknown))]
				    : (uint8_t)(0xc0 + below(0x40));

	if (how == 3) {
		bool manage = below(2);

		snprintf(op->kind, sizeof(op->kind), manage ? "namespace.management" : "namespace.attachment");
		opcode = manage ? ADMIN_NAMESPACE_MANAGEMENT : ADMIN_NAMESPACE_ATTACHMENT;
		op->request.command.nsid = manage ? 0 : most_namespaces + 1;
	}
	op->request.command.opcode = opcode;
	use_pages(op, 4096, 0);
	tell(op, "%02x", opcode);
	submit(op, 0);
}

#endif
