/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Round-trip time and retransmission time-out of one connection (RFC 6298). Pure arithmetic. */
#ifndef SERVICE_TCP_RTT_H
#define SERVICE_TCP_RTT_H

#include <stdint.h>

#define RTO_INITIAL_US 1000000u /* RFC 6298 (2.1) */
#define RTO_MAX_US 120000000u   /* RFC 6298 (2.5) allows any bound from 60 s on; this is Linux's */

struct rtt {
	uint32_t srtt_us; /* 0: no sample yet */
	uint32_t rttvar_us;
	uint32_t min_us; /* least sample, 0: none */
	uint32_t rto_us; /* with the backoff in it */
};

/* @srtt_us 0: nothing known yet. */
void rtt_init(struct rtt *r, uint32_t srtt_us, uint32_t rttvar_us, uint32_t min_rto_us);
/* A measurement of a segment that was sent once, or one told apart by its timestamp (Karn). Ends a backoff. */
void rtt_sample(struct rtt *r, uint32_t sample_us, uint32_t min_rto_us);
/* The timer expired: double it (5.5). */
void rtt_backoff(struct rtt *r);
/* New data was acknowledged: compute the time-out from the estimate again. */
void rtt_reset(struct rtt *r, uint32_t min_rto_us);

#endif
