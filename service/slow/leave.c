/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Leaving: a FAST connection goes back to Linux, on its own descriptor and unnoticed by the
 * peer, or moves to another process that holds the same socket. The mirror image of adopt.c.
 *
 *   1  CMD_FREEZE     the fast thread closes the application's record (IPC_FROZEN), forgets the
 *                     flow and sends its state (UP_FROZEN). Frames now come up and are held
 *   2  the shadow     conntrack told to be liberal, stray payload read, filter off
 *   3  sock_rebuild   the socket gets the wire's numbers, unread and unacknowledged bytes
 *      in exclusive mode a mark is sent through the TAP: what comes before it is the shadow's
 *   4  tuple deleted  frames are Linux's again
 *   5  sock_resume    what was never sent is written, a pending FIN queued
 *   6  held frames and, if it had come, the peer's FIN into Linux; the slot says IPC_RETURNED
 *
 * Urgent data that arrive start this too; the frame that brought them is the first that is held.
 *
 * 1 is here, 2 to 6 in restore.c. From 2 on everything happens in one turn of the main thread,
 * but for the waits that enum leave_settle names. A second process (a forked child, the
 * receiver of a descriptor) is served by 1, a copy of the live bytes into its own buffers, and
 * CMD_INSTALL. A process that finds its connection moved away asks for it to be in Linux,
 * where both may use it.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/base/closer.h"

static void leave_hold(struct leave_for *l, const struct leave_for *from)
{
	*l = *from;
	l->app->conns++;
}

/* The slot's wait is over. */
void leave_answer(struct slow *s, struct conn *c, struct leave_for *l, uint32_t state, uint32_t reason)
{
	struct app *a = l->app;

	if (!a)
		return;
	l->app = NULL;
	if (a->slot_conn[l->slot] == c->id)
		a->slot_conn[l->slot] = SLOW_NONE;
	a->conns--;
	app_slot_finish(s, a, l->slot, state, reason);
	app_release(s, a);
}

/* ---- begin ---- */

/* A duplicate of the socket: by the number that the library last named, else by looking for it. */
static int leave_fetch(struct conn *c)
{
	uint32_t said = c->app ? atomic_load_explicit(&c->app->shm->slot[c->slot].fd_plus1, memory_order_relaxed) : 0;
	int fd = -ENOENT;

	if (!c->app)
		return fd;
	if (said && said <= INT_MAX && !c->app->exited)
		fd = sock_fetch(c->app->pid, (int)said - 1, c->cookie);
	if (fd < 0 && c->app_fd >= 0 && !c->app->exited)
		fd = sock_fetch(c->app->pid, c->app_fd, c->cookie);
	return fd < 0 ? sock_fetch_any(c->app->pid, &c->key, c->cookie) : fd;
}

static void leave_freeze(struct slow *s, struct conn *c, uint32_t reason)
{
	bool muted = c->muted;

	verdict_forget(s, c);
	congest_forget(s, c);
	c->muted = muted; /* remembered for a move; nobody counts it meanwhile */
	c->leave_reason = reason;
	c->leave_ns = s->now_ns;
	conn_command(s, c, CMD_FREEZE, 0, 0);
	conn_set_state(s, c, CONN_LEAVING);
}

int leave_begin(struct slow *s, struct conn *c, int fd, uint32_t reason)
{
	if (c->state != CONN_FAST || c->failed) {
		closer_close(fd);
		return -EINVAL;
	}
	if (fd < 0 && !c->orphan) {
		fd = leave_fetch(c);
		if (fd < 0 && sock_is_orphan(&c->key) != 1)
			return fd;
	}
	c->fd = fd; /* -1: nobody holds it; Linux sends the rest from a socket of its own */
	leave_freeze(s, c, reason);
	return 0;
}

void leave_move(struct slow *s, struct conn *c, const struct leave_for *to, int fd)
{
	uint32_t reason = c->failed ? IPC_REASON_STATE : IPC_REASON_RETRY;

	if (c->state != CONN_FAST || c->failed) {
		closer_close(fd);
		counter_add(&s->counters, CNT_ADOPT_REFUSED, 1);
		app_slot_finish(s, to->app, to->slot, IPC_REFUSED, reason);
		return;
	}
	leave_hold(&c->mover, to);
	to->app->slot_conn[to->slot] = c->id;
	c->fd = fd;
	leave_freeze(s, c, IPC_REASON_MOVED);
}

void leave_asked(struct slow *s, const struct leave_for *asker, int fd)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof cookie;
	struct conn *c = getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &len) ? NULL : conn_find_cookie(s, cookie);
	uint32_t held = asker ? asker->app->slot_conn[asker->slot] : SLOW_NONE;
	bool own;
	int dup_fd;

	if (held != SLOW_NONE && (!c || c->id != held)) { /* the descriptor is another socket by now: the slot counts */
		c = &s->conns[held];
		fd = -1;
	}
	own = c && asker && c->app == asker->app && c->slot == asker->slot;
	if (c && c->state == CONN_ADOPTING) {
		adopt_cancel(s, c, IPC_REASON_HANDED_BACK); /* answers the adopter's slot */
		c = NULL;
		if (own)
			return;
	}
	if (!c || c->failed || c->state == CONN_REMOVING) {
		if (asker && !own)
			app_slot_finish(s, asker->app, asker->slot, IPC_RETURNED, IPC_REASON_HANDED_BACK);
		return;
	}
	if (asker && !own && !c->asker.app) {
		leave_hold(&c->asker, asker);
		asker->app->slot_conn[asker->slot] = c->id;
	} else if (asker && !own) {
		app_slot_finish(s, asker->app, asker->slot, IPC_RETURNED, IPC_REASON_RETRY);
	}
	if (c->state != CONN_FAST)
		return; /* on its way; a move goes on to Linux when it is done */
	dup_fd = fd < 0 ? -1 : dup(fd);
	if ((fd >= 0 && dup_fd < 0) || leave_begin(s, c, dup_fd, IPC_REASON_HANDED_BACK) < 0)
		leave_answer(s, c, &c->asker, IPC_RETURNED, IPC_REASON_ERROR);
}

/* ---- frozen: back to FAST ---- */

void leave_give_held(struct slow *s, struct conn *c, bool to_linux)
{
	struct held_frame *h;

	while ((h = c->held)) {
		if (to_linux)
			linux_inject(s, h->data, h->len);
		else
			down_frame(s, c->thread, CMD_RX_FRAME, h->data, h->len);
		c->held = h->next;
		free(h);
	}
	c->held_tail = &c->held;
	c->held_count = 0;
}

/* Install the flow as it was, in the buffers that c names. */
void leave_install(struct slow *s, struct conn *c, const struct up_frozen *z)
{
	struct flow_init init = {
		.flow_id = c->id,
		.app = c->app->index,
		.slot = c->slot,
		.context = c->context,
		.tmpl = c->tmpl,
		.snd_base = z->snd_base,
		.snd_una = z->snd_una,
		.snd_nxt = z->snd_nxt,
		.snd_end = z->snd_end,
		.snd_wnd = z->snd_wnd,
		.snd_wl1 = z->snd_wl1,
		.cwnd_bytes = z->cwnd_bytes,
		.rate_bps = z->rate_bps,
		.rcv_base = z->rcv_base,
		.rcv_read = z->rcv_read,
		.rcv_end = z->rcv_end,
		.rcv_edge = z->rcv_base + (uint32_t)z->rcv_end + z->fin_rcvd + z->rcv_wnd,
		.rx_off = c->rx_off,
		.tx_off = c->tx_off,
		.rx_size = c->rx_size,
		.tx_size = c->tx_size,
		.mss = z->mss,
		.snd_wscale = c->sock.snd_wscale,
		.rcv_wscale = c->sock.rcv_wscale,
		.ts = c->sock.ts,
		.sack = c->sock.sack,
		.ecn = c->sock.ecn,
		.ect = c->sock.ecn && c->cc->ecn,
		.fin_rcvd = z->fin_rcvd,
		.closing = z->closing,
		.fin_acked = z->fin_acked,
		.ts_recent = z->ts_recent,
		.ts_ms = z->ts_now,
		.srtt_us = z->srtt_us,
		.rttvar_us = z->rttvar_us,
		.opts = z->opts,
		.counts = z->counts,
	};
	struct cc_state keep = c->cc_state;

	conn_fill_slot(c);
	congest_install(s, c, c->sock.congestion, z->srtt_us, z->mss);
	c->cc_state = keep;
	down_send(s, c->thread, CMD_INSTALL, &init, sizeof init);
	conn_set_state(s, c, CONN_FAST);
	if (c->muted) {
		s->muted++;
		conn_command(s, c, CMD_MUTE, 0, 0);
	}
	if (c->local_fin && !z->closing) /* Linux closed the sending side while the flow stood still */
		conn_command(s, c, CMD_CLOSE, 0, 0);
	leave_give_held(s, c, false);
	closer_close(c->fd);
	c->fd = -1;
	verdict_ask(s, c);
}

void leave_failed(struct slow *s, struct conn *c)
{
	closer_close(c->fd);
	c->fd = -1;
	if (c->muted)
		s->muted++;
	conn_set_state(s, c, CONN_FAST);
	leave_answer(s, c, &c->mover, IPC_REFUSED, IPC_REASON_STATE);
	leave_answer(s, c, &c->asker, IPC_RETURNED, IPC_REASON_STATE);
}

static void leave_copy(uint8_t *to, const uint8_t *from, uint32_t size, uint64_t start, uint64_t end)
{
	while (start < end) {
		uint32_t at = (uint32_t)(start & (size - 1)), n = (uint32_t)MIN(end - start, (uint64_t)(size - at));

		memcpy(to + at, from + at, n);
		start += n;
	}
}

/* The live bytes into the mover's memory, at the same offsets. Returns false if it has no room. */
static bool leave_to_mover(struct slow *s, struct conn *c, const struct up_frozen *z)
{
	uint32_t rx_size = c->rx_size, tx_size = c->tx_size;
	struct leave_for to = c->mover;
	uint64_t rx_off, tx_off;
	struct app *old = c->app;

	if (to.app->dying || !app_buffers_get(to.app, rx_size, &rx_off))
		return false;
	if (!app_buffers_get(to.app, tx_size, &tx_off)) {
		app_buffers_put(to.app, rx_size, rx_off);
		return false;
	}
	leave_copy(to.app->buf + rx_off, old->buf + c->rx_off, rx_size, z->rcv_read, z->rcv_end);
	leave_copy(to.app->buf + tx_off, old->buf + c->tx_off, tx_size, z->snd_una, z->snd_end);
	conn_release_app(s, c, IPC_RETURNED, IPC_REASON_MOVED, true);
	c->mover.app = NULL; /* its hold on the application becomes the connection's */
	c->app = to.app;
	c->slot = to.slot;
	c->context = to.context;
	c->app_fd = to.app_fd;
	c->rx_off = rx_off;
	c->tx_off = tx_off;
	c->rx_size = rx_size;
	c->tx_size = tx_size;
	return true;
}

/* ---- frozen ---- */

void leave_frozen(struct slow *s, struct conn *c, const struct up_frozen *z)
{
	if (c->state != CONN_LEAVING)
		return;
	if (c->mover.app && !s->stopping && leave_to_mover(s, c, z)) {
		counter_add(&s->counters, CNT_MOVED, 1);
		leave_install(s, c, z);
		conn_progress(s, c);
		if (c->asker.app && leave_begin(s, c, -1, IPC_REASON_HANDED_BACK) < 0)
			leave_answer(s, c, &c->asker, IPC_RETURNED, IPC_REASON_ERROR);
		return;
	}
	if (c->mover.app)
		c->leave_reason = s->stopping ? IPC_REASON_STOPPING : IPC_REASON_MEMORY;
	c->frozen = *z;
	restore_begin(s, c);
}

/* ---- all of them ---- */

uint32_t leave_continue(struct slow *s)
{
	uint32_t left = 0, next;

	for (uint32_t i = s->list_head; i != SLOW_NONE; i = next) {
		struct conn *c = &s->conns[i];

		next = c->list_next;
		if (c->state == CONN_LEAVING)
			left++;
		if (c->state != CONN_FAST || c->failed || c->leave_refused)
			continue;
		left++;
		if (s->count[CONN_LEAVING] >= SLOW_LEAVING)
			continue;
		if (leave_begin(s, c, -1, IPC_REASON_STOPPING) < 0) {
			c->leave_refused = true;
			left--;
		}
	}
	return left;
}
