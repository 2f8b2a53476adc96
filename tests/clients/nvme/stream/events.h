/* SPDX-License-Identifier: MIT */
/* Asynchronous events: requests that wait for them, what makes them, and what clears them. */
#ifndef STREAM_EVENTS_H
#define STREAM_EVENTS_H

#include "queue_steps.h"

#define MOST_WAITING 8U
#define FIRST_WAITING 16U /* the place of the first among `requests` */

static struct request waiting[MOST_WAITING];
static uint32_t waiting_count, waiting_limit;

static inline void forget_events(void)
{
	memset(waiting, 0, sizeof(waiting));
	waiting_count = 0;
}

/* What was sent before has been looked at by now. */
static inline void make_a_round(void)
{
	uint32_t i;

	for (i = 0; i < 2; i++)
		quietly(0, (struct command){ .opcode = ADMIN_GET_FEATURES, .cdw10 = FEATURE_TEMPERATURE });
}

/* A request that has been completed, which is then gone; NULL: none has. */
static inline const struct request *take_event(void)
{
	static struct request taken;
	uint32_t i;

	for (i = 0; i < MOST_WAITING; i++)
		if (waiting[i].command.opcode && !waiting[i].in_flight) {
			taken = waiting[i];
			waiting[i].command.opcode = 0;
			waiting_count--;
			return &taken;
		}
	return NULL;
}

/* One more request, which waits, or is refused. */
static inline void post_request(void)
{
	struct op *op = begin_op("event.request");
	const struct request *taken;
	uint32_t i;

	while (first_op < op->number)
		end_oldest();
	for (i = 0; waiting[i].command.opcode; i++)
		;
	waiting[i] = (struct request){ .command = { .opcode = ADMIN_ASYNC_EVENT, .cid = (uint16_t)(FIRST_WAITING + i) } };
	waiting_count++;
	put_request(&waiting[i], 0);
	make_a_round();
	taken = take_event();
	if (taken)
		op->request = *taken;
	else
		found(op, " it waits");
	drain();
}

/* The event that has been made: it comes, or (`comes` is false) it does not. */
static inline void expect_event(const char *kind, bool comes)
{
	struct op *op = begin_op(kind);
	const struct request *taken = NULL;
	double end = now() + (comes ? 5 : 0);

	while (first_op < op->number)
		end_oldest();
	do {
		make_a_round();
		taken = take_event();
	} while (!taken && now() < end);
	if (taken)
		op->request = *taken;
	else
		found(op, " none");
	drain();
}

static inline void read_log(const char *kind, uint32_t log, bool retain)
{
	struct op *op = begin_admin(kind, 0);

	ask_log(op, log, 512 >> (log == 1 ? 3 : 0), 0, retain ? LOG_RETAIN : 0);
	op->request.command.nsid = EVERY_NAMESPACE;
	run_op(op, 0);
	if (log == LOG_SMART && !op->request.status)
		found(op, " warnings %#x", bytes_of(op)[0]);
	drain();
}

static inline struct feature *feature_named(const char *name)
{
	uint32_t i;

	for (i = 0; strcmp(features[i].name, name); i++)
		;
	return &features[i];
}

/* It is warmer than one threshold, or colder than the other. */
static inline void step_temperature(void)
{
	bool enabled = below(4), over = below(2);
	struct feature *feature = feature_named(over ? "temperature_over" : "temperature_under");

	if (!waiting_count)
		post_request();
	set_one(feature_named("events"), enabled ? 2 : 0);
	set_one(feature, feature->which | (over ? 200 + below(50) : 400 + below(50)));
	expect_event(enabled ? "event.temperature" : "event.not_enabled", enabled);
	if (below(2))
		read_log("log.2_warm", LOG_SMART, true);
	set_one(feature, feature->which | (over ? 400 + below(50) : below(200)));
	read_log("log.2_clear", LOG_SMART, false);
	expect_event("event.no_more", false);
}

/* Values and queues that are not there, at the doorbells. */
static inline void step_doorbell(void)
{
	static const char *const names[] = { "event.tail_beyond", "event.head_beyond", "event.sq_missing",
					     "event.cq_missing", "event.queue_beyond" };
	uint32_t how = below(ARRAY_LEN(names)), sq = some_queue(), cq = sqs[sq].cq, doorbell, value = below(2);
	bool completions = how == 1 || how == 3 || (how == 4 && below(2));

	if (shadowed || (how == 2 && !free_queue(false)) || (how == 3 && !free_queue(true)) ||
	    (how == 4 && queue_limit >= 500)) {
		leave_out(begin_op(names[how]));
		return;
	}
	if (!waiting_count)
		post_request();
	drain();
	doorbell = how < 2 ? (completions ? cq : sq) : how < 4 ? free_queue(completions) : queue_limit + 1;
	if (how < 2)
		value = (completions ? cqs[cq].size : sqs[sq].size) + below(3);
	store4(REG_DOORBELLS + 8 * doorbell + 4 * completions, value);
	expect_event(names[how], true);
	read_log("log.1_clear", LOG_ERRORS, false);
	expect_event("event.no_more", false);
}

static inline void step_request_event(void)
{
	if (waiting_count <= waiting_limit && waiting_count < MOST_WAITING)
		post_request();
}

static inline void look_for_events(void)
{
	const struct request *taken = take_event();

	if (taken)
		printf("an event that nobody made: %s dw0 %#x\n", status_text(taken->status), taken->dw0);
}

#endif
