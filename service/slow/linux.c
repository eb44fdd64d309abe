/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Between a FAST flow and its shadow. What the shadow socket sends comes here from the TAP and
 * becomes a verdict or a command to the fast path; what the peer did that Linux must know
 * (FIN, reset, acknowledgement of the kernel's own FIN) is built in the shadow's sequence space
 * and injected. Main thread.
 */
#include "service/slow/internal.h"

#include <errno.h>
#include <string.h>

#include "service/base/closer.h"
#include "service/base/log.h"
#include "service/tcp/seq.h"

#define LINUX_SLIPS 8 /* of one connection: more is no accident */

/* Until a first frame of Linux's has shown the next hop. Locally administered, nobody's. */
static const uint8_t linux_mac_unknown[6] = {0x02, 0, 0, 0, 0, 0x01};

void linux_inject(struct slow *s, const uint8_t *frame, uint32_t len)
{
	if (s->tap && tap_write(s->tap, frame, len) == 0)
		counter_add(&s->counters, CNT_TAP_TX, 1);
	else
		counter_add(&s->counters, CNT_TAP_TX_LOST, 1);
}

/* The numbers to build with: acknowledging what the shadow was told so far. */
struct shadow_seq linux_seq(struct slow *s, struct conn *c)
{
	struct shadow_seq q = {.key = c->key, .rcv_nxt = c->sh_rcv_nxt, .snd_nxt = c->sh_acked, .vary = ++c->vary};
	static const uint8_t zero[6];

	if (c->state == CONN_ADOPTING) { /* the socket must keep the peer's real window if this is rolled back */
		q.has_window = true;
		q.window = (uint16_t)MIN(c->sock.snd_wnd >> c->sock.snd_wscale, 65535u);
	}
	memcpy(q.nic_mac, nic_get_info(s->env.nic)->mac, 6);
	memcpy(q.peer_mac, memcmp(c->peer_mac, zero, 6) ? c->peer_mac : linux_mac_unknown, 6);
	return q;
}

/* Acknowledge up to @ack (its sequence space) to the shadow. */
void linux_ack(struct slow *s, struct conn *c, uint32_t ack)
{
	struct shadow_seq q;
	uint8_t frame[128];

	if (c->local) /* it has no shadow: its kernel sockets are connected with each other */
		return;
	if (seq_gt(ack, c->sh_acked))
		c->sh_acked = ack;
	q = linux_seq(s, c);
	if (c->peer_fin) /* mirrored: on its way before this */
		q.rcv_nxt++;
	linux_inject(s, frame, shadow_ack(&q, frame, c->sh_acked));
}

void linux_mirror_fin(struct slow *s, struct conn *c)
{
	struct shadow_seq q;
	uint8_t frame[128];

	if (c->local) /* the other end's socket has sent its own */
		return;
	q = linux_seq(s, c);
	linux_inject(s, frame, shadow_fin(&q, frame));
}

void linux_mirror_rst(struct slow *s, struct conn *c, int32_t offset)
{
	struct shadow_seq q;
	uint8_t frame[128];

	if (c->local) { /* its own kernel socket knows of FINs alone */
		sock_reset(&c->key, c->cookie);
		return;
	}
	q = linux_seq(s, c);
	if (c->peer_fin_seen)
		q.rcv_nxt++;
	linux_inject(s, frame, shadow_rst(&q, frame, offset));
}

void linux_closed(struct slow *s, struct conn *c)
{
	if (!c->local_fin) {
		c->local_fin = true;
		c->closed_ns = s->now_ns;
	}
	if (c->orphan) /* the end of its process was noticed before */
		return;
	if (conn_is_let_go(c)) { /* a FIN that Linux repeated may be read after its socket's end */
		c->orphan = true;
		conn_command(s, c, CMD_ORPHAN, 0, 0);
	} else {
		conn_command(s, c, CMD_CLOSE, 0, 0);
	}
	conn_progress(s, c);
}

/* Does the shadow acknowledge what it was never sent? @known: bytes of which we know. */
static bool linux_has_slipped(const struct conn *c, const struct segment *seg, uint32_t known)
{
	return c->state == CONN_FAST && !c->failed && (seg->flags & (TCP_ACK | TCP_SYN)) == TCP_ACK &&
	       seq_gt(seg->ack, c->sh_rcv_nxt + known + c->peer_fin);
}

/*
 * Payload in the shadow socket. A segment had passed the socket's old filter, and was queued only after the heartbeat's
 * answer: its processor stood still in between, as those of virtual machines do. The peer has not heard of it, and sends
 * it again, to the fast path. Here it goes, as Linux resets a connection that is closed with data unread; the shadow's
 * numbers move on. If there was a FIN in it only a new socket will do. If the socket cannot be had, it stays there until
 * linux_slipped_away().
 */
static void linux_slipped(struct slow *s, struct conn *c, uint32_t ack)
{
	int fd = leave_fetch_named(c);

	counter_add(&s->counters, CNT_SHADOW_SLIPPED, 1);
	log_debug("flow %u: %u bytes slipped into the kernel socket", c->id, ack - c->sh_rcv_nxt);
	if (fd < 0) {
		c->sh_slipped = ack - c->sh_rcv_nxt;
		return;
	}
	if (++c->slips > LINUX_SLIPS || sock_filter_attach(fd, ack) || sock_discard_received(fd, ack - c->sh_rcv_nxt)) {
		leave_begin(s, c, fd, IPC_REASON_RACE);
		return;
	}
	closer_close(fd);
	c->sh_rcv_nxt = ack;
	c->sh_slipped = 0;
	/* what was sent with the old numbers it has not taken */
	if (c->peer_fin)
		linux_mirror_fin(s, c);
	linux_ack(s, c, c->sh_acked);
	if (c->rst_judged)
		linux_mirror_rst(s, c, 0);
	verdict_ask(s, c);
}

/* The socket was closed with them unread: no reset, but the end of the descriptor. */
static void linux_slipped_away(struct slow *s, struct conn *c)
{
	counter_add(&s->counters, CNT_SHADOW_SLIPPED, 1);
	if (c->orphan) /* noticed before */
		return;
	c->local_fin = c->orphan = true;
	c->closed_ns = s->now_ns;
	conn_command(s, c, CMD_ORPHAN, 0, 0);
	verdict_ask(s, c);
	conn_progress(s, c);
}

/*
 * A reset from the kernel socket. After a wire RST that we injected: the reset holds. Without
 * ACK, after FINs, it says that there is no socket any more (RFC 9293 3.10.7.1): our question
 * came through. Else it was killed (ss -K), closed with linger 0, or a rule rejects: the
 * peer is reset too.
 */
static void linux_reset(struct slow *s, struct conn *c, const struct segment *seg)
{
	/* somebody may have had it made, by a segment of his own that a rule rejects */
	if (seq_lt(seg->seq, c->sh_acked - 1) || seq_gt(seg->seq, c->sh_snd_nxt + 1)) {
		counter_add(&s->counters, CNT_DROP_RESET, 1);
		return;
	}
	if (c->rst_judged) {
		c->failed = true;
		c->rst_judged = false;
		conn_command(s, c, CMD_DEAD, ECONNRESET, 0);
		verdict_answer(s, c, VERDICT_ACCEPT);
		conn_progress(s, c);
		return;
	}
	if (linux_has_slipped(c, seg, 0)) {
		linux_slipped_away(s, c);
		return;
	}
	counter_add(&s->counters, CNT_HEARTBEAT_RST, 1);
	log_debug("flow %u: reset by Linux, flags 0x%02x%s%s%s", c->id, seg->flags, c->local_fin ? ", closed" : "",
		  c->orphan ? ", orphan" : "", c->peer_fin ? ", peer closed" : "");
	/* the end of a process may have been noticed before its FIN */
	if (c->failed || ((c->orphan || (c->local_fin && c->peer_fin)) && !(seg->flags & TCP_ACK))) {
		verdict_answer(s, c, VERDICT_ACCEPT);
		return;
	}
	c->failed = true;
	conn_command(s, c, CMD_ABORT, seg->flags & TCP_ACK ? ECONNABORTED : ECONNRESET, 0);
	verdict_answer(s, c, VERDICT_REJECT);
	c->orphan |= conn_is_let_go(c);
	conn_progress(s, c);
}

static void linux_template(struct slow *s, struct conn *c, const struct segment *seg)
{
	struct cmd_template m = {.flow_id = c->id, .tmpl = c->tmpl};

	shadow_template(seg, &m.tmpl);
	if (!memcmp(&m.tmpl, &c->tmpl, sizeof m.tmpl))
		return;
	c->tmpl = m.tmpl;
	memcpy(c->peer_mac, c->tmpl.dst_mac, sizeof c->peer_mac);
	down_send(s, c->thread, CMD_TEMPLATE, &m, sizeof m);
}

static void linux_stray(struct slow *s, struct conn *c)
{
	counter_add(&s->counters, CNT_SHADOW_STRAY, 1);
	if (c->failed || c->leave_refused)
		return;
	/* they are in the kernel's queue, and follow what the flow holds when it is given back */
	log_info("pid %d wrote to descriptor %d past the library: given back to Linux", c->app ? (int)c->app->pid : 0,
		 c->app_fd);
	if (leave_begin(s, c, -1, IPC_REASON_STRAY) == 0)
		return;
	c->leave_refused = true;
	conn_abort(s, c, ECONNABORTED);
}

void linux_says(struct slow *s, struct conn *c, const struct segment *seg, const uint8_t *frame, uint32_t len)
{
	struct shadow_seq q = linux_seq(s, c);

	if (c->peer_fin && (seg->flags & TCP_ACK) && seg->ack == c->sh_rcv_nxt + 1) {
		c->peer_fin_seen = true;
		q.rcv_nxt++;
	}
	/* its process has ended, and its FIN has not come here, or not yet: the answer counts it */
	if (c->orphan && !seg->len && seg->seq == c->sh_snd_nxt + 1)
		c->local_fin = true;
	q.rcv_nxt += c->sh_slipped;
	q.snd_nxt = c->sh_snd_nxt + (c->local_fin ? 1 : 0);
	/* right after adoption it may not have sent all that was in its queue (a window probe lies before sh_acked) */
	if (!seg->len && seq_geq(seg->seq, c->sh_acked) && seq_lt(seg->seq, c->sh_snd_nxt))
		q.snd_nxt = seg->seq;
	switch (shadow_classify(&q, seg)) {
	case SHADOW_ACK:
		counter_add(&s->counters, CNT_HEARTBEAT_ACK, 1);
		c->rst_judged = false;
		linux_template(s, c, seg);
		verdict_answer(s, c, VERDICT_ACCEPT);
		return;
	case SHADOW_RST:
		linux_reset(s, c, seg);
		return;
	case SHADOW_FIN:
		if (c->fin_acked)
			linux_ack(s, c, c->sh_snd_nxt + 1);
		else if (seg->len)
			linux_ack(s, c, seg->seq + seg->len);
		linux_closed(s, c);
		return;
	case SHADOW_DATA:
		/*
		 * Sent before the adoption and overtaken by it: the peer gets it, and it is ours to repeat. It must not
		 * hear that something has arrived that the flow does not have.
		 */
		if (seg->len && seq_leq(seg->seq + seg->len, c->sock.snd_nxt) && seq_leq(seg->ack, c->sock.rcv_nxt))
			down_frame(s, c->thread, CMD_TX_FRAME, frame, len);
		linux_ack(s, c, seg->seq + seg->len);
		return;
	case SHADOW_STRAY:
		linux_stray(s, c);
		return;
	case SHADOW_MOVED:
	case SHADOW_OTHER:
		return;
	}
}

void slow_from_tap(void *ctx, const uint8_t *frame, uint32_t len)
{
	struct slow *s = ctx;
	struct segment seg;
	struct conn *c = NULL;
	uint64_t mark;

	s->now_ns = loop_now_ns(s->env.loop);
	counter_add(&s->counters, CNT_TAP_RX, 1);
	if (tap_is_mark(frame, len, &mark)) {
		restore_marked(s, mark);
		return;
	}
	if (wire_parse(frame, len, true, &seg) == WIRE_TCP) {
		if (seg.flags & TCP_FIN)
			up_drain(
				s); /* the peer's FIN may have caused it: that one came first, and is not an active close */
		c = conn_find(s, &seg.key);
	}
	if (c && linux_has_slipped(c, &seg, c->sh_slipped) && !(seg.flags & TCP_RST)) {
		linux_slipped(s, c, seg.ack);
		if (!seg.len && !(seg.flags & TCP_FIN)) /* it answers no question */
			return;
	}
	if (c && c->state == CONN_ADOPTING) {
		adopt_from_linux(s, c, &seg, frame, len);
	} else if (c && (c->state == CONN_FAST || c->state == CONN_REMOVING)) {
		linux_says(s, c, &seg, frame, len);
	} else if (c && c->state == CONN_LEAVING) {
		if (seg.flags & TCP_FIN)
			c->local_fin = true;
	} else if (s->cfg->exclusive) {
		/* a SYN of Linux's for a tuple that was in TIME_WAIT here: Linux's word counts */
		if (c && (seg.flags & TCP_SYN)) {
			nic_flow_del(s->env.nic, &c->key);
			conn_free(s, c);
		} else if (c) {
			return;
		}
		if (down_frame(s, 0, CMD_TX_FRAME, frame, len))
			counter_add(&s->counters, CNT_RELAY_TO_WIRE, 1);
	}
}
