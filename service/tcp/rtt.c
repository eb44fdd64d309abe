/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * RFC 6298, in microseconds, with the RFC's gains (alpha 1/8, beta 1/4, K 4). Called by the
 * fast path when an ACK covers a timed segment. Pure. Invariant: min_rto_us <= rto_us <= RTO_MAX_US.
 */
#include "service/tcp/rtt.h"

#include "service/base/compiler.h"

void rtt_reset(struct rtt *r, uint32_t min_rto_us)
{
	uint64_t rto = RTO_INITIAL_US;

	/* As Linux does, the minimum is a floor for 4 * RTTVAR, not for the sum. */
	if (r->srtt_us)
		rto = (uint64_t)r->srtt_us + MAX(min_rto_us, 4ull * r->rttvar_us);
	r->rto_us = (uint32_t)MIN(MAX(rto, min_rto_us), (uint64_t)RTO_MAX_US);
}

void rtt_init(struct rtt *r, uint32_t srtt_us, uint32_t rttvar_us, uint32_t min_rto_us)
{
	r->srtt_us = MIN(srtt_us, RTO_MAX_US);
	r->rttvar_us = MIN(rttvar_us, RTO_MAX_US);
	r->min_us = r->srtt_us;
	rtt_reset(r, min_rto_us);
}

void rtt_sample(struct rtt *r, uint32_t sample_us, uint32_t min_rto_us)
{
	int64_t err;

	sample_us = MIN(MAX(sample_us, 1u), RTO_MAX_US);
	if (!r->min_us || sample_us < r->min_us)
		r->min_us = sample_us;
	if (!r->srtt_us) { /* (2.2) */
		r->srtt_us = sample_us;
		r->rttvar_us = sample_us / 2;
	} else { /* (2.3) */
		err = (int64_t)sample_us - r->srtt_us;
		r->rttvar_us = (uint32_t)((3ull * r->rttvar_us + (uint64_t)(err < 0 ? -err : err)) / 4);
		r->srtt_us = MAX((uint32_t)((int64_t)r->srtt_us + err / 8), 1u);
	}
	rtt_reset(r, min_rto_us);
}

void rtt_backoff(struct rtt *r)
{
	r->rto_us = r->rto_us > RTO_MAX_US / 2 ? RTO_MAX_US : r->rto_us * 2;
}
