/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Reports as JSON (jansson), read from the owners' views, and the one order: to give connections back to Linux. */
#include "service/admin.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "service/base/addr.h"
#include "service/base/clock.h"
#include "service/base/compiler.h"
#include "service/base/version.h"

static json_t *admin_status(const struct admin *a)
{
	const struct nic_info *nic = nic_get_info(a->nic);
	bool none = a->config->local_only;
	struct slow_totals t;
	json_t *threads = json_array();

	slow_totals(a->slow, &t);
	for (uint32_t i = 0; i < fast_threads(a->fast); i++)
		json_array_append_new(threads,
				      json_pack("{s:i, s:b}", "queue", (int)i, "asleep", fast_is_asleep(a->fast, i)));
	return json_pack(
		"{s:s, s:i, s:s, s:s, s:s, s:s, s:b, s:b, s:b, s:I, s:{s:i, s:i, s:i, s:i, s:i, s:i}, s:i, s:i, s:o}",
		"version", TAPAS_VERSION, "pid", (int)getpid(), "interface", nic->name, "mode",
		none                   ? "local"
		: a->config->exclusive ? "exclusive"
				       : "shared",
		"xdp",
		none          ? "none"
		: nic->native ? "native"
			      : "generic",
		"attach",
		none             ? "never"
		: nic->on_demand ? "demand"
				 : "always",
		"attached", !none && nic_attachment(a->nic) == NIC_ATTACHED, "egress",
		!none && nic_attachment(a->nic) != NIC_BARE, "zerocopy", nic->zerocopy, "uptime_s",
		(json_int_t)((clock_now_ns() - a->start_ns) / NS_PER_S), "flows", "fast", (int)t.fast, "adopting",
		(int)t.adopting, "closing", (int)t.closing, "time_wait", (int)t.time_wait, "muted", (int)t.muted, "max",
		(int)a->config->max_flows, "apps", (int)t.apps, "listeners", (int)t.listeners, "threads", threads);
}

static const char *admin_state(const struct slow_flow_info *f)
{
	if (f->left_with_linux)
		return "LINUX";
	switch (f->state) {
	case CONN_ADOPTING:
		return "ADOPTING";
	case CONN_TIME_WAIT:
		return "TIME_WAIT";
	case CONN_REMOVING:
		return "CLOSING";
	case CONN_LEAVING:
		return "LEAVING";
	case CONN_FAST:
	case CONN_FREE:
		break;
	}
	return f->closing ? "CLOSING" : f->muted ? "MUTED" : "FAST";
}

static void admin_flow_numbers(json_t *o, const struct slow_flow_info *f)
{
	const struct flow_stats *st = f->stats;
	const struct {
		const char *name;
		json_int_t value;
	} rows[] = {
#define LOAD(field) st ? (json_int_t)atomic_load_explicit(&st->field, memory_order_relaxed) : 0
		{"rx_bytes", LOAD(rx_bytes)},
		{"tx_bytes", LOAD(tx_bytes)},
		{"acked_bytes", LOAD(acked_bytes)},
		{"rtt_us", LOAD(srtt_us)},
		{"rate_bps", (json_int_t)f->rate_bps},
		{"cwnd_bytes", LOAD(cwnd_bytes)},
		{"in_flight", LOAD(in_flight)},
		{"unsent", LOAD(unsent)},
		{"retransmissions", LOAD(rexmit_segments)},
#undef LOAD
		{"verdict_age_ms", (json_int_t)f->verdict_age_ms},
	};

	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		json_object_set_new(o, rows[i].name, json_integer(rows[i].value));
}

static void admin_flow(void *ctx, const struct slow_flow_info *f)
{
	static const char *const verdicts[] = {"none", "accept", "silent", "reject"};
	char local[64], remote[64];
	json_t *o =
		json_pack("{s:i, s:s, s:i, s:s, s:i, s:i, s:s, s:i, s:s, s:s, s:s, s:s, s:b}", "id",
			  f->left_with_linux ? -1 : (int)f->id, "local_addr",
			  ip_addr_text(&f->key.local, local, sizeof local), "local_port", (int)ntohs(f->key.local_port),
			  "remote_addr", ip_addr_text(&f->key.remote, remote, sizeof remote), "remote_port",
			  (int)ntohs(f->key.remote_port), "pid", (int)f->pid, "command", f->command, "fd", f->fd,
			  "state", admin_state(f), "congestion", f->congestion, "verdict", verdicts[f->verdict],
			  "reason", f->reason, "local", f->local);

	if (!o)
		return;
	admin_flow_numbers(o, f);
	json_array_append_new(ctx, o);
}

static json_t *admin_flows(const struct admin *a)
{
	json_t *list = json_array();

	slow_each_flow(a->slow, admin_flow, list);
	return json_pack("{s:o}", "flows", list);
}

static void admin_listener(void *ctx, const struct slow_listener_info *l)
{
	char addr[64];

	json_array_append_new(ctx, json_pack("{s:s, s:i, s:i, s:s, s:i, s:b, s:I, s:I, s:I}", "addr",
					     ip_addr_text(&l->addr, addr, sizeof addr), "port", (int)l->port, "pid",
					     (int)l->pid, "command", l->command, "fd", l->fd, "accelerate",
					     l->accelerate, "exchanges", (json_int_t)l->exchanges, "bytes",
					     (json_int_t)l->bytes, "adopted", (json_int_t)l->adopted));
}

static json_t *admin_listeners(const struct admin *a)
{
	json_t *list = json_array();

	slow_each_listener(a->slow, admin_listener, list);
	return json_pack("{s:o}", "listeners", list);
}

static json_t *admin_stats(const struct admin *a)
{
	json_t *list = json_array();

	for (int i = 0; i < CNT_COUNT; i++) {
		uint64_t v = counter_get(slow_counters(a->slow), (enum counter_id)i);

		for (uint32_t t = 0; t < fast_threads(a->fast); t++)
			v += counter_get(fast_counters(a->fast, t), (enum counter_id)i);
		json_array_append_new(list, json_pack("{s:s, s:I, s:s}", "name", counter_names[i], "value",
						      (json_int_t)v, "help", counter_help[i]));
	}
	return json_pack("{s:o}", "counters", list);
}

/* "release all", "release pid N", "release flow N" */
static char *admin_release(const struct admin *a, const char *what)
{
	char *end = NULL, *text;
	unsigned long n;
	uint32_t released;
	json_t *o;

	if (!strcmp(what, "all")) {
		released = slow_release_all(a->slow);
	} else if (!strncmp(what, "pid ", 4) || !strncmp(what, "flow ", 5)) {
		const char *number = strchr(what, ' ') + 1;

		n = strtoul(number, &end, 10);
		if (end == number || *end || n >= UINT32_MAX)
			return NULL;
		released =
			what[0] == 'p' ? slow_release_pid(a->slow, (pid_t)n) : slow_release_flow(a->slow, (uint32_t)n);
	} else {
		return NULL;
	}
	o = json_pack("{s:i}", "released", (int)released);
	text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
	json_decref(o);
	return text;
}

char *admin_report(void *ctx, const char *request)
{
	static const struct {
		const char *name;
		json_t *(*make)(const struct admin *a);
	} reports[] = {
		{"status", admin_status},
		{"flows", admin_flows},
		{"listeners", admin_listeners},
		{"stats", admin_stats},
	};

	if (!strncmp(request, "release ", 8))
		return admin_release(ctx, request + 8);
	for (size_t i = 0; i < ARRAY_SIZE(reports); i++) {
		json_t *o;
		char *text;

		if (strcmp(request, reports[i].name))
			continue;
		o = reports[i].make(ctx);
		text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
		json_decref(o);
		return text;
	}
	return NULL;
}
