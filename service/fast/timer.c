/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A flow's clocks: retransmission (RFC 6298), persist (RFC 9293 3.8.6.1), delayed ACK, cork
 * and pacing. The wheel says which flows to look at; what is due is decided here. Fast
 * thread. Invariant: a flow with a clock that runs is registered in the wheel at or before
 * its earliest deadline.
 */
#include <errno.h>

#include "service/base/clock.h"
#include "service/fast/thread.h"

static uint64_t timer_earlier(uint64_t a, uint64_t b)
{
	return !a ? b : !b ? a : MIN(a, b);
}

void timer_arm(struct fast_thread *t, struct flow *f)
{
	uint64_t due = timer_earlier(f->rto_ns, timer_earlier(f->delack_ns, f->send_ns)), tick;

	if (!due)
		return;
	tick = (due + NS_PER_MS - 1) / NS_PER_MS;
	if (!f->wheel_tick || tick < f->wheel_tick)
		f->wheel_tick = wheel_set(&t->wheel, f->id, tick);
}

/* The peer's window is closed: ask again, ever more rarely; give up only if the peer has stopped to answer. */
static void timer_persist(struct fast_thread *t, struct flow *f)
{
	if (f->snd_una >= f->snd_end + ((f->flags & FLOW_CLOSING) != 0)) {
		f->flags &= ~FLOW_PERSIST;
		f->rto_ns = FLOW_TIMER_OFF;
		return;
	}
	if (++f->retries > t->cfg->max_retries) {
		flow_fail(t, f, ETIMEDOUT, false, true);
		return;
	}
	rtt_backoff(&f->rtt);
	f->rto_ns = t->now_ns + MIN(f->rtt.rto_us, FAST_PERSIST_MAX_US) * NS_PER_US;
	f->flags |= FLOW_PROBE_NOW;
	flowset_add(&t->ready, f->id);
}

/* RFC 6298 5.4 to 5.6, RFC 5681 3.1: one segment, go back to snd_una, double the time-out. */
static void timer_rto(struct fast_thread *t, struct flow *f)
{
	uint32_t in_flight = flow_in_flight(f);

	f->rto_ns = FLOW_TIMER_OFF;
	if (!in_flight)
		return;
	f->snd_nxt = f->snd_una;
	f->flags &= ~(FLOW_RECOVERY | FLOW_TIMED | FLOW_REXMIT_NOW);
	f->dupacks = 0;
	if (!f->snd_wnd) {
		f->flags |= FLOW_PERSIST;
		f->retries = 0;
		timer_persist(t, f);
		return;
	}
	if (++f->retries > t->cfg->max_retries) {
		flow_fail(t, f, ETIMEDOUT, false, true);
		return;
	}
	if (!(f->flags & FLOW_LOSS))
		f->ssthresh = MAX(MIN(in_flight, f->cwnd) / 2, 2u * f->mss);
	f->cwnd = f->mss;
	f->flags |= FLOW_LOSS;
	f->recover = (uint32_t)f->snd_max;
	rtt_backoff(&f->rtt);
	f->rto_ns = t->now_ns + f->rtt.rto_us * NS_PER_US;
	thread_count(t, CNT_REXMIT_TIMEOUT, 1);
	STATS_ADD(t->stats[f->id].timeouts, 1);
	flowset_add(&t->ready, f->id);
}

static void timer_expire(struct fast_thread *t, struct flow *f)
{
	if (f->delack_ns && f->delack_ns <= t->now_ns) {
		f->delack_ns = FLOW_TIMER_OFF;
		f->flags |= FLOW_ACK_NOW;
		flowset_add(&t->ready, f->id);
	}
	if (f->send_ns && f->send_ns <= t->now_ns) {
		f->send_ns = FLOW_TIMER_OFF;
		if (f->cork_ns && t->now_ns - f->cork_ns >= FAST_CORK_NS)
			f->flags |= FLOW_CORK_OVER;
		flowset_add(&t->ready, f->id);
	}
	if (f->rto_ns && f->rto_ns <= t->now_ns) {
		if (f->flags & FLOW_PERSIST)
			timer_persist(t, f);
		else
			timer_rto(t, f);
	}
}

bool timer_run(struct fast_thread *t)
{
	uint32_t ids[FAST_TIMER_BATCH], n;
	uint64_t tick = t->now_ns / NS_PER_MS;

	n = wheel_take(&t->wheel, tick, ids, FAST_TIMER_BATCH);
	for (uint32_t i = 0; i < n; i++) {
		struct flow *f = &t->flows[ids[i]];

		if (!flowset_has(&t->owned, ids[i]))
			continue; /* a bit from before the flow was removed */
		if (f->wheel_tick && f->wheel_tick <= tick)
			f->wheel_tick = 0;
		if (f->flags & FLOW_DEAD)
			continue;
		timer_expire(t, f);
		timer_arm(t, f);
	}
	return n != 0;
}
