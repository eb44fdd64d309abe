/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Heartbeats: Linux's verdict on every live flow. One old byte is injected, and Linux's answer
 * decides: an ACK means that its rules let the flow pass both ways, a reset ends the flow,
 * silence silences it. A verdict is a lease until the next heartbeat; when a rule, route,
 * address or neighbour changes, or a conntrack entry goes, every flow is asked at once.
 *
 * Silence may be false: after a conntrack flush Linux itself recovers when the local side
 * speaks. So on silence the kernel socket is made to speak once (leaving TCP_REPAIR sends a
 * window probe) and is asked again. Silence that stays is a drop: it fails closed.
 */
#include "service/slow/internal.h"

#include <string.h>
#include <unistd.h>

#include "service/base/addr.h"
#include "service/base/clock.h"
#include "service/base/closer.h"
#include "service/base/log.h"

#define VERDICT_TICK_NS (5 * NS_PER_MS)
#define VERDICT_RETRY_NS (10 * NS_PER_MS)
#define VERDICT_AGAIN_NS NS_PER_S /* a silent flow is asked this often */
#define VERDICT_BATCH 192         /* questions per turn of the loop */
#define HEARTBEAT_TICK_NS (100 * NS_PER_MS)

static void verdict_send(struct slow *s, struct conn *c)
{
	struct shadow_seq q = linux_seq(s, c);
	uint8_t frame[128];

	c->hb_sent_ns = s->now_ns;
	c->hb_tries++;
	counter_add(&s->counters, CNT_HEARTBEAT_SENT, 1);
	linux_inject(s, frame, shadow_heartbeat(&q, frame));
}

static void verdict_unlist(struct slow *s, struct conn *c)
{
	uint32_t last;

	if (!c->hb_place)
		return;
	last = s->pending[--s->npending];
	s->pending[c->hb_place - 1] = last;
	s->conns[last].hb_place = c->hb_place;
	c->hb_place = 0;
}

/* Ask again what is unanswered; give up on what stays so. */
static void verdict_tick(void *ctx, uint64_t now_ns)
{
	struct slow *s = ctx;

	s->now_ns = now_ns;
	for (uint32_t i = 0; i < s->npending;) {
		struct conn *c = &s->conns[s->pending[i]];

		if (c->state != CONN_FAST) {
			verdict_unlist(s, c);
		} else if (now_ns - c->hb_first_ns >= s->cfg->verdict_ms * NS_PER_MS && c->hb_last) {
			verdict_unlist(s, c);
			verdict_answer(s, c, VERDICT_SILENT);
		} else {
			/* this thread may have stood still: answers that came meanwhile are read before the next tick */
			c->hb_last = now_ns - c->hb_first_ns >= s->cfg->verdict_ms * NS_PER_MS;
			if (now_ns - c->hb_sent_ns >= VERDICT_RETRY_NS)
				verdict_send(s, c);
			i++;
		}
	}
	if (!s->npending && !s->probe_all) {
		loop_timer_cancel(s->env.loop, s->verdict_timer);
		s->verdict_timer = -1;
	}
}

void verdict_ask(struct slow *s, struct conn *c)
{
	if (c->state != CONN_FAST || c->failed || c->local)
		return;
	if (!c->hb_place) {
		s->pending[s->npending++] = c->id;
		c->hb_place = s->npending;
	}
	c->hb_tries = 0;
	c->hb_last = false;
	c->hb_first_ns = s->now_ns;
	verdict_send(s, c);
	if (s->verdict_timer < 0)
		s->verdict_timer = loop_timer(s->env.loop, VERDICT_TICK_NS, VERDICT_TICK_NS, verdict_tick, s);
}

/* Something changed in Linux. Asks go out in batches, one per turn, each flow once per change. */
void verdict_ask_all(struct slow *s)
{
	uint32_t sent = 0;

	while (s->probe_cursor < s->max_conns && sent < VERDICT_BATCH) {
		struct conn *c = &s->conns[s->probe_cursor++];

		if (c->state == CONN_FAST) {
			verdict_ask(s, c);
			sent++;
		}
	}
	if (s->probe_cursor >= s->max_conns)
		s->probe_all = false;
}

void verdict_forget(struct slow *s, struct conn *c)
{
	verdict_unlist(s, c);
	if (c->muted)
		s->muted--;
	c->muted = false;
}

/* The kernel socket sends a window probe: for conntrack, the local side has spoken. */
static void verdict_make_speak(struct slow *s, struct conn *c)
{
	bool tx = c->app && c->app->exited && c->sender.app;
	struct app *a = tx ? c->sender.app : c->app;
	int fd, app_fd = tx ? c->sender.app_fd : c->app_fd;

	if (c->orphan || app_fd < 0 || !a || a->exited)
		return;
	if (c->spoke_ns && s->now_ns - c->spoke_ns < VERDICT_AGAIN_NS / 2)
		return;
	c->spoke_ns = s->now_ns;
	fd = sock_fetch(a->pid, app_fd, c->cookie);
	if (fd < 0)
		return;
	if (sock_make_speak(fd) == 0)
		verdict_ask(s, c);
	closer_close(fd);
}

void verdict_answer(struct slow *s, struct conn *c, enum verdict v)
{
	char text[FLOW_KEY_TEXT_MAX];

	c->verdict = v;
	c->verdict_ns = s->now_ns;
	if (v != VERDICT_SILENT)
		verdict_unlist(s, c);
	if (v == VERDICT_ACCEPT && c->muted) {
		c->muted = false;
		s->muted--;
		counter_add(&s->counters, CNT_UNMUTED, 1);
		conn_command(s, c, CMD_UNMUTE, 0, 0);
		log_info("%s: Linux lets it pass again", flow_key_text(&c->key, text, sizeof text));
	}
	if (v != VERDICT_SILENT)
		return;
	counter_add(&s->counters, CNT_HEARTBEAT_SILENT, 1);
	if (!c->muted) {
		c->muted = true;
		s->muted++;
		counter_add(&s->counters, CNT_SILENCED, 1);
		conn_command(s, c, CMD_MUTE, 0, 0);
		log_info("%s: Linux does not let it pass: silenced", flow_key_text(&c->key, text, sizeof text));
	}
	verdict_make_speak(s, c);
}

/* Each flow once per heartbeat_ms, spread evenly; silent ones every second. */
static void heartbeat_tick(void *ctx, uint64_t now_ns)
{
	struct slow *s = ctx;
	uint64_t period_ns = s->cfg->heartbeat_ms * NS_PER_MS;

	s->now_ns = now_ns;
	for (uint32_t i = s->list_head; i != SLOW_NONE; i = s->conns[i].list_next) {
		struct conn *c = &s->conns[i];

		if (c->state != CONN_FAST || c->hb_place || c->failed || c->local)
			continue;
		if (now_ns - c->verdict_ns >= (c->muted ? VERDICT_AGAIN_NS : period_ns))
			verdict_ask(s, c);
	}
	if (s->list_head == SLOW_NONE) {
		loop_timer_cancel(s->env.loop, s->heartbeat_timer);
		s->heartbeat_timer = -1;
	}
}

static void sweep_tick(void *ctx, uint64_t now_ns)
{
	struct slow *s = ctx;

	s->now_ns = now_ns;
	conn_sweep(s);
	for (uint32_t i = 0; i < FAST_APPS; i++)
		if (s->apps[i] && s->apps[i]->nparked)
			app_unpark_all(s, s->apps[i]);
	if (s->list_head == SLOW_NONE) {
		loop_timer_cancel(s->env.loop, s->sweep_timer);
		s->sweep_timer = -1;
	}
}

void verdict_sweep_timer(struct slow *s)
{
	if (s->sweep_timer < 0)
		s->sweep_timer = loop_timer(s->env.loop, NS_PER_S, NS_PER_S, sweep_tick, s);
}

/* Timers run while there are connections. */
void verdict_timers(struct slow *s)
{
	if (s->heartbeat_timer < 0)
		s->heartbeat_timer = loop_timer(s->env.loop, HEARTBEAT_TICK_NS, HEARTBEAT_TICK_NS, heartbeat_tick, s);
	verdict_sweep_timer(s);
}

/* Did the next hop's MAC address change? Also remembers it. */
static bool neighbour_changed(struct slow *s, const struct watch_event *e)
{
	for (uint32_t i = 0; i < SLOW_NEIGHBOURS; i++) {
		struct neighbour *n = &s->neighbours[i];

		if (!ip_addr_equal(&n->addr, &e->addr))
			continue;
		if (!memcmp(n->mac, e->mac, 6))
			return false;
		memcpy(n->mac, e->mac, 6);
		return true;
	}
	s->neighbours[s->neighbours_next] = (struct neighbour){.addr = e->addr};
	memcpy(s->neighbours[s->neighbours_next].mac, e->mac, 6);
	s->neighbours_next = (s->neighbours_next + 1) % SLOW_NEIGHBOURS;
	return true;
}

void slow_from_watch(void *ctx, const struct watch_event *e)
{
	struct slow *s = ctx;
	struct conn *c;

	s->now_ns = loop_now_ns(s->env.loop);
	switch (e->what) {
	case WATCH_CONNTRACK:
		c = conn_find(s, &e->key);
		if (!c)
			return;
		counter_add(&s->counters, CNT_LINUX_CHANGE, 1);
		verdict_ask(s, c);
		return;
	case WATCH_NEIGHBOUR:
		if (!neighbour_changed(s, e))
			return;
		break;
	case WATCH_RULES:
	case WATCH_OVERFLOW: /* perhaps a rule, too */
		local_release_all(s, IPC_REASON_RULES);
		break;
	case WATCH_ROUTE:
	case WATCH_ADDRESS:
	case WATCH_LINK:
		break;
	}
	counter_add(&s->counters, CNT_LINUX_CHANGE, 1);
	s->probe_all = true;
	s->probe_cursor = 0;
	verdict_ask_all(s);
}
