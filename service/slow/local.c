/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections both ends of which are on this host, in programs with the library: adoption and close. Linux has made the
 * connection, and its two sockets stay connected; the bytes go from one application's memory to the other's
 * (fast/local.c). Each end asks by itself, as for any connection:
 *
 *   1  the first that asks is held, ADOPTING, for a moment, until the other end's ADOPT comes
 *   2  a filter that takes everything    other processes see by it that the socket is not to be used
 *   3  both sockets are quiet            what either has sent lies in the other's receive queue
 *   4  both queues moved                 into the receive buffers, and both flows installed
 *
 * Until 4 nothing has changed but the filters. FINs and resets are the kernel sockets' own and reach the other one over
 * the loopback device: the libraries say that something has happened (LOOK), sock_diag says what, and it becomes the
 * commands of any close. What a library says is a hint only. Main thread.
 */
#include "service/slow/internal.h"

#include <errno.h>

#include "service/base/addr.h"
#include "service/base/clock.h"
#include "service/base/closer.h"
#include "service/base/log.h"

#define LOCAL_WAIT_NS (10 * NS_PER_MS) /* for the other end; whoever asks first stands still so long */
#define LOCAL_MSS 16384u               /* for show */
#define LOCAL_RX_MAX (4u << 20)

static struct flow_key local_other_key(const struct flow_key *k)
{
	return (struct flow_key){.local = k->remote,
				 .remote = k->local,
				 .local_port = k->remote_port,
				 .remote_port = k->local_port};
}

bool local_is(const struct slow *s, const struct sock_state *st)
{
	struct flow_key other = local_other_key(&st->key);
	struct sock_diag d;

	if (st->same_host || !s->cfg->local)
		return st->same_host;
	/* a service that watches no addresses: is the other end in this namespace? */
	return s->watch ? watch_is_local(s->watch, &st->key.remote) : sock_diag_any(&other, &d) == 0;
}

struct conn *local_other(const struct slow *s, const struct conn *c)
{
	return c->local && c->peer != SLOW_NONE ? &s->conns[c->peer] : NULL;
}

void local_unlink(struct slow *s, struct conn *c)
{
	struct conn *p = local_other(s, c);

	if (p && p->peer == c->id)
		p->peer = SLOW_NONE;
	c->peer = SLOW_NONE;
}

/* ---- adoption ---- */

/* Steps 2 and 3 for one end. */
static uint32_t local_prepare(struct slow *s, struct conn *c)
{
	if (adopt_fails(s, 1))
		return IPC_REASON_FAULT;
	if (sock_filter_attach_open(c->fd))
		return IPC_REASON_ERROR;
	if (sock_is_used(c->fd))
		return IPC_REASON_USED;
	return adopt_fails(s, 2) ? IPC_REASON_FAULT : IPC_REASON_NONE;
}

static uint32_t local_read(struct slow *s, struct conn *c)
{
	if (sock_pair_counts(c->fd, &c->sock))
		return IPC_REASON_STATE;
	if (c->sock.rcv_queued > LOCAL_RX_MAX)
		return IPC_REASON_BUSY;
	if (!adopt_room(s, c, c->sock.rcv_queued, MAX(s->cfg->rx_buffer, adopt_ample(c->app)), 0))
		return IPC_REASON_MEMORY;
	if (sock_peek_received(c->fd, c->app->buf + c->rx_off, c->rx_size, c->sock.rcv_queued))
		return IPC_REASON_STATE;
	return adopt_fails(s, 4) ? IPC_REASON_FAULT : IPC_REASON_NONE;
}

void local_init(const struct conn *c, struct flow_init *init)
{
	init->local = true;
	init->peer = c->peer;
	init->mss = (uint16_t)MAX(init->mss, LOCAL_MSS);
	init->tmpl.key = c->key;
}

static void local_install(struct slow *s, struct conn *c)
{
	struct flow_init init = {
		.flow_id = c->id,
		.app = c->app->index,
		.slot = c->slot,
		.context = c->context,
		.rcv_end = c->sock.rcv_queued,
		.rx_off = c->rx_off,
		.tx_off = c->tx_off,
		.rx_size = c->rx_size,
		.tx_size = c->tx_size,
		.mss = LOCAL_MSS,
		.srtt_us = c->sock.srtt_us,
		.rttvar_us = c->sock.rttvar_us,
		.opts = c->opts,
		.counts = c->sock.counts,
	};

	local_init(c, &init);
	closer_close(c->fd);
	c->fd = -1;
	conn_fill_slot(c, c->app, c->slot);
	down_send(s, c->thread, CMD_INSTALL, &init, sizeof init);
	conn_set_state(s, c, CONN_FAST);
	counter_add(&s->counters, CNT_ADOPTED, 1);
}

static void local_commit(struct slow *s, struct conn *a, struct conn *b)
{
	/* both hold their calls, nobody else has the sockets, nothing is on its way: what was peeked at is what is there */
	if ((a->sock.rcv_queued && sock_discard_received(a->fd, a->sock.rcv_queued)) ||
	    (b->sock.rcv_queued && sock_discard_received(b->fd, b->sock.rcv_queued))) {
		log_warn("pid %d, descriptor %d: bytes vanished from a socket that is being adopted", (int)a->app->pid,
			 a->app_fd);
		local_cancel_both(s, a, IPC_REASON_RACE);
		return;
	}
	a->thread = b->thread = MIN(a->id, b->id) % fast_threads(s->env.fast);
	local_install(s, a);
	local_install(s, b);
	counter_add(&s->counters, CNT_LOCAL_PAIRS, 1);
	app_watchers_wake(s);
	verdict_timers(s);
}

void local_cancel_both(struct slow *s, struct conn *c, uint32_t reason)
{
	struct conn *p = local_other(s, c);

	adopt_cancel(s, c, reason);
	if (p && p->state == CONN_ADOPTING)
		adopt_cancel(s, p, reason);
}

bool local_join(struct slow *s, struct conn *c)
{
	struct conn *p = local_other(s, c);
	uint32_t reason;

	if (!p || !sock_pair_is_quiet(c->fd, p->fd))
		return false; /* alone, or something is on its way: adopt_tick() comes again, or ends it */
	reason = adopt_fails(s, 3) ? IPC_REASON_FAULT : local_read(s, c);
	if (!reason)
		reason = local_read(s, p);
	if (!reason && (adopt_fails(s, 5) || adopt_fails(s, 6)))
		reason = IPC_REASON_FAULT;
	if (reason)
		local_cancel_both(s, c, reason);
	else
		local_commit(s, c, p);
	return true;
}

void local_offer(struct slow *s, struct conn *c)
{
	struct flow_key key = local_other_key(&c->key);
	struct conn *p = conn_find(s, &key);
	uint32_t reason;

	c->deadline_ns = s->now_ns + LOCAL_WAIT_NS;
	if (flow_key_equal(&key, &c->key)) { /* connected to itself */
		adopt_cancel(s, c, IPC_REASON_LOCAL);
		return;
	}
	if (!p || p->state != CONN_ADOPTING || !p->local || p->peer != SLOW_NONE)
		return;
	c->peer = p->id;
	p->peer = c->id;
	reason = local_prepare(s, p);
	if (!reason)
		reason = local_prepare(s, c);
	if (reason)
		local_cancel_both(s, c, reason);
	else
		local_join(s, c);
}

/* ---- close ---- */

/* Both FINs are done, and Linux may or may not have a holder: then the library's word, or the end of its process, counts. */
bool local_is_let_go(const struct conn *c, bool said)
{
	enum sock_end end = sock_end_look(&c->key, c->cookie);

	return end == SOCK_END_LEFT || (end == SOCK_END_GONE && said);
}

/* The connection is no more although neither end has closed: killed (ss -K), or closed with linger 0. */
static void local_killed(struct slow *s, struct conn *c)
{
	struct conn *p = local_other(s, c);
	bool is_left = conn_is_let_go(c);

	/* whose program has closed it hears nothing of it; the other one does */
	if (!is_left && p && p->state == CONN_FAST && conn_is_let_go(p)) {
		local_killed(s, p);
		return;
	}
	c->orphan |= is_left;
	conn_abort(s, c, ECONNABORTED);
}

static bool local_has_closed(const struct conn *c, enum sock_end end)
{
	return c && (c->local_fin || end == SOCK_END_SHUT || end == SOCK_END_LEFT);
}

static void local_act(struct slow *s, struct conn *c, enum sock_end end, bool other_closed)
{
	if (!c || c->state != CONN_FAST || c->failed || end == SOCK_END_OPEN)
		return;
	if (end == SOCK_END_STRAY) {
		counter_add(&s->counters, CNT_SHADOW_STRAY, 1);
		leave_begin(s, c, -1, IPC_REASON_STRAY);
	} else if (end != SOCK_END_GONE || c->local_fin || other_closed) {
		linux_closed(s, c);
	} else {
		local_killed(s, c);
	}
}

void local_look(struct slow *s, struct conn *c)
{
	struct conn *p = local_other(s, c);
	enum sock_end end = sock_end_look(&c->key, c->cookie);
	enum sock_end other = p ? sock_end_look(&p->key, p->cookie) : SOCK_END_OPEN;

	/* who closed first is told first: the order that the FINs had */
	local_act(s, p, other, local_has_closed(c, end));
	local_act(s, c, end, !p || local_has_closed(p, other));
}

/* A rule has changed: only Linux's own path shows whom it is about. Who still exchanges bytes there is adopted again. */
void local_release_all(struct slow *s, uint32_t reason)
{
	uint32_t next;

	for (uint32_t i = s->list_head; i != SLOW_NONE; i = next) {
		struct conn *c = &s->conns[i];

		next = c->list_next;
		if (c->local && c->state == CONN_FAST && !c->failed)
			leave_begin(s, c, -1, reason);
	}
}
