/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of an adoption: what the kernel socket says while it runs, the heartbeat's answer among it, and the commit.
 * After the steps of adopt.c, which rolls back whatever ends otherwise. Main thread.
 */
#include "service/slow/internal.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>

#include "service/base/clock.h"
#include "service/base/closer.h"
#include "service/tcp/seq.h"

#define ADOPT_ATTEMPTS 4 /* readings of the state */
#define ADOPT_PLAIN 3    /* acknowledgements of a socket with SACK that do not say what they answer */

/* With times of our clock. */
static struct tcp_counts adopt_counts(const struct sock_state *st, uint64_t now_ns)
{
	uint32_t now_ms = (uint32_t)(now_ns / NS_PER_MS);
	struct tcp_counts n = st->counts;

	n.sent_ms = now_ms - n.sent_ms;
	n.received_ms = now_ms - n.received_ms;
	n.heard_ms = now_ms - n.heard_ms;
	return n;
}

static void adopt_install(struct slow *s, struct conn *c, const struct segment *answer)
{
	const struct sock_state *st = &c->sock;
	uint64_t now_ns = s->now_ns;
	struct flow_init init = {
		.flow_id = c->id,
		.app = c->app->index,
		.slot = c->slot,
		.context = c->context,
		.tmpl = c->tmpl,
		.snd_base = st->snd_una,
		.snd_nxt = st->snd_nxt - st->snd_una,
		.snd_end = st->write_seq - st->snd_una,
		.snd_wnd = st->snd_wnd,
		.snd_wl1 = st->snd_wl1,
		.rcv_base = st->rcv_nxt - st->rcv_queued,
		.rcv_end = st->rcv_queued,
		.rcv_edge = st->rcv_wup + st->rcv_wnd,
		.rx_off = c->rx_off,
		.tx_off = c->tx_off,
		.rx_size = c->rx_size,
		.tx_size = c->tx_size,
		.mss = st->mss,
		.snd_wscale = st->snd_wscale,
		.rcv_wscale = st->rcv_wscale,
		.ts = st->ts,
		.sack = st->sack,
		.ecn = st->ecn,
		.ts_recent = answer->opt.has_ts ? answer->opt.tsecr : 0,
		.ts_ms = answer->opt.has_ts ? answer->opt.tsval : st->ts_now,
		.srtt_us = st->srtt_us,
		.rttvar_us = st->rttvar_us,
		.opts = c->opts,
		.counts = adopt_counts(st, now_ns),
	};

	c->ts_recent = init.ts_recent;
	c->ts_offset = init.ts_ms - (uint32_t)(now_ns / NS_PER_MS);
	congest_install(s, c, st->congestion, st->srtt_us, st->mss);
	init.cwnd_bytes = c->cc_state.lim.cwnd_bytes;
	init.rate_bps = c->cc_state.lim.rate_bps;
	init.ect = st->ecn && c->cc->ecn;
	down_send(s, c->thread, CMD_INSTALL, &init, sizeof init);
}

static void adopt_count_listener(struct slow *s, const struct conn *c)
{
	for (uint32_t i = 0; i < SLOW_LISTENERS; i++)
		if (s->listeners[i].app && s->listeners[i].info.port == ntohs(c->key.local_port)) {
			s->listeners[i].info.adopted++;
			return;
		}
}

static void adopt_commit(struct slow *s, struct conn *c, const struct segment *answer)
{
	struct held_frame *h;

	if (c->sock.rcv_queued && sock_discard_received(c->fd, c->sock.rcv_queued)) {
		adopt_cancel(s, c, IPC_REASON_RACE);
		return;
	}
	closer_close(c->fd);
	c->fd = -1;
	shadow_template(answer, &c->tmpl);
	memcpy(c->peer_mac, c->tmpl.dst_mac, sizeof c->peer_mac);
	c->thread = c->held ? c->held->thread : 0;
	conn_fill_slot(c, c->app, c->slot);
	adopt_install(s, c, answer);
	conn_set_state(s, c, CONN_FAST);
	while ((h = c->held)) {
		down_frame(s, c->thread, CMD_RX_FRAME, h->data, h->len);
		c->held = h->next;
		free(h);
	}
	c->held_tail = &c->held;
	c->held_count = 0;
	if (c->sock.snd_nxt != c->sock.snd_una)
		linux_ack(s, c, c->sock.snd_nxt);
	counter_add(&s->counters, CNT_ADOPTED, 1);
	app_watchers_wake(s);
	adopt_count_listener(s, c);
	verdict_answer(s, c, VERDICT_ACCEPT);
	verdict_timers(s);
}

/*
 * Is it the heartbeat that the socket answers? It may as well speak of its own accord, as when the program has read:
 * that says neither that a heartbeat came through, nor what has arrived since. With SACK its first block names the
 * heartbeat's old byte (RFC 2883). Where the administrator wants no such blocks (tcp_dsack) it has to answer some more.
 */
static bool adopt_is_answer(struct conn *c, const struct segment *seg)
{
	if (!c->sock.sack)
		return true;
	if (seg->opt.sack_count && seg->opt.sack[0].start == c->sh_rcv_nxt - 1 && seg->opt.sack[0].end == c->sh_rcv_nxt)
		return true;
	return ++c->plain > ADOPT_PLAIN;
}

/*
 * Does Linux have data beyond what it acknowledges? They cannot be read, and what was selectively acknowledged the peer
 * sends again only after a time-out: the connection stays there until the gap is filled. A block that lies before is of
 * the heartbeat's old byte (RFC 2883).
 */
static bool adopt_has_gaps(const struct segment *answer)
{
	for (uint32_t i = 0; i < answer->opt.sack_count; i++)
		if (seq_gt(answer->opt.sack[i].end, answer->ack))
			return true;
	return false;
}

/* A frame of the socket, from the TAP, while the transaction runs. */
void adopt_from_linux(struct slow *s, struct conn *c, const struct segment *seg, const uint8_t *frame, uint32_t len)
{
	struct shadow_seq q = linux_seq(s, c);
	uint32_t reason;

	if (!seg->len && seq_lt(seg->ack, q.rcv_nxt))
		return; /* sent before the state was read, and only now here */
	/* it may have sent less than its send queue holds */
	if (!seg->len && seq_geq(seg->seq, c->sock.snd_una) && seq_leq(seg->seq, c->sock.write_seq))
		q.snd_nxt = seg->seq;
	else
		q.snd_nxt = c->sock.write_seq;
	switch (shadow_classify(&q, seg)) {
	case SHADOW_ACK:
		if (!adopt_is_answer(c, seg)) {
			adopt_heartbeat(s, c);
			return;
		}
		counter_add(&s->counters, CNT_HEARTBEAT_ACK, 1);
		if (adopt_fails(s, 6))
			adopt_cancel(s, c, IPC_REASON_FAULT);
		else if (adopt_has_gaps(seg))
			adopt_cancel(s, c, IPC_REASON_GAPS);
		else
			adopt_commit(s, c, seg);
		return;
	case SHADOW_RST:
		counter_add(&s->counters, CNT_HEARTBEAT_RST, 1);
		adopt_cancel(s, c, IPC_REASON_REJECTED);
		return;
	case SHADOW_MOVED:
		reason = c->attempts < ADOPT_ATTEMPTS ? adopt_read(s, c) : IPC_REASON_RACE;
		if (reason)
			adopt_cancel(s, c, reason);
		return;
	case SHADOW_FIN: /* closed meanwhile; Linux sends the FIN again after the roll-back */
		adopt_cancel(s, c, IPC_REASON_STATE);
		return;
	case SHADOW_STRAY:
		adopt_cancel(s, c, IPC_REASON_RACE);
		return;
	case SHADOW_DATA: /* the wire's numbers and the shadow's are still the same: the peer gets it, and it is in flight */
		if (seq_gt(seg->seq + seg->len, c->sock.snd_nxt))
			c->sock.snd_nxt = seg->seq + seg->len;
		down_frame(s, 0, CMD_TX_FRAME, frame, len);
		return;
	case SHADOW_OTHER:
		return;
	}
}
