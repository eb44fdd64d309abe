/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A flow's clocks: retransmission (RFC 6298), persist (RFC 9293 3.8.6.1), keep-alive (3.8.4),
 * delayed ACK, cork and pacing. The wheel says which flows to look at; what is due is decided here. Fast
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

/*
 * How long the application lets the peer be silent (TCP_USER_TIMEOUT), 0: as long as the
 * service does. Any value is a good one.
 */
static uint64_t timer_user_ns(struct fast_thread *t, const struct flow *f)
{
	return atomic_load_explicit(&thread_tx_slot(t, f)->user_timeout_ms, memory_order_relaxed) * NS_PER_MS;
}

/* One more time-out in a row, or unanswered probe. Is it one too many? Else the next is due after the RTO, or sooner. */
static bool timer_too_many(struct fast_thread *t, struct flow *f, uint64_t most_us)
{
	uint64_t user_ns = timer_user_ns(t, f);

	if (f->retries < UINT8_MAX)
		f->retries++;
	if (!f->silent_ns)
		f->silent_ns = t->now_ns;
	if (user_ns ? t->now_ns - f->silent_ns >= user_ns : f->retries > t->cfg->max_retries) {
		flow_fail(t, f, ETIMEDOUT, false, true);
		return true;
	}
	rtt_backoff(&f->rtt);
	f->rto_ns = t->now_ns + MIN(f->rtt.rto_us, most_us) * NS_PER_US;
	if (user_ns)
		f->rto_ns = MIN(f->rto_ns, MAX(f->silent_ns + user_ns, t->now_ns + NS_PER_MS));
	return false;
}

/* The peer's window is closed: ask again, ever more rarely; give up only if the peer has stopped to answer. */
static void timer_persist(struct fast_thread *t, struct flow *f)
{
	if (f->snd_una >= f->snd_end + ((f->flags & FLOW_CLOSING) != 0)) {
		f->flags &= ~FLOW_PERSIST;
		f->rto_ns = FLOW_TIMER_OFF;
		return;
	}
	if (timer_too_many(t, f, FAST_PERSIST_MAX_US))
		return;
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
		f->silent_ns = 0;
		timer_persist(t, f);
		return;
	}
	if (!f->retries)
		f->silent_ns = 0;
	if (timer_too_many(t, f, UINT64_MAX))
		return;
	if (!(f->flags & FLOW_LOSS))
		f->ssthresh = MAX(MIN(in_flight, f->cwnd) / 2, 2u * f->mss);
	f->cwnd = f->mss;
	f->flags |= FLOW_LOSS;
	f->recover = (uint32_t)f->snd_max;
	thread_count(t, CNT_REXMIT_TIMEOUT, 1);
	STATS_ADD(t->stats[f->id].timeouts, 1);
	flowset_add(&t->ready, f->id);
}

static void keep_set(struct fast_thread *t, struct flow *f, uint64_t ns)
{
	f->keep_ns = ns;
	flowset_add(&t->keep, f->id);
	t->keep_due_ns = timer_earlier(t->keep_due_ns, ns);
}

void timer_keepalive(struct fast_thread *t, struct flow *f)
{
	struct ipc_slot *s = thread_tx_slot(t, f);
	uint64_t idle_ns = MAX(atomic_load_explicit(&s->keep_idle_s, memory_order_relaxed), 1u) * NS_PER_S;
	uint64_t intvl_ns = MAX(atomic_load_explicit(&s->keep_intvl_s, memory_order_relaxed), 1u) * NS_PER_S;
	uint32_t cnt = MAX(atomic_load_explicit(&s->keep_cnt, memory_order_relaxed), 1u);
	uint64_t heard_ns = MAX(f->active_ns, f->heard_ns), silent_ns = t->now_ns - MIN(heard_ns, t->now_ns);
	uint64_t user_ns = timer_user_ns(t, f);

	f->keep_ns = FLOW_TIMER_OFF;
	flowset_del(&t->keep, f->id);
	if (!(f->opts & IPC_OPT_KEEPALIVE) || f->flags & (FLOW_DEAD | FLOW_ORPHAN | FLOW_LOCAL) || flow_time_wait(f))
		return; /* the kernel sockets of a local flow keep each other alive */
	if (flow_in_flight(f) || f->snd_end > f->snd_max || silent_ns < idle_ns) {
		/* it lives, or other clocks will tell */
		keep_set(t, f, silent_ns < idle_ns ? heard_ns + idle_ns : t->now_ns + idle_ns);
		f->keep_probes = 0;
	} else if (user_ns ? f->keep_probes && silent_ns >= user_ns : f->keep_probes >= cnt) {
		flow_fail(t, f, ETIMEDOUT, true, true);
	} else {
		keep_set(t, f, t->now_ns + intvl_ns);
		f->keep_probes += f->keep_probes < UINT8_MAX;
		f->flags |= FLOW_KEEPALIVE | FLOW_KEEP_NOW;
		flowset_add(&t->ready, f->id);
	}
}

/* They run for seconds to hours, which is not for the wheel. */
static bool timer_keep_run(struct fast_thread *t)
{
	if (likely(!t->keep_due_ns || t->now_ns < t->keep_due_ns))
		return false;
	t->keep_due_ns = 0;
	for (uint32_t i = 0; (i = flowset_next(&t->keep, i)) != FLOWSET_NONE; i++) {
		struct flow *f = &t->flows[i];

		if (f->keep_ns <= t->now_ns)
			timer_keepalive(t, f);
		else
			t->keep_due_ns = timer_earlier(t->keep_due_ns, f->keep_ns);
	}
	if (t->keep_due_ns)
		t->keep_due_ns = MAX(t->keep_due_ns, t->now_ns + FAST_KEEP_NS);
	return true;
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
	bool kept = timer_keep_run(t);

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
	return n != 0 || kept;
}
