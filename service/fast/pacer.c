/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much a flow may send: the limits of the slow path's congestion control (cap of bytes
 * in flight, rate) and the token bucket that enforces the rate. Asked by the transmitter
 * before each burst. Fast thread. Invariant: in any time T a paced flow sends at most
 * rate * T + burst + one segment.
 */
#include "service/base/clock.h"
#include "service/fast/thread.h"

/* Two segments, or what the rate gives in a millisecond (the wheel's resolution). */
static int64_t pacer_burst(const struct flow *f)
{
	return (int64_t)MAX(2ull * f->mss, f->rate_bps / 1000);
}

static void pacer_limits(struct fast_thread *t, struct flow *f)
{
	struct flow_limits *l = &t->limits[f->id];
	/* pairs with the release of gen by the slow path, stored after the rest */
	uint32_t gen = atomic_load_explicit(&l->gen, memory_order_acquire), cwnd;
	uint64_t rate;
	bool slow_start;

	if (gen == f->limits_gen)
		return;
	cwnd = MAX(atomic_load_explicit(&l->cwnd_bytes, memory_order_relaxed), (uint32_t)f->mss);
	rate = MIN(atomic_load_explicit(&l->rate_bps, memory_order_relaxed), (uint64_t)10 * NS_PER_S);
	slow_start = atomic_load_explicit(&l->slow_start, memory_order_relaxed);
	/* In slow start the fast path may be ahead; during recovery it may not be overruled upwards. */
	if (f->flags & FLOW_RECOVERY)
		f->cwnd = MIN(f->cwnd, cwnd);
	else
		f->cwnd = slow_start && !(f->flags & FLOW_LOSS) ? MAX(f->cwnd, cwnd) : cwnd;
	f->ssthresh = UINT32_MAX;
	f->flags = slow_start ? f->flags | FLOW_SLOW_START : f->flags & ~FLOW_SLOW_START;
	if (rate && !f->rate_bps) {
		f->token_ns = t->now_ns;
		f->tokens = 2 * f->mss;
	}
	f->rate_bps = rate;
	f->limits_gen = gen;
}

void pacer_update(struct fast_thread *t, struct flow *f)
{
	uint64_t dt, add;

	pacer_limits(t, f);
	if (!f->rate_bps)
		return;
	dt = MIN(t->now_ns - f->token_ns, NS_PER_S);
	add = f->rate_bps * dt / NS_PER_S; /* rate_bps <= 10^10, dt <= 10^9 */
	if (!add)
		return;
	f->tokens = MIN(f->tokens + (int64_t)add, pacer_burst(f));
	f->token_ns = t->now_ns;
}

uint64_t pacer_wait_ns(const struct flow *f)
{
	if (!f->rate_bps || f->tokens > 0)
		return 0;
	return (uint64_t)(1 - f->tokens) * NS_PER_S / f->rate_bps + 1;
}
