/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The transmitter: from the application's transmit buffer to AF_XDP frames, and everything
 * else a flow says: ACKs, probes, retransmissions, FIN, RST. Last step of a turn. Fast
 * thread. A flow is in `ready` while there may be something to send; what must be sent is a
 * flag (FLOW_..._NOW), so a full ring only delays it.
 *
 * ACKs due in one turn are sent once, with data if there is any, so one ACK may cover more
 * than two segments of one batch (RFC 5681 4.2 allows it; NICs that merge segments do the same).
 *
 * Invariants: payload is read from shared memory once (copied and summed in one pass); the
 * right edge of the advertised window never moves left; nothing leaves a muted flow.
 */
#include <string.h>

#include "service/base/clock.h"
#include "service/fast/thread.h"
#include "service/tcp/seq.h"
#include "service/wire/csum.h"

/* Why the transmitter stops. */
enum tx_why {
	TX_GO,
	TX_IDLE,   /* nothing to send */
	TX_WINDOW, /* the peer's window */
	TX_CWND,
	TX_PACED,
	TX_NAGLE,
	TX_CORKED,
	TX_FULL, /* no frame */
};

struct tx_plan {
	uint32_t len;
	bool fin;
};

/*
 * The window field (RFC 9293 3.8.6.2.2, receiver's silly window avoidance): the edge moves
 * right by a full-sized segment or half the buffer, or not at all. The field is rounded up to
 * its granularity, for which room was left when the edge was set.
 */
static uint16_t tx_window(struct flow *f)
{
	uint32_t grain = flow_wnd_grain(f), room = flow_rx_room(f), wnd;
	uint64_t edge;

	room = MIN(room > grain ? room - grain : 0, 65535u << f->rcv_wscale);
	edge = f->rcv_end + (room & ~grain);
	if (edge >= f->rcv_edge + MIN(flow_rx_size(f) / 2, (uint32_t)f->rcv_mss))
		f->rcv_edge = edge;
	wnd = ((uint32_t)(f->rcv_edge - f->rcv_end) + grain) >> f->rcv_wscale;
	return (uint16_t)MIN(wnd, 65535u);
}

static void tx_sack(const struct flow *f, struct wire_segment *w)
{
	struct reasm_piece piece[ARRAY_SIZE(w->sack)];

	w->sack_count = (uint8_t)reasm_sack(&f->ooo, f->ooo_piece, piece, f->flags & FLOW_TS ? 3 : ARRAY_SIZE(piece));
	for (unsigned i = 0; i < w->sack_count; i++) {
		w->sack[i].start = f->rcv_base + piece[i].start;
		w->sack[i].end = f->rcv_base + piece[i].end;
	}
}

/* Header of a segment at wire sequence @seq; takes the ACK along. */
static void tx_header(struct fast_thread *t, struct flow *f, struct wire_segment *w, uint32_t seq, uint8_t flags)
{
	*w = (struct wire_segment){
		.seq = seq,
		.ack = flow_rcv_nxt(f),
		.flags = flags | (f->flags & FLOW_ECE && !(flags & TCP_RST) ? TCP_ECE : 0),
		.window = tx_window(f),
		.has_ts = f->flags & FLOW_TS,
		.tsval = flow_ts_now(f, t->now_ns),
		.tsecr = f->ts_recent,
		.ip_id = f->ip_id++,
	};
	if (f->flags & FLOW_SACK && unlikely(!reasm_empty(&f->ooo)))
		tx_sack(f, w);
}

/* The copy from the ring at @off; the sum is that of what was written. */
static uint64_t tx_copy(struct fast_thread *t, struct flow *f, uint8_t *dst, uint64_t off, uint32_t len)
{
	const uint8_t *buf = t->apps[flow_tx_app(f)].a.buf + f->tx_off;
	uint32_t at = (uint32_t)off & (flow_tx_size(f) - 1), first = MIN(len, flow_tx_size(f) - at);

	if (likely(first == len))
		return csum_copy(0, dst, buf + at, len);
	memcpy(dst, buf + at, first);
	memcpy(dst + first, buf, len - first);
	return csum_add(0, dst, len);
}

/* Build and queue one segment with @len payload bytes at offset @off. False: no frame. */
static bool tx_segment(struct fast_thread *t, struct flow *f, struct wire_segment *w, uint64_t off, uint32_t len)
{
	uint8_t *frame = port_tx_begin(t->port);
	uint64_t sum = 0;
	uint32_t hdr;

	if (unlikely(!frame)) {
		thread_count(t, CNT_DROP_TX_FULL, 1);
		return false;
	}
	if (len)
		w->sack_count = 0; /* full-sized segments leave no room for options that vary */
	hdr = wire_header_len(&f->tmpl, w);
	if (len)
		sum = tx_copy(t, f, frame + hdr, off, len);
	wire_build(frame, &f->tmpl, w, len, sum);
	if (unlikely(t->capture))
		up_frame(t, UP_CAPTURE, f, frame, hdr + len, true);
	port_tx_commit(t->port, hdr + len);
	thread_count(t, CNT_TX_FRAMES, 1);
	if (!len)
		thread_count(t, CNT_ACK_SENT, 1);
	STATS_ADD(t->stats[f->id].segs_out, 1);
	STATS_ADD(t->stats[f->id].data_segs_out, len != 0);
	f->rcv_acked = w->ack;
	f->flags &= ~(FLOW_ACK_NOW | FLOW_DELACK);
	f->delack_ns = FLOW_TIMER_OFF;
	return true;
}

/* Sequence of a segment without data: SND.NXT, but within the peer's window, or it would not be looked at. */
static uint32_t tx_ack_seq(const struct flow *f)
{
	return flow_snd_una(f) + MIN(flow_in_flight(f), f->snd_wnd);
}

static bool tx_empty(struct fast_thread *t, struct flow *f, uint32_t seq, uint8_t flags)
{
	struct wire_segment w;

	tx_header(t, f, &w, seq, flags);
	return tx_segment(t, f, &w, 0, 0);
}

void tx_ack(struct fast_thread *t, struct flow *f)
{
	if (f->flags & (FLOW_MUTED | FLOW_DEAD))
		return;
	if (!tx_empty(t, f, tx_ack_seq(f), TCP_ACK)) {
		f->flags |= FLOW_ACK_NOW;
		flowset_add(&t->ready, f->id);
	}
}

/*
 * Nagle (RFC 9293 3.7.4) and cork: may the last, partial segment go? What was sent before and
 * what a FIN follows is never held. As Linux does (Minshall), only an unacknowledged segment that
 * was partial itself holds the next one: the end of a longer write leaves at once, and does not
 * wait for the peer's delayed ACK.
 */
static bool tx_small_unacked(const struct flow *f)
{
	uint32_t una = (uint32_t)f->snd_una;

	return seq_gt(f->small_end, una) && seq_leq(f->small_end, (uint32_t)f->snd_max);
}

static enum tx_why tx_partial(const struct flow *f)
{
	if (f->flags & FLOW_CLOSING || f->snd_nxt < f->snd_max)
		return TX_GO;
	if (f->opts & IPC_OPT_CORK && !(f->flags & FLOW_CORK_OVER))
		return TX_CORKED;
	if (!(f->opts & (IPC_OPT_NODELAY | IPC_OPT_CORK)) && tx_small_unacked(f))
		return TX_NAGLE;
	return TX_GO;
}

/*
 * The next segment at snd_nxt: what the peer's window, cwnd and sender's silly window
 * avoidance (RFC 9293 3.8.6.2.1) let go. Before recovery two more segments may follow
 * duplicate ACKs (RFC 3042); in recovery each stands for one that has left the network.
 */
static enum tx_why tx_plan(const struct flow *f, struct tx_plan *p)
{
	uint64_t left = f->snd_end - f->snd_nxt, used = f->snd_nxt - f->snd_una;
	uint64_t cwnd = f->cwnd + (f->flags & FLOW_LOSS ? 0 : (uint64_t)f->dupacks * f->mss);
	uint32_t len;
	enum tx_why why;

	if (f->snd_nxt > f->snd_end || (!left && !(f->flags & FLOW_CLOSING)))
		return TX_IDLE;
	len = (uint32_t)MIN(left, (uint64_t)f->mss);
	if (f->snd_wnd < used || (f->snd_wnd == used && len))
		return TX_WINDOW;
	if (f->snd_wnd - used < len) {
		len = (uint32_t)(f->snd_wnd - used);
		if (f->snd_max > f->snd_una && f->snd_nxt == f->snd_max && len < f->max_wnd / 2)
			return TX_WINDOW;
	}
	if (used && used + len > cwnd)
		return TX_CWND;
	if (len < f->mss && len == left && (why = tx_partial(f)) != TX_GO)
		return why;
	if (pacer_wait_ns(f))
		return TX_PACED;
	p->len = len;
	p->fin = f->flags & FLOW_CLOSING && len == left;
	return TX_GO;
}

/* Book-keeping of a segment that was queued. */
static void tx_sent(struct fast_thread *t, struct flow *f, uint64_t off, uint32_t len, bool fin)
{
	uint64_t end = off + len + fin;

	if (len)
		app_spoke(t, f);
	f->tokens -= f->rate_bps ? len : 0;
	if (off < f->snd_max) {
		f->flags &= ~FLOW_TIMED; /* Karn */
		thread_count(t, CNT_REXMIT_SEGMENTS, 1);
		STATS_ADD(t->stats[f->id].rexmit_segments, 1);
		f->rexmit_bytes += len; /* less what is new of it, see below */
	} else if (!(f->flags & FLOW_TIMED)) {
		f->flags |= FLOW_TIMED;
		f->timed_ns = t->now_ns;
		f->timed_end = (uint32_t)end;
	}
	if (end > f->snd_max) {
		uint64_t fresh = MIN(end, f->snd_end) - MIN(f->snd_max, f->snd_end);

		thread_count(t, CNT_TX_BYTES, fresh);
		STATS_ADD(t->stats[f->id].tx_bytes, fresh);
		f->rexmit_bytes -= off < f->snd_max ? fresh : 0;
		f->snd_max = end;
		if (len < f->mss)
			f->small_end = (uint32_t)end;
	}
	if (!f->rto_ns)
		f->rto_ns = t->now_ns + f->rtt.rto_us * NS_PER_US;
}

/* One data segment (or bare FIN) at @off. @fresh: never sent before: may be marked ECN-capable, carries CWR. */
static bool tx_data(struct fast_thread *t, struct flow *f, uint64_t off, uint32_t len, bool fin)
{
	bool fresh = off >= f->snd_max && !(f->flags & FLOW_PERSIST), last = off + len == f->snd_end;
	uint8_t flags = TCP_ACK | (last && len ? TCP_PSH : 0) | (fin ? TCP_FIN : 0);
	struct wire_segment w;

	tx_header(t, f, &w, f->snd_base + (uint32_t)off, flags);
	if (fresh && len && f->flags & FLOW_ECT)
		w.ecn = 2;
	if (fresh && len && f->flags & FLOW_CWR_NOW)
		w.flags |= TCP_CWR;
	if (!tx_segment(t, f, &w, off, len))
		return false;
	if (w.flags & TCP_CWR)
		f->flags &= ~FLOW_CWR_NOW;
	tx_sent(t, f, off, len, fin);
	return true;
}

/* Fast retransmit, partial ACK, unmuting: the segment at snd_una once more; snd_nxt stays. */
static bool tx_first(struct fast_thread *t, struct flow *f)
{
	uint64_t sent = MIN(f->snd_max, f->snd_end) - MIN(f->snd_una, f->snd_end);
	uint32_t most = MIN((uint32_t)f->mss, f->snd_wnd), len = (uint32_t)MIN(sent, (uint64_t)most);
	bool fin = f->snd_max > f->snd_end && f->snd_una + len == f->snd_end;

	if (!len && !fin)
		return true;
	if (!tx_data(t, f, f->snd_una, len, fin))
		return false;
	f->rto_ns = t->now_ns + f->rtt.rto_us * NS_PER_US;
	return true;
}

/* A probe of a closed window: the first byte after it, or the FIN. The answer is an ACK with the window. */
static bool tx_probe(struct fast_thread *t, struct flow *f)
{
	uint32_t len = f->snd_una < f->snd_end;
	bool fin = f->flags & FLOW_CLOSING && f->snd_una + len == f->snd_end;

	if ((!len && !fin) || f->snd_una > f->snd_end)
		return true;
	thread_count(t, CNT_PROBE_ZERO_WINDOW, 1);
	return tx_data(t, f, f->snd_una, len, fin);
}

/* What is flagged to be sent whatever the windows say. False: the ring is full. */
static bool tx_flagged(struct fast_thread *t, struct flow *f)
{
	if (f->flags & FLOW_RST_NOW) {
		if (!tx_empty(t, f, flow_snd_nxt(f), TCP_RST | TCP_ACK))
			return false;
		f->flags &= ~FLOW_RST_NOW;
	}
	if (f->flags & FLOW_KEEP_NOW) { /* RFC 9293 3.8.4: a sequence number that asks for an ACK */
		if (!(f->flags & FLOW_DEAD) && !tx_empty(t, f, flow_snd_una(f) - 1, TCP_ACK))
			return false;
		f->flags &= ~FLOW_KEEP_NOW;
	}
	if (f->flags & FLOW_REXMIT_NOW) {
		if (!tx_first(t, f))
			return false;
		f->flags &= ~FLOW_REXMIT_NOW;
	}
	if (f->flags & FLOW_PROBE_NOW) {
		if (!tx_probe(t, f))
			return false;
		f->flags &= ~FLOW_PROBE_NOW;
	}
	return true;
}

/* The flow stopped for @why: set the clock that starts it again. */
static void tx_stopped(struct fast_thread *t, struct flow *f, enum tx_why why)
{
	if (why == TX_IDLE) {
		f->flags &= ~FLOW_CORK_OVER;
		f->cork_ns = f->send_ns = 0;
	} else if (why == TX_CORKED) {
		if (!f->cork_ns)
			f->cork_ns = t->now_ns;
		f->send_ns = f->cork_ns + FAST_CORK_NS;
	} else if (why == TX_PACED) {
		f->send_ns = t->now_ns + pacer_wait_ns(f);
	} else if (why == TX_WINDOW && f->snd_max == f->snd_una && !(f->flags & FLOW_PERSIST)) {
		f->flags |= FLOW_PERSIST; /* nothing in flight will bring an ACK with the window */
		f->retries = 0;
		f->silent_ns = 0;
		f->rto_ns = t->now_ns + MIN(f->rtt.rto_us, FAST_PERSIST_MAX_US) * NS_PER_US;
	}
	if (why == TX_CWND || why == TX_PACED)
		STATS_SET(t->stats[f->id].limited_ns, t->now_ns);
}

bool tx_run(struct fast_thread *t, struct flow *f)
{
	enum tx_why why = TX_GO;
	struct tx_plan p;

	if (unlikely(f->flags & FLOW_LOCAL))
		return local_run(t, f);
	if (f->flags & FLOW_MUTED)
		return false;
	if (!tx_flagged(t, f))
		return true;
	if (f->flags & FLOW_DEAD)
		return false;
	pacer_update(t, f);
	for (uint32_t n = 0; n < FAST_TX_BURST && !(f->flags & FLOW_PERSIST); n++) {
		why = tx_plan(f, &p);
		if (why != TX_GO)
			break;
		if (!tx_data(t, f, f->snd_nxt, p.len, p.fin)) {
			why = TX_FULL;
			break;
		}
		f->snd_nxt += p.len + p.fin;
	}
	if (why != TX_GO && why != TX_FULL)
		tx_stopped(t, f, why);
	if (f->flags & FLOW_ACK_NOW && !tx_empty(t, f, tx_ack_seq(f), TCP_ACK))
		why = TX_FULL;
	thread_stats(t, f);
	if (unlikely(f->opts & IPC_OPT_LOWAT))
		app_sent(t, f);
	return why == TX_FULL || (why == TX_GO && !(f->flags & FLOW_PERSIST));
}

bool tx_frame(struct fast_thread *t, const uint8_t *data, uint32_t len)
{
	uint8_t *frame = len <= port_frame_size(t->port) ? port_tx_begin(t->port) : NULL;

	if (!frame) {
		thread_count(t, CNT_DROP_TX_FULL, 1);
		return false;
	}
	memcpy(frame, data, len);
	port_tx_commit(t->port, len);
	thread_count(t, CNT_TX_FRAMES, 1);
	return true;
}
