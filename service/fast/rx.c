/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A segment arrives at a FAST flow: RFC 9293 3.10.7.4 "otherwise" (synchronized states), in
 * its order: sequence number, RST, SYN, ACK (ack.c), URG, text, FIN, with the tests that RFC
 * 5961 and RFC 7323 put in. After flow_table, before the copy of the payload. Fast thread;
 * pure. Invariants: a segment that fails a test changes nothing but the challenge limit;
 * RCV.NXT never passes what is stored, nor the advertised window, nor the buffer.
 */
#include "service/fast/rx.h"

#include "service/base/clock.h"
#include "service/tcp/seq.h"

#define CHALLENGE_NS (500 * NS_PER_MS)
#define PAWS_IDLE_S (24u * 24 * 3600) /* RFC 7323 5.5: a TS.Recent older than this is void */

bool fast_challenge_ok(struct flow *f, uint64_t now_ns)
{
	if (f->challenge_ns && now_ns - f->challenge_ns < CHALLENGE_NS)
		return false;
	f->challenge_ns = now_ns;
	return true;
}

static void rx_drop(struct rx_result *r, uint32_t action, enum counter_id counter)
{
	r->action = action;
	r->counter = counter;
}

/* Where the peer may send to: the advertised edge, with what rounding up the window field has added. */
static uint32_t rx_wnd(const struct flow *f)
{
	uint64_t wnd = f->rcv_edge - f->rcv_end;

	return (uint32_t)MIN(wnd + flow_wnd_grain(f), (uint64_t)flow_rx_room(f));
}

/*
 * First, the sequence number. The RFC's table, with two allowances that Linux makes too: an
 * empty segment (or one that brings a FIN or a byte of probe) at the right edge itself, as
 * sent by a peer whose data before it was lost, or who probes a zero window.
 */
static bool rx_acceptable(const struct flow *f, const struct segment *s)
{
	uint32_t nxt = flow_rcv_nxt(f), len = s->len + ((s->flags & TCP_FIN) != 0) + ((s->flags & TCP_SYN) != 0);

	if (seq_gt(s->seq, nxt + rx_wnd(f)))
		return false;
	return len ? seq_gt(s->seq + len, nxt) : seq_geq(s->seq, nxt);
}

/* A TS.Recent of 0 is none, as in Linux: a socket that was rebuilt knows none until the peer's next segment in order. */
static bool rx_paws_fails(const struct flow *f, const struct segment *s, uint64_t now_ns)
{
	if (!f->ts_recent || seq_geq(s->opt.tsval, f->ts_recent))
		return false;
	return (uint32_t)(now_ns / NS_PER_S) - f->ts_recent_s < PAWS_IDLE_S;
}

/* RFC 7323 4.3: the TSval of the segment that spans Last.ACK.sent. */
static void rx_ts_recent(struct flow *f, const struct segment *s, uint64_t now_ns)
{
	if (!(f->flags & FLOW_TS) || seq_gt(s->seq, f->rcv_acked))
		return;
	f->ts_recent = s->opt.tsval;
	f->ts_recent_s = (uint32_t)(now_ns / NS_PER_S);
}

/*
 * RFC 7323 5.3 R1, then the acceptability test. An unacceptable segment draws an ACK: at
 * once if it has data (the peer lacks an ACK), else at a limited rate (it may be an ACK of
 * an ACK). Returns false if the segment goes no further.
 * Data that we have come again when the ACK of them was lost. The next one echoes this segment's TSval, not that of
 * the first: the peer would take the time between the two for the round-trip time, and its time-outs would grow with
 * each ACK that is lost. Linux does the same for the segment that it acknowledged last.
 */
static bool rx_sequence(struct flow *f, const struct segment *s, uint64_t now_ns, struct rx_result *r)
{
	bool rst = s->flags & TCP_RST, paws = false;

	if ((f->flags & FLOW_TS) && !rst) {
		if (!s->opt.has_ts) {
			rx_drop(r, 0, CNT_DROP_PAWS); /* 3.2: silently */
			return false;
		}
		paws = rx_paws_fails(f, s, now_ns);
	}
	if (!paws && rx_acceptable(f, s))
		return true;
	if (rst) {
		rx_drop(r, 0, CNT_DROP_WINDOW);
	} else if (s->flags & TCP_SYN) {
		rx_drop(r, flow_time_wait(f) ? RX_UP_RARE : RX_CHALLENGE, CNT_DROP_WINDOW);
	} else {
		bool old = seq_lt(s->seq, flow_rcv_nxt(f)) && (s->len || s->flags & TCP_FIN);

		if (old && !paws)
			rx_ts_recent(f, s, now_ns);
		rx_drop(r, old || s->len ? RX_ACK_DUP : RX_CHALLENGE,
			paws  ? CNT_DROP_PAWS
			: old ? CNT_RX_DUP
			      : CNT_DROP_WINDOW);
	}
	return false;
}

/* Second and fourth: RST and SYN within the window (RFC 5961 3.2, 4.2). */
static bool rx_control(struct flow *f, const struct segment *s, struct rx_result *r)
{
	if (s->flags & TCP_RST) {
		if (s->seq == flow_rcv_nxt(f))
			rx_drop(r, RX_UP_RARE, CNT_COUNT);
		else
			rx_drop(r, RX_CHALLENGE, CNT_DROP_WINDOW);
		return false;
	}
	if (s->flags & TCP_SYN) {
		rx_drop(r, flow_time_wait(f) ? RX_UP_RARE : RX_CHALLENGE, CNT_DROP_WINDOW);
		return false;
	}
	if (!(s->flags & TCP_ACK)) {
		rx_drop(r, 0, CNT_DROP_ACK);
		return false;
	}
	return true;
}

/*
 * Sixth, the URG bit. Only Linux's socket has urgent data, and a signal for them. A pointer to
 * what was received already says nothing; it may name the byte itself or the one after it
 * (tcp_stdurg).
 */
static bool rx_urgent(const struct flow *f, const struct segment *s)
{
	return s->flags & TCP_URG && !(f->flags & (FLOW_FIN_RCVD | FLOW_ORPHAN)) &&
	       seq_geq(s->seq + s->urgent, flow_rcv_nxt(f));
}

/* RFC 3168 6.1.3: ECE until CWR; or, for DCTCP, ECE as the last segment said. */
static void rx_ecn(struct flow *f, const struct segment *s, struct rx_result *r)
{
	bool ce = s->ecn == 3;

	if (!(f->flags & FLOW_ECN) || !s->len)
		return;
	if (f->flags & FLOW_ECT) {
		if (ce != ((f->flags & FLOW_ECE) != 0))
			r->action |= RX_ACK;
		f->flags = ce ? f->flags | FLOW_ECE : f->flags & ~FLOW_ECE;
		return;
	}
	if (s->flags & TCP_CWR)
		f->flags &= ~FLOW_ECE;
	if (ce && !(f->flags & FLOW_ECE)) {
		f->flags |= FLOW_ECE;
		r->action |= RX_ACK;
	}
}

static void rx_store(struct flow *f, const struct segment *s, const struct reasm_result *a, struct rx_result *r)
{
	uint32_t seq_off = s->seq - f->rcv_base; /* low half of the segment's offset */

	for (unsigned i = 0; i < a->stores; i++) {
		const struct reasm_piece *p = &a->store[i];

		r->store[r->stores++] = (struct rx_store){
			.offset = f->rcv_end + (uint32_t)(p->start - (uint32_t)f->rcv_end),
			.skip = p->start - seq_off,
			.len = p->end - p->start,
		};
	}
	if (a->stores)
		r->action |= RX_STORE;
}

/*
 * When to acknowledge (RFC 5681 4.2, RFC 9293 3.8.6.3): at once for a gap and for what fills
 * one, and when two full-sized segments are waiting; else within delack_ns.
 */
static void rx_ack_policy(struct flow *f, const struct reasm_result *a, const struct rx_env *env, struct rx_result *r)
{
	uint32_t waiting = flow_rcv_nxt(f) - f->rcv_acked;

	if (!r->delivered) {
		r->action |= RX_ACK_DUP;
	} else if (a->filled || waiting >= 2u * f->rcv_mss || (f->opts & IPC_OPT_QUICKACK)) {
		r->action |= RX_ACK;
	} else if (!(f->flags & FLOW_DELACK)) {
		f->flags |= FLOW_DELACK;
		f->delack_ns = env->now_ns + env->delack_ns;
	}
}

/* Seventh: the text. @end: offset (low half) where what may be taken ends. */
static void rx_text(struct flow *f, const struct segment *s, const struct rx_env *env, struct rx_result *r)
{
	uint32_t next = (uint32_t)f->rcv_end, start = s->seq - f->rcv_base, end = start + s->len;
	uint32_t edge = next + rx_wnd(f);
	struct reasm_result a;

	f->rcv_mss = (uint16_t)MAX((uint32_t)f->rcv_mss, MIN(s->len, 65535u));
	if (seq_gt(end, edge))
		end = edge;
	if (seq_leq(end, start) || seq_leq(end, next)) { /* a probe of a closed window, or no room */
		r->action |= RX_ACK_DUP;
		r->counter = seq_leq(start + s->len, next) ? CNT_RX_DUP : CNT_DROP_BUFFER;
		return;
	}
	reasm_segment(&f->ooo, f->ooo_piece, next, start, end, &a);
	rx_store(f, s, &a, r);
	if (a.refused)
		r->counter = CNT_DROP_OOO;
	else if (a.ooo)
		r->counter = CNT_RX_OOO;
	r->delivered = a.next - next;
	f->rcv_end += r->delivered;
	f->rcv_edge = MAX(f->rcv_edge, f->rcv_end); /* what rounding up the window field had added was used */
	if (r->delivered)
		r->action |= RX_NOTIFY;
	rx_ack_policy(f, &a, env, r);
}

/* Eighth: FIN, taken only when all before it has been. */
static void rx_fin(struct flow *f, const struct segment *s, struct rx_result *r)
{
	if (!(s->flags & TCP_FIN) || (f->flags & FLOW_FIN_RCVD))
		return;
	if (s->seq + s->len != flow_rcv_nxt(f)) {
		r->action |= RX_ACK_DUP;
		return;
	}
	f->flags |= FLOW_FIN_RCVD;
	r->action |= RX_ACK | RX_NOTIFY | RX_FIN_RCVD;
}

void fast_rx(struct flow *f, const struct segment *s, const struct rx_env *env, struct rx_result *r)
{
	*r = (struct rx_result){.counter = CNT_COUNT};
	if (!rx_sequence(f, s, env->now_ns, r) || !rx_control(f, s, r))
		return;
	rx_ts_recent(f, s, env->now_ns);
	if (!fast_rx_ack(f, s, env, r))
		return;
	if (s->len && (f->flags & FLOW_ORPHAN)) { /* RFC 9293 3.6.1: data for nobody */
		r->action |= RX_RESET;
		return;
	}
	if (rx_urgent(f, s)) {
		r->action |= RX_URGENT;
		return;
	}
	rx_ecn(f, s, r);
	if (s->len && !(f->flags & FLOW_FIN_RCVD))
		rx_text(f, s, env, r);
	rx_fin(f, s, r);
}
