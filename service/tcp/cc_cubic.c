/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * CUBIC (RFC 9438) per control interval. Windows in bytes; the curve in segments and
 * seconds, as in the RFC:
 *
 *   W_cubic(t) = C (t - K)^3 + W_max,  K = cbrt((W_max - cwnd_epoch) / C)
 *
 * with the Reno-friendly estimate beside it and fast convergence. Slow path only; pure.
 * Invariant: cwnd_bytes >= one segment; epoch_ns is 0 outside congestion avoidance.
 */
#include "service/base/clock.h"
#include "service/base/compiler.h"
#include "service/tcp/cc.h"

#define CUBIC_C 0.4
#define CUBIC_BETA 0.7
#define CWND_MAX (1u << 30)

/* Newton's iteration: spares the whole service libm. @x >= 0. */
static double cubic_root(double x)
{
	double y = x > 1 ? x : 1;

	if (x <= 0)
		return 0;
	for (int i = 0; i < 100; i++) {
		double next = (2 * y + x / (y * y)) / 3;

		if (y - next < 1e-9 * y && next - y < 1e-9 * y)
			break;
		y = next;
	}
	return y;
}

static void cubic_init(struct cc_state *s, const struct cc_config *cfg, uint32_t mss, uint32_t cwnd_bytes)
{
	*s = (struct cc_state){.slow_start = true, .ssthresh_bytes = CWND_MAX};
	s->lim.cwnd_bytes = MAX(cwnd_bytes, cfg->init_cwnd_segments * mss);
	s->lim.slow_start = true;
}

/* A congestion event (4.6, 4.7), or a time-out (4.8). */
static void cubic_decrease(struct cc_state *s, const struct cc_sample *m, uint32_t mss)
{
	double w = (double)s->lim.cwnd_bytes / mss;

	s->w_max = w < s->w_max ? w * (1 + CUBIC_BETA) / 2 : w;
	s->ssthresh_bytes = (uint32_t)MAX((double)s->lim.cwnd_bytes * CUBIC_BETA, 2.0 * mss);
	s->lim.cwnd_bytes = m->timeouts ? mss : s->ssthresh_bytes;
	s->epoch_ns = 0;
}

static void cubic_epoch(struct cc_state *s, uint64_t now_ns, double w)
{
	s->epoch_ns = now_ns ? now_ns : 1;
	s->w_est = w;
	if (w < s->w_max) {
		s->k = cubic_root((s->w_max - w) / CUBIC_C);
	} else {
		s->k = 0;
		s->w_max = w;
	}
}

static void cubic_avoid(struct cc_state *s, const struct cc_sample *m, uint32_t mss)
{
	const double reno_alpha = 3 * (1 - CUBIC_BETA) / (1 + CUBIC_BETA);
	double w = (double)s->lim.cwnd_bytes / mss, acked = (double)m->acked_bytes / mss, t, target;

	if (!s->epoch_ns)
		cubic_epoch(s, m->now_ns, w);
	t = (double)(m->now_ns - s->epoch_ns) / 1e9 + (double)m->srtt_us / 1e6 - s->k;
	target = s->w_max + CUBIC_C * t * t * t;
	target = MIN(MAX(target, w), 1.5 * w);
	s->w_est += (s->w_est < s->w_max ? reno_alpha : 1.0) * acked / w;
	/* (target - cwnd) / cwnd per segment acknowledged, summed over the interval; never past the target */
	w = MIN(w + (target - w) * acked / w, target);
	w = MIN(MAX(w, s->w_est), (double)CWND_MAX / mss);
	s->lim.cwnd_bytes = (uint32_t)(w * mss);
}

static void cubic_update(struct cc_state *s, const struct cc_config *cfg, const struct cc_sample *m)
{
	uint32_t mss = MAX(m->mss, 1u);

	(void)cfg;
	s->lim.cwnd_bytes = MAX(s->lim.cwnd_bytes, mss);
	if (m->fast_rexmits || m->timeouts || m->ecn_bytes) {
		cubic_decrease(s, m, mss);
	} else if (m->app_limited) {
		/* An idle time is no time of growth: the curve goes on from where it stood (5.8). */
		if (s->epoch_ns)
			s->epoch_ns += MIN(m->interval_ns, m->now_ns - s->epoch_ns);
	} else if (s->lim.cwnd_bytes < s->ssthresh_bytes) {
		uint64_t w = (uint64_t)s->lim.cwnd_bytes + m->acked_bytes;

		s->lim.cwnd_bytes = (uint32_t)MIN(w, (uint64_t)s->ssthresh_bytes);
	} else if (m->acked_bytes) {
		cubic_avoid(s, m, mss);
	}
	s->lim.cwnd_bytes = MIN(MAX(s->lim.cwnd_bytes, mss), CWND_MAX);
	s->slow_start = s->lim.slow_start = s->lim.cwnd_bytes < s->ssthresh_bytes;
	s->lim.rate_bps = 0;
}

const struct cc_ops cc_cubic = {.name = "cubic", .init = cubic_init, .update = cubic_update};
