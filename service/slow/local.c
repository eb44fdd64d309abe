/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Connections both ends of which are on this host, in programs with the library: adoption and close. Linux has made the
 * connection, and its two sockets stay connected; the bytes go from one application's memory to the other's
 * (fast/local.c).
 *
 * Each end asks by itself, as for any connection. Nobody waits for the other one: the first that asks is refused, and
 * remembered. When the other one asks it becomes FAST, alone, and the first is invited to ask again, by a word in its
 * slot, at the end of its next call. A program whose end is FAST goes on in the kernel until both are, and then each
 * direction changes over by itself (preload/local.c): its writer when the peer has acknowledged all that is in the
 * kernel, its reader when it has read that. So nothing has to be moved here, and nothing stands still.
 *
 * A filter that takes everything says to other processes that the socket is not to be used (preload/share.c).
 *
 * FINs and resets are the kernel sockets' own and reach the other one over the loopback device: the libraries say that
 * something has happened (LOOK), sock_diag says what, and it becomes the commands of any close. What a library says is a
 * hint only. Main thread.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <stdatomic.h>

#include "service/base/addr.h"
#include "service/base/clock.h"
#include "service/base/closer.h"

#define LOCAL_OFFER_NS NS_PER_S          /* an offer counts for so long */
#define LOCAL_ALONE_NS (200 * NS_PER_MS) /* so long one end is FAST without the other */

struct flow_key local_other_key(const struct flow_key *k)
{
	return (struct flow_key){.local = k->remote,
				 .remote = k->local,
				 .local_port = k->remote_port,
				 .remote_port = k->local_port};
}

bool local_is(const struct slow *s, const struct sock_state *st)
{
	return st->same_host || watch_is_local(s->watch, &st->key.remote);
}

struct conn *local_other(const struct slow *s, const struct conn *c)
{
	return c->local && c->peer != SLOW_NONE ? &s->conns[c->peer] : NULL;
}

bool local_is_written_there(const struct slow *s, struct conn *c)
{
	const struct conn *p = local_other(s, c);
	const struct app *a = conn_tx_app(c);
	bool reads = c->tx_ring && p && !p->orphan && p->rx_ring == c->tx_ring && !a->dying && !a->exited;

	atomic_thread_fence(memory_order_seq_cst); /* pairs with copy_begin() in the library */
	if (!reads || atomic_load_explicit(&a->shm->slot[conn_tx_slot(c)].busy, memory_order_relaxed) < IPC_BUSY_COPY) {
		c->written_ns = 0;
		return false;
	}
	if (!c->written_ns)
		c->written_ns = s->now_ns;
	return true;
}

void local_unlink(struct slow *s, struct conn *c)
{
	struct conn *p = local_other(s, c);

	if (p && p->peer == c->id)
		p->peer = SLOW_NONE;
	c->peer = SLOW_NONE;
}

/* ---- offers ---- */

static struct offer *local_place(struct slow *s, const struct flow_key *key)
{
	return &s->offers[hash_bytes(&s->hash, key, sizeof *key) % SLOW_OFFERS];
}

/* @c is alone: Linux has it, and it is remembered that its program would like to. */
static void local_refuse(struct slow *s, struct conn *c)
{
	struct offer o = {.app = c->app, .slot = c->slot, .time_ns = s->now_ns, .key = c->key};
	bool dying = c->app->dying;

	adopt_cancel(s, c, IPC_REASON_PEER);
	if (!dying)
		*local_place(s, &o.key) = o;
}

void local_forget(struct slow *s, const struct app *a)
{
	for (uint32_t i = 0; i < SLOW_OFFERS; i++)
		if (s->offers[i].app == a)
			s->offers[i].app = NULL;
}

/* Has the end with @key asked lately? Then it is asked to ask again. Returns its application, or NULL. */
static struct app *local_invite(struct slow *s, const struct flow_key *key)
{
	struct offer *o = local_place(s, key);
	struct ipc_slot *sl;

	if (!o->app || !flow_key_equal(&o->key, key) || s->now_ns - o->time_ns > LOCAL_OFFER_NS)
		return NULL;
	sl = &o->app->shm->slot[o->slot];
	if (o->app->slot_conn[o->slot] != SLOW_NONE || !atomic_load_explicit(&sl->fd_plus1, memory_order_relaxed))
		return NULL;
	/* a hint: nothing is ordered by it */
	atomic_store_explicit(&sl->invited, 1, memory_order_relaxed);
	return o->app;
}

/* ---- adoption ---- */

/*
 * Buffers that both ends have. Their sizes are what is configured, not what a program has asked for, as two may have
 * asked. @p: the other end, which has them already; else @other is its application, and @c is the first to have them.
 */
static bool local_rings(struct slow *s, struct conn *c, const struct conn *p, struct app *other)
{
	uint32_t size =
		2 * MAX(MAX(s->cfg->tx_buffer, s->cfg->rx_buffer), adopt_ample(c->app)); /* it is in place of two */

	if (s->cfg->local != CONFIG_LOCAL_DIRECT || c->sock.sndbuf || c->sock.rcvbuf)
		return false;
	if (!p) {
		c->tx_ring = other ? ring_new(s, c->app, other, size) : NULL;
		c->rx_ring = c->tx_ring ? ring_new(s, c->app, other, size) : NULL;
	} else if (p->rx_ring && p->tx_ring && ring_is_of(p->rx_ring, c->app)) {
		c->tx_ring = ring_hold(p->rx_ring);
		c->rx_ring = ring_hold(p->tx_ring);
	}
	if (!c->rx_ring) {
		ring_put(s, c->tx_ring);
		c->tx_ring = NULL;
		return false;
	}
	c->tx_off = c->tx_ring->off;
	c->rx_off = c->rx_ring->off;
	c->tx_size = c->tx_ring->size;
	c->rx_size = c->rx_ring->size;
	return true;
}

static uint32_t local_prepare(struct slow *s, struct conn *c, const struct conn *p, struct app *other)
{
	if (adopt_fails(s, 1))
		return IPC_REASON_FAULT;
	if (sock_filter_attach_open(c->fd))
		return IPC_REASON_ERROR;
	if (sock_is_used(c->fd))
		return IPC_REASON_USED;
	if (adopt_fails(s, 2))
		return IPC_REASON_FAULT;
	if (sock_local_examine(c->fd, &c->sock))
		return IPC_REASON_STATE;
	if (adopt_fails(s, 3))
		return IPC_REASON_FAULT;
	if (!local_rings(s, c, p, other) && !adopt_room(s, c, 0, MAX(s->cfg->rx_buffer, adopt_ample(c->app)), 0))
		return IPC_REASON_MEMORY;
	return adopt_fails(s, 4) || adopt_fails(s, 5) || adopt_fails(s, 6) ? IPC_REASON_FAULT : IPC_REASON_NONE;
}

void local_init(const struct conn *c, struct flow_init *init)
{
	init->local = true;
	init->rx_region = c->rx_ring ? ring_region(c->rx_ring) : 0;
	init->tx_region = c->tx_ring ? ring_region(c->tx_ring) : 0;
	init->peer = c->peer;
	init->mss = (uint16_t)MAX(init->mss, 1u);
	init->tmpl.key = c->key;
}

static void local_install(struct slow *s, struct conn *c)
{
	struct flow_init init = {
		.flow_id = c->id,
		.app = c->app->index,
		.slot = c->slot,
		.context = c->context,
		.rx_off = c->rx_off,
		.tx_off = c->tx_off,
		.rx_size = c->rx_size,
		.tx_size = c->tx_size,
		.mss = c->sock.mss,
		.srtt_us = c->sock.srtt_us,
		.rttvar_us = c->sock.rttvar_us,
		.opts = c->opts,
	};

	local_init(c, &init);
	closer_close(c->fd);
	c->fd = -1;
	conn_fill_slot(c, c->app, c->slot);
	down_send(s, c->thread, CMD_INSTALL, &init, sizeof init);
	conn_set_state(s, c, CONN_FAST);
	counter_add(&s->counters, CNT_ADOPTED, 1);
	app_watchers_wake(s);
	verdict_sweep_timer(s);
}

/* @p: the other end, which is FAST; else NULL, and @other is the application that is invited. */
static void local_adopt(struct slow *s, struct conn *c, struct conn *p, struct app *other)
{
	uint32_t reason = local_prepare(s, c, p, other);

	if (reason) {
		adopt_cancel(s, c, reason);
		return;
	}
	c->thread = p ? p->thread : c->id % fast_threads(s->env.fast);
	if (p) {
		c->peer = p->id;
		p->peer = c->id;
		/* first: when @c writes to memory, and sends its FIN by the kernel, that end must know that it is paired */
		conn_command(s, p, CMD_PEER, 0, c->id);
		counter_add(&s->counters, CNT_LOCAL_PAIRS, 1);
	}
	local_install(s, c);
}

void local_offer(struct slow *s, struct conn *c)
{
	struct flow_key key = local_other_key(&c->key);
	struct conn *p = conn_find(s, &key);
	struct app *other;

	if (flow_key_equal(&key, &c->key)) /* connected to itself */
		adopt_cancel(s, c, IPC_REASON_LOCAL);
	else if (p && p->local && p->state == CONN_FAST && !p->failed && !p->orphan && p->peer == SLOW_NONE)
		local_adopt(s, c, p, NULL);
	else if (!p && (other = local_invite(s, &key)))
		local_adopt(s, c, NULL, other);
	else
		local_refuse(s, c);
}

void local_sweep(struct slow *s, struct conn *c)
{
	/* a library may not have been able to say so: its messages do not wait for room, and another image has none yet */
	if (!c->orphan && (conn_slots_are_let_go(c) || c->app->dying))
		local_look(s, c);
	else if (c->again)
		leave_begin(s, c, -1, c->leave_reason);
	else if (c->peer == SLOW_NONE && !c->failed && s->now_ns - c->closed_ns > LOCAL_ALONE_NS)
		leave_begin(s, c, -1, IPC_REASON_PEER);
}

/* ---- close ---- */

/* Both FINs are done, and Linux may or may not have a holder: then the library's word, or the end of its process, counts. */
bool local_is_let_go(const struct conn *c, bool said)
{
	enum sock_end end = sock_end_look(&c->key, c->cookie);

	return end == SOCK_END_LEFT || ((end == SOCK_END_GONE || end == SOCK_END_OVER) && said);
}

/* The connection is no more although neither end has closed: killed (ss -K), or closed with linger 0. */
static void local_killed(struct slow *s, struct conn *c)
{
	struct conn *p = local_other(s, c);
	bool is_left = conn_is_let_go(c);

	/* whose program has closed it hears nothing of it; the other one does */
	if (!is_left && p && p->state == CONN_FAST && !p->failed && conn_is_let_go(p)) {
		local_killed(s, p);
		return;
	}
	c->orphan |= is_left;
	conn_abort(s, c, ECONNABORTED);
}

static bool local_has_closed(const struct conn *c, enum sock_end end)
{
	return c && (c->local_fin || end == SOCK_END_SHUT || end == SOCK_END_LEFT || end == SOCK_END_OVER);
}

static bool local_says(const struct conn *c, uint32_t opt)
{
	return atomic_load_explicit(&c->app->shm->slot[c->slot].opts, memory_order_relaxed) & opt;
}

/* Does its program no longer read in the kernel? Then what comes there was written past the peer's library. */
bool local_is_drained(const struct conn *c)
{
	return local_says(c, IPC_OPT_DRAINED);
}

static void local_act(struct slow *s, struct conn *c, enum sock_end end, bool other_closed)
{
	if (!c || c->state != CONN_FAST || c->failed || end == SOCK_END_OPEN)
		return;
	if (end == SOCK_END_STRAY) {
		if (c->peer == SLOW_NONE || !local_is_drained(c))
			return;
		counter_add(&s->counters, CNT_SHADOW_STRAY, 1);
		leave_begin(s, c, -1, IPC_REASON_STRAY);
	} else if (end != SOCK_END_GONE || c->local_fin || other_closed) {
		linux_closed(s, c);
	} else {
		local_killed(s, c);
	}
}

/* Linux knows neither end any more: after two FINs in order, or a reset, of which who still holds his socket tells. */
static bool local_was_reset(const struct conn *c)
{
	int fd = -1;
	bool reset;

	if (c->state != CONN_FAST || c->failed || c->orphan)
		return false;
	if (local_says(c, IPC_OPT_BROKEN))
		return true;
	fd = leave_fetch_named(c);
	reset = fd >= 0 && sock_has_error(fd);
	closer_close(fd);
	return reset;
}

void local_look(struct slow *s, struct conn *c)
{
	struct conn *p = local_other(s, c);
	enum sock_end end = sock_end_look(&c->key, c->cookie);
	enum sock_end other = p ? sock_end_look(&p->key, p->cookie) : SOCK_END_OPEN;

	if (p && end == SOCK_END_GONE && other == SOCK_END_GONE && (local_was_reset(c) || local_was_reset(p))) {
		if (c->state == CONN_FAST && !c->failed)
			local_killed(s, c);
		return;
	}
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
