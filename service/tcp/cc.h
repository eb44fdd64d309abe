/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Congestion control: pure functions over a small state, called by the slow path once per
 * control interval with what the fast path measured since. Result: a rate and a limit of
 * bytes in flight. Between two intervals the fast path alone reacts, and only downwards
 * (halving the limit at a fast retransmit, one segment at a time-out) or, while
 * `slow_start` is set, by growing the limit by the bytes acknowledged.
 */
#ifndef SERVICE_TCP_CC_H
#define SERVICE_TCP_CC_H

#include <stdbool.h>
#include <stdint.h>

struct cc_sample { /* since the last interval */
	uint64_t now_ns;
	uint64_t interval_ns;
	uint64_t acked_bytes, ecn_bytes; /* ecn_bytes: acknowledged with ECE */
	uint32_t fast_rexmits, timeouts;
	uint32_t srtt_us, min_rtt_us; /* 0: no sample yet */
	uint32_t mss;
	uint32_t in_flight; /* bytes now */
	bool app_limited;   /* the application, not the network, limited what was sent */
};

struct cc_limits {           /* what the fast path obeys */
	uint64_t rate_bps;   /* bytes per second; 0: not paced */
	uint32_t cwnd_bytes; /* bytes in flight at most */
	bool slow_start;     /* the fast path may grow cwnd by what is acknowledged */
};

struct cc_config {
	uint64_t init_rate_bps, additive_bps, min_rate_bps, max_rate_bps; /* bytes per second */
	uint32_t init_cwnd_segments;
	double ecn_weight;
};

struct cc_state {
	struct cc_limits lim;
	uint64_t act_rate_bps; /* smoothed delivery rate */
	double ecn_frac;
	bool slow_start;
	/* cubic (RFC 9438), bytes and seconds */
	double w_max, k, w_est;
	uint64_t epoch_ns;
	uint32_t ssthresh_bytes;
};

struct cc_ops {
	const char *name;
	bool ecn; /* needs ECN-capable transmission */
	void (*init)(struct cc_state *s, const struct cc_config *cfg, uint32_t mss, uint32_t cwnd_bytes);
	void (*update)(struct cc_state *s, const struct cc_config *cfg, const struct cc_sample *m);
};

extern const struct cc_ops cc_dctcp; /* the thesis' rate-based form, appendix A.2 */
extern const struct cc_ops cc_cubic; /* loss-based default, RFC 9438 */
extern const struct cc_ops cc_reno;  /* RFC 5681 */

/* Ours for the name Linux uses ("cubic", "bbr", ...), or the nearest (cubic). Never NULL. */
const struct cc_ops *cc_find(const char *name);
void cc_config_default(struct cc_config *cfg);

#endif
