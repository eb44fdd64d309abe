/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * DCTCP on rates: the congestion control that FlexTCP runs outside the data path. The fast
 * path paces a flow at the rate set here; once per interval the rate falls in proportion to
 * the smoothed fraction of bytes acknowledged with ECE (RFC 8257's alpha), is halved on loss,
 * and otherwise doubles (slow start) or grows by a constant step.
 *
 * The rate may not run away from what the flow really sends: while the network limits the
 * flow it is at most 1.2 times the delivery rate; while the application limits it, it stands
 * still. Slow path only; pure. Invariant: min_rate_bps <= rate_bps <= max_rate_bps.
 */
#include "service/base/clock.h"
#include "service/base/compiler.h"
#include "service/tcp/cc.h"

/* Bytes in flight: twice what the rate fills in a round trip, so that the rate is what limits. */
static uint32_t dctcp_cwnd(const struct cc_state *s, const struct cc_config *cfg, uint32_t srtt_us, uint32_t mss)
{
	uint64_t bytes = s->lim.rate_bps / 1000000 * 2 * MAX(srtt_us, 100u);

	bytes = MAX(bytes, (uint64_t)cfg->init_cwnd_segments * mss);
	return (uint32_t)MIN(bytes, (uint64_t)1 << 30);
}

static void dctcp_init(struct cc_state *s, const struct cc_config *cfg, uint32_t mss, uint32_t cwnd_bytes)
{
	*s = (struct cc_state){.slow_start = true};
	s->lim.rate_bps = cfg->init_rate_bps;
	s->lim.cwnd_bytes = MAX(cwnd_bytes, cfg->init_cwnd_segments * mss);
}

static void dctcp_avoid(struct cc_state *s, const struct cc_config *cfg, const struct cc_sample *m)
{
	double frac = m->acked_bytes ? (double)m->ecn_bytes / (double)m->acked_bytes : 0;

	s->ecn_frac += cfg->ecn_weight * (MIN(frac, 1.0) - s->ecn_frac);
	if (m->fast_rexmits || m->timeouts)
		s->lim.rate_bps /= 2;
	else if (m->ecn_bytes)
		s->lim.rate_bps = (uint64_t)((double)s->lim.rate_bps * (1 - s->ecn_frac / 2));
	else if (m->acked_bytes && !m->app_limited)
		s->lim.rate_bps += cfg->additive_bps;
}

static void dctcp_update(struct cc_state *s, const struct cc_config *cfg, const struct cc_sample *m)
{
	uint64_t act;

	if (m->interval_ns == 0)
		return;
	act = (uint64_t)((double)m->acked_bytes * (double)NS_PER_S / (double)m->interval_ns);
	s->act_rate_bps = (7 * s->act_rate_bps + act) / 8;
	act = MAX(act, s->act_rate_bps);
	if (!m->app_limited && m->acked_bytes)
		s->lim.rate_bps = MIN(s->lim.rate_bps, act + act / 5);
	if (s->slow_start && (m->fast_rexmits || m->timeouts || m->ecn_bytes)) {
		s->slow_start = false;
		s->ecn_frac = m->ecn_bytes ? 1 : 0; /* RFC 8257 4.2: be conservative at first */
	}
	if (!s->slow_start)
		dctcp_avoid(s, cfg, m);
	else if (m->acked_bytes && !m->app_limited)
		s->lim.rate_bps *= 2;
	s->lim.rate_bps = MIN(MAX(s->lim.rate_bps, cfg->min_rate_bps), cfg->max_rate_bps);
	s->lim.cwnd_bytes = dctcp_cwnd(s, cfg, m->srtt_us, m->mss);
	s->lim.slow_start = false; /* the rate limits; the fast path leaves the cap alone */
}

const struct cc_ops cc_dctcp = {
	.name = "dctcp",
	.ecn = true,
	.init = dctcp_init,
	.update = dctcp_update,
};
