/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The congestion loop: for each flow that had traffic, once per control interval, what the
 * fast path measured goes through the flow's congestion control, and its limits go back. Only
 * active flows are looked at; with none, the timer stops.
 */
#include "service/slow/internal.h"

#include <string.h>

#include "service/base/clock.h"

#define CONGEST_TICK_NS NS_PER_MS
#define CONGEST_IDLE_INTERVALS 4 /* without traffic, after which a flow leaves the loop */

enum interval { INTERVAL_RUNS, INTERVAL_IDLE, INTERVAL_BUSY };

static struct cc_config congest_config(const struct config *c)
{
	struct cc_config cc;

	cc_config_default(&cc);
	cc.init_rate_bps = c->dctcp_init_rate;
	cc.additive_bps = c->dctcp_step;
	cc.min_rate_bps = c->dctcp_min_rate;
	return cc;
}

static void congest_publish(struct slow *s, struct conn *c)
{
	struct flow_limits *l = fast_limits(s->env.fast, c->id);
	const struct cc_limits *lim = &c->cc_state.lim;

	atomic_store_explicit(&l->cwnd_bytes, lim->cwnd_bytes, memory_order_relaxed);
	atomic_store_explicit(&l->rate_bps, lim->rate_bps, memory_order_relaxed);
	atomic_store_explicit(&l->slow_start, lim->slow_start, memory_order_relaxed);
	/* pairs with the pacer's acquire load of gen */
	atomic_fetch_add_explicit(&l->gen, 1, memory_order_release);
}

void congest_install(struct slow *s, struct conn *c, const char *linux_name, uint32_t srtt_us, uint32_t mss)
{
	struct cc_config cfg = congest_config(s->cfg);

	(void)srtt_us;
	c->cc = cc_find(strcmp(s->cfg->congestion, "linux") ? s->cfg->congestion : linux_name);
	if (c->cc->ecn && !c->sock.ecn)
		c->cc = cc_find("cubic"); /* without marks there is nothing to go by */
	memset(&c->cc_state, 0, sizeof c->cc_state);
	c->cc->init(&c->cc_state, &cfg, mss, cfg.init_cwnd_segments * mss);
	c->cc_acked = c->cc_ecn = 0;
	c->cc_rexmits = c->cc_timeouts = 0;
	c->cc_last_ns = s->now_ns;
}

void congest_forget(struct slow *s, struct conn *c)
{
	for (uint32_t i = 0; c->cc_active && i < s->nactive; i++)
		if (s->active[i] == c->id) {
			s->active[i] = s->active[--s->nactive];
			c->cc_active = false;
		}
}

/* If an interval of the flow has ended: its sample through its congestion control, and whether it had traffic. */
static enum interval congest_update(struct slow *s, struct conn *c, const struct cc_config *cfg)
{
	struct flow_stats *st = fast_stats(s->env.fast, c->id);
	uint64_t acked = atomic_load_explicit(&st->acked_bytes, memory_order_relaxed);
	uint64_t ecn = atomic_load_explicit(&st->ecn_bytes, memory_order_relaxed);
	uint32_t rexmits = atomic_load_explicit(&st->fast_rexmits, memory_order_relaxed);
	uint32_t timeouts = atomic_load_explicit(&st->timeouts, memory_order_relaxed);
	uint64_t limited_ns = atomic_load_explicit(&st->limited_ns, memory_order_relaxed);
	struct cc_sample m = {
		.now_ns = s->now_ns,
		.interval_ns = s->now_ns - c->cc_last_ns,
		.acked_bytes = acked - c->cc_acked,
		.ecn_bytes = ecn - c->cc_ecn,
		.fast_rexmits = rexmits - c->cc_rexmits,
		.timeouts = timeouts - c->cc_timeouts,
		.srtt_us = atomic_load_explicit(&st->srtt_us, memory_order_relaxed),
		.min_rtt_us = atomic_load_explicit(&st->min_rtt_us, memory_order_relaxed),
		.mss = c->sock.mss,
		.in_flight = atomic_load_explicit(&st->in_flight, memory_order_relaxed),
		.app_limited = limited_ns < c->cc_last_ns,
	};
	uint64_t interval_ns = MAX(2ull * m.srtt_us * NS_PER_US, CONGEST_TICK_NS);

	if (m.interval_ns < interval_ns)
		return INTERVAL_RUNS;
	c->cc_acked = acked;
	c->cc_ecn = ecn;
	c->cc_rexmits = rexmits;
	c->cc_timeouts = timeouts;
	c->cc_last_ns = s->now_ns;
	if (!m.acked_bytes && !m.fast_rexmits && !m.timeouts)
		return m.in_flight ? INTERVAL_BUSY : INTERVAL_IDLE;
	c->cc->update(&c->cc_state, cfg, &m);
	congest_publish(s, c);
	return INTERVAL_BUSY;
}

static void congest_tick(void *ctx, uint64_t now_ns)
{
	struct slow *s = ctx;
	struct cc_config cfg = congest_config(s->cfg);

	s->now_ns = now_ns;
	congest_active(s);
	for (uint32_t i = 0; i < s->nactive;) {
		struct conn *c = &s->conns[s->active[i]];
		enum interval had = congest_update(s, c, &cfg);

		if (had == INTERVAL_BUSY)
			c->cc_idle = 0;
		else if (had == INTERVAL_IDLE)
			c->cc_idle++;
		if (c->cc_idle < CONGEST_IDLE_INTERVALS) {
			i++;
			continue;
		}
		c->cc_active = false;
		s->active[i] = s->active[--s->nactive];
	}
	if (!s->nactive) {
		loop_timer_cancel(s->env.loop, s->cc_timer);
		s->cc_timer = -1;
	}
}

/* Take the bell of active flows into the loop's list; start the timer if need be. */
void congest_active(struct slow *s)
{
	uint32_t ids[256], n;

	for (int round = 0; round < 64; round++) { /* all there can be; what rings meanwhile is for the next tick */
		n = bell_take(fast_active(s->env.fast), ids, ARRAY_SIZE(ids), &s->active_cursor);
		if (!n)
			break;
		for (uint32_t i = 0; i < n; i++) {
			struct conn *c = ids[i] < s->max_conns ? &s->conns[ids[i]] : NULL;

			if (!c || c->state != CONN_FAST)
				continue;
			c->cc_idle = 0;
			if (c->cc_active)
				continue;
			c->cc_active = true;
			c->cc_last_ns = s->now_ns;
			s->active[s->nactive++] = c->id;
		}
	}
	if (s->nactive && s->cc_timer < 0)
		s->cc_timer = loop_timer(s->env.loop, CONGEST_TICK_NS, CONGEST_TICK_NS, congest_tick, s);
}
