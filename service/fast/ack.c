/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The ACK field of a received segment: what the peer has (RFC 9293 3.10.7.4 fifth, RFC 5961
 * 5), duplicate ACKs and NewReno recovery (RFC 5681 3.2, RFC 6582), RTT samples (RFC 6298,
 * RFC 7323 4.1), and the send window. Called by fast_rx(). Fast thread; pure. Invariant:
 * snd_una never passes snd_max: an ACK of what was never sent changes nothing.
 */
#include "service/base/clock.h"
#include "service/fast/rx.h"
#include "service/tcp/seq.h"

#define DUPACKS 3
#define TS_RTT_MAX_MS (60u * 1000)

static void ack_rto_restart(struct flow *f, uint64_t now_ns)
{
	f->rto_ns = flow_in_flight(f) ? now_ns + f->rtt.rto_us * NS_PER_US : FLOW_TIMER_OFF;
}

/*
 * The timed segment gives the RTT in microseconds; after a retransmission only the echoed
 * timestamp can tell which copy was acknowledged (Karn), in milliseconds.
 */
static void ack_rtt(struct flow *f, const struct segment *s, const struct rx_env *env, struct rx_result *r)
{
	uint32_t una = (uint32_t)f->snd_una, ms;

	if ((f->flags & FLOW_TIMED) && seq_geq(una, f->timed_end)) {
		f->flags &= ~FLOW_TIMED;
		rtt_sample(&f->rtt, (uint32_t)MIN((env->now_ns - f->timed_ns) / NS_PER_US, (uint64_t)RTO_MAX_US),
			   env->min_rto_us);
		r->rtt = true;
	} else if ((f->flags & FLOW_TS) && (f->flags & (FLOW_LOSS | FLOW_RECOVERY)) && s->opt.tsecr) {
		ms = flow_ts_now(f, env->now_ns) - s->opt.tsecr;
		if (ms < TS_RTT_MAX_MS) {
			rtt_sample(&f->rtt, MAX(ms, 1u) * 1000, env->min_rto_us);
			r->rtt = true;
		}
	}
}

/* Growth between two control intervals: in slow start, or back to ssthresh after a time-out; if the window was used. */
static void ack_grow(struct flow *f, uint32_t acked, uint32_t in_flight)
{
	bool loss = f->cwnd < f->ssthresh && f->ssthresh != UINT32_MAX;

	if (f->flags & FLOW_RECOVERY || !(f->flags & FLOW_SLOW_START || loss))
		return;
	if (in_flight + f->mss < f->cwnd / 2)
		return;
	f->cwnd = MIN(f->cwnd + acked, 2 * flow_tx_size(f));
	if (loss && f->cwnd >= f->ssthresh) {
		f->cwnd = f->ssthresh;
		f->ssthresh = UINT32_MAX;
	}
}

/* RFC 6582 3.2 step 3: a partial ACK names the next hole. The inflation by duplicate ACKs shrinks by what was acked. */
static void ack_recovery(struct flow *f, uint32_t acked, struct rx_result *r)
{
	uint32_t segments = (acked + f->mss - 1) / f->mss;

	if (seq_geq((uint32_t)f->snd_una, f->recover)) {
		f->flags &= ~(FLOW_RECOVERY | FLOW_LOSS);
		f->dupacks = 0;
		return;
	}
	if (!(f->flags & FLOW_RECOVERY)) {
		f->dupacks = 0;
		return;
	}
	f->dupacks = segments < f->dupacks ? (uint8_t)(f->dupacks - segments + 1) : 1;
	r->action |= RX_FAST_REXMIT;
}

static void ack_advance(struct flow *f, const struct segment *s, uint32_t acked, const struct rx_env *env,
			struct rx_result *r)
{
	uint32_t in_flight = flow_in_flight(f);
	bool fin = f->flags & FLOW_CLOSING && f->snd_una + acked == f->snd_end + 1;

	f->snd_una += acked;
	f->last_acked = acked;
	if (f->snd_nxt < f->snd_una)
		f->snd_nxt = f->snd_una;
	f->retries = 0;
	rtt_reset(&f->rtt, env->min_rto_us);
	ack_rtt(f, s, env, r);
	if (f->flags & (FLOW_RECOVERY | FLOW_LOSS))
		ack_recovery(f, acked, r);
	else
		f->dupacks = 0;
	ack_grow(f, acked, in_flight);
	if (!(f->flags & FLOW_PERSIST))
		ack_rto_restart(f, env->now_ns);
	r->acked = acked - fin;
	r->action |= RX_ACKED | RX_SEND;
	if (fin && !(f->flags & FLOW_FIN_ACKED)) {
		f->flags |= FLOW_FIN_ACKED;
		r->action |= RX_FIN_ACKED;
	}
}

/*
 * RFC 5681 2: a duplicate ACK has no data, no SYN or FIN, the same window, and there is data
 * outstanding. With SACK the window may differ if a block above ACK shows that data arrived.
 */
static bool ack_is_duplicate(const struct flow *f, const struct segment *s, uint32_t wnd)
{
	bool sacked = f->flags & FLOW_SACK && s->opt.sack_count && seq_gt(s->opt.sack[0].end, s->ack) &&
		      seq_gt(s->opt.sack[0].start, s->ack);

	return !s->len && !(s->flags & (TCP_SYN | TCP_FIN)) && (wnd == f->snd_wnd || sacked) && f->snd_wnd &&
	       f->snd_max > f->snd_una;
}

static void ack_duplicate(struct flow *f, struct rx_result *r)
{
	/* after a time-out only what was sent since is thought to be in the network */
	uint32_t in_flight = f->flags & FLOW_LOSS ? (uint32_t)(f->snd_nxt - f->snd_una) : flow_in_flight(f);
	uint32_t flight = f->flags & FLOW_RECOVERY ? f->recover - (uint32_t)f->snd_una : in_flight;

	/* no more of them than segments were in flight: inflation cannot be forged */
	if (f->dupacks < UINT8_MAX && (uint32_t)f->dupacks * f->mss < flight + f->mss * DUPACKS)
		f->dupacks++;
	r->action |= RX_SEND;
	if (f->flags & FLOW_RECOVERY || f->dupacks != DUPACKS)
		return;
	/*
	 * RFC 6582 4.1: after a time-out, duplicate ACKs may only tell that segments were sent
	 * again for nothing; such a series follows an ACK that jumped far ahead.
	 */
	if (f->flags & FLOW_LOSS && (f->cwnd <= f->mss || f->last_acked > 4u * f->mss))
		return;
	f->flags |= FLOW_RECOVERY;
	f->flags &= ~(FLOW_TIMED | FLOW_LOSS);
	f->recover = (uint32_t)f->snd_max;
	f->cwnd = MAX(MIN(in_flight, f->cwnd) / 2, 2u * f->mss);
	f->ssthresh = UINT32_MAX;
	r->action |= RX_FAST_REXMIT;
	r->recovered = true;
}

static void ack_window(struct flow *f, const struct segment *s, bool advanced, uint32_t wnd, const struct rx_env *env,
		       struct rx_result *r)
{
	if (!advanced && !seq_gt(s->seq, f->snd_wl1) && !(s->seq == f->snd_wl1 && (wnd > f->snd_wnd || !wnd)))
		return;
	f->snd_wl1 = s->seq;
	if (wnd > f->snd_wnd)
		r->action |= RX_SEND;
	f->snd_wnd = wnd;
	f->max_wnd = MAX(f->max_wnd, wnd);
	if (wnd && f->flags & FLOW_PERSIST) {
		f->flags &= ~FLOW_PERSIST;
		f->retries = 0;
		f->snd_nxt = f->snd_una;
		rtt_reset(&f->rtt, env->min_rto_us);
		ack_rto_restart(f, env->now_ns);
	}
}

/* RFC 3168 6.1.2, once per window: tell the peer with CWR; the slow path learns from the marked bytes. */
static void ack_ece(struct flow *f, const struct segment *s, uint32_t acked, struct rx_result *r)
{
	if (!(f->flags & FLOW_ECN) || !(s->flags & TCP_ECE))
		return;
	r->ece = acked != 0;
	if (f->cwr_end - (uint32_t)f->snd_una - 1 < flow_in_flight(f))
		return;
	f->cwr_end = (uint32_t)f->snd_max;
	f->flags |= FLOW_CWR_NOW;
}

bool fast_rx_ack(struct flow *f, const struct segment *s, const struct rx_env *env, struct rx_result *r)
{
	uint32_t wnd = (uint32_t)s->window << f->snd_wscale;
	int32_t ahead = (int32_t)(s->ack - flow_snd_una(f));

	if ((ahead > 0 && (uint32_t)ahead > flow_in_flight(f)) || (ahead < 0 && -(int64_t)ahead > f->max_wnd)) {
		r->action = RX_CHALLENGE;
		r->counter = CNT_DROP_ACK;
		return false;
	}
	if (ahead < 0)
		return true; /* old, of use for its text only */
	if (f->flags & FLOW_PERSIST)
		f->retries = 0; /* the peer lives: probing goes on for ever */
	if (ahead > 0)
		ack_advance(f, s, (uint32_t)ahead, env, r);
	else if (ack_is_duplicate(f, s, wnd))
		ack_duplicate(f, r);
	ack_window(f, s, ahead > 0, wnd, env, r);
	ack_ece(f, s, (uint32_t)ahead, r);
	return true;
}
