/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RFC 5681 per control interval: slow start to ssthresh, then one segment per window
 * acknowledged; half on fast retransmit or ECE, one segment on a time-out. The window grows
 * only if the flow used it. Slow path only; pure. Invariant: cwnd_bytes >= one segment.
 */
#include "service/base/compiler.h"
#include "service/tcp/cc.h"

#define CWND_MAX (1u << 30)

static void reno_init(struct cc_state *s, const struct cc_config *cfg, uint32_t mss, uint32_t cwnd_bytes)
{
	*s = (struct cc_state){.slow_start = true, .ssthresh_bytes = CWND_MAX};
	s->lim.cwnd_bytes = MAX(cwnd_bytes, cfg->init_cwnd_segments * mss);
	s->lim.slow_start = true;
}

static void reno_update(struct cc_state *s, const struct cc_config *cfg, const struct cc_sample *m)
{
	uint64_t cwnd = s->lim.cwnd_bytes;
	uint32_t mss = MAX(m->mss, 1u);

	(void)cfg;
	if (m->fast_rexmits || m->timeouts || m->ecn_bytes) {
		s->ssthresh_bytes = (uint32_t)MAX(cwnd / 2, 2ull * mss);
		cwnd = m->timeouts ? mss : s->ssthresh_bytes;
	} else if (!m->app_limited && cwnd < s->ssthresh_bytes) {
		cwnd = MIN(cwnd + m->acked_bytes, (uint64_t)s->ssthresh_bytes);
	} else if (!m->app_limited) {
		cwnd += m->acked_bytes * mss / MAX(cwnd, (uint64_t)mss);
	}
	s->lim.cwnd_bytes = (uint32_t)MIN(MAX(cwnd, (uint64_t)mss), (uint64_t)CWND_MAX);
	s->slow_start = s->lim.slow_start = s->lim.cwnd_bytes < s->ssthresh_bytes;
	s->lim.rate_bps = 0;
}

const struct cc_ops cc_reno = {.name = "reno", .init = reno_init, .update = reno_update};
