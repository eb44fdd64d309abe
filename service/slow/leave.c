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
 * CMD_INSTALL: of both halves of the connection, or of the one that it needs while the other
 * process uses the other one. A process that uses what has moved away asks for the connection
 * to be in Linux, where both may use it.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "service/base/clock.h"
#include "service/base/closer.h"

#define LEAVE_WRITTEN_NS NS_PER_S /* so long a thread may take for one copy */

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

static int leave_fetch_from(const struct conn *c, const struct app *a, uint32_t slot, int app_fd)
{
	uint32_t said = atomic_load_explicit(&a->shm->slot[slot].fd_plus1, memory_order_relaxed);
	int fd = -ENOENT;

	if (a->exited)
		return fd;
	if (said && said <= INT_MAX)
		fd = sock_fetch(a->pid, (int)said - 1, c->cookie);
	return fd < 0 && app_fd >= 0 ? sock_fetch(a->pid, app_fd, c->cookie) : fd;
}

int leave_fetch_named(const struct conn *c)
{
	int fd = c->app ? leave_fetch_from(c, c->app, c->slot, c->app_fd) : -ENOENT;

	if (fd < 0 && c->sender.app)
		fd = leave_fetch_from(c, c->sender.app, c->sender.slot, c->sender.app_fd);
	if (fd < 0 && c->asker.app) /* the process that had the connection may have ended meanwhile */
		fd = leave_fetch_from(c, c->asker.app, c->asker.slot, c->asker.app_fd);
	return fd;
}

/* A duplicate of the socket: by the number that the library last named, else by looking for it. */
int leave_fetch(const struct conn *c)
{
	int fd = leave_fetch_named(c);

	return fd < 0 && c->app ? sock_fetch_any(c->app->pid, &c->key, c->cookie) : fd;
}

void leave_freeze(struct slow *s, struct conn *c, uint32_t reason)
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
	if (c->local)
		return local_leave(s, c, fd, reason);
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
		if (c->failed || c->state == CONN_REMOVING) /* not in the middle of being made anew */
			leave_dead(fd);
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

/* As leave_begin(), for those who have asked; @fd (or -1) stays the caller's. @own: one that has a half is among them. */
static void leave_on(struct slow *s, struct conn *c, int fd, bool own)
{
	int dup_fd = fd < 0 ? -1 : dup(fd);

	if ((fd < 0 || dup_fd >= 0) && !leave_begin(s, c, dup_fd, IPC_REASON_HANDED_BACK))
		return;
	leave_answer(s, c, &c->asker, IPC_RETURNED, IPC_REASON_ERROR);
	if (c->state == CONN_FAST && c->sender.app && own) /* it waits for what it cannot have */
		conn_abort(s, c, ECONNABORTED);
}

void leave_dead(int fd)
{
	if (fd >= 0 && sock_tcp_state(fd) == TCP_STATE_CLOSE)
		sock_filter_detach(fd);
}

void leave_asked(struct slow *s, const struct leave_for *asker, int fd)
{
	uint64_t cookie = sock_cookie(fd);
	struct conn *c = cookie ? conn_find_cookie(s, cookie) : NULL;
	uint32_t held = asker ? asker->app->slot_conn[asker->slot] : SLOW_NONE;
	bool own;

	if (held != SLOW_NONE && (!c || c->id != held)) { /* the descriptor is another socket by now: the slot counts */
		c = &s->conns[held];
		fd = -1;
	}
	own = c && asker && conn_is_slot(c, asker->app, asker->slot);
	if (c && c->state == CONN_ADOPTING) {
		adopt_cancel(s, c, IPC_REASON_HANDED_BACK); /* answers the adopter's slot */
		c = NULL;
		if (own)
			return;
	}
	if (!c || c->failed || c->state == CONN_REMOVING) {
		leave_dead(fd);
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
	c->asked |= own;
	if (c->state != CONN_FAST)
		return; /* on its way; a move goes on to Linux when it is done */
	leave_on(s, c, fd, own);
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
		.split = c->sender.app != NULL,
		.tx_app = conn_tx_app(c)->index,
		.tx_slot = conn_tx_slot(c),
		.tx_context = c->sender.context,
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
		.tx_free = z->tx_free,
		.mss = z->mss,
		.snd_wscale = c->sock.snd_wscale,
		.rcv_wscale = c->sock.rcv_wscale,
		.ts = c->sock.ts,
		.sack = c->sock.sack,
		.ecn = c->sock.ecn,
		.ect = c->sock.ecn && c->cc && c->cc->ecn,
		.fin_rcvd = z->fin_rcvd,
		.closing = z->closing,
		.fin_acked = z->fin_acked,
		.ts_recent = z->ts_recent,
		.ts_ms = z->ts_now,
		.srtt_us = z->srtt_us,
		.rttvar_us = z->rttvar_us,
		.opts = z->opts,
		.counts = z->counts,
		.ooo = z->ooo,
	};
	struct cc_state keep = c->cc_state;

	memcpy(init.ooo_piece, z->ooo_piece, sizeof init.ooo_piece);
	if (c->local)
		local_init(c, &init);
	else
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
	local_failed(s, c);
}

/* The low halves of offsets will do. */
static void leave_copy(uint8_t *to, const uint8_t *from, uint32_t size, uint32_t start, uint32_t end)
{
	for (uint32_t left = end - start, n; left; start += n, left -= n) {
		uint32_t at = start & (size - 1);

		n = MIN(left, size - at);
		memcpy(to + at, from + at, n);
	}
}

/* ---- to another process ---- */

/* Has it let go of the socket? */
static bool leave_is_gone(const struct app *a, uint32_t slot)
{
	return a->dying || atomic_load_explicit(&a->shm->slot[slot].fd_plus1, memory_order_relaxed) == 0;
}

/*
 * Which halves the mover gets: what it needs, and what the other process does not use, as it is far more often a
 * connection handed over than one that two share. 0: what was taken from it was used since: both find it in Linux.
 */
static uint32_t leave_halves(const struct conn *c, const struct up_frozen *z)
{
	const struct app *tx = conn_tx_app(c);
	const struct ipc_slot *rs = &c->app->shm->slot[c->slot], *ts = &tx->shm->slot[conn_tx_slot(c)];
	uint32_t need = c->mover.halves & IPC_HALVES, gone = 0, idle = 0;

	if (leave_is_gone(c->app, c->slot))
		gone |= IPC_HALF_RX;
	if (leave_is_gone(tx, conn_tx_slot(c)))
		gone |= IPC_HALF_TX;
	if (atomic_load_explicit(&rs->mark_read, memory_order_relaxed) == (uint32_t)z->rcv_read)
		idle |= IPC_HALF_RX;
	if (atomic_load_explicit(&ts->mark_snd, memory_order_relaxed) == (uint32_t)z->snd_end)
		idle |= IPC_HALF_TX;
	if (!(c->mover.halves & IPC_HALF_BACK))
		return need | gone | idle;
	return need & ~(gone | idle) || c->backs >= SLOW_BACK ? 0 : need | gone;
}

static bool leave_is_same(const struct leave_for *a, const struct leave_for *b)
{
	return a->app == b->app && a->slot == b->slot;
}

/* Pieces of the mover's memory for the halves in @take. Returns false if it has no room. */
static bool leave_room(const struct conn *c, uint32_t take, uint64_t *rx_off, uint64_t *tx_off)
{
	struct app *to = c->mover.app;

	if (to->dying || (take & IPC_HALF_RX && !app_buffers_get(to, c->rx_size, rx_off)))
		return false;
	if (!(take & IPC_HALF_TX) || app_buffers_get(to, c->tx_size, tx_off))
		return true;
	if (take & IPC_HALF_RX)
		app_buffers_put(to, c->rx_size, *rx_off);
	return false;
}

/* The live bytes of what is received, and of what is sent, to @off in the mover's memory, at the same offsets. */
static void leave_copy_rx(struct slow *s, struct conn *c, const struct up_frozen *z, uint64_t off)
{
	uint8_t *to = c->mover.app->buf + off;
	const uint8_t *from = conn_rx_buf(c);

	leave_copy(to, from, c->rx_size, (uint32_t)z->rcv_read, (uint32_t)z->rcv_end);
	for (uint32_t i = 0; i < z->ooo.count; i++)
		leave_copy(to, from, c->rx_size, z->ooo_piece[i].start, z->ooo_piece[i].end);
	if (!c->rx_ring)
		app_park(c->app, c->slot, true, c->rx_off, c->rx_size); /* a thread of it may still be copying there */
	ring_put(s, c->rx_ring);
	c->rx_ring = NULL;
	c->rx_off = off;
}

static void leave_copy_tx(struct slow *s, struct conn *c, const struct up_frozen *z, uint64_t off)
{
	struct app *from = conn_tx_app(c);

	leave_copy(c->mover.app->buf + off, conn_tx_buf(c), c->tx_size, (uint32_t)z->snd_una, (uint32_t)z->snd_end);
	if (!c->tx_ring)
		app_park(from, conn_tx_slot(c), false, c->tx_off, c->tx_size);
	ring_put(s, c->tx_ring);
	c->tx_ring = NULL;
	c->tx_off = off;
}

/* The halves in @take become the mover's. Returns false if it has no room: nothing has changed. */
static bool leave_to_mover(struct slow *s, struct conn *c, const struct up_frozen *z, uint32_t take)
{
	struct leave_for to = c->mover, rx = {c->app, c->slot, c->context, 0, c->app_fd, 0};
	struct leave_for tx = c->sender.app ? c->sender : rx, old[2] = {rx, tx};
	struct ipc_slot *sl = &to.app->shm->slot[to.slot];
	uint64_t rx_off = 0, tx_off = 0;

	if (!leave_room(c, take, &rx_off, &tx_off))
		return false;
	if (take & IPC_HALF_RX) {
		leave_copy_rx(s, c, z, rx_off);
		rx = to;
	}
	if (take & IPC_HALF_TX) {
		leave_copy_tx(s, c, z, tx_off);
		tx = to;
	}
	c->mover.app = NULL; /* its hold on the application becomes the connection's */
	if (c->local)        /* whoever had it before may have been taken for the last */
		c->orphan = false;
	c->app = rx.app;
	c->slot = rx.slot;
	c->context = rx.context;
	c->app_fd = rx.app_fd;
	if (leave_is_same(&rx, &tx))
		tx = (struct leave_for){.app = NULL};
	c->sender = tx;
	conn_fill_slot(c, to.app, to.slot);
	atomic_store_explicit(&sl->mark_snd, (uint32_t)z->snd_end, memory_order_relaxed);
	atomic_store_explicit(&sl->mark_read, (uint32_t)z->rcv_read, memory_order_relaxed);
	for (int i = 0; i < 2; i++)
		if (!conn_is_slot(c, old[i].app, old[i].slot) && (!i || !leave_is_same(&old[0], &old[1])))
			conn_release_slot(s, old[i].app, old[i].slot, IPC_RETURNED, IPC_REASON_MOVED);
	return true;
}

/* Goes on in Linux: the process that wants it back hears of that there. */
static void leave_not_back(struct slow *s, struct conn *c)
{
	if (c->asker.app) {
		leave_answer(s, c, &c->mover, IPC_RETURNED, IPC_REASON_RETRY);
	} else {
		c->asker = c->mover;
		c->mover.app = NULL;
	}
	c->leave_reason = IPC_REASON_HANDED_BACK;
}

/* ---- frozen ---- */

/* In the slots that c names; or on to Linux, if somebody has asked meanwhile. */
static void leave_fast_again(struct slow *s, struct conn *c, const struct up_frozen *z)
{
	leave_install(s, c, z);
	conn_progress(s, c);
	if (c->asker.app || c->asked || c->again)
		leave_on(s, c, -1, c->asked);
}

void leave_frozen(struct slow *s, struct conn *c, const struct up_frozen *z)
{
	uint32_t take;
	bool back;

	if (c->state != CONN_LEAVING)
		return;
	if (c->mover.app && c->mover.app->dying &&
	    !s->stopping) { /* it executes another image, which will ask in time */
		leave_answer(s, c, &c->mover, IPC_REFUSED, IPC_REASON_ERROR);
		leave_fast_again(s, c, z);
		return;
	}
	take = c->mover.app && !s->stopping ? leave_halves(c, z) : 0;
	back = c->mover.app && c->mover.halves & IPC_HALF_BACK;
	if (take & IPC_HALF_TX && local_is_written_there(s, c)) {
		if (s->now_ns - c->written_ns < LEAVE_WRITTEN_NS) {
			leave_answer(s, c, &c->mover, IPC_REFUSED, IPC_REASON_RETRY);
			leave_fast_again(s, c, z);
			return;
		}
		take = 0; /* that thread has left the call by a longjmp(), or stands still: in Linux it does no harm */
	}
	if (take && leave_to_mover(s, c, z, take)) {
		counter_add(&s->counters, CNT_MOVED, 1);
		c->backs += back;
		leave_fast_again(s, c, z);
		return;
	}
	if (back && !s->stopping)
		leave_not_back(s, c);
	else if (c->mover.app)
		c->leave_reason = s->stopping ? IPC_REASON_STOPPING : IPC_REASON_MEMORY;
	c->frozen = *z;
	if (c->local)
		local_frozen(s, c);
	else
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
