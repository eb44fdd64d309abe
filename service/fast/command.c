/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Commands of the slow path. First step of a turn, bounded. Fast thread. The slow path is
 * trusted, but a command for a flow that is not installed here any more is ignored: the two
 * sides may have crossed. Invariant: a flow is in `owned`, in the table and in slot_flow, or
 * in none of them.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "service/base/clock.h"
#include "service/fast/thread.h"

void flow_fail(struct fast_thread *t, struct flow *f, int error, bool rst, bool up)
{
	if (f->flags & FLOW_DEAD)
		return;
	f->flags &= ~(FLOW_SEND_NOW | FLOW_PERSIST);
	f->flags |= FLOW_DEAD;
	f->error = (uint32_t)error;
	f->rto_ns = f->delack_ns = f->send_ns = FLOW_TIMER_OFF;
	if (rst && !(f->flags & FLOW_MUTED)) {
		f->flags |= FLOW_RST_NOW;
		flowset_add(&t->ready, f->id);
	}
	app_status(t, f);
	if (up)
		up_flow(t, f, UP_FAILED);
}

static void install_stats(struct fast_thread *t, struct flow *f, const struct tcp_counts *n)
{
	struct flow_stats *st = &t->stats[f->id];

	memset((void *)st, 0, sizeof *st);
	STATS_SET(st->srtt_us, f->rtt.srtt_us);
	STATS_SET(st->rttvar_us, f->rtt.rttvar_us);
	STATS_SET(st->min_rtt_us, f->rtt.min_us);
	STATS_SET(st->last_rx_ns, t->now_ns);
	STATS_SET(st->segs_in, n->segs_in);
	STATS_SET(st->segs_out, n->segs_out);
	STATS_SET(st->data_segs_in, n->data_segs_in);
	STATS_SET(st->data_segs_out, n->data_segs_out);
	thread_stats(t, f);
	/* pairs with the release of gen: the limits of an earlier flow with this id are not ours */
	f->limits_gen = atomic_load_explicit(&t->limits[f->id].gen, memory_order_acquire);
}

/* Is there an application, a free slot of it and memory for this half? */
static bool install_half_ok(struct fast_thread *t, uint32_t app, uint32_t slot, uint32_t region, uint64_t off,
			    uint32_t size)
{
	struct app_view *a = app < FAST_APPS ? &t->apps[app] : NULL;
	uint64_t room;

	if (!a || !a->used || slot >= IPC_SLOTS || a->slot_flow[slot] || region > FAST_REGIONS)
		return false;
	room = region ? t->regions[region - 1].size : a->a.buf_size;
	return size <= room && off <= room - size;
}

/* A flow that can't be installed fails at once; the slow path undoes it like any other. */
static void command_install(struct fast_thread *t, const struct flow_init *i)
{
	uint32_t tx_app = i->split ? i->tx_app : i->app, tx_slot = i->split ? i->tx_slot : i->slot;
	struct flow *f = &t->flows[i->flow_id];
	bool bad;

	if (i->flow_id >= t->cfg->max_flows || flowset_has(&t->owned, i->flow_id))
		return;
	bad = !install_half_ok(t, i->app, i->slot, i->rx_region, i->rx_off, i->rx_size) ||
	      !install_half_ok(t, tx_app, tx_slot, i->tx_region, i->tx_off, i->tx_size) ||
	      flow_init(f, i, port_frame_size(t->port), t->cfg->min_rto_ms * 1000, t->now_ns) ||
	      flow_table_add(&t->table, &i->tmpl.key, i->flow_id);
	if (bad) {
		memset(f, 0, sizeof *f);
		f->id = i->flow_id;
		f->error = EINVAL;
		up_flow(t, f, UP_FAILED);
		return;
	}
	flowset_add(&t->owned, f->id);
	t->apps[f->app].slot_flow[f->slot] = t->apps[tx_app].slot_flow[tx_slot] = f->id + 1;
	if (f->flags & FLOW_LOCAL)
		atomic_store_explicit(&t->page->moved[f->id], f->snd_una, memory_order_release);
	install_stats(t, f, &i->counts);
	app_install(t, f, &i->counts);
	flowset_add(&t->ready, f->id);
	if (f->flags & FLOW_LOCAL && local_peer(t, f))
		flowset_add(&t->ready, f->peer);
	timer_keepalive(t, f);
	timer_arm(t, f);
}

/* Nothing of this thread refers to the flow or its memory any more, but what @last says of it. */
static void command_forget(struct fast_thread *t, struct flow *f, enum fast_up last)
{
	flow_table_del(&t->table, &f->tmpl.key);
	t->apps[f->app].slot_flow[f->slot] = t->apps[flow_tx_app(f)].slot_flow[flow_tx_slot(f)] = 0;
	flowset_del(&t->owned, f->id);
	flowset_del(&t->ready, f->id);
	flowset_del(&t->keep, f->id);
	f->flags &= ~FLOW_USED;
	up_flow(t, f, last);
}

static void command_remove(struct fast_thread *t, struct flow *f)
{
	if (f->flags & FLOW_SEND_NOW)
		tx_run(t, f);
	f->up_pending = 0; /* what had not gone up does not matter any more */
	flowset_del(&t->up_wait, f->id);
	command_forget(t, f, UP_REMOVED);
}

/* The record first: what the application wrote until now is the flow's, whoever carries it on. */
static void command_freeze(struct fast_thread *t, struct flow *f)
{
	if (!app_freeze(t, f)) {
		flow_fail(t, f, ECONNABORTED, true, true);
		return;
	}
	if (f->flags & FLOW_SEND_NOW)
		tx_run(t, f);
	command_forget(t, f, UP_FROZEN);
}

static void command_mute(struct fast_thread *t, struct flow *f, bool mute)
{
	if (((f->flags & FLOW_MUTED) != 0) == mute)
		return;
	f->flags = mute ? f->flags | FLOW_MUTED : f->flags & ~FLOW_MUTED;
	STATS_SET(t->stats[f->id].muted, mute);
	app_status(t, f);
	if (mute || f->flags & FLOW_DEAD)
		return;
	f->flags |= FLOW_ACK_NOW;
	if (f->flags & FLOW_PERSIST)
		f->flags |= FLOW_PROBE_NOW;
	else if (flow_in_flight(f))
		f->flags |= FLOW_REXMIT_NOW;
	rtt_reset(&f->rtt, t->cfg->min_rto_ms * 1000); /* the silence says nothing about the path */
	flowset_add(&t->ready, f->id);
}

/* Linux closed the sending side; with @orphan nobody holds the descriptor any more. */
static void command_close(struct fast_thread *t, struct flow *f, bool orphan)
{
	if (!(f->flags & FLOW_CLOSING)) {
		app_refresh(t, f);
		f->flags |= FLOW_CLOSING;
		app_status(t, f);
	} else if (orphan) {
		app_refresh(t, f);
	}
	if (orphan) {
		f->flags |= FLOW_ORPHAN;
		/* unread data reset the peer (RFC 1122 4.2.2.13), unless there is no connection any more */
		if (!flow_time_wait(f) && (f->rcv_end != f->rcv_read || !reasm_empty(&f->ooo))) {
			flow_fail(t, f, ECONNRESET, true, true);
			return;
		}
	}
	flowset_add(&t->ready, f->id);
}

static void command_mss(struct fast_thread *t, struct flow *f, uint32_t mss)
{
	f->mss = (uint16_t)MAX(MIN(mss, port_frame_size(t->port) - WIRE_HDR_MAX), 64u);
	if (flow_in_flight(f)) { /* what is in flight was too large for the path */
		f->snd_nxt = f->snd_una;
		f->flags |= FLOW_LOSS;
		f->recover = (uint32_t)f->snd_max;
		flowset_add(&t->ready, f->id);
	}
}

static void command_flow(struct fast_thread *t, enum fast_cmd cmd, const struct cmd_flow *c)
{
	struct flow *f = &t->flows[c->flow_id];

	if (c->flow_id >= t->cfg->max_flows)
		return;
	if (!flowset_has(&t->owned, c->flow_id)) {
		if (cmd == CMD_REMOVE && !(f->flags & FLOW_USED)) /* its installation failed */
			up_flow(t, f, UP_REMOVED);
		return;
	}
	if (f->flags & FLOW_DEAD && cmd != CMD_REMOVE && cmd != CMD_MUTE && cmd != CMD_UNMUTE)
		return;
	if (cmd == CMD_REMOVE) {
		command_remove(t, f);
		return;
	} else if (cmd == CMD_FREEZE) {
		command_freeze(t, f);
		return;
	} else if (cmd == CMD_MUTE || cmd == CMD_UNMUTE) {
		command_mute(t, f, cmd == CMD_MUTE);
	} else if (cmd == CMD_CLOSE || cmd == CMD_ORPHAN) {
		command_close(t, f, cmd == CMD_ORPHAN);
	} else if (cmd == CMD_ABORT || cmd == CMD_DEAD) {
		if (f->flags & FLOW_LOCAL) /* the peer gets what was written before */
			app_refresh(t, f);
		flow_fail(t, f, (int)c->error, cmd == CMD_ABORT, false);
	} else if (cmd == CMD_ACK) {
		tx_ack(t, f);
	} else if (cmd == CMD_STAY) {
		f->flags &= ~FLOW_URGENT;
	} else if (cmd == CMD_PEER) {
		f->peer = c->value;
		STATS_SET(thread_slot(t, f)->peer, f->peer);
		STATS_SET(thread_tx_slot(t, f)->peer, f->peer);
		app_status(t, f);
		flowset_add(&t->ready, f->id);
		if (local_peer(t, f)) /* it may have had something to send before */
			flowset_add(&t->ready, f->peer);
	} else if (cmd == CMD_MSS) {
		command_mss(t, f, c->value);
	}
	timer_arm(t, f);
}

static void command_template(struct fast_thread *t, const struct cmd_template *c)
{
	struct flow *f = &t->flows[c->flow_id];
	struct flow_key key;

	if (c->flow_id >= t->cfg->max_flows || !flowset_has(&t->owned, c->flow_id))
		return;
	key = f->tmpl.key;
	f->tmpl = c->tmpl;
	f->tmpl.key = key;
}

static void command_app_add(struct fast_thread *t, const struct fast_app *add)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.u32 = 2};
	struct app_view *a;

	if (add->app >= FAST_APPS || t->apps[add->app].used)
		return;
	a = &t->apps[add->app];
	*a = (struct app_view){.a = *add, .used = true, .slot_flow = a->slot_flow};
	t->app_list[t->napps++] = (uint16_t)add->app;
	if (add->doorbell_fd >= 0)
		epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, add->doorbell_fd, &ev);
}

static void command_app_del(struct fast_thread *t, uint32_t app)
{
	struct app_view *a;

	if (app >= FAST_APPS || !t->apps[app].used)
		return;
	a = &t->apps[app];
	if (a->a.doorbell_fd >= 0)
		epoll_ctl(t->epoll_fd, EPOLL_CTL_DEL, a->a.doorbell_fd, NULL);
	for (uint32_t i = 0; i < t->napps; i++)
		if (t->app_list[i] == app)
			t->app_list[i] = t->app_list[--t->napps];
	a->used = false;
	a->wakes = 0;
	t->wakes[app / 64] &= ~(1ull << (app % 64));
	up_app(t, a, UP_APP_GONE);
}

static void command_one(struct fast_thread *t, uint32_t type, const void *data, uint32_t len)
{
	const struct cmd_flow *flow = data;
	const struct cmd_app *app = data;
	const struct fast_region *region = data;
	struct frame frame = {(uint8_t *)data, len};

	if (type == CMD_INSTALL)
		command_install(t, data);
	else if (type == CMD_RX_FRAME)
		input_frames(t, &frame, 1);
	else if (type == CMD_TX_FRAME)
		tx_frame(t, data, len);
	else if (type == CMD_TEMPLATE)
		command_template(t, data);
	else if (type == CMD_APP_ADD)
		command_app_add(t, data);
	else if (type == CMD_APP_DEL)
		command_app_del(t, app->app);
	else if (type == CMD_REGION && region->index < FAST_REGIONS)
		t->regions[region->index] = *region;
	else if (type == CMD_CONTEXT && app->app < FAST_APPS && app->index < IPC_CONTEXTS)
		t->apps[app->app].a.context_fd[app->index] = app->fd;
	else if (type == CMD_CAPTURE)
		t->capture = flow->value != 0;
	else
		command_flow(t, type, flow);
}

bool command_run(struct fast_thread *t)
{
	uint32_t type, len, n = 0;
	void *data;

	while (n < FAST_CMD_BATCH && (data = recring_peek(&t->down, &type, &len))) {
		command_one(t, type, data, len);
		recring_consume(&t->down);
		n++;
	}
	return n != 0;
}
