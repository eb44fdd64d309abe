/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The second half of leaving (leave.c): the flow is frozen, its state is in c->frozen; the
 * socket becomes the connection again. What may have to be waited for, with a limit, is named
 * by enum leave_settle. Main thread.
 *
 * Invariant: until sock_resume() nothing of the socket reaches the wire; a connection that
 * cannot be saved is reset on both sides, never left half alive.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "service/base/addr.h"
#include "service/base/clock.h"
#include "service/base/log.h"

#define RESTORE_SETTLE_NS (50 * NS_PER_MS)
#define RESTORE_FIN_MS 5 /* between attempts to tell Linux of a FIN */
#define RESTORE_MSS 8192u

/*
 * Is a thread of the application between its look at the slot and the end of its shutdown()? It
 * stores `busy`, then looks; the fast thread stored IPC_PAUSED, then we look: one sees the other.
 */
static bool restore_slot_is_busy(const struct app *a, uint32_t slot)
{
	return !a->exited && atomic_load_explicit(&a->shm->slot[slot].busy, memory_order_relaxed) != 0;
}

bool restore_is_busy(const struct conn *c)
{
	atomic_thread_fence(memory_order_seq_cst);
	return restore_slot_is_busy(c->app, c->slot) ||
	       (c->sender.app && restore_slot_is_busy(c->sender.app, c->sender.slot));
}

static void restore_to_linux(struct slow *s, struct conn *c, const struct up_frozen *z);
static void restore_built(struct slow *s, struct conn *c);

static struct byte_range restore_range(const struct conn *c, bool rx, uint64_t start, uint64_t end)
{
	return (struct byte_range){
		.buf = rx ? c->app->buf + c->rx_off : conn_tx_app(c)->buf + c->tx_off,
		.off = start,
		.size = rx ? c->rx_size : c->tx_size,
		.len = (uint32_t)(end - start),
	};
}

/* Is the peer's clock known, and the RTT? */
static bool restore_has_times(const struct conn *c, const struct up_frozen *z)
{
	return c->sock.ts && z->ts_recent && z->srtt_us;
}

/*
 * In the wire's numbers, which are Linux's now; and with what it is to learn of the peer's clock and the RTT
 * (shadow/rebuild.c): as old as an answer usually is, in Linux's milliseconds.
 */
static struct shadow_seq restore_seq(struct slow *s, struct conn *c)
{
	const struct up_frozen *z = &c->frozen;
	struct shadow_seq q = linux_seq(s, c);

	q.rcv_nxt = z->rcv_base + (uint32_t)z->rcv_end;
	q.snd_nxt = z->snd_base + (uint32_t)z->snd_una + z->fin_acked;
	q.has_window = true;
	q.window = (uint16_t)MIN(z->snd_wnd >> c->sock.snd_wscale, 65535u);
	q.has_ts = restore_has_times(c, z);
	q.tsval = z->ts_recent;
	q.tsecr = c->rebuild.ts_now - MAX(z->srtt_us / 1000, 1u);
	return q;
}

/* It acknowledges rebuild.echo, if there is one. */
static void restore_fin(struct slow *s, struct conn *c)
{
	struct shadow_seq q = restore_seq(s, c);
	uint8_t frame[128];

	linux_inject(s, frame, shadow_fin(&q, frame));
}

/* Is there something to acknowledge before Linux may speak: rebuild.echo, or our FIN? */
static bool restore_is_acked(const struct conn *c)
{
	return c->rebuild.echo || (c->frozen.fin_acked && c->rebuild.fin_sent && !c->frozen.fin_rcvd);
}

static void restore_ack(struct slow *s, struct conn *c)
{
	struct shadow_seq q = restore_seq(s, c);
	uint8_t frame[128];

	linux_inject(s, frame, shadow_ack(&q, frame, q.snd_nxt));
	loop_flush(s->env.loop);
}

/*
 * What came out of order goes to Linux in the same way as it came: the peer may have been told that it is here, and
 * would send it again only after a time-out. Without a timestamp, as a frame from the wire may have got ahead of it (PAWS).
 */
static void restore_gaps(struct slow *s, struct conn *c, const struct up_frozen *z)
{
	const uint8_t *buf = c->app ? c->app->buf + c->rx_off : NULL;
	uint8_t payload[RESTORE_MSS], frame[WIRE_HDR_MAX + RESTORE_MSS];
	struct shadow_seq q = restore_seq(s, c);

	q.has_ts = false;
	for (uint32_t i = 0; buf && !z->fin_rcvd && i < z->ooo.count; i++) {
		uint32_t end = z->ooo_piece[i].end, n;

		for (uint32_t at = z->ooo_piece[i].start; at != end; at += n) {
			uint32_t from = at & (c->rx_size - 1);

			n = MIN(MIN(end - at, c->rx_size - from), MIN((uint32_t)z->mss, RESTORE_MSS));
			memcpy(payload, buf + from, n); /* once: it is the application's memory */
			linux_inject(s, frame, shadow_data(&q, frame, at - (uint32_t)z->rcv_end, payload, n));
		}
	}
}

/* What the peer has said and Linux has not heard. */
static void restore_replay(struct slow *s, struct conn *c, const struct up_frozen *z)
{
	struct shadow_seq q = restore_seq(s, c);
	bool both = z->fin_rcvd && z->fin_acked;
	uint8_t frame[128];

	if (z->fin_rcvd && !both) /* Linux has it */
		q.rcv_nxt++;
	if (z->fin_acked && !restore_is_acked(c))
		linux_inject(s, frame, shadow_ack(&q, frame, q.snd_nxt));
	if (both)
		restore_fin(s, c);
	restore_gaps(s, c, z);
	leave_give_held(s, c, true);
}

/* Nothing can be saved: the peer learns it at once. */
static void restore_reset(struct slow *s, struct conn *c, const struct up_frozen *z)
{
	struct wire_segment w = {
		.seq = z->snd_base + (uint32_t)z->snd_nxt,
		.ack = z->rcv_base + (uint32_t)z->rcv_end,
		.flags = TCP_RST | TCP_ACK,
	};
	uint8_t out[WIRE_HDR_MAX];

	down_frame(s, c->thread, CMD_TX_FRAME, out, wire_build(out, &c->tmpl, &w, 0, 0));
}

void restore_finish(struct slow *s, struct conn *c, bool ok)
{
	char text[FLOW_KEY_TEXT_MAX];
	uint64_t pause_ns = clock_now_ns() - c->leave_ns;

	sock_restored_lock(c->fd, false);
	s->pause_max_ns = MAX(s->pause_max_ns, pause_ns);
	counter_add(&s->counters, ok ? CNT_RETURNED : CNT_RETURN_FAILED, 1);
	log_debug("flow %u %s: %s after %u us: %s", c->id, flow_key_text(&c->key, text, sizeof text),
		  ok ? "given back to Linux" : "lost", (unsigned)(pause_ns / 1000), ipc_reason_name(c->leave_reason));
	if (c->app && !c->app->dying)
		s->left[s->left_next++ % SLOW_LEFT] = (struct left){.app = c->app, .slot = c->slot, .key = c->key};
	if (c->app) { /* the socket will count the byte of rebuild.echo as acknowledged once more */
		c->app->shm->slot[c->slot].base_acked = c->sock.bytes_acked - c->rebuild.echo;
		conn_tx_app(c)->shm->slot[conn_tx_slot(c)].base_acked = c->sock.bytes_acked - c->rebuild.echo;
	}
	conn_release_app(s, c, IPC_RETURNED, c->leave_reason, true);
	leave_answer(s, c, &c->mover, IPC_REFUSED, IPC_REASON_MEMORY);
	leave_answer(s, c, &c->asker, IPC_RETURNED, c->leave_reason);
	c->muted = false;
	free(c->stray);
	c->stray = NULL;
	conn_free(s, c); /* closes our duplicate: now the application's closes count again */
}

/* Nobody holds the socket: Linux sends the rest from a new one that is closed at once. */
static int restore_orphan_socket(struct conn *c, struct sock_rebuild *r)
{
	int rc = sock_destroy(&c->key);

	r->v6 = !ip_addr_is_v4(&c->key.local);
	r->mss_clamp = c->sock.mss + (r->ts ? 12u : 0u);
	r->closing = true;
	r->stray.len = 0;
	if (rc)
		return rc;
	c->fd = socket(r->v6 ? AF_INET6 : AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return c->fd < 0 ? -errno : 0;
}

/*
 * Shut down since it was rebuilt, by a program that does not know the library, or a call of it that would not wait any
 * longer: the FIN lies before the bytes that were never sent. Built once more, it goes behind them.
 */
static bool restore_is_shut(const struct conn *c)
{
	int state = sock_tcp_state(c->fd);

	return !c->rebuild.fin_sent && state != TCP_STATE_ESTABLISHED && state != TCP_STATE_CLOSE_WAIT;
}

/*
 * The socket has its numbers and is let go. After both FINs in peace: nothing of it may reach
 * the wire until it has both, too.
 */
static void restore_resume(struct slow *s, struct conn *c)
{
	const struct up_frozen *z = &c->frozen;
	bool both = z->fin_rcvd && z->fin_acked;
	int rc;

	if (restore_is_shut(c) && !c->shut_late) {
		c->shut_late = c->rebuild.closing = true;
		if (sock_rebuild(c->fd, &c->rebuild) == 0) {
			restore_built(s, c);
			return;
		}
	}
	if (!both)
		nic_flow_del(s->env.nic, &c->key);
	rc = sock_resume(c->fd, &c->rebuild);
	sock_filter_detach(c->fd);
	restore_replay(s, c, z);
	if (both && !rc)
		restore_settle(s, c, LEAVE_FINS);
	else
		restore_finish(s, c, !rc);
}

/*
 * The last that Linux must hear before it may speak: an acknowledgement from the wire would overtake it, and an old one
 * says nothing. As a rule Linux has it when it has been sent.
 */
static void restore_let_go(struct slow *s, struct conn *c)
{
	if (restore_is_acked(c)) {
		restore_ack(s, c);
		if (!c->muted && !sock_has_acked(c->fd)) {
			restore_settle(s, c, LEAVE_ACK);
			return;
		}
	}
	restore_resume(s, c);
}

/*
 * The socket is the connection, but in repair. The peer's FIN, which was acknowledged and will
 * not be sent again, must be in it before acknowledgements reach it from the wire: by the time a
 * mirrored FIN came, its own acknowledgement could be too old to be accepted.
 */
static void restore_built(struct slow *s, struct conn *c)
{
	sock_restored_lock(c->fd, true);
	sock_filter_attach_open(c->fd); /* there until nobody's write can fail, or get ahead of what was never sent */
	if (!c->frozen.fin_rcvd || c->frozen.fin_acked) {
		restore_let_go(s, c);
		return;
	}
	restore_fin(s, c);
	restore_settle(s, c, LEAVE_FIN);
}

/* Exclusive mode: what the socket had sent as a shadow has been read from the TAP, and was not relayed. */
void restore_marked(struct slow *s, uint64_t number)
{
	uint32_t next;

	for (uint32_t i = s->list_head; i != SLOW_NONE && s->count[CONN_LEAVING]; i = next) {
		struct conn *c = &s->conns[i];

		next = c->list_next;
		if (c->state == CONN_LEAVING && c->settle == LEAVE_MARK && number >= c->mark) {
			c->settle = LEAVE_NOT;
			restore_built(s, c);
		}
	}
}

static bool restore_has_fin(const struct conn *c)
{
	int state = sock_tcp_state(c->fd);

	return state != TCP_STATE_ESTABLISHED && state != TCP_STATE_FIN_WAIT1 && state != TCP_STATE_FIN_WAIT2;
}

/* Linux has not got it yet: the TAP may have lost it. */
static void restore_fin_again(struct slow *s, struct conn *c)
{
	if ((c->settle_ns - s->now_ns) / NS_PER_MS % RESTORE_FIN_MS == 0)
		restore_fin(s, c);
}

/* Returns true if more connections than this one may have been freed. */
static bool restore_settle_one(struct slow *s, struct conn *c)
{
	bool late = s->now_ns >= c->settle_ns;

	switch (c->settle) {
	case LEAVE_BUSY:
		if (!late && restore_is_busy(c))
			return false;
		c->settle = LEAVE_NOT;
		restore_to_linux(s, c, &c->frozen);
		return false;
	case LEAVE_MARK:
		/* never without it: what the shadow had sent would be taken for the connection's */
		if (late && tap_mark(s->tap, ++s->marks) == 0) {
			c->mark = s->marks;
			c->settle_ns = s->now_ns + RESTORE_SETTLE_NS;
		}
		return false;
	case LEAVE_FIN:
		if (!late && !restore_has_fin(c)) {
			restore_fin_again(s, c);
			return false;
		}
		c->settle = LEAVE_NOT;
		restore_resume(s, c);
		return false;
	case LEAVE_ACK:
		if (!late && !sock_has_acked(c->fd))
			return false;
		c->settle = LEAVE_NOT;
		restore_resume(s, c);
		return false;
	case LEAVE_FINS:
		if (!late && sock_tcp_state(c->fd) != TCP_STATE_CLOSE) {
			restore_fin_again(s, c);
			return false;
		}
		nic_flow_del(s->env.nic, &c->key);
		restore_finish(s, c, true);
		return false;
	case LEAVE_PAIR:
	case LEAVE_DRAIN:
		return local_settle(s, c, late);
	case LEAVE_NOT:
		return false;
	}
	return false;
}

static void restore_settle_tick(void *ctx, uint64_t now_ns)
{
	struct slow *s = ctx;
	uint32_t next;

	s->now_ns = now_ns;
	for (uint32_t i = s->list_head; i != SLOW_NONE; i = next) {
		struct conn *c = &s->conns[i];

		next = c->list_next;
		if (c->state == CONN_LEAVING && restore_settle_one(s, c))
			next = s->list_head;
	}
	if (!s->count[CONN_LEAVING]) {
		loop_timer_cancel(s->env.loop, s->settle_timer);
		s->settle_timer = -1;
	}
}

void restore_settle(struct slow *s, struct conn *c, enum leave_settle why)
{
	c->settle = why;
	c->settle_ns = s->now_ns + RESTORE_SETTLE_NS;
	if (s->settle_timer < 0)
		s->settle_timer = loop_timer(s->env.loop, NS_PER_MS, NS_PER_MS, restore_settle_tick, s);
}

/* What the socket is to become. @state: its TCP state now. */
static struct sock_rebuild restore_describe(const struct conn *c, const struct up_frozen *z, int state)
{
	bool kernel_shut = state != TCP_STATE_ESTABLISHED && state != TCP_STATE_CLOSE_WAIT;

	return (struct sock_rebuild){
		.key = c->key,
		.v6 = c->sock.v6,
		.snd_una = z->snd_base + (uint32_t)z->snd_una,
		.rcv_nxt = z->rcv_base + (uint32_t)z->rcv_end,
		.rcv_wnd = z->rcv_wnd,
		.snd_wnd = z->snd_wnd,
		.max_wnd = z->max_wnd,
		.snd_wl1 = z->snd_wl1,
		.snd_wscale = c->sock.snd_wscale,
		.rcv_wscale = c->sock.rcv_wscale,
		.wscale = c->sock.wscale,
		.ts = c->sock.ts,
		.sack = c->sock.sack,
		.ts_now = (uint32_t)(clock_now_ns() / NS_PER_MS) + c->ts_offset,
		.unread = restore_range(c, true, z->rcv_read, z->rcv_end),
		.sent = restore_range(c, false, z->snd_una, z->snd_nxt),
		.unsent = restore_range(c, false, z->snd_nxt, z->snd_end),
		.echo = restore_has_times(c, z) && !z->fin_acked,
		.closing = z->closing || kernel_shut,
		.fin_sent = z->fin_sent,
	};
}

/* Only a reset is left. */
static void restore_lost(struct slow *s, struct conn *c, int rc)
{
	log_warn("pid %d, descriptor %d: the connection could not be given back to Linux and is lost: %s",
		 c->app ? (int)c->app->pid : 0, c->app_fd, strerror(-rc));
	restore_reset(s, c, &c->frozen);
	if (c->fd >= 0)
		sock_filter_detach(c->fd);
	nic_flow_del(s->env.nic, &c->key);
	restore_finish(s, c, false);
}

static void restore_to_linux(struct slow *s, struct conn *c, const struct up_frozen *z)
{
	int state = c->fd >= 0 ? sock_tcp_state(c->fd) : TCP_STATE_CLOSE, rc = 0, stray = 0;
	struct sock_rebuild *r = &c->rebuild;

	if (c->fd >= 0 && state == TCP_STATE_CLOSE && !(z->fin_rcvd && z->closing)) {
		/* killed (ss -K) while it stood still: go the way of every killed flow */
		leave_install(s, c, z);
		conn_abort(s, c, ECONNABORTED);
		leave_answer(s, c, &c->mover, IPC_REFUSED, IPC_REASON_STATE);
		leave_answer(s, c, &c->asker, IPC_RETURNED, IPC_REASON_STATE);
		return;
	}
	*r = restore_describe(c, z, state);
	if (c->fd >= 0)
		stray = sock_peek_stray(c->fd, c->sh_snd_nxt, &c->stray);
	if (stray > 0) { /* a buffer that never wraps */
		r->stray = (struct byte_range){.buf = c->stray, .size = 1u << 31, .len = (uint32_t)stray};
		r->fin_sent = false;
	}
	conntrack_liberal(&c->key);
	/*
	 * What the shadow was still to hear (a mirrored FIN or acknowledgement) must not meet the rebuilt socket: the
	 * shadow was told that bytes are acknowledged when they were adopted, the peer perhaps has not got them.
	 */
	if (c->fd >= 0)
		sock_filter_attach_closed(c->fd);
	loop_flush(s->env.loop);
	if (c->fd < 0)
		rc = restore_orphan_socket(c, r);
	if (state == TCP_STATE_CLOSE) /* what is left of the shadow: a TIME_WAIT that holds the tuple */
		sock_destroy(&c->key);
	if (!rc)
		rc = stray < 0 ? stray : sock_rebuild(c->fd, r);
	if (rc) {
		restore_lost(s, c, rc);
	} else if (s->cfg->exclusive) {
		c->mark = ++s->marks;
		tap_mark(s->tap, c->mark); /* if it fails or gets lost, another one follows */
		restore_settle(s, c, LEAVE_MARK);
	} else {
		restore_built(s, c);
	}
}

void restore_begin(struct slow *s, struct conn *c)
{
	if (restore_is_busy(c))
		restore_settle(s, c, LEAVE_BUSY);
	else
		restore_to_linux(s, c, &c->frozen);
}
